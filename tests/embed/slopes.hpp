// Slopes by central differences, in double, beside what a gradient says.
#pragma once

#include <functional>

#include "plain.hpp"

using T = double;

inline constexpr double kStep = 1e-5;

// Sum over all elements of grad * out.
inline double weighted(const Tensor<T>& grad, const Tensor<T>& out) {
    double sum = 0;
    for_each_index(out.view.shape(), [&](const Shape& i) { sum += grad(i) * out(i); });
    return sum;
}

// The slope of f as `at` moves along a direction, by differences; and grad's inner product with the
// direction.
inline void expect_slope(Random& random, Tensor<T>& at, const Tensor<T>& grad,
                         const std::function<double()>& f, const std::string& what) {
    const Tensor<T> direction = normal<T>(random, at.view.shape());
    const auto move = [&](double by) {
        for_each_index(at.view.shape(), [&](const Shape& i) { at(i) += by * direction(i); });
    };
    move(kStep);
    const double above = f();
    move(-2 * kStep);
    const double below = f();
    move(kStep);
    const double slope = (above - below) / (2 * kStep), told = weighted(grad, direction);
    expect(std::abs(slope - told) <= 1e-6 * (1 + std::abs(slope)),
           what + ": slope " + std::to_string(slope) + ", gradient says " + std::to_string(told));
}

// The same for the scale.
inline void expect_slope(double& scale, double told, const std::function<double()>& f,
                         const std::string& what) {
    const double kept = scale;
    scale = kept + kStep;
    const double above = f();
    scale = kept - kStep;
    const double below = f();
    scale = kept;
    const double slope = (above - below) / (2 * kStep);
    expect(std::abs(slope - told) <= 1e-6 * (1 + std::abs(slope)),
           what + ": slope " + std::to_string(slope) + ", gradient says " + std::to_string(told));
}
