// 8-bit codes of rows of float, and bounds of inner products made from them (operations/screening.hpp).
//
// A row is y / u for an integer vector y^ close to y: `encode` writes y^ as bytes, and four terms: u (codes a
// unit), |y|, |y - y^| and the sum of y^. Norms are rounded upwards. u is 0, and so are the codes, where the
// row has NaN or infinity or a range that would overflow or underflow; u is 1 for a row of zeros.
//
// `screen` multiplies codes of queries by codes of keys. Query codes are stored with an offset of
// kCodeOffset, as unsigned bytes, which is what VPMADDUBSW and VPDPBUSD multiply by signed ones.
// |key code| <= 63 and query code + 64 <= 128, so four products fit in 16 bits: two VPMADDUBSW are added
// before one VPMADDWD widens them. For 64 products that is 3 multiplications, where float takes 8.
#pragma once

#include "kernels/pack.hpp"

namespace rk::RK_ISA {

// Registers of a group of four depths of a panel of keys.
static constexpr int kCodeVectors = kCodeLanes * 4 / RK_VECTOR_BYTES;

// ---- encoding

// |x| as bits: NaN is above infinity, which is above every number.
RK_INLINE If magnitude_bits(Vf x) { return (If)x & 0x7fffffff; }
RK_INLINE If larger(If a, If b) { return a > b ? a : b; }

// kLanes rows: their codes, word by word of four depths, and terms.
RK_INLINE void encode_lanes(const float* src, long src_row, long rows, long depth, float most, int offset,
                            std::uint8_t* codes, long group_stride, long row_stride, float* terms) {
    constexpr int kWidth = kLanes<float>;
    const auto read = [&](long j, long k0) RK_LAMBDA_INLINE {
        return j < rows ? load_first(src + j * src_row + k0, depth - k0) : Vf{};
    };
    if (rows > 0) prefetch_rows(src, src_row, rows < kWidth ? rows : (long)kWidth, depth);
    Vf largest[kWidth] = {};
    for (long k0 = 0; k0 < depth; k0 += kWidth)
        for (int j = 0; j < kWidth; ++j) largest[j] = (Vf)larger((If)largest[j], magnitude_bits(read(j, k0)));
    transpose_registers<float>(largest);
    for (int j = 1; j < kWidth; ++j) largest[0] = (Vf)larger((If)largest[0], (If)largest[j]);
    const Vf top = largest[0];
    const If zero = top == Vf{};
    const If fit = zero | ((top >= broadcast(kLeastCoded)) & (top <= broadcast(kMostCoded)));
    const Vf unit = zero ? broadcast(1.0f) : fit ? broadcast(most) / top : Vf{};

    constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    Vf norm{}, residual{}, sum{};
    for (long k0 = 0; k0 < depth; k0 += kWidth) {
        Vf v[kWidth];
        for (int j = 0; j < kWidth; ++j) v[j] = read(j, k0);
        transpose_registers<float>(v);
        for (int k = 0; k < kWidth && k0 + k < depth; k += 4) {
            If word{};
            for (int i = 0; i < 4; ++i) {
                const Vf y = (Vf)((If)v[k + i] & fit) * unit;
                const Vf shifted = y + broadcast(kRounder);
                const Vf code = shifted - broadcast(kRounder), rest = y - code;
                norm = fma(y, y, norm);
                residual = fma(rest, rest, residual);
                sum += code;
                word |= (((If)shifted + offset) & 0xff) << (8 * i);
            }
            std::uint8_t* to = codes + (k0 + k) / 4 * group_stride;
            if (row_stride == 4) {
                __builtin_memcpy(to, &word, sizeof word);
            } else {
                for (int j = 0; j < kWidth && j < rows; ++j) {
                    const std::int32_t w = word[j];
                    __builtin_memcpy(to + j * row_stride, &w, sizeof w);
                }
            }
        }
    }
    // The sums have `depth` roundings; y itself is rounded once.
    const Vf above = broadcast(1 + 0x1p-20f + (float)depth * 0x1p-22f);
    norm = sqrt(norm) * above;
    store(terms, unit);
    store(terms + kCodeLanes, norm);
    store(terms + 2 * kCodeLanes, fma(norm, broadcast(0x1p-22f), sqrt(residual) * above));
    store(terms + 3 * kCodeLanes, sum);
}

static void encode(const float* src, long src_row, long rows, long depth, float most, int offset,
                   std::uint8_t* codes, long group_stride, long row_stride, float* terms) {
    for (long j = 0; j < kCodeLanes; j += kLanes<float>)
        encode_lanes(src + j * src_row, src_row, rows - j, depth, most, offset, codes + j * row_stride,
                     group_stride, row_stride, terms + j);
}

// ---- products

typedef std::int16_t Shorts __attribute__((vector_size(RK_VECTOR_BYTES)));
typedef std::uint16_t UnsignedShorts __attribute__((vector_size(RK_VECTOR_BYTES)));

// Sums of two neighbouring products of unsigned by signed bytes.
RK_INLINE Shorts pairs_of_products(If queries, If keys) {
#if defined(RK_ISA_AVX512)
    return (Shorts)_mm512_maddubs_epi16((__m512i)queries, (__m512i)keys);
#elif defined(RK_ISA_AVX2)
    return (Shorts)_mm256_maddubs_epi16((__m256i)queries, (__m256i)keys);
#else
    const Shorts q = (Shorts)queries, k = (Shorts)keys;
    return (q & 0xff) * ((k << 8) >> 8) + (Shorts)((UnsignedShorts)q >> 8) * (k >> 8);
#endif
}
// Sums of two neighbours.
RK_INLINE If widened(Shorts s) {
#if defined(RK_ISA_AVX512)
    return (If)_mm512_madd_epi16((__m512i)s, _mm512_set1_epi16(1));
#elif defined(RK_ISA_AVX2)
    return (If)_mm256_madd_epi16((__m256i)s, _mm256_set1_epi16(1));
#else
    return (((If)s << 16) >> 16) + ((If)s >> 16);
#endif
}

RK_INLINE If broadcast_word(const std::uint8_t* p) {
    std::int32_t w;
    __builtin_memcpy(&w, p, sizeof w);
    return If{} + w;
}
RK_INLINE If load_codes(const std::int8_t* p) {
    If r;
    __builtin_memcpy(&r, p, sizeof r);
    return r;
}

// acc += products of R rows and a panel. kVnni: by VPDPBUSD, which adds four products to 32 bits.
template <int R, bool kVnni>
RK_INLINE void add_code_products(const std::uint8_t* rows, long row, const std::int8_t* panel, long groups,
                                 If (&acc)[R][kCodeVectors]) {
    constexpr long kGroup = kCodeLanes * 4;
    long g = 0;
#if defined(RK_ISA_AVX512)
    if constexpr (kVnni) {
        for (; g < groups; ++g) {
            const If key = load_codes(panel + g * kGroup);
#pragma GCC unroll 12
            for (int r = 0; r < R; ++r)
                asm("vpdpbusd %2, %1, %0"
                    : "+v"(acc[r][0])
                    : "v"(broadcast_word(rows + r * row + 4 * g)), "v"(key));
        }
        return;
    }
#endif
    for (; g + 2 <= groups; g += 2) {
        If key[2][kCodeVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kCodeVectors; ++v) {
            key[0][v] = load_codes(panel + g * kGroup + v * RK_VECTOR_BYTES);
            key[1][v] = load_codes(panel + (g + 1) * kGroup + v * RK_VECTOR_BYTES);
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const If q0 = broadcast_word(rows + r * row + 4 * g);
            const If q1 = broadcast_word(rows + r * row + 4 * g + 4);
#pragma GCC unroll 4
            for (int v = 0; v < kCodeVectors; ++v)
                acc[r][v] += widened(pairs_of_products(q0, key[0][v]) + pairs_of_products(q1, key[1][v]));
        }
    }
    if (g < groups)
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < kCodeVectors; ++v)
                acc[r][v] += widened(pairs_of_products(broadcast_word(rows + r * row + 4 * g),
                                                       load_codes(panel + g * kGroup + v * RK_VECTOR_BYTES)));
}

// R rows against one panel, of which the first `cols` keys exist; appends the pairs that pass.
template <int R, bool kVnni>
RK_INLINE Survivor* screen_panel(const CodedRows& q, long r0, const std::int8_t* panel, const float* terms,
                                 long groups, long cols, std::int32_t column, Survivor* out) {
    If acc[R][kCodeVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kCodeVectors; ++v) {
        // Without the offset of the query codes.
        const Vf sum = load(terms + 3 * kCodeLanes + v * kLanes<float>);
        const If start = __builtin_convertvector(sum * (float)-kCodeOffset, If);  // exact
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) acc[r][v] = start;
    }
    add_code_products<R, kVnni>(q.codes + r0 * q.row, q.row, panel, groups, acc);

    Vf excess[R][kCodeVectors];
    If below = ~If{};
#pragma GCC unroll 4
    for (int v = 0; v < kCodeVectors; ++v) {
        const float* at = terms + v * kLanes<float>;
        const Vf unit = load(at);
        const Vf error = fma(load(at + kCodeLanes), broadcast(q.error), load(at + 2 * kCodeLanes));
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const Vf most = fma(broadcast(q.reach[r0 + r]), error, __builtin_convertvector(acc[r][v], Vf));
            excess[r][v] = fma(broadcast(q.minus_bar[r0 + r]), unit, most);
            below &= (If)excess[r][v];
        }
    }
    // The sign of the excess decides; it is never NaN.
    if (__builtin_expect(bits(below < If{}) == (1u << kLanes<float>)-1u, 1)) return out;
    const std::uint32_t exist = cols < kCodeLanes ? (1u << cols) - 1u : (1u << kCodeLanes) - 1u;
    for (int r = 0; r < R; ++r) {
        alignas(64) float values[kCodeLanes];
        std::uint32_t pass = 0;
        for (int v = 0; v < kCodeVectors; ++v) {
            store(values + v * kLanes<float>, excess[r][v]);
            pass |= bits(~((If)excess[r][v] >> 31)) << (v * kLanes<float>);
        }
        for (pass &= exist; pass; pass &= pass - 1) {
            const int l = __builtin_ctz(pass);
            *out++ = {(std::int32_t)(r0 + r), column + l, values[l]};
        }
    }
    return out;
}

// Rows of a tile whose accumulators, with the codes of keys in use, fit in the registers.
template <bool kVnni>
static constexpr int kCodeRows = kCodeVectors == 1   ? (kVnni ? 12 : 8)
                                 : kCodeVectors == 2 ? 4
                                                     : 2;

template <int R, bool kVnni>
RK_INLINE Survivor* screen_rows(const CodedRows& q, long r0, long rows, const std::int8_t* panel,
                                const float* terms, long groups, long cols, std::int32_t column,
                                Survivor* out) {
    for (; rows >= R; rows -= R, r0 += R)
        out = screen_panel<R, kVnni>(q, r0, panel, terms, groups, cols, column, out);
    if constexpr (R > 1)
        if (rows > 0) out = screen_rows<R / 2, kVnni>(q, r0, rows, panel, terms, groups, cols, column, out);
    return out;
}

template <bool kVnni>
static long screen_with(const CodedRows& q, long rows, const std::int8_t* codes, const float* terms,
                        long groups, long cols, long most, Survivor* out) {
    Survivor* const begin = out;
    for (long j = 0; j < cols && out - begin <= most; j += kCodeLanes) {
        out = screen_rows<kCodeRows<kVnni>, kVnni>(q, 0, rows, codes, terms, groups, cols - j,
                                                   (std::int32_t)j, out);
        codes += groups * kCodeLanes * 4;
        terms += kCodeTerms * kCodeLanes;
    }
    return out - begin;
}

static long screen(const CodedRows& q, long rows, const std::int8_t* codes, const float* terms, long groups,
                   long cols, long most, Survivor* out) {
#if defined(RK_ISA_AVX512)
    if (__builtin_cpu_supports("avx512vnni"))
        return screen_with<true>(q, rows, codes, terms, groups, cols, most, out);
#endif
    return screen_with<false>(q, rows, codes, terms, groups, cols, most, out);
}

}  // namespace rk::RK_ISA
