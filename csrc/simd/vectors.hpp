// Vector types of the instruction set that this file is compiled for, and what the compiler's vector
// extensions do on all of them.
#pragma once

#include <cstddef>
#include <cstdint>

// AVX-512 with bfloat16 products, on vectors or on tiles, is otherwise AVX-512.
#if defined(RK_ISA_AVX512_BF16) || defined(RK_ISA_AMX)
#define RK_ISA_AVX512
#endif

#if defined(RK_ISA_AMX)
#define RK_ISA amx
#define RK_VECTOR_BYTES 64
#elif defined(RK_ISA_AVX512_BF16)
#define RK_ISA avx512_bf16
#define RK_VECTOR_BYTES 64
#elif defined(RK_ISA_AVX512)
#define RK_ISA avx512
#define RK_VECTOR_BYTES 64
#elif defined(RK_ISA_AVX2)
#define RK_ISA avx2
#define RK_VECTOR_BYTES 32
#elif defined(RK_ISA_NEON)
#define RK_ISA neon
#define RK_VECTOR_BYTES 16
#else
#define RK_ISA portable
#define RK_VECTOR_BYTES 16
#endif

#define RK_INLINE inline __attribute__((always_inline))
#define RK_LAMBDA_INLINE __attribute__((always_inline))

namespace rk::RK_ISA {

template <class T>
struct Simd;
template <>
struct Simd<float> {
    typedef float V __attribute__((vector_size(RK_VECTOR_BYTES)));
    typedef std::int32_t I __attribute__((vector_size(RK_VECTOR_BYTES)));
    typedef std::uint32_t U __attribute__((vector_size(RK_VECTOR_BYTES)));
    using Int = std::int32_t;
};
template <>
struct Simd<double> {
    typedef double V __attribute__((vector_size(RK_VECTOR_BYTES)));
    typedef std::int64_t I __attribute__((vector_size(RK_VECTOR_BYTES)));
    typedef std::uint64_t U __attribute__((vector_size(RK_VECTOR_BYTES)));
    using Int = std::int64_t;
};

template <class T>
using V = typename Simd<T>::V;
template <class T>
using I = typename Simd<T>::I;
template <class T>
using U = typename Simd<T>::U;

template <class T>
inline constexpr int kLanes = RK_VECTOR_BYTES / int(sizeof(T));

template <class T>
inline constexpr T kInfinity = T(__builtin_inff());

using Vf = V<float>;
using Vd = V<double>;
using If = I<float>;
using Id = I<double>;

// ---- values in lanes ---------------------------------------------------------------------------

template <class T>
RK_INLINE V<T> broadcast(T x) {
    return x - V<T>{};  // x - 0, not 0 + x: keeps the sign of -0
}

// {0, 1, 2, ...}
template <class T>
RK_INLINE I<T> iota() {
    I<T> r{};
    for (int l = 0; l < kLanes<T>; ++l) r[l] = l;
    return r;
}

// Mask of the first n lanes (n may exceed the lanes or be negative).
template <class T>
RK_INLINE I<T> first_lanes(long n) {
    const long capped = n > kLanes<T> ? kLanes<T> : n;
    return iota<T>() < (typename Simd<T>::Int)(capped);
}

// ---- memory ------------------------------------------------------------------------------------

template <class T>
RK_INLINE V<T> load(const T* p) {
    V<T> r;
    __builtin_memcpy(&r, p, sizeof r);
    return r;
}

template <class T>
RK_INLINE void store(T* p, V<T> v) {
    __builtin_memcpy(p, &v, sizeof v);
}

}  // namespace rk::RK_ISA
