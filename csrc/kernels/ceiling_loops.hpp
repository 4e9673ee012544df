// The loops of processor/ceilings.cpp: the best rates of this processor's arithmetic and memory, by which the
// other kernels are judged. No result of an operation depends on them.
//
// Each loop keeps one unit busy and does nothing else: independent chains of multiply-adds that stay in
// registers; loads whose values are only added up; stores of one value. They return what they compute, so
// that the compiler cannot remove them.
#pragma once

#include "kernels/table.hpp"
#include "simd/lanes.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace rk::RK_ISA {

// Independent chains: two units of latency four need eight. Ten and the two operands fit in sixteen
// registers.
static constexpr int kChains = 10;
// Registers that the loops over memory move in one step.
static constexpr int kStreams = 8;

template <class T>
static constexpr long kFmaFlops = 2L * kChains * kLanes<T>;

// x <- x a + b, over and over: |a| < 1, so the chains converge, without infinities or subnormals.
template <class T>
static T fma_chains(long iterations, T start) {
    V<T> chain[kChains];
    const V<T> a = broadcast<T>(T(0.75)), b = broadcast<T>(T(0.25));
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) chain[c] = broadcast<T>(start + T(c));
    for (long i = 0; i < iterations; ++i)
#pragma GCC unroll 16
        for (int c = 0; c < kChains; ++c) chain[c] = fma(chain[c], a, b);
#pragma GCC unroll 16
    for (int c = 1; c < kChains; ++c) chain[0] += chain[c];
    return sum_lanes<T>(chain[0]);
}

// The same with VDPBF16PS, sixteen sums of two products of bfloat16 each. A processor with AVX-512 may lack
// it, so the caller checks.
#if defined(RK_ISA_AVX512)
static constexpr long kBf16Flops = 2L * kChains * 32;
__attribute__((target("avx512bf16"))) static float bf16_chains(long iterations, float start) {
    __m512 chain[kChains];
    const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(start), _mm512_set1_ps(start));
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) chain[c] = _mm512_set1_ps(float(c));
    for (long i = 0; i < iterations; ++i)
#pragma GCC unroll 16
        for (int c = 0; c < kChains; ++c) chain[c] = _mm512_dpbf16_ps(chain[c], a, a);
    Vf sum = (Vf)chain[0];
#pragma GCC unroll 16
    for (int c = 1; c < kChains; ++c) sum += (Vf)chain[c];
    return sum[0];
}
#else
static constexpr long kBf16Flops = 0;
static constexpr float (*bf16_chains)(long, float) = nullptr;
#endif

static float read_all(const float* p, long n) {
    Vf sum[kStreams] = {};
    for (long i = 0; i + kStreams * kLanes<float> <= n; i += kStreams * kLanes<float>)
#pragma GCC unroll 8
        for (int s = 0; s < kStreams; ++s) sum[s] += load(p + i + s * kLanes<float>);
#pragma GCC unroll 8
    for (int s = 1; s < kStreams; ++s) sum[0] += sum[s];
    return sum_lanes<float>(sum[0]);
}

// Past the cache: the line is not read before it is written. p is aligned to the register.
RK_INLINE void store_past_cache(float* p, Vf v) {
#if defined(RK_ISA_AVX512)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(RK_ISA_AVX2)
    _mm256_stream_ps(p, (__m256)v);
#elif defined(__SSE2__)
    _mm_stream_ps(p, (__m128)v);
#else
    store(p, v);
#endif
}

static void write_all(float* p, long n, float value, bool past_cache) {
    const Vf v = broadcast<float>(value);
    for (long i = 0; i + kStreams * kLanes<float> <= n; i += kStreams * kLanes<float>)
        if (past_cache)
#pragma GCC unroll 8
            for (int s = 0; s < kStreams; ++s) store_past_cache(p + i + s * kLanes<float>, v);
        else
#pragma GCC unroll 8
            for (int s = 0; s < kStreams; ++s) store(p + i + s * kLanes<float>, v);
#if defined(__SSE2__)
    if (past_cache) _mm_sfence();
#endif
}

}  // namespace rk::RK_ISA
