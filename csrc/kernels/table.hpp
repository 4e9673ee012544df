// The table of tile kernels: what each instruction set must provide, and nothing else.
//
// Everything above this table (loops over batches, rows and columns, threads, workspace) is compiled once;
// everything below it is compiled once per instruction set, from the same text (csrc/kernels/). The table is
// chosen when the library is loaded (processor/isa.cpp); code above never tests for an instruction set.
//
// Layouts
//   rows     A(r, k) = a[r * a_row + k * a_depth]: any strides, nothing is packed.
//   panels   B(k, j) = panels[(j / nr) * panel_stride + k * nr + j % nr]: columns in groups of nr,
//            depth-major inside a group, the last group padded with zeros.
//   tile     C(r, j) = c[r * c_row + j]: row-major, unit column stride.
#pragma once

#include <cstdint>
#include <limits>

#include "base/names.hpp"
#include "base/storage.hpp"
#include "kernels/nngp_spec.hpp"

namespace rk {

// With at most this many rows, a micro-tile has too few accumulators to hide the latency, and packing columns
// that are read once does not pay. Such calls process four panels at a time or read columns in place.
inline constexpr long kFewRows = 3;

// Depth of one chain of multiply-adds; longer sums are chains added in order. A block of a panel of that
// depth (2 x 64 bytes x 256 = 32 KiB with AVX-512) stays in L1 on processors with 48 KiB, half in L1 and half
// in L2 on the others, and it is short enough to keep rounding errors small.
inline constexpr long kChainDepth = 256;

// The pairs (i, j) with least <= j - i <= greatest: a band of diagonals. The causal rule is greatest = 0, a
// sliding window of w earlier columns also has least = -w. A limit is at most kNoLimit away from 0, which no
// difference of indices reaches: sums of a limit and an index do not overflow.
struct Band {
    static constexpr long kNoLimit = std::numeric_limits<long>::max() / 4;
    long least = -kNoLimit, greatest = kNoLimit;

    __attribute__((always_inline)) bool unlimited() const {
        return least == -kNoLimit && greatest == kNoLimit;
    }
};

// Which pairs may attend: a boolean matrix with any strides (null: all), and a band. Indices are those of the
// whole relation, not of the tile.
struct Mask {
    const std::uint8_t* data = nullptr;
    long row_stride = 0, col_stride = 0;
    Band band;

    __attribute__((always_inline)) bool empty() const { return data == nullptr && band.unlimited(); }
    __attribute__((always_inline)) bool allows(long i, long j) const {
        return j - i >= band.least && j - i <= band.greatest &&
               (data == nullptr || data[i * row_stride + j * col_stride] != 0);
    }
};

// Terms added to the scores of pairs: that of pair (i, j) of a tile is data[i * row + j * col]; null: none.
// A term of -inf forbids its pair.
template <class T>
struct Bias {
    const T* data = nullptr;
    long row = 0, col = 0;
};

// The data of a loss over pairs, besides their inner products. Element (i, j) of a matrix is p[i * row + j *
// col]; a null pointer means "absent". Targets come as a matrix or as labels.
template <class T>
struct PairTargets {
    const T* target = nullptr;
    long target_row = 0, target_col = 0;
    const std::int64_t* row_label = nullptr;
    const std::int64_t* col_label = nullptr;
    const T* weight = nullptr;  // null: ones
    long weight_row = 0, weight_col = 0;
    T factor = T(1);  // of all weights
    // softmax only: log-sum-exp of each row and one over the sum of its targets.
    const T* lse = nullptr;
    const T* inverse_mass = nullptr;

    // These targets with pair (i0, j0) as pair (0, 0).
    PairTargets from(long i0, long j0) const {
        PairTargets t = *this;
        if (target) t.target += i0 * target_row + j0 * target_col;
        if (row_label) t.row_label += i0, t.col_label += j0;
        if (weight) t.weight += i0 * weight_row + j0 * weight_col;
        if (lse) t.lse += i0;
        if (inverse_mass) t.inverse_mass += i0;
        return t;
    }
};

// Rows of which only some entries are stored (CSR): entry e of row i, offsets[i] <= e < offsets[i + 1], is
// values[e] in column columns[e]. Columns may repeat and have any order; the others are zero.
template <class T>
struct SparseRows {
    const T* values;
    const std::int32_t* columns;  // null: wide_columns instead
    const std::int64_t* wide_columns;
    const std::int64_t* offsets;  // count + 1
    long count;                   // rows
};

// How a sum of products is written to C:  c <- max(floor, scale (c0 + a . b) + bias), where c0 is the
// previous value of C if `accumulate`, else 0. NaN passes the floor.
template <class T>
struct Finish {
    T scale = T(1);
    // Sums of (a - b)^2 in place of a . b: squared distances, as accurate far from the origin as at it, and
    // exactly 0 between equal points. Twice the operations. For products of T only.
    bool distances = false;
    const T* bias = nullptr;  // padded to a multiple of nr; null: none
    T floor = -std::numeric_limits<T>::infinity();
    bool accumulate = false;
    // Stores bypass the caches: for a C that is too large to be read from them again, with `c` and its rows
    // on 64-byte boundaries. Saves reading each line before it is written.
    bool stream = false;
    // C is not in this core's cache and is not streamed: prefetch its lines before the products, which take
    // longer than the fetch. Costs 4 % of the products of 64 depths.
    bool fetch = false;
};

// Products of packed or strided matrices, and packing.
template <class T>
struct Products {
    int mr;             // rows of a micro-tile
    int nr;             // columns of a panel
    int strip;          // rows that a walk multiplies with a tile of columns at a time, whole micro-tiles
    long stream_bytes;  // relations of more bytes are written past the caches (Finish::stream)

    // panels <- columns j of src(k, j) = src[k * depth_stride + j * col_stride], k < depth, j < cols.
    void (*pack)(const T* src, long depth_stride, long col_stride, long depth, long cols, T* panels,
                 long panel_stride);
    // C <- A B, finished. Each element is one chain of fused multiply-adds over at most 256 depths, chains
    // added in order: its value depends on the depth alone, never on its place in the tile.
    void (*product)(const T* a, long a_row, long a_depth, const T* panels, long panel_stride, long rows,
                    long cols, long depth, T* c, long c_row, const Finish<T>& finish);

    // As product, with columns read in place (each a row of b with unit stride): for a few rows. b is stored
    // in T or in float16.
    void (*product_of_rows)(const T* a, long a_row, long a_depth, const T* b, Storage storage, long b_row,
                            long rows, long cols, long depth, T* c, long c_row, const Finish<T>& finish);

    // As product with accumulate, but pairs that the mask forbids are skipped rather than multiplied by zero,
    // so that a NaN in b reaches only the rows that depend on it. Slow; for tiles that contain one.
    void (*masked_product)(const T* a, long a_row, const T* panels, long panel_stride, long rows, long cols,
                           long depth, T* c, long c_row, const Mask& mask, long i0, long j0);

    // acc(i, :) += sum_j p(i, j) values(j, :) over the pairs that the mask allows, values row-major and read
    // in place: the chains of product with accumulate, for at most 256 values. Values are stored in T or in
    // float16.
    void (*weighted_rows)(const T* p, long p_row, const T* values, Storage storage, long values_row,
                          long rows, long count, long width, T* acc, long acc_row, const Mask& mask, long i0,
                          long j0);

    // C <- rows [first, first + rows) of x times a matrix B(k, j) = matrix[k * matrix_row + j], finished;
    // rows without entries are left alone if C accumulates. Chains as in product, over the entries of a row.
    void (*gather)(const SparseRows<T>& x, long first, long rows, const T* matrix, long matrix_row, long cols,
                   T* c, long c_row, const Finish<T>& finish);

    bool (*all_finite)(const T* p, long n);
};

// Elementwise functions, reductions and copies of row-major tiles.
template <class T>
struct Tiles {
    // dst(r, k) <- src[r * src_row + k * src_col], elements of 16 bits, which a float holds exactly; for
    // T = float.
    void (*widen)(const T* src, Storage storage, long src_row, long src_col, long rows, long cols, T* dst,
                  long dst_row);
    // dst <- n floats rounded to nearest, ties to even; for T = float.
    void (*narrow)(const T* src, Storage storage, long n, std::uint16_t* dst);
    // dst <- src, or its transpose; `stream` as in Finish.
    void (*copy)(const T* src, long src_row, long rows, long cols, T* dst, long dst_row, bool stream);
    void (*transpose)(const T* src, long src_row, long rows, long cols, T* dst, long dst_row, bool stream);

    void (*activate)(Activation a, T parameter, T* z, long ld, long rows, long cols);
    void (*activate_vjp)(Activation a, T parameter, const T* z, long ldz, T* grad, long ldg, long rows,
                         long cols);
    // out <- z / |z|, row by row, 0 where a row is 0; out may be z.
    void (*normalize)(const T* z, long ldz, long rows, long cols, T* out, long ldo);
    // grad <- (grad - f <f, grad>) / |z| with f = z / |z|; 0 where z is 0.
    void (*normalize_vjp)(const T* z, long ldz, T* grad, long ldg, long rows, long cols);
    // sums[j] += sum over r of c(r, j)
    void (*add_column_sums)(const T* c, long c_row, long rows, long cols, T* sums);
    // into[i] += from[i]
    void (*add)(T* into, const T* from, long n);

    // r(i, j) <- value where the mask forbids the pair (i0 + i, j0 + j).
    void (*mask_tile)(T* r, long ld, long rows, long cols, const Mask& mask, long i0, long j0, T value);

    // r <- r + bias, then cap tanh(r / cap) unless cap is 0; -inf where the bias forbids the pair. slope
    // (null, or rows as those of r, with a cap) <- the derivative with respect to r + bias, 0 for a forbidden
    // pair. Returns whether the bias forbids a pair.
    bool (*score)(T* r, long ld, long rows, long cols, const Bias<T>& bias, T cap, T* slope);

    // Streaming softmax (Milakov & Gimelshein 2018): r <- exp(r - max'), where max' = max(max, row
    // maximum of r); sum and the weighted sums acc are rescaled by exp(max - max') and sum is updated.
    void (*softmax_accept)(T* r, long ld, long rows, long cols, T* max, T* sum, T* acc, long acc_row,
                           long width);
    // State a <- merge of states a and b (log-sum-exp).
    void (*softmax_merge)(T* max, T* sum, T* acc, const T* max_b, const T* sum_b, const T* acc_b, long rows,
                          long width);
    // out <- acc / sum (0 where sum is 0), lse <- max + log(sum); lse may be null. A maximum of +inf gives an
    // lse of +inf and NaN in out.
    void (*softmax_finish)(const T* max, const T* sum, const T* acc, long rows, long width, T* out,
                           long out_row, T* lse);
    // max[i] <- max(max[i], row maximum of r)
    void (*row_max)(const T* r, long ld, long rows, long cols, T* max);
    // r <- exp(r - max) / sum, row by row (0 where max is -inf).
    void (*softmax_rows)(T* r, long ld, long rows, long cols, const T* max);
    // p <- exp(p - lse), dp <- p * (dp - delta) * slope, with an lse and a delta for each row; slope (or
    // null: 1) has the layout of p.
    void (*softmax_vjp)(T* p, T* dp, const T* slope, long ld, long rows, long cols, const T* lse,
                        const T* delta);

    // Columns of row r that could enter its k best: those not below the threshold. Returns how many of
    // the cols candidates were written to columns (ascending).
    long (*candidates)(const T* r, long cols, T threshold, std::int32_t* columns);

    // r <- link(r)
    void (*link)(Link link, T* r, long ld, long rows, long cols);
    // acc[i] += sum over j of link(r(i, j)) v[j]
    void (*link_dot)(Link link, const T* r, long ld, long rows, long cols, const T* v, T* acc);
    // With z = scale r: q <- q link'(z), r <- link(z), totals[i] += sum over j of q(i, j), and slopes[i] +=
    // sum over j of q(i, j) r(i, j), the part of row i in the derivative with respect to the scale.
    void (*link_vjp)(Link link, T scale, T* r, T* q, long ld, long rows, long cols, T* totals,
                     double* slopes);

    // r <- weighted derivative of the loss at r; values[i] += weighted loss of row i. Pair (0, 0) of the
    // targets is that of the tile.
    void (*loss_vjp)(Loss loss, T* r, long ld, long rows, long cols, const PairTargets<T>& targets,
                     double* values);

    // sums(r, c) += <a_r, b_c> over n values: rows of a with rows of b (kernels/mixing.hpp).
    void (*dot_rows)(const T* a, long a_row, long rows, const T* b, long b_row, long count, long n, T* sums,
                     long sums_row);
    // out(r, :) += sum over c of w(r, c) in(c, :), rows of n values.
    void (*mix_rows)(const T* w, long w_row, long w_col, long rows, long count, const T* in, long in_row,
                     long n, T* out, long out_row);
};

// The recursion of nngp_kernel.
template <class T>
struct Series {
    // out(i, j) <- nngp_kernel of points i0 + i of a and j0 + j of b, from r = weight_variance x.y / D.
    void (*nngp_tile)(const NngpSpec& spec, const NngpPoints& a, long i0, const NngpPoints& b, long j0,
                      const double* r, long ld, long rows, long cols, T* out, long out_row);
    // Variances of layer 0 of points [first, first + count); then, layer by layer, what nngp_tile needs of
    // the points. tangent (or null) becomes the diagonal of the NTK.
    void (*nngp_variances)(const NngpSpec& spec, const NngpPoints& p, long first, long count);
    void (*nngp_layer)(const NngpSpec& spec, const NngpPoints& p, long layer, long first, long count,
                       double* tangent);
};

// Random numbers by counters.
template <class T>
struct Random {
    // Philox 4x32-10 of n counters of four words each.
    void (*philox)(const std::uint32_t* counters, std::uint64_t key, std::uint32_t* out, long n);
    // Panels of columns [j0, j0 + cols) of a matrix of standard normal numbers, a function of key, layer,
    // stream, row and column.
    void (*random_panels)(std::uint64_t key, long layer, long stream, long depth, long j0, long cols,
                          T* panels, long panel_stride);
};

// 8-bit codes of rows of float (kernels/codes.hpp). Keys come in panels of kCodeLanes: codes (groups of four
// depths, kCodeLanes, 4), zero past the depth, and terms (kCodeTerms, kCodeLanes). This layout is that of
// saved files, so it is the same on every processor.
inline constexpr int kCodeLanes = 16, kCodeTerms = 4;
inline constexpr int kKeyLevels = 63, kQueryLevels = 64, kCodeOffset = 64;
inline constexpr long kMostCodedDepth = 65536;
// Rows whose largest magnitude is outside of this range have no codes: their products might overflow, or
// lose bits to underflow.
inline constexpr float kLeastCoded = 0x1p-40f, kMostCoded = 0x1p50f;

// Rows of queries as `screen` needs them. Row r passes a key where
//   <codes of r, codes of the key> + reach[r] (error |y| + |y - y^|) >= -minus_bar[r] u
// with the terms |y|, |y - y^| and u of the key.
struct CodedRows {
    const std::uint8_t* codes;  // row-major, with the offset
    long row;
    const float *minus_bar, *reach;
    float error;
};
// A pair that passed, and by how much.
struct Survivor {
    std::int32_t row, column;
    float excess;
};

struct Codes {
    // Codes of at most kCodeLanes rows: four depths of row j at codes + g * group_stride + j * row_stride,
    // and their terms. The largest magnitude becomes `most`, and `offset` is added.
    void (*encode)(const float* src, long src_row, long rows, long depth, float most, int offset,
                   std::uint8_t* codes, long group_stride, long row_stride, float* terms);
    // Pairs of rows and of cols keys that pass, panel by panel; ends after a panel with which they are more
    // than `most`. Returns their number.
    long (*screen)(const CodedRows& q, long rows, const std::int8_t* codes, const float* terms, long groups,
                   long cols, long most, Survivor* out);
};

template <class T>
struct Kernels : Products<T>, Tiles<T>, Series<T>, Random<T>, Codes {
    // Elementwise function by name, for tests; false if the name is unknown.
    bool (*vector_math)(const char* name, T parameter, const T* x, T* out, long n);
};

// The table of the instruction set in use.
template <class T>
const Kernels<T>& kernels();

// Products of factors rounded to bfloat16 (to nearest, ties to even), sums in float.
//   rows     row-major, depth rounded up to a multiple of depth_multiple with zeros
//   panels   as above, with depth in pairs: (k, j) at k / 2 * 2 nr + 2 (j % nr) + k % 2 of a panel
struct KernelsBf16 {
    int mr;              // rows of a micro-tile
    int nr;              // columns of a panel
    int strip;           // rows that a walk multiplies at a time
    int depth_multiple;  // of factors

    void (*pack)(const float* src, long depth_stride, long col_stride, long depth, long padded, long cols,
                 bfloat16* panels, long panel_stride);
    // dst(r, k) <- src[r * row + k * col] for k < depth, and 0 for depth <= k < padded
    void (*convert)(const float* src, long row, long col, long rows, long depth, long padded, bfloat16* dst,
                    long dst_row);
    // As product of Kernels; depth is the padded one.
    void (*product)(const bfloat16* a, long a_row, const bfloat16* panels, long panel_stride, long rows,
                    long cols, long depth, float* c, long c_row, const Finish<float>& finish);
    // As product, with columns read in place (each a row of b with unit stride, in bfloat16): for a few rows.
    // depth is that of b. Null, as weighted_rows, where products are of whole tiles.
    void (*product_of_rows)(const bfloat16* a, long a_row, const bfloat16* b, long b_row, long rows,
                            long cols, long depth, float* c, long c_row, const Finish<float>& finish);
    // acc(i, :) += sum_j p(i, j) values(j, :), values row-major and read in place: the chains of product with
    // accumulate. Rows of p are padded.
    void (*weighted_rows)(const bfloat16* p, long p_row, const bfloat16* values, long values_row, long rows,
                          long count, long width, float* acc);
};
const KernelsBf16& kernels_bf16();

// Loops that keep one unit of the processor busy and do nothing else, for processor/ceilings.cpp. The chains
// return a value that depends on all their operations; *_flops are the operations of one iteration.
struct CeilingKernels {
    long fma_float_flops, fma_double_flops, bf16_flops;
    float (*fma_float)(long iterations, float start);
    double (*fma_double)(long iterations, double start);
    float (*bf16)(long iterations, float start);  // null where the set has no such instruction
    // Sum of p, in whole blocks of 128 values; a partial block at the end is skipped.
    float (*read)(const float* p, long n);
    // p <- value in the same blocks; past_cache: by stores that bypass the cache, p aligned to 64 bytes.
    void (*write)(float* p, long n, float value, bool past_cache);
};
const CeilingKernels& ceiling_kernels();

}  // namespace rk
