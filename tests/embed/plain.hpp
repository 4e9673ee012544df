// What the tests of relkernels.hpp share: arrays in random layouts, maps with their definition in double, and
// checks that count failures.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <random>
#include <relkernels.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace rk = relkernels;
using rk::Shape;
using Random = std::mt19937;
using Int = std::int64_t;

inline int failures = 0;

inline void expect(bool right, const std::string& what) {
    if (right) return;
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

inline int finish() {
    if (failures == 0) std::puts("all right");
    return failures ? 1 : 0;
}

// The call throws this message.
inline void refused(const std::function<void()>& call, const std::string& message) {
    try {
        call();
        expect(false, "nothing was thrown, expected: " + message);
    } catch (const std::invalid_argument& error) {
        expect(error.what() == message, std::string("got: ") + error.what() + "\n  expected: " + message);
    }
}

inline Int pick(Random& random, std::initializer_list<Int> values) {
    return values.begin()[std::uniform_int_distribution<std::size_t>(0, values.size() - 1)(random)];
}
inline bool coin(Random& random) { return random() % 2 == 0; }

inline Int product(const Shape& shape) {
    Int n = 1;
    for (const Int size : shape) n *= size;
    return n;
}

// f(index) for every index of a shape.
template <class F>
void for_each_index(const Shape& shape, const F& f) {
    Shape index(shape.size(), 0);
    for (Int left = product(shape); left > 0; --left) {
        f(index);
        for (std::size_t i = shape.size(); i-- > 0;) {
            if (++index[i] < shape[i]) break;
            index[i] = 0;
        }
    }
}

// An array with memory of its own, dimensions in random order, some reversed, with gaps between elements.
// Outputs begin as NaN.
template <class T>
struct Tensor {
    std::vector<T> memory;
    rk::View<T> view;

    Tensor(Random& random, const Shape& shape, bool plain = false) {
        std::vector<std::size_t> order(shape.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
        if (!plain) std::shuffle(order.begin(), order.end(), random);
        Shape strides(shape.size());
        Int step = plain ? 1 : pick(random, {1, 1, 2}), start = 0;
        for (std::size_t i = order.size(); i-- > 0;) {
            const Int size = shape[order[i]];
            const bool reversed = !plain && size > 0 && random() % 4 == 0;
            strides[order[i]] = reversed ? -step : step;
            if (reversed) start += (size - 1) * step;
            step *= std::max<Int>(size, 1);
            if (!plain) step += pick(random, {0, 0, 3});
        }
        memory.assign(std::size_t(step + 1), std::numeric_limits<T>::has_quiet_NaN ? T(NAN) : T(-77));
        view = rk::View<T>(memory.data() + start, shape, strides);
    }
    Tensor(Tensor&&) = default;

    T& operator()(const Shape& index) { return *at(index); }
    T operator()(const Shape& index) const { return *at(index); }
    // The element of the last dimensions, where leading ones are broadcast to `lead`.
    T in(const Shape& lead, const Shape& core) const {
        const std::size_t own = view.ndim() - core.size();
        Shape index;
        for (std::size_t i = 0; i < own; ++i)
            index.push_back(view.shape()[i] == 1 ? 0 : lead[lead.size() - own + i]);
        for (std::size_t i = 0; i < core.size(); ++i)
            index.push_back(view.shape()[own + i] == 1 ? 0 : core[i]);
        return *at(index);
    }
    Tensor& fill_normal(Random& random, double deviation = 1) {
        std::normal_distribution<double> draw(0, deviation);
        for_each_index(view.shape(), [&](const Shape& i) { (*this)(i) = T(draw(random)); });
        return *this;
    }

   private:
    T* at(const Shape& index) const {
        T* p = view.data();
        for (std::size_t i = 0; i < index.size(); ++i) p += index[i] * view.strides()[i];
        return p;
    }
};

template <class T>
Tensor<T> normal(Random& random, const Shape& shape, double deviation = 1) {
    Tensor<T> t(random, shape);
    t.fill_normal(random, deviation);
    return t;
}

inline std::vector<double> of_unit_length(std::vector<double> row) {
    double sum = 0;
    for (const double v : row) sum += v * v;
    if (sum > 0)
        for (double& v : row) v /= std::sqrt(sum);
    return row;
}

// A map and its definition. tanh and relu: smooth for finite differences, and the one with its own path.
template <class T>
struct PlainMlp {
    Shape widths;
    std::vector<Tensor<T>> weights, biases;
    bool tanh, normalize;

    PlainMlp(Random& random, Shape w, bool tanh, bool normalize = false)
        : widths(std::move(w)), tanh(tanh), normalize(normalize) {
        for (std::size_t l = 0; l + 1 < widths.size(); ++l) {
            weights.push_back(
                normal<T>(random, {widths[l], widths[l + 1]}, 1 / std::sqrt(double(widths[l]))));
            biases.push_back(normal<T>(random, {widths[l + 1]}, 0.2));
        }
    }
    rk::Mlp<T> mlp() const {
        std::vector<rk::View<const T>> w, b;
        for (const Tensor<T>& t : weights) w.push_back(t.view);
        for (const Tensor<T>& t : biases) b.push_back(t.view);
        const rk::Activation activation = tanh ? rk::Activation::tanh : rk::Activation::relu;
        return rk::Mlp<T>(w, b, activation, std::nullopt, normalize);
    }
    std::vector<double> operator()(std::vector<double> h) const {
        for (std::size_t l = 0; l < weights.size(); ++l) {
            std::vector<double> z;
            for (Int j = 0; j < widths[l + 1]; ++j) {
                double sum = biases[l]({j});
                for (Int i = 0; i < widths[l]; ++i) sum += h[std::size_t(i)] * double(weights[l]({i, j}));
                if (l + 1 < weights.size()) sum = tanh ? std::tanh(sum) : std::max(sum, 0.0);
                z.push_back(sum);
            }
            h = z;
        }
        return normalize ? of_unit_length(h) : h;
    }
};

// Features of row i of x, through a map or as they are.
template <class T>
std::vector<double> features(const Tensor<T>& x, const Shape& lead, Int i, const PlainMlp<T>* map) {
    std::vector<double> row;
    for (Int k = 0; k < x.view.shape().back(); ++k) row.push_back(double(x.in(lead, {i, k})));
    return map ? (*map)(row) : row;
}

inline double dot(const std::vector<double>& a, const std::vector<double>& b, std::size_t from,
                  std::size_t n) {
    double sum = 0;
    for (std::size_t k = from; k < from + n; ++k) sum += a[k] * b[k];
    return sum;
}

template <class T>
void expect_close(double got, double wanted, double size, const std::string& what) {
    const double allowed = (std::is_same_v<T, float> ? 3e-5 : 1e-12) * (1 + size);
    const bool right = std::isnan(wanted)   ? std::isnan(got)
                       : std::isinf(wanted) ? got == wanted
                                            : std::abs(got - wanted) <= allowed;
    if (right) return;  // most time would go into numbers as text
    expect(right, what + ": got " + std::to_string(got) + ", expected " + std::to_string(wanted));
}
