// NEON (AArch64, where it and its fused multiply-add are part of every processor): 16-byte registers.
#pragma once

#include <arm_neon.h>

#include <limits>

#include "simd/vectors.hpp"

namespace rk::RK_ISA {

// Rows of a micro-tile (micro_kernel.hpp): with 2 vectors of columns, 24 accumulators + 2 + 1 multiplier, of
// 32 registers.
static constexpr int kTileRows = 12;
// Micro-tiles in a strip of rows (walk/pairs.hpp): 24 rows, as with AVX2.
static constexpr int kStripTiles = 2;
// No relation is written past the caches, as with AVX2.
static constexpr long kStreamBytes = std::numeric_limits<long>::max();

// Plain stores: processors detect long runs of them and then write past the caches by themselves.
RK_INLINE void stream(float* p, Vf v) { store(p, v); }
RK_INLINE void stream(double* p, Vd v) { store(p, v); }
RK_INLINE void stream_fence() {}

// Lanes from n on are zero and not read.
RK_INLINE Vf load_first(const float* p, long n) {
    if (n >= kLanes<float>) return load(p);
    if (n <= 0) return Vf{};
    const float32x2_t none = vdup_n_f32(0);
    if (n == 1) return (Vf)vcombine_f32(vld1_lane_f32(p, none, 0), none);
    return (Vf)vcombine_f32(vld1_f32(p), n == 2 ? none : vld1_lane_f32(p + 2, none, 0));
}
RK_INLINE Vd load_first(const double* p, long n) {
    if (n >= kLanes<double>) return load(p);
    return n <= 0 ? Vd{} : (Vd)vcombine_f64(vld1_f64(p), vdup_n_f64(0));
}

// Lanes from n on are not written.
RK_INLINE void store_first(float* p, Vf v, long n) {
    if (n >= kLanes<float>) return store(p, v);
    if (n >= 2) vst1_f32(p, vget_low_f32((float32x4_t)v));
    if (n == 1) vst1q_lane_f32(p, (float32x4_t)v, 0);
    if (n == 3) vst1q_lane_f32(p + 2, (float32x4_t)v, 2);
}
RK_INLINE void store_first(double* p, Vd v, long n) {
    if (n >= kLanes<double>) return store(p, v);
    if (n == 1) vst1_f64(p, vget_low_f64((float64x2_t)v));
}

// a * b + c, rounded once.
RK_INLINE Vf fma(Vf a, Vf b, Vf c) { return (Vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
RK_INLINE Vd fma(Vd a, Vd b, Vd c) { return (Vd)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }

// True if fma() rounds once; double-double arithmetic may rely on it.
inline constexpr bool kFusedMultiplyAdd = true;

RK_INLINE Vf sqrt(Vf a) { return (Vf)vsqrtq_f32((float32x4_t)a); }
RK_INLINE Vd sqrt(Vd a) { return (Vd)vsqrtq_f64((float64x2_t)a); }

// The larger of a and b, and the smaller; b where either is NaN or both are zero (the rule of x86 MAXPS,
// which FMAX does not follow: a comparison and a choice).
RK_INLINE Vf max(Vf a, Vf b) { return a > b ? a : b; }
RK_INLINE Vd max(Vd a, Vd b) { return a > b ? a : b; }
RK_INLINE Vf min(Vf a, Vf b) { return a < b ? a : b; }
RK_INLINE Vd min(Vd a, Vd b) { return a < b ? a : b; }

// Bit l set where lane l of the mask is true.
RK_INLINE std::uint32_t bits(If mask) {
    const If bit = {1, 2, 4, 8};
    return vaddvq_u32((uint32x4_t)(mask & bit));
}
RK_INLINE std::uint32_t bits(Id mask) {
    const Id bit = {1, 2};
    return (std::uint32_t)vaddvq_u64((uint64x2_t)(mask & bit));
}
// Bit l set where not a <= b in lane l: where a is greater, or one of them is NaN.
RK_INLINE std::uint32_t bits_not_at_most(Vf a, Vf b) { return bits((If) ~(a <= b)); }
RK_INLINE std::uint32_t bits_not_at_most(Vd a, Vd b) { return bits((Id) ~(a <= b)); }

// 0: a table of four values is too small to help exp, and wider lookups index bytes.
template <class T>
inline constexpr int kTableBits = 0;

// Products of the low 32 bits of lanes, as 64 bits.
RK_INLINE Id product_of_words(Id a, std::uint32_t b) {
    return (Id)vmull_u32(vmovn_u64((uint64x2_t)a), vdup_n_u32(b));
}

}  // namespace rk::RK_ISA
