// SIMD vocabulary of the kernels: one text, compiled once per instruction set.
//
// V<T> holds kLanes<T> values of float or double in one hardware register; I<T> holds signed integers
// as wide as T, and is also the type of a mask (all bits set where true). Arithmetic, comparison,
// bitwise operators and the choice `mask ? a : b` are the vector extensions of GCC and Clang, so they
// are written as for scalars. The few operations that the extensions lack (fused multiply-add, masked
// access, bit masks) are functions below, with a branch per instruction set.
//
// Invariants
// - Everything lives in namespace RK_ISA and is force-inlined: an object compiled for one instruction
//   set must not define a weak symbol that the linker could pick for another (ARCHITECTURE.md).
// - No operation reads or writes memory outside of its lanes.
// - Contraction is off (-ffp-contract=off): a product and a sum are fused only by fma(). The portable build
//   has no fused multiply-add on any processor: fma() rounds twice there.
#pragma once

#include <cstddef>
#include <cstdint>

// AVX-512 with bfloat16 products, on vectors or on tiles, is otherwise AVX-512.
#if defined(RK_ISA_AVX512_BF16) || defined(RK_ISA_AMX)
#define RK_ISA_AVX512
#endif

#if defined(RK_ISA_AVX512) || defined(RK_ISA_AVX2)
#include <immintrin.h>
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

// Stores past the caches; p on a multiple of the vector's size. stream_fence() comes before another thread
// reads what was streamed.
RK_INLINE void stream(float* p, Vf v) {
#if defined(RK_ISA_AVX512)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(RK_ISA_AVX2)
    _mm256_stream_ps(p, (__m256)v);
#else
    store(p, v);
#endif
}
RK_INLINE void stream(double* p, Vd v) {
#if defined(RK_ISA_AVX512)
    _mm512_stream_pd(p, (__m512d)v);
#elif defined(RK_ISA_AVX2)
    _mm256_stream_pd(p, (__m256d)v);
#else
    store(p, v);
#endif
}
RK_INLINE void stream_fence() {
#if defined(RK_ISA_AVX512) || defined(RK_ISA_AVX2)
    _mm_sfence();
#endif
}

// Lanes from n on are zero and not read.
RK_INLINE Vf load_first(const float* p, long n) {
    if (n >= kLanes<float>) return load(p);
#if defined(RK_ISA_AVX512)
    return (Vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
#elif defined(RK_ISA_AVX2)
    return (Vf)_mm256_maskload_ps(p, (__m256i)first_lanes<float>(n));
#else
    Vf r{};
    for (int l = 0; l < kLanes<float>; ++l)
        if (l < n) r[l] = p[l];
    return r;
#endif
}
RK_INLINE Vd load_first(const double* p, long n) {
    if (n >= kLanes<double>) return load(p);
#if defined(RK_ISA_AVX512)
    return (Vd)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1u), p);
#elif defined(RK_ISA_AVX2)
    return (Vd)_mm256_maskload_pd(p, (__m256i)first_lanes<double>(n));
#else
    Vd r{};
    for (int l = 0; l < kLanes<double>; ++l)
        if (l < n) r[l] = p[l];
    return r;
#endif
}

// Lanes from n on are not written.
RK_INLINE void store_first(float* p, Vf v, long n) {
    if (n >= kLanes<float>) return store(p, v);
#if defined(RK_ISA_AVX512)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)v);
#elif defined(RK_ISA_AVX2)
    _mm256_maskstore_ps(p, (__m256i)first_lanes<float>(n), (__m256)v);
#else
    for (int l = 0; l < kLanes<float>; ++l)
        if (l < n) p[l] = v[l];
#endif
}
RK_INLINE void store_first(double* p, Vd v, long n) {
    if (n >= kLanes<double>) return store(p, v);
#if defined(RK_ISA_AVX512)
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1u), (__m512d)v);
#elif defined(RK_ISA_AVX2)
    _mm256_maskstore_pd(p, (__m256i)first_lanes<double>(n), (__m256d)v);
#else
    for (int l = 0; l < kLanes<double>; ++l)
        if (l < n) p[l] = v[l];
#endif
}

// ---- arithmetic the vector extensions lack -----------------------------------------------------

// a * b + c, rounded once with AVX2 and AVX-512, twice in the portable build.
RK_INLINE Vf fma(Vf a, Vf b, Vf c) {
#if defined(RK_ISA_AVX512)
    return (Vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(RK_ISA_AVX2)
    return (Vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}
RK_INLINE Vd fma(Vd a, Vd b, Vd c) {
#if defined(RK_ISA_AVX512)
    return (Vd)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(RK_ISA_AVX2)
    return (Vd)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return a * b + c;
#endif
}

// True where fma() rounds once; double-double arithmetic may rely on it.
#if defined(RK_ISA_AVX512) || defined(RK_ISA_AVX2)
inline constexpr bool kFusedMultiplyAdd = true;
#else
inline constexpr bool kFusedMultiplyAdd = false;
#endif

RK_INLINE Vf sqrt(Vf a) {
#if defined(RK_ISA_AVX512)
    return (Vf)_mm512_maskz_sqrt_ps(0xffff, (__m512)a);
#elif defined(RK_ISA_AVX2)
    return (Vf)_mm256_sqrt_ps((__m256)a);
#else
    for (int l = 0; l < kLanes<float>; ++l) a[l] = __builtin_sqrtf(a[l]);
    return a;
#endif
}
RK_INLINE Vd sqrt(Vd a) {
#if defined(RK_ISA_AVX512)
    return (Vd)_mm512_maskz_sqrt_pd(0xff, (__m512d)a);
#elif defined(RK_ISA_AVX2)
    return (Vd)_mm256_sqrt_pd((__m256d)a);
#else
    for (int l = 0; l < kLanes<double>; ++l) a[l] = __builtin_sqrt(a[l]);
    return a;
#endif
}

// The larger of a and b, and the smaller; b where either is NaN or both are zero (the rule of x86 MAXPS).
RK_INLINE Vf max(Vf a, Vf b) {
#if defined(RK_ISA_AVX512)
    return (Vf)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(RK_ISA_AVX2)
    return (Vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}
RK_INLINE Vd max(Vd a, Vd b) {
#if defined(RK_ISA_AVX512)
    return (Vd)_mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b);
#elif defined(RK_ISA_AVX2)
    return (Vd)_mm256_max_pd((__m256d)a, (__m256d)b);
#else
    return a > b ? a : b;
#endif
}
RK_INLINE Vf min(Vf a, Vf b) {
#if defined(RK_ISA_AVX512)
    return (Vf)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(RK_ISA_AVX2)
    return (Vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return a < b ? a : b;
#endif
}
RK_INLINE Vd min(Vd a, Vd b) {
#if defined(RK_ISA_AVX512)
    return (Vd)_mm512_maskz_min_pd(0xff, (__m512d)a, (__m512d)b);
#elif defined(RK_ISA_AVX2)
    return (Vd)_mm256_min_pd((__m256d)a, (__m256d)b);
#else
    return a < b ? a : b;
#endif
}

RK_INLINE Vf abs(Vf a) { return (Vf)((If)a & 0x7fffffff); }
RK_INLINE Vd abs(Vd a) { return (Vd)((Id)a & 0x7fffffffffffffff); }
RK_INLINE Vf copysign(Vf magnitude, Vf sign) {
    return (Vf)(((If)magnitude & 0x7fffffff) | ((If)sign & (std::int32_t)0x80000000));
}
RK_INLINE Vd copysign(Vd magnitude, Vd sign) {
    return (Vd)(((Id)magnitude & 0x7fffffffffffffff) | ((Id)sign & (std::int64_t)0x8000000000000000ull));
}

// ---- masks -------------------------------------------------------------------------------------

// Bit l set where lane l of the mask is true.
RK_INLINE std::uint32_t bits(If mask) {
#if defined(RK_ISA_AVX512)
    return _mm512_movepi32_mask((__m512i)mask);
#elif defined(RK_ISA_AVX2)
    return (std::uint32_t)_mm256_movemask_ps((__m256)mask);
#else
    std::uint32_t r = 0;
    for (int l = 0; l < kLanes<float>; ++l) r |= (std::uint32_t)(mask[l] & 1) << l;
    return r;
#endif
}
RK_INLINE std::uint32_t bits(Id mask) {
#if defined(RK_ISA_AVX512)
    return _mm512_movepi64_mask((__m512i)mask);
#elif defined(RK_ISA_AVX2)
    return (std::uint32_t)_mm256_movemask_pd((__m256d)mask);
#else
    std::uint32_t r = 0;
    for (int l = 0; l < kLanes<double>; ++l) r |= (std::uint32_t)(mask[l] & 1) << l;
    return r;
#endif
}
// Bit l set where not a <= b in lane l: where it is greater, or NaN is met.
RK_INLINE std::uint32_t bits_not_at_most(Vf a, Vf b) {
#if defined(RK_ISA_AVX512)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLE_UQ);
#else
    return bits((If) ~(a <= b));
#endif
}
RK_INLINE std::uint32_t bits_not_at_most(Vd a, Vd b) {
#if defined(RK_ISA_AVX512)
    return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NLE_UQ);
#else
    return bits((Id) ~(a <= b));
#endif
}
// Comparisons have a type of the compiler's own, which Clang takes for either of I<T>.
template <class M>
RK_INLINE bool any(M mask) {
    if constexpr (sizeof mask[0] == sizeof(float))
        return bits((If)mask) != 0;
    else
        return bits((Id)mask) != 0;
}

}  // namespace rk::RK_ISA
