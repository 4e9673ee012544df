// Rows divided by their length, and the gradient: the last step of a map that normalizes, for rows without a
// map.
#include "base/batches.hpp"
#include "operations/operations.hpp"
#include "walk/pairs.hpp"

namespace rk {

namespace {

// The points, or a copy of them of unit stride.
template <class T>
Points<T> unit_stride(const Points<T>& p, Arena::Scope& scratch) {
    if (p.col == 1) return p;
    T* space = scratch.take<T>(p.count * p.dim);
    for (long i = 0; i < p.count; ++i)
        for (long k = 0; k < p.dim; ++k) space[i * p.dim + k] = p.at(i)[k * p.col];
    return {space, p.count, p.dim, p.dim, 1};
}

// Calls f(rows, item, first, to) for blocks of the rows of each item. The rows have unit stride; `first` is
// the number of the first in the item, and `to` is where its result begins.
template <class T, class F>
void for_row_blocks(const Array<const T>& x, const Array<T>& out, const F& f) {
    constexpr double kWork = 4;  // multiply-adds an element (base/threads.hpp)
    for_each_item(x.batch(2), kWork * double(x.dim(2)) * double(x.dim(1)), [&](const Team& team, long item) {
        const Points<T> rows = points_of<T>(x, item, nullptr);
        T* to = out.item(item, 2);
        team.for_each(ceil_div(rows.count, kRowBlock), [&](long b) {
            poll();
            const long first = b * kRowBlock, n = std::min(kRowBlock, rows.count - first);
            Arena::Scope scratch;
            f(unit_stride(rows.sub(first, n), scratch), item, first, to + first * out.step(2));
        });
    });
}

}  // namespace

template <class T>
void normalize(const Array<const T>& x, const Array<T>& out) {
    for_row_blocks(x, out, [&](const Points<T>& rows, long, long, T* to) {
        kernels<T>().normalize(rows.data, rows.row, rows.count, rows.dim, to, out.step(2));
    });
}

template <class T>
void normalize_vjp(const Array<const T>& x, const Array<const T>& grad, const Array<T>& grad_x) {
    for_row_blocks(x, grad_x, [&](const Points<T>& rows, long item, long first, T* to) {
        const T* above = grad.item(item, 2) + first * grad.step(2);
        for (long i = 0; i < rows.count; ++i)
            for (long k = 0; k < rows.dim; ++k)
                to[i * grad_x.step(2) + k] = above[i * grad.step(2) + k * grad.step(1)];
        kernels<T>().normalize_vjp(rows.data, rows.row, to, grad_x.step(2), rows.count, rows.dim);
    });
}

#define RK_INSTANTIATE(T)                                            \
    template void normalize(const Array<const T>&, const Array<T>&); \
    template void normalize_vjp(const Array<const T>&, const Array<const T>&, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
