// Elementwise functions by name: how the tests reach the vector math.
#pragma once

#include "kernels/activations.hpp"

namespace rk::RK_ISA {

RK_INLINE bool same_name(const char* a, const char* b) {
    while (*a && *a == *b) ++a, ++b;
    return *a == *b;
}

template <class T, class F>
RK_INLINE void map_array(const T* x, T* out, long n, F f) {
    for (long i = 0; i < n; i += kLanes<T>) store_first(out + i, f(load_first(x + i, n - i)), n - i);
}

// The functions of math.hpp that are no activation; then activations, and derivatives as "name'".
template <class T>
static bool vector_math(const char* name, T parameter, const T* x, T* out, long n) {
    if (same_name(name, "exp")) {
        map_array(x, out, n, [](V<T> v) RK_LAMBDA_INLINE { return exp<T>(v); });
        return true;
    }
    if (same_name(name, "log")) {
        map_array(x, out, n, [](V<T> v) RK_LAMBDA_INLINE { return log<T>(v); });
        return true;
    }
    if (same_name(name, "atan2")) {  // of x and the parameter
        for (long i = 0; i < n; ++i) {
            const Vd angle = atan2(broadcast<double>((double)x[i]), broadcast<double>((double)parameter));
            out[i] = (T)angle[0];
        }
        return true;
    }
    if (same_name(name, "pow")) {
        map_array(x, out, n, [&](V<T> v) RK_LAMBDA_INLINE { return pow<T>(v, parameter); });
        return true;
    }
    const struct {
        const char *value, *derivative;
        Activation activation;
    } table[] = {
        {"identity", "identity'", Activation::identity},
        {"relu", "relu'", Activation::relu},
        {"leaky_relu", "leaky_relu'", Activation::leaky_relu},
        {"relu_power", "relu_power'", Activation::relu_power},
        {"gelu", "gelu'", Activation::gelu},
        {"gelu_tanh", "gelu_tanh'", Activation::gelu_tanh},
        {"silu", "silu'", Activation::silu},
        {"tanh", "tanh'", Activation::tanh},
        {"sigmoid", "sigmoid'", Activation::sigmoid},
        {"softplus", "softplus'", Activation::softplus},
        {"erf", "erf'", Activation::erf},
        {"sin", "sin'", Activation::sin},
        {"cos", "cos'", Activation::cos},
        {"gaussian", "gaussian'", Activation::gaussian},
        {"sigma_1", "sigma_1'", Activation::sigma_1},
    };
    for (const auto& row : table) {
        const bool value = same_name(name, row.value);
        if (!value && !same_name(name, row.derivative)) continue;
        for (long i = 0; i < n; ++i) out[i] = value ? x[i] : T(1);
        if (value)
            activate<T>(row.activation, parameter, out, n, 1, n);
        else
            activate_vjp<T>(row.activation, parameter, x, n, out, n, 1, n);
        return true;
    }
    return false;
}

}  // namespace rk::RK_ISA
