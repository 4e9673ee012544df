// Every other processor: 16-byte registers by the vector extensions alone. There is no fused multiply-add,
// and no table lookup by lanes.
#pragma once

#include <limits>

#include "simd/vectors.hpp"

namespace rk::RK_ISA {

// Rows of a micro-tile (micro_kernel.hpp): with 2 vectors of columns, 8 accumulators + 2 + 1 broadcast + 1
// product (no fused multiply-add), of 16 registers.
static constexpr int kTileRows = 4;
// Micro-tiles in a strip of rows (walk/pairs.hpp): a panel of columns is in L1 for all but the first.
static constexpr int kStripTiles = 4;
// No relation is written past the caches, as with AVX2.
static constexpr long kStreamBytes = std::numeric_limits<long>::max();

// Where other sets have stores that bypass the caches, these are plain ones.
RK_INLINE void stream(float* p, Vf v) { store(p, v); }
RK_INLINE void stream(double* p, Vd v) { store(p, v); }
RK_INLINE void stream_fence() {}

// Lanes from n on are zero and not read.
RK_INLINE Vf load_first(const float* p, long n) {
    if (n >= kLanes<float>) return load(p);
    Vf r{};
    for (int l = 0; l < kLanes<float>; ++l)
        if (l < n) r[l] = p[l];
    return r;
}
RK_INLINE Vd load_first(const double* p, long n) {
    if (n >= kLanes<double>) return load(p);
    Vd r{};
    for (int l = 0; l < kLanes<double>; ++l)
        if (l < n) r[l] = p[l];
    return r;
}

// Lanes from n on are not written.
RK_INLINE void store_first(float* p, Vf v, long n) {
    if (n >= kLanes<float>) return store(p, v);
    for (int l = 0; l < kLanes<float>; ++l)
        if (l < n) p[l] = v[l];
}
RK_INLINE void store_first(double* p, Vd v, long n) {
    if (n >= kLanes<double>) return store(p, v);
    for (int l = 0; l < kLanes<double>; ++l)
        if (l < n) p[l] = v[l];
}

// a * b + c, rounded twice.
RK_INLINE Vf fma(Vf a, Vf b, Vf c) { return a * b + c; }
RK_INLINE Vd fma(Vd a, Vd b, Vd c) { return a * b + c; }

// True if fma() rounds once; double-double arithmetic may rely on it.
inline constexpr bool kFusedMultiplyAdd = false;

RK_INLINE Vf sqrt(Vf a) {
    for (int l = 0; l < kLanes<float>; ++l) a[l] = __builtin_sqrtf(a[l]);
    return a;
}
RK_INLINE Vd sqrt(Vd a) {
    for (int l = 0; l < kLanes<double>; ++l) a[l] = __builtin_sqrt(a[l]);
    return a;
}

// The larger of a and b, and the smaller; b where either is NaN or both are zero (the rule of x86 MAXPS).
RK_INLINE Vf max(Vf a, Vf b) { return a > b ? a : b; }
RK_INLINE Vd max(Vd a, Vd b) { return a > b ? a : b; }
RK_INLINE Vf min(Vf a, Vf b) { return a < b ? a : b; }
RK_INLINE Vd min(Vd a, Vd b) { return a < b ? a : b; }

// Bit l set where lane l of the mask is true.
RK_INLINE std::uint32_t bits(If mask) {
    std::uint32_t r = 0;
    for (int l = 0; l < kLanes<float>; ++l) r |= (std::uint32_t)(mask[l] & 1) << l;
    return r;
}
RK_INLINE std::uint32_t bits(Id mask) {
    std::uint32_t r = 0;
    for (int l = 0; l < kLanes<double>; ++l) r |= (std::uint32_t)(mask[l] & 1) << l;
    return r;
}
// Bit l set where not a <= b in lane l: where a is greater, or one of them is NaN.
RK_INLINE std::uint32_t bits_not_at_most(Vf a, Vf b) { return bits((If) ~(a <= b)); }
RK_INLINE std::uint32_t bits_not_at_most(Vd a, Vd b) { return bits((Id) ~(a <= b)); }

// 0: there is no instruction that looks values up in a table by lanes.
template <class T>
inline constexpr int kTableBits = 0;

// Products of the low 32 bits of lanes, as 64 bits.
RK_INLINE Id product_of_words(Id a, std::uint32_t b) {
    const Id m = Id{} + (std::int64_t)b;
    return (a & 0xffffffff) * m;
}

}  // namespace rk::RK_ISA
