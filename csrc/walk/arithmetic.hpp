// The arithmetics that multiply features: the type of results (Value), that of factors (Factor), and the
// kernels in which they differ. Everything that walks over rows and columns takes one as a parameter.
//
//   Full<T>   factors are the features themselves; their rows are read in place
//   Bf16      features are rounded to bfloat16 and multiplied in pairs, with sums in float
//
// Rows of factors and packed columns have padded(depth) values for each head, zero past the depth. Layouts of
// panels are those of kernels/table.hpp.
#pragma once

#include <cmath>

#include "base/arrays.hpp"
#include "kernels/table.hpp"

namespace rk {

template <class T>
struct Full {
    using Value = T;
    using Factor = T;

    static long mr() { return kernels<T>().mr; }
    static long nr() { return kernels<T>().nr; }
    static long strip() { return kernels<T>().strip; }
    static long padded(long depth) { return depth; }

    // Rows as factors: themselves.
    static constexpr bool kConverts = false;
    static void convert(const T*, long, long, long, long, T*, long) {}

    static void pack(const T* src, long depth_stride, long col_stride, long depth, long cols, T* panels,
                     long panel_stride) {
        kernels<T>().pack(src, depth_stride, col_stride, depth, cols, panels, panel_stride);
    }
    static void product(const T* a, long a_row, long a_depth, const T* panels, long panel_stride, long rows,
                        long cols, long depth, T* c, long c_row, const Finish<T>& finish) {
        kernels<T>().product(a, a_row, a_depth, panels, panel_stride, rows, cols, depth, c, c_row, finish);
    }
    // True if columns and values in this storage can be read in place, by product_of_rows and weighted_rows.
    static bool reads_in_place(Storage storage) { return storage != Storage::bfloat16; }
    static void product_of_rows(const T* a, long a_row, long a_depth, const T* b, Storage storage, long b_row,
                                long rows, long cols, long depth, T* c, long c_row, const Finish<T>& finish) {
        kernels<T>().product_of_rows(a, a_row, a_depth, b, storage, b_row, rows, cols, depth, c, c_row,
                                     finish);
    }
    static bool all_finite(const T* panels, long n) { return kernels<T>().all_finite(panels, n); }
    static void masked_product(const T* a, long a_row, const T* panels, long panel_stride, long rows,
                               long cols, long depth, T* c, long c_row, const Mask& mask, long i0, long j0) {
        kernels<T>().masked_product(a, a_row, panels, panel_stride, rows, cols, depth, c, c_row, mask, i0,
                                    j0);
    }
};

struct Bf16 {
    using Value = float;
    using Factor = bfloat16;

    static long mr() { return kernels_bf16().mr; }
    static long nr() { return kernels_bf16().nr; }
    static long strip() { return kernels_bf16().strip; }
    static long padded(long depth) { return round_up(depth, kernels_bf16().depth_multiple); }

    static constexpr bool kConverts = true;
    static void convert(const float* src, long row, long col, long rows, long depth, Factor* dst,
                        long dst_row) {
        kernels_bf16().convert(src, row, col, rows, depth, padded(depth), dst, dst_row);
    }

    static void pack(const float* src, long depth_stride, long col_stride, long depth, long cols,
                     Factor* panels, long panel_stride) {
        kernels_bf16().pack(src, depth_stride, col_stride, depth, padded(depth), cols, panels, panel_stride);
    }
    static void product(const Factor* a, long a_row, long, const Factor* panels, long panel_stride, long rows,
                        long cols, long depth, float* c, long c_row, const Finish<float>& finish) {
        kernels_bf16().product(a, a_row, panels, panel_stride, rows, cols, padded(depth), c, c_row, finish);
    }
    static bool reads_in_place(Storage storage) {
        return storage == Storage::bfloat16 && kernels_bf16().product_of_rows;
    }
    static void product_of_rows(const Factor* a, long a_row, long, const Factor* b, Storage, long b_row,
                                long rows, long cols, long depth, float* c, long c_row,
                                const Finish<float>& finish) {
        kernels_bf16().product_of_rows(a, a_row, b, b_row, rows, cols, depth, c, c_row, finish);
    }
    static void weighted_rows(const Factor* p, long p_row, const Factor* values, long values_row, long rows,
                              long count, long width, float* acc) {
        kernels_bf16().weighted_rows(p, p_row, values, values_row, rows, count, width, acc);
    }
    static bool all_finite(const Factor* panels, long n) {
        for (long i = 0; i < n; ++i)
            if ((panels[i] & 0x7f80) == 0x7f80) return false;
        return true;
    }
    static void masked_product(const Factor* a, long a_row, const Factor* panels, long panel_stride,
                               long rows, long cols, long depth, float* c, long c_row, const Mask& mask,
                               long i0, long j0) {
        for (long r = 0; r < rows; ++r)
            for (long j = 0; j < cols; ++j) {
                const Factor* b = panels + j / nr() * panel_stride + j % nr() * 2;
                float sum = 0;
                for (long k = 0; k < depth; ++k)
                    if (mask.allows(i0 + r, j0 + k))
                        sum += to_float(a[r * a_row + k]) * to_float(b[k / 2 * nr() * 2 + k % 2]);
                c[r * c_row + j] += sum;
            }
    }
};

// f.template operator()<A>() with the arithmetic of a precision; float64 has only one.
template <class T, class F>
void with_arithmetic([[maybe_unused]] Precision precision, const F& f) {
    if constexpr (std::is_same_v<T, float>)
        if (precision == Precision::bf16) return f.template operator()<Bf16>();
    f.template operator()<Full<T>>();
}

}  // namespace rk
