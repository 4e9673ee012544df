// Floats of 16 bits: vectors of them widened to floats, which hold each exactly, and floats rounded to them;
// the copy of a strided matrix to floats, and of floats to 16 bits.
#pragma once

#include <type_traits>

#include "kernels/pack.hpp"

namespace rk::RK_ISA {

// 16 bits for each lane of a vector of floats.
typedef std::uint16_t Hf __attribute__((vector_size(RK_VECTOR_BYTES / 2)));

RK_INLINE Vf widened_bfloat16(Hf h) { return (Vf)(__builtin_convertvector(h, U<float>) << 16); }

RK_INLINE Vf widened_float16(Hf h) {
#if defined(RK_ISA_AVX512)
    return (Vf)_mm512_maskz_cvtph_ps(0xffff, (__m256i)h);
#elif defined(RK_ISA_AVX2)
    return (Vf)_mm256_cvtph_ps((__m128i)h);
#else
    // Exponents are moved from bias 15 to bias 127: by 112, twice that for infinity and NaN. Subnormal
    // numbers get an exponent of 2^-14 and lose the 2^-14 that this adds, without arithmetic on subnormal
    // floats, which the processor may be set to flush.
    constexpr std::uint32_t kBias = 112u << 23;
    const U<float> bits = __builtin_convertvector(h, U<float>), magnitude = (bits & 0x7fff) << 13;
    const U<float> tiny = kBias + (1u << 23) - U<float>{};  // 2^-14
    const U<float> subnormal = (U<float>)((Vf)(magnitude + tiny) - (Vf)tiny);
    const U<float> finite = magnitude < (1u << 23) ? subnormal : magnitude + kBias;
    const U<float> all = magnitude >= (31u << 23) ? magnitude + 2 * kBias : finite;
    return (Vf)(all | (bits & 0x8000) << 16);
#endif
}

// To the nearest, ties to even.
RK_INLINE Hf narrowed_bfloat16(Vf x) {
    // Adding just below half of the last kept bit, and that bit itself, carries where it is to round up.
    const U<float> bits = (U<float>)x, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const U<float> nan = bits >> 16 | 0x40;  // a carry would make infinity of it
    return __builtin_convertvector((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded, Hf);
}

RK_INLINE Hf narrowed_float16(Vf x) {
#if defined(RK_ISA_AVX512)
    return (Hf)_mm512_maskz_cvtps_ph(0xffff, (__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(RK_ISA_AVX2)
    return (Hf)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#else
    constexpr std::uint32_t kBias = 112u << 23;
    const U<float> bits = (U<float>)x, magnitude = bits & 0x7fffffff;
    // Below 2^-14 in steps of 2^-24, which are those of a float from 1/2 on.
    const U<float> half = 0x3f000000 - U<float>{};
    const U<float> subnormal = (U<float>)((Vf)magnitude + (Vf)half) - half;
    const U<float> normal = (magnitude - kBias + 0xfff + (magnitude >> 13 & 1)) >> 13;
    const U<float> finite = magnitude < (113u << 23) ? subnormal : normal;
    const U<float> bounded = magnitude >= (143u << 23) ? 0x7c00 - U<float>{} : finite;
    const U<float> all = magnitude > (255u << 23) ? 0x7e00 - U<float>{} : bounded;
    return __builtin_convertvector(all | (bits >> 16 & 0x8000), Hf);
#endif
}

template <class H>
RK_INLINE Vf load_half(const H* p) {
    Hf h;
    __builtin_memcpy(&h, p, sizeof h);
    if constexpr (std::is_same_v<H, float16>)
        return widened_float16(h);
    else
        return widened_bfloat16(h);
}

// Lanes from n on are zero and not read.
template <class H>
RK_INLINE Vf load_first_half(const H* p, long n) {
    if (n >= kLanes<float>) return load_half(p);
    H first[kLanes<float>] = {};
    for (int l = 0; l < kLanes<float>; ++l)
        if (l < n) first[l] = p[l];
    return load_half(first);
}

// As the loads of simd.hpp: in place of floats.
RK_INLINE Vf load(const float16* p) { return load_half(p); }
RK_INLINE Vf load_first(const float16* p, long n) { return load_first_half(p, n); }

// Columns of unit stride are read with vectors along the rows, rows of unit stride along the columns, and
// transposed; any other strides are read one value at a time.
template <class H>
static void widen_rows(const H* src, long src_row, long src_col, long rows, long cols, float* dst,
                       long dst_row) {
    constexpr int kLane = kLanes<float>;
    if (src_col == 1) {
        for (long r = 0; r < rows; ++r, src += src_row, dst += dst_row) {
            prefetch_rows(src, src_row, 1, cols);
            for (long k = 0; k < cols; k += kLane)
                store_first(dst + k, load_first_half(src + k, cols - k), cols - k);
        }
        return;
    }
    for (long r = 0; r < rows; r += kLane)
        for (long k = 0; k < cols; k += kLane) {
            Vf v[kLane];  // v[l]: column k + l
            for (int l = 0; l < kLane; ++l) {
                const H* column = src + r * src_row + (k + l) * src_col;
                H gathered[kLane] = {};
                const long n = k + l < cols ? rows - r : 0;
                for (int i = 0; i < kLane; ++i)
                    if (i < n) gathered[i] = column[i * src_row];
                v[l] = load_half(gathered);
            }
            transpose_registers<float>(v);
            for (int i = 0; i < kLane; ++i)
                if (r + i < rows) store_first(dst + (r + i) * dst_row + k, v[i], cols - k);
        }
}

template <class T>
static void widen(const T* src, Storage storage, long src_row, long src_col, long rows, long cols, T* dst,
                  long dst_row) {
    if constexpr (std::is_same_v<T, float>) {
        if (storage == Storage::float16)
            widen_rows((const float16*)src, src_row, src_col, rows, cols, dst, dst_row);
        else
            widen_rows((const bfloat16*)src, src_row, src_col, rows, cols, dst, dst_row);
    }
}

template <class T>
static void narrow(const T* src, Storage storage, long n, std::uint16_t* dst) {
    if constexpr (std::is_same_v<T, float>)
        for (long i = 0; i < n; i += kLanes<float>) {
            const Vf x = load_first(src + i, n - i);
            const Hf h = storage == Storage::float16 ? narrowed_float16(x) : narrowed_bfloat16(x);
            if (n - i >= kLanes<float>)
                __builtin_memcpy(dst + i, &h, sizeof h);
            else
                for (long l = 0; l < n - i; ++l) dst[i + l] = h[l];
        }
}

}  // namespace rk::RK_ISA
