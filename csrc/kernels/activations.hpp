// Activations of the hidden layers: value and derivative with respect to the pre-activation z.
//
// Each is a functor on vectors; the two loops at the end apply one to a row-major block of rows. Limits
// are taken where a formula has none: value and derivative at z = +-inf are those of the function, not
// inf * 0. NaN stays NaN.
#pragma once

#include "base/names.hpp"
#include "kernels/math.hpp"
#include "kernels/math_trig.hpp"

namespace rk::RK_ISA {

// product, but 0 where z is -inf (or of either infinite sign): the limit of z times a factor that vanishes.
template <class T>
RK_INLINE V<T> zero_at_minus_infinity(V<T> z, V<T> product) {
    return z == broadcast<T>(T(-__builtin_inff())) ? V<T>{} : product;
}
template <class T>
RK_INLINE V<T> zero_at_infinities(V<T> z, V<T> product) {
    return abs(z) == broadcast<T>(T(__builtin_inff())) ? V<T>{} : product;
}

// Cumulative distribution of the standard normal law: erfc(-z / sqrt 2) / 2, accurate in both tails.
template <class T>
RK_INLINE V<T> normal_cdf(V<T> z) {
    const V<T> tail = erfc_positive<T>(abs(z) * T(0.70710678118654752)) * T(0.5);
    return z > V<T>{} ? T(1) - tail : (z == z ? tail : z);
}
template <class T>
RK_INLINE V<T> normal_density(V<T> z) {
    return exp<T>(z * z * T(-0.5)) * T(0.39894228040143268);
}

template <class T>
struct Identity {
    RK_INLINE V<T> value(V<T> z) const { return z; }
    RK_INLINE V<T> derivative(V<T> z) const { return z == z ? broadcast<T>(T(1)) : z; }
};
template <class T>
struct Relu {
    RK_INLINE V<T> value(V<T> z) const { return z < V<T>{} ? V<T>{} : z; }
    RK_INLINE V<T> derivative(V<T> z) const {
        return z > V<T>{} ? broadcast<T>(T(1)) : (z == z ? V<T>{} : z);
    }
};
template <class T>
struct LeakyRelu {
    T slope;
    RK_INLINE V<T> value(V<T> z) const { return z < V<T>{} ? z * slope : z; }
    RK_INLINE V<T> derivative(V<T> z) const {
        return z > V<T>{} ? broadcast<T>(T(1)) : (z == z ? broadcast<T>(slope) : z);
    }
};
template <class T>
struct ReluPower {
    T r;
    RK_INLINE V<T> value(V<T> z) const {
        const V<T> positive = z > V<T>{} ? z : V<T>{};
        return z > V<T>{} ? pow<T>(positive, r) : (z == z ? V<T>{} : z);
    }
    RK_INLINE V<T> derivative(V<T> z) const {
        const V<T> positive = z > V<T>{} ? z : broadcast<T>(T(1));
        return z > V<T>{} ? pow<T>(positive, r - T(1)) * r : (z == z ? V<T>{} : z);
    }
};
template <class T>
struct Gelu {
    RK_INLINE V<T> value(V<T> z) const { return zero_at_minus_infinity<T>(z, z * normal_cdf<T>(z)); }
    RK_INLINE V<T> derivative(V<T> z) const {
        return normal_cdf<T>(z) + zero_at_infinities<T>(z, z * normal_density<T>(z));
    }
};
// z s(2u) with s the sigmoid and u = sqrt(2/pi) (z + 0.044715 z^3): (1 + tanh u)/2 without cancellation.
template <class T>
struct GeluTanh {
    static constexpr double kTwoRoot = 1.5957691216057308, kCubic = 0.044715;
    RK_INLINE V<T> gate(V<T> z) const {
        return sigmoid<T>(z * fma(z * z, broadcast<T>(T(kTwoRoot * kCubic)), broadcast<T>(T(kTwoRoot))));
    }
    RK_INLINE V<T> value(V<T> z) const { return zero_at_minus_infinity<T>(z, z * gate(z)); }
    RK_INLINE V<T> derivative(V<T> z) const {
        const V<T> s = gate(z);
        const V<T> slope = fma(z * z, broadcast<T>(T(3 * kTwoRoot * kCubic)), broadcast<T>(T(kTwoRoot)));
        // s (1 - s) vanishes faster than any power of z; beyond 1e3 the product is 0.
        const V<T> bend = abs(z) > broadcast<T>(T(1e3)) ? V<T>{} : z * s * (T(1) - s) * slope;
        return s + bend;
    }
};
template <class T>
struct Silu {
    RK_INLINE V<T> value(V<T> z) const { return zero_at_minus_infinity<T>(z, z * sigmoid<T>(z)); }
    RK_INLINE V<T> derivative(V<T> z) const {
        const V<T> s = sigmoid<T>(z);
        return s + zero_at_infinities<T>(z, z * s * (T(1) - s));
    }
};
template <class T>
struct Tanh {
    RK_INLINE V<T> value(V<T> z) const { return tanh<T>(z); }
    // 1 / cosh^2 = 4 s (1 - s) with s = sigmoid(2 |z|) would cancel; 4 e / (1 + e)^2, e = exp(-2 |z|), does
    // not.
    RK_INLINE V<T> derivative(V<T> z) const {
        const V<T> e = exp<T>(abs(z) * T(-2));
        const V<T> d = e + T(1);
        return e * T(4) / (d * d);
    }
};
template <class T>
struct Sigmoid {
    RK_INLINE V<T> value(V<T> z) const { return sigmoid<T>(z); }
    RK_INLINE V<T> derivative(V<T> z) const {
        const V<T> e = exp<T>(-abs(z));
        const V<T> d = e + T(1);
        return e / (d * d);
    }
};
template <class T>
struct Softplus {
    RK_INLINE V<T> value(V<T> z) const { return softplus<T>(z); }
    RK_INLINE V<T> derivative(V<T> z) const { return sigmoid<T>(z); }
};
template <class T>
struct Erf {
    RK_INLINE V<T> value(V<T> z) const { return erf<T>(z); }
    RK_INLINE V<T> derivative(V<T> z) const { return exp<T>(-z * z) * T(1.1283791670955126); }
};
template <class T>
struct Sin {
    RK_INLINE V<T> value(V<T> z) const { return sin<T>(z); }
    RK_INLINE V<T> derivative(V<T> z) const { return cos<T>(z); }
};
template <class T>
struct Cos {
    RK_INLINE V<T> value(V<T> z) const { return cos<T>(z); }
    RK_INLINE V<T> derivative(V<T> z) const { return -sin<T>(z); }
};

template <class T>
struct Gaussian {
    RK_INLINE V<T> value(V<T> z) const { return exp<T>(z * z * T(-0.5)); }
    RK_INLINE V<T> derivative(V<T> z) const { return zero_at_infinities<T>(z, -z * value(z)); }
};
// relu(z) - relu(z - 1): the steps at 0 and 1 of the derivative are those of relu.
template <class T>
struct Sigma1 {
    RK_INLINE V<T> value(V<T> z) const {
        const V<T> one = broadcast<T>(T(1));
        return z < V<T>{} ? V<T>{} : (z > one ? one : z);
    }
    RK_INLINE V<T> derivative(V<T> z) const {
        const V<T> one = broadcast<T>(T(1));
        return ((z > V<T>{}) & (z <= one)) ? one : (z == z ? V<T>{} : z);
    }
};

// Calls f with the functor of an activation.
template <class T, class F>
RK_INLINE void with_activation(Activation a, T parameter, F f) {
    switch (a) {
        case Activation::identity: return f(Identity<T>{});
        case Activation::relu: return f(Relu<T>{});
        case Activation::leaky_relu: return f(LeakyRelu<T>{parameter});
        case Activation::relu_power: return f(ReluPower<T>{parameter});
        case Activation::gelu: return f(Gelu<T>{});
        case Activation::gelu_tanh: return f(GeluTanh<T>{});
        case Activation::silu: return f(Silu<T>{});
        case Activation::tanh: return f(Tanh<T>{});
        case Activation::sigmoid: return f(Sigmoid<T>{});
        case Activation::softplus: return f(Softplus<T>{});
        case Activation::erf: return f(Erf<T>{});
        case Activation::sin: return f(Sin<T>{});
        case Activation::cos: return f(Cos<T>{});
        case Activation::gaussian: return f(Gaussian<T>{});
        case Activation::sigma_1: return f(Sigma1<T>{});
    }
}

// z <- act(z)
template <class T>
static void activate(Activation a, T parameter, T* z, long ld, long rows, long cols) {
    if (a == Activation::identity) return;
    with_activation<T>(a, parameter, [&](auto act) RK_LAMBDA_INLINE {
        for (long i = 0; i < rows; ++i)
            for (long j = 0; j < cols; j += kLanes<T>) {
                T* at = z + i * ld + j;
                store_first(at, act.value(load_first(at, cols - j)), cols - j);
            }
    });
}

// grad <- grad * act'(z)
template <class T>
static void activate_vjp(Activation a, T parameter, const T* z, long ldz, T* grad, long ldg, long rows,
                         long cols) {
    with_activation<T>(a, parameter, [&](auto act) RK_LAMBDA_INLINE {
        for (long i = 0; i < rows; ++i)
            for (long j = 0; j < cols; j += kLanes<T>) {
                const long n = cols - j;
                T* at = grad + i * ldg + j;
                store_first(at, load_first(at, n) * act.derivative(load_first(z + i * ldz + j, n)), n);
            }
    });
}

}  // namespace rk::RK_ISA
