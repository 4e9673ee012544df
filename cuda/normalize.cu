// A warp owns a row. Where squares of the largest magnitude could overflow, or lose bits to underflow, the
// row is first multiplied by a power of two, which is exact.
#include "normalize.cuh"

#include "operations.hpp"

namespace rk::cuda {

namespace {

constexpr int kWarps = 4;

// Magnitudes from `least` to `most` are squared as they are; others are multiplied by `up` or by `down`.
template <class T>
struct SquareRange;
template <>
struct SquareRange<float> {
    static constexpr float least = 0x1p-50f, most = 0x1p50f, up = 0x1p100f, down = 0x1p-100f;
};
template <>
struct SquareRange<double> {
    static constexpr double least = 0x1p-450, most = 0x1p450, up = 0x1p600, down = 0x1p-600;
};

// One row of a matrix.
template <class Sum>
struct Row {
    void* data;
    Dtype dtype;
    long first, step;

    RK_DEVICE Row(const Strided& a, const Lead& lead, unsigned item, long row)
        : data(a.data), dtype(a.dtype), first(a.lead.offset(lead, item) + row * a.row), step(a.column) {}
    RK_DEVICE Sum get(long c) const { return load_element<Sum>(data, dtype, first + c * step); }
    RK_DEVICE void set(long c, Sum value) const { store_element<Sum>(data, dtype, first + c * step, value); }
};

template <class Sum>
RK_DEVICE Sum over_warp(Sum value) {
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) value += shuffle_xor(value, lanes);
    return value;
}

// The sum of squares of `scale` times a row.
template <class Sum>
RK_DEVICE Sum square_of(const Row<Sum>& z, long columns, Sum scale) {
    Sum sum = 0;
    for (long c = lane_index(); c < columns; c += 32) {
        const Sum v = z.get(c) * scale;
        sum = fma(v, v, sum);
    }
    return over_warp(sum);
}

// The length of `scale` times a row.
template <class Sum>
struct RowLength {
    Sum scale, length;
};
template <class Sum>
RK_DEVICE RowLength<Sum> row_length(const Row<Sum>& z, long columns) {
    using Range = SquareRange<Sum>;
    Sum most = 0;
    for (long c = lane_index(); c < columns; c += 32) {
        const Sum size = fabs(z.get(c));
        most = size > most ? size : most;
    }
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
        const Sum other = shuffle_xor(most, lanes);
        most = other > most ? other : most;
    }
    const bool plain = most == Sum(0) || (most >= Range::least && most <= Range::most);
    const Sum scale = plain ? Sum(1) : most > Sum(1) ? Range::down : Range::up;
    return {scale, sqrt(square_of(z, columns, scale))};
}

template <class Sum>
RK_KERNEL(32 * kWarps)
normalize_kernel(const __grid_constant__ Lead lead, unsigned rows, long columns, long padded,
                 const __grid_constant__ Strided from, const __grid_constant__ Strided to) {
    const unsigned index = block_index() * kWarps + unsigned(warp_index());
    if (index >= unsigned(lead.items()) * rows) return;
    const Row<Sum> z(from, lead, index / rows, index % rows), out(to, lead, index / rows, index % rows);
    RowLength<Sum> r = row_length(z, columns);
    if (r.length == Sum(0)) r = {Sum(1), Sum(1)};
    for (long c = lane_index(); c < padded; c += 32)
        out.set(c, c < columns ? z.get(c) * r.scale / r.length : Sum(0));
}

template <class Sum>
RK_KERNEL(32 * kWarps)
normalize_vjp_kernel(const __grid_constant__ Lead lead, unsigned rows, long columns,
                     const __grid_constant__ Strided from, const __grid_constant__ Strided above,
                     const __grid_constant__ Strided to) {
    const unsigned index = block_index() * kWarps + unsigned(warp_index());
    if (index >= unsigned(lead.items()) * rows) return;
    const unsigned item = index / rows, row = index % rows;
    const Row<Sum> z(from, lead, item, row), grad(above, lead, item, row), out(to, lead, item, row);
    const RowLength<Sum> r = row_length(z, columns);
    Sum along = 0;
    for (long c = lane_index(); c < columns; c += 32)
        along = fma(z.get(c) * r.scale / r.length, grad.get(c), along);
    along = over_warp(along);
    for (long c = lane_index(); c < columns; c += 32) {
        const Sum across = fma(z.get(c) * r.scale / r.length, -along, grad.get(c));
        out.set(c, r.length == Sum(0) ? Sum(0) : across / r.length * r.scale);
    }
}

unsigned blocks_of(const Lead& lead, long rows) {
    const long total = lead.items() * rows;
    if (total > 0x7fffffffL) throw std::invalid_argument("expected fewer than 2^31 rows");
    return unsigned(ceil_div(total, kWarps));
}

}  // namespace

void normalize_rows(const Context& context, const Lead& lead, long rows, long columns, long padded,
                    const Strided& from, const Strided& to) {
    const unsigned blocks = blocks_of(lead, rows);
    if (blocks == 0) return;
    const auto run = [&](auto kernel) {
        launch(kernel, blocks, 1, 32 * kWarps, 0, context.stream, lead, unsigned(rows), columns, padded, from,
               to);
    };
    if (from.dtype == Dtype::float64)
        run(normalize_kernel<double>);
    else
        run(normalize_kernel<float>);
}

void normalize_rows_vjp(const Context& context, const Lead& lead, long rows, long columns, const Strided& z,
                        const Strided& grad, const Strided& to) {
    const unsigned blocks = blocks_of(lead, rows);
    if (blocks == 0) return;
    const auto run = [&](auto kernel) {
        launch(kernel, blocks, 1, 32 * kWarps, 0, context.stream, lead, unsigned(rows), columns, z, grad, to);
    };
    if (z.dtype == Dtype::float64)
        run(normalize_vjp_kernel<double>);
    else
        run(normalize_vjp_kernel<float>);
}

void normalize(const Context& context, const Array& x, const Array& out) {
    std::vector<LeadStride> steps;
    const Lead lead = collapse(leading(x.shape, 2), {leading(x.stride, 2), leading(out.stride, 2)}, steps);
    Strided from = strided(x), to = strided(out);
    from.lead = steps[0];
    to.lead = steps[1];
    normalize_rows(context, lead, x.dim(2), x.dim(1), x.dim(1), from, to);
    check_launch("normalize");
}

void normalize_vjp(const Context& context, const Array& x, const Array& grad, const Array& grad_x) {
    std::vector<LeadStride> steps;
    const Lead lead =
        collapse(leading(x.shape, 2),
                 {leading(x.stride, 2), leading(grad.stride, 2), leading(grad_x.stride, 2)}, steps);
    Strided z = strided(x), above = strided(grad), to = strided(grad_x);
    z.lead = steps[0];
    above.lead = steps[1];
    to.lead = steps[2];
    normalize_rows_vjp(context, lead, x.dim(2), x.dim(1), z, above, to);
    check_launch("normalize_vjp");
}

}  // namespace rk::cuda
