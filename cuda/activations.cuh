// Activations of the hidden layers and their derivatives, as in csrc/kernels/activations.hpp but with the
// functions of the CUDA math library. NaN propagates; at infinities the value is the limit.
#pragma once

#include "base/names.hpp"
#include "device.cuh"

namespace rk::cuda {

template <class T>
RK_DEVICE T sigmoid(T z) {
    const T e = exp(-fabs(z));
    return z < T(0) ? e / (T(1) + e) : T(1) / (T(1) + e);
}

// Cumulative distribution function of the standard normal distribution.
template <class T>
RK_DEVICE T normal_cdf(T z) {
    return T(0.5) * erfc(z * T(-0.70710678118654752));
}

// s(2u), s the sigmoid and u = sqrt(2/pi) (z + 0.044715 z^3): (1 + tanh u)/2 without cancellation.
template <class T>
RK_DEVICE T tanh_gate(T z) {
    constexpr double kTwoRoot = 1.5957691216057308, kCubic = 0.044715;
    return sigmoid(z * fma(z * z, T(kTwoRoot * kCubic), T(kTwoRoot)));
}

template <class T>
RK_DEVICE bool infinite(T z) {
    return !isfinite(z) && z == z;
}

template <class T>
RK_DEVICE T activate(Activation activation, T parameter, T z) {
    switch (activation) {
        case Activation::identity: return z;
        case Activation::relu: return z < T(0) ? T(0) : z;
        case Activation::leaky_relu: return z < T(0) ? z * parameter : z;
        case Activation::relu_power: return z > T(0) ? pow(z, parameter) : (z == z ? T(0) : z);
        case Activation::gelu: return infinite(z) && z < T(0) ? T(0) : z * normal_cdf(z);
        case Activation::gelu_tanh: return infinite(z) && z < T(0) ? T(0) : z * tanh_gate(z);
        case Activation::silu: return infinite(z) && z < T(0) ? T(0) : z * sigmoid(z);
        case Activation::tanh: return tanh(z);
        case Activation::sigmoid: return sigmoid(z);
        case Activation::softplus: return (z > T(0) ? z : (z == z ? T(0) : z)) + log1p(exp(-fabs(z)));
        case Activation::erf: return erf(z);
        case Activation::sin: return sin(z);
        case Activation::cos: return cos(z);
        case Activation::gaussian: return exp(z * z * T(-0.5));
        case Activation::sigma_1: return z < T(0) ? T(0) : (z > T(1) ? T(1) : z);
    }
    return z;
}

template <class T>
RK_DEVICE T activation_derivative(Activation activation, T parameter, T z) {
    switch (activation) {
        case Activation::identity: return z == z ? T(1) : z;
        case Activation::relu: return z > T(0) ? T(1) : (z == z ? T(0) : z);
        case Activation::leaky_relu: return z > T(0) ? T(1) : (z == z ? parameter : z);
        case Activation::relu_power:
            return z > T(0) ? parameter * pow(z, parameter - T(1)) : (z == z ? T(0) : z);
        case Activation::gelu: {
            const T density = exp(z * z * T(-0.5)) * T(0.39894228040143268);
            return normal_cdf(z) + (infinite(z) ? T(0) : z * density);
        }
        case Activation::gelu_tanh: {
            constexpr double kTwoRoot = 1.5957691216057308, kCubic = 0.044715;
            const T s = tanh_gate(z), slope = fma(z * z, T(3 * kTwoRoot * kCubic), T(kTwoRoot));
            // s (1 - s) vanishes faster than any power of z; beyond 1e3 the product is 0.
            return s + (fabs(z) > T(1e3) ? T(0) : z * s * (T(1) - s) * slope);
        }
        case Activation::silu: {
            const T s = sigmoid(z);
            return s + (infinite(z) ? T(0) : z * s * (T(1) - s));
        }
        case Activation::tanh: {
            const T e = exp(T(-2) * fabs(z)), d = e + T(1);
            return e * T(4) / (d * d);
        }
        case Activation::sigmoid: {
            const T e = exp(-fabs(z)), d = e + T(1);
            return e / (d * d);
        }
        case Activation::softplus: return sigmoid(z);
        case Activation::erf: return exp(-z * z) * T(1.1283791670955126);
        case Activation::sin: return cos(z);
        case Activation::cos: return -sin(z);
        case Activation::gaussian: return infinite(z) ? T(0) : -z * exp(z * z * T(-0.5));
        case Activation::sigma_1: return z > T(0) && z <= T(1) ? T(1) : (z == z ? T(0) : z);
    }
    return z;
}

}  // namespace rk::cuda
