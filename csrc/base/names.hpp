// The closed sets of names, with one row for each member: its enumerator, its name and its constants.
//
// The enumerations that C++ programs use are defined in relkernels.hpp; the engine uses the same types. A
// member without a row is a compile error (-Werror=switch), and so is a row without its constants. The
// extension hands the tables to Python.
#pragma once

#include <cstddef>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>

#include "relkernels.hpp"

namespace rk {

using relkernels::Activation;
using relkernels::Link;
using relkernels::Loss;
using relkernels::Precision;

#define RK_LINKS(X)   \
    X(Link, identity) \
    X(Link, exp)      \
    X(Link, relu)     \
    X(Link, square)   \
    X(Link, gaussian) \
    X(Link, matern12) \
    X(Link, matern32) \
    X(Link, matern52)
#define RK_LOSSES(X) X(Loss, squared) X(Loss, logistic) X(Loss, hinge) X(Loss, softmax)

// X(Activation, name, gain, Lipschitz constant)
//
// gain: variance of initial weights times their fan-in. It is 2 for activations that let half of a symmetric
// distribution through (He et al. 2015).
//
// Lipschitz constant: the largest slope |a'(z)| over all z, rounded up where it has no closed form; nullopt
// where it depends on the parameter (relkernels.activations.lipschitz has the rule).
//   gelu       at z = sqrt(2), where its second derivative (2 - z^2) density(z) vanishes, the slope
//              Phi(z) + z density(z) is (1 + erf(1)) / 2 + exp(-1) / sqrt(pi)
//   gelu_tanh  at z = 1.41850...
//   silu       at the root 2.39935... of z tanh(z / 2) = 2
//   sigmoid    s (1 - s) <= 1/4
//   erf        2 exp(-z^2) / sqrt(pi) at 0
//   gaussian   |z| exp(-z^2 / 2) at 1
#define RK_ACTIVATIONS(X)                          \
    X(Activation, identity, 1, 1)                  \
    X(Activation, relu, 2, 1)                      \
    X(Activation, leaky_relu, 2, std::nullopt)     \
    X(Activation, relu_power, 2, std::nullopt)     \
    X(Activation, gelu, 2, 1.128904145185155)      \
    X(Activation, gelu_tanh, 2, 1.128993069)       \
    X(Activation, silu, 2, 1.099839321)            \
    X(Activation, tanh, 1, 1)                      \
    X(Activation, sigmoid, 1, 0.25)                \
    X(Activation, softplus, 1, 1)                  \
    X(Activation, erf, 1, 1.1283791670955126)      \
    X(Activation, sin, 1, 1)                       \
    X(Activation, cos, 1, 1)                       \
    X(Activation, gaussian, 1, 0.6065306597126335) \
    X(Activation, sigma_1, 1, 1)

// How E[a(u) a(v)] of a pair of Gaussians is computed: by a closed form, which Python names, by a table over
// the angle (relu_power), or by a series of Hermite coefficients (every other activation).
#define RK_CLOSED_DUALS(X) \
    X(Dual, step)          \
    X(Dual, relu)          \
    X(Dual, relu_squared)  \
    X(Dual, leaky_relu)    \
    X(Dual, erf)           \
    X(Dual, gelu)          \
    X(Dual, sin)           \
    X(Dual, cos)           \
    X(Dual, gaussian)      \
    X(Dual, sigma_1)
#define RK_ENUMERATOR(Enum, member) member,
enum class Dual : int { RK_CLOSED_DUALS(RK_ENUMERATOR) relu_power, series };
#undef RK_ENUMERATOR

template <class Enum>
struct Named {
    Enum value;
    const char* name;
};

struct NamedActivation {
    Activation value;
    const char* name;
    double gain;
    std::optional<double> lipschitz;
};

// In the order of the enumerations.
#define RK_NAMED(Enum, member, ...) {Enum::member, #member __VA_OPT__(, ) __VA_ARGS__},
inline constexpr Named<Link> kLinks[] = {RK_LINKS(RK_NAMED)};
inline constexpr Named<Loss> kLosses[] = {RK_LOSSES(RK_NAMED)};
inline constexpr Named<Dual> kClosedDuals[] = {RK_CLOSED_DUALS(RK_NAMED)};
inline constexpr NamedActivation kActivations[] = {RK_ACTIVATIONS(RK_NAMED)};
#undef RK_NAMED

// True for functions of the squared distance between features; the others are functions of their inner
// product.
constexpr bool is_of_distance(Link link) { return link >= Link::gaussian; }

// False for an integer that was cast to the enumeration and is no member of it.
#define RK_CASE(Enum, member, ...) case Enum::member:
constexpr bool is_member(Link link) {
    switch (link) {
        RK_LINKS(RK_CASE)
        return true;
    }
    return false;
}
constexpr bool is_member(Loss loss) {
    switch (loss) {
        RK_LOSSES(RK_CASE)
        return true;
    }
    return false;
}
constexpr bool is_member(Activation activation) {
    switch (activation) {
        RK_ACTIVATIONS(RK_CASE)
        return true;
    }
    return false;
}
#undef RK_CASE

// The member of a table with this name; `set` is for the message.
template <class Row, std::size_t n>
auto member_named(const Row (&rows)[n], const char* set, const std::string& name) {
    for (const Row& row : rows)
        if (name == row.name) return row.value;
    throw std::invalid_argument(std::string("no ") + set + " is called '" + name + "'");
}

inline Link link_named(const std::string& name) { return member_named(kLinks, "link", name); }
inline Loss loss_named(const std::string& name) { return member_named(kLosses, "loss", name); }
inline Activation activation_named(const std::string& name) {
    return member_named(kActivations, "activation", name);
}
inline Dual dual_named(const std::string& name) {
    return member_named(kClosedDuals, "dual activation", name);
}

}  // namespace rk
