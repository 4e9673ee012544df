// Names of the activations, as Python and files give them. Apart from activation.hpp, which kernels
// include: they may share no inline function with other objects.
#pragma once

#include <array>
#include <cstddef>
#include <stdexcept>
#include <string>

#include "base/activation.hpp"

namespace rk {

// In the order of Activation.
inline constexpr std::array<const char*, 13> kActivations = {
    "identity", "relu",    "leaky_relu", "relu_power", "gelu", "gelu_tanh", "silu",
    "tanh",     "sigmoid", "softplus",   "erf",        "sin",  "cos"};

inline Activation activation_named(const std::string& name) {
    for (std::size_t i = 0; i < kActivations.size(); ++i)
        if (name == kActivations[i]) return Activation(int(i));
    throw std::invalid_argument("no activation is called '" + name + "'");
}

}  // namespace rk
