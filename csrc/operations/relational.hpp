// What relational attention and its gradient share: the arrays of one item, and the function on its
// relations.
#pragma once

#include <optional>

#include "base/arrays.hpp"
#include "kernels/table.hpp"
#include "operations/operations.hpp"
#include "walk/factors.hpp"

namespace rk {

// r <- act(r), and grad <- grad act'(z).
template <class T>
void activate(const RelationActivation& act, T* r, long ld, long rows, long cols) {
    if (act.link)
        kernels<T>().link(*act.link, r, ld, rows, cols);
    else
        kernels<T>().activate(act.activation, T(act.parameter), r, ld, rows, cols);
}
// Both of one layout; z is overwritten.
template <class T>
void activate_vjp(const RelationActivation& act, T* z, T* grad, long ld, long rows, long cols) {
    if (!act.link)
        return kernels<T>().activate_vjp(act.activation, T(act.parameter), z, ld, grad, ld, rows, cols);
    Arena::Scope scratch;  // for the parts of a scale, which are not used
    T* totals = scratch.take<T>(rows);
    double* slopes = scratch.take<double>(rows);
    std::fill_n(totals, rows, T(0));
    std::fill_n(slopes, rows, 0.0);
    kernels<T>().link_vjp(*act.link, T(1), z, grad, ld, rows, cols, totals, slopes);
}

// Matrix `index` of an item of an array (..., heads or relations, rows, columns).
template <class T>
T* matrix_at(const Array<T>& a, long item, long index) {
    T* first = a.item(item, 3);
    return first ? first + index * a.step(3) : nullptr;
}
template <class T>
Points<T> points_at(const Array<const T>& a, long item, long index) {
    return {matrix_at(a, item, index), a.dim(2), a.dim(1), a.step(2), a.step(1)};
}

}  // namespace rk
