// What relational attention and its gradient share: the function on the relations, on a tile of them at a
// time, and the arguments as kernels read them. Mirrors csrc/operations/relational.hpp.
#pragma once

#include "activations.cuh"
#include "attention.cuh"
#include "links.cuh"

namespace rk::cuda {

// What `f` returns for each value of a tile, r <- f(r). The loop is not unrolled: 32 copies of every
// activation would be more code than the rest of a kernel. `staged`: shared memory of this warp, a number for
// each of its values.
template <class Sum, int Rows, int Columns, class F>
RK_DEVICE void for_each_staged(Sum (&r)[Rows][Columns], Sum* staged, const F& f) {
    staged += lane_index();
    sync_warp();  // other lanes may still read what was staged before
#pragma unroll
    for (int i = 0; i < Rows; ++i)
#pragma unroll
        for (int j = 0; j < Columns; ++j) staged[32 * (i * Columns + j)] = r[i][j];
#pragma unroll 1
    for (int e = 0; e < Rows * Columns; ++e) staged[32 * e] = f(staged[32 * e]);
#pragma unroll
    for (int i = 0; i < Rows; ++i)
#pragma unroll
        for (int j = 0; j < Columns; ++j) r[i][j] = staged[32 * (i * Columns + j)];
}

// The relations of a tile from inner products: r <- act(scale r).
template <class Sum, int Rows, int Columns>
RK_DEVICE void activate(const RelationActivation& act, Sum scale, Sum (&r)[Rows][Columns], Sum* staged) {
    if (act.is_identity())
        for_each_unrolled(r, [&](Sum z) { return scale * z; });
    else if (act.is_link && act.link == Link::relu)
        for_each_unrolled(r, [&](Sum z) { return value_and_slope<false>(Link::relu, scale * z).value; });
    else
        for_each_staged(r, staged, [&](Sum z) {
            z *= scale;
            return act.is_link ? value_and_slope<false>(act.link, z).value
                               : activate(act.activation, Sum(act.parameter), z);
        });
}

// The derivatives there: r <- act'(scale r).
template <class Sum, int Rows, int Columns>
RK_DEVICE void differentiate(const RelationActivation& act, Sum scale, Sum (&r)[Rows][Columns], Sum* staged) {
    if (act.is_link && (act.link == Link::identity || act.link == Link::relu))
        for_each_unrolled(r, [&](Sum z) { return value_and_slope<false>(act.link, scale * z).slope; });
    else
        for_each_staged(r, staged, [&](Sum z) {
            z *= scale;
            return act.is_link ? value_and_slope<false>(act.link, z).slope
                               : activation_derivative(act.activation, Sum(act.parameter), z);
        });
}

// Strides of leading dimensions whose last, of heads or of relations, is not followed: all items of it have
// the same.
inline std::vector<long> shared_lead(std::vector<long> lead) {
    lead.back() = 0;
    return lead;
}

// The matrices of the last leading dimension, as a series. The strides of the other ones are set later.
template <class F>
Series<F> series_of(const Factors<F>& rows, const Factors<F>& columns, long count) {
    return {rows.rows, columns.rows, rows.lead.back(), columns.lead.back(), int(count)};
}

}  // namespace rk::cuda
