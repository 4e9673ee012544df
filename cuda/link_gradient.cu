// One walk over the pairs for each side: the weights q link'(z) of all pairs times the features of the other
// side.
//
// Links of distances: the mean of g is subtracted from the features that are summed (link_gradient.hpp of the
// CPU says why). The further sums of a row are those of its weights, and of its weights times r, for the
// scale; a last launch joins the sums.
#include "link_gradient.hpp"

#include "links.cuh"
#include "product.cuh"
#include "sum_weighted.cuh"

namespace rk::cuda {

namespace {

// The weight of a pair from r, with the upstream gradient as second product, or given.
template <class T, bool Distance, bool Given>
struct LinkGradientWeigher {
    struct Parameters {
        Link link;
        T scale;
        Lead lead;
        Strided given;
        long rows;
        T *totals, *slopes;  // of distances: (items, rows); slopes may be null
    };
    static constexpr int kProducts = Given ? 1 : 2, kSums = Distance ? 2 : 0;
    static constexpr bool kSoftmax = false, kScores = false;
    T sums[2][4];
    const T* given;

    template <class A, int G>
    RK_DEVICE void begin(const Parameters& q, const Place& place, long) {
        if (Given) given = static_cast<const T*>(q.given.data) + q.given.lead.offset(q.lead, place.item);
    }
    RK_DEVICE T weigh(const Parameters& q, T r, T, T upstream, int i, long row, long column) {
        // Rows past the edge read the last one; their sums are not written.
        if (Given) upstream = given[min(row, q.rows - 1) * q.given.row + column * q.given.column];
        const T weight = upstream * linked_with_slope<Distance>(q.link, q.scale * r).slope;
        if constexpr (Distance) {
            sums[0][i] += weight;
            sums[1][i] = fma(weight, r, sums[1][i]);
        }
        return weight;
    }
    RK_DEVICE static void write_sums(const Parameters& q, long row, const T (&sums)[2]) {
        q.totals[row] = sums[0];
        if (q.slopes) q.slopes[row] = sums[1];
    }
};

constexpr int kCentreThreads = 128;

// For each item and column, a block: the mean of the column's finite values, and the values less the mean.
// Columns of padding are zeros.
template <class T>
RK_KERNEL(kCentreThreads)
subtract_means(const __grid_constant__ Lead lead, long rows, int columns, int padded,
               const __grid_constant__ Strided from, T* to, T* mean) {
    double* sums = reinterpret_cast<double*>(shared_memory());
    long* counts = reinterpret_cast<long*>(sums + kCentreThreads);
    const int t = thread_index(), column = int(block_index() % unsigned(padded));
    const long item = block_index() / unsigned(padded);
    const T* x = static_cast<const T*>(from.data) + from.lead.offset(lead, unsigned(item));
    const bool exists = column < columns;
    x += exists ? column * from.column : 0;
    double sum = 0;
    long count = 0;
    for (long i = t; exists && i < rows; i += kCentreThreads)
        if (const T value = x[i * from.row]; isfinite(value)) {
            sum += double(value);
            ++count;
        }
    sums[t] = sum;
    counts[t] = count;
    for (int half = kCentreThreads / 2; half > 0; half /= 2) {
        sync_block();
        if (t >= half) continue;
        sums[t] += sums[t + half];
        counts[t] += counts[t + half];
    }
    sync_block();
    const T centre = counts[0] ? T(sums[0] / double(counts[0])) : T(0);
    if (t == 0) mean[item * padded + column] = centre;
    to += item * rows * padded + column;
    for (long i = t; i < rows; i += kCentreThreads) to[i * padded] = exists ? x[i * from.row] - centre : T(0);
}

// The points of an array less their means, and these means with the strides of their leading dimensions.
template <class T>
struct Centred {
    Factors<T> points;
    const T* mean;
    std::vector<long> mean_lead;

    Centred(const Context& context, const Array& a) {
        const Distinct items(a);
        const long rows = a.dim(2), padded = padded_width<T>(a.dim(1));
        T *values = context.take<T>(items.items * rows * padded),
          *means = context.take<T>(items.items * padded);
        points.lead = items.packed(rows * padded);
        points.rows = {values, rows, padded, int(padded), {}};
        mean = means;
        mean_lead = items.packed(padded);
        std::vector<LeadStride> steps;
        const Lead lead = collapse(items.shape, {items.stride}, steps);
        Strided from = strided(a);
        from.lead = steps[0];
        launch(subtract_means<T>, items.items * padded, 1, kCentreThreads, kCentreThreads * 16,
               context.stream, lead, rows, int(a.dim(1)), int(padded), from, values, means);
    }
};

constexpr int kJoinThreads = 128;

// out <- factor ((f - mean) total - out), a thread for each element.
template <class T>
RK_KERNEL(kJoinThreads)
join_sums(const __grid_constant__ Lead lead, long rows, int columns, const __grid_constant__ Strided f,
          const __grid_constant__ Strided out, const T* mean, const __grid_constant__ LeadStride mean_lead,
          const T* totals, T factor) {
    const long index = long(block_index()) * kJoinThreads + thread_index();
    const long row_of_all = index / columns, column = index % columns;
    const long item = row_of_all / rows, row = row_of_all % rows;
    if (item >= lead.items()) return;
    const T x =
        static_cast<const T*>(f.data)[f.lead.offset(lead, unsigned(item)) + row * f.row + column * f.column];
    T* sum = static_cast<T*>(out.data) + out.lead.offset(lead, unsigned(item)) + row * out.row +
             column * out.column;
    *sum = factor * ((x - mean[mean_lead.offset(lead, unsigned(item)) + column]) * totals[row_of_all] - *sum);
}

// The walk, R being computed in the arithmetic A, with `values` as the features that are summed.
template <class A, bool Given>
void walk(const Context& context, Link link, double scale, const Array& f, const Array& g,
          const Upstream& upstream, const Factors<typename A::Factor>& values, double factor,
          const Array& out, typename A::Sum* totals, typename A::Sum* parts) {
    using T = typename A::Factor;
    const std::vector<long> shape = leading(f.shape, 2), none(shape.size(), 0);
    const Factors<T> rows = factors<T>(context, f), columns = factors<T>(context, g);
    Factors<T> above, below;
    above.lead = below.lead = none;
    if (!Given) {
        above = factors<T>(context, upstream.above);
        below = factors<T>(context, upstream.values);
    }
    std::vector<LeadStride> steps;
    Pairs<T> p;
    p.lead = collapse(shape,
                      {rows.lead, columns.lead, above.lead, below.lead, values.lead,
                       leading_strides(upstream.given, shape), leading(out.stride, 2)},
                      steps);
    p.rows[0] = rows.rows;
    p.rows[0].lead = steps[0];
    p.columns[0] = columns.rows;
    p.columns[0].lead = steps[1];
    p.rows[1] = above.rows;
    p.rows[1].lead = steps[2];
    p.columns[1] = below.rows;
    p.columns[1].lead = steps[3];
    p.values = values.rows;
    p.values.lead = steps[4];
    Strided given, to = strided(out);
    if (Given) given = strided(upstream.given);
    given.lead = steps[5];
    to.lead = steps[6];
    const WeightedOut<T> result = {to, int(f.dim(1)), T(factor), nullptr, nullptr, 0, 0, 0};
    sum_weighted_values<A, LinkGradientWeigher<T, has_distances<A>, Given>, false>(
        context, p, result, {}, 1.0, {link, T(scale), p.lead, given, f.dim(2), totals, parts});
}

template <class Sum, bool Given>
void gradient_of(const Context& context, Link link, double scale, const Array& f, const Array& g,
                 const Upstream& upstream, const Array& out, Sum* parts) {
    if (!is_of_distance(link)) {
        walk<Fma<Sum>, Given>(context, link, scale, f, g, upstream, factors<Sum>(context, g),
                              parts ? 1.0 : scale, out, nullptr, nullptr);
        if (parts) scale_gradient<Sum>(context, f, out, scale, nullptr, {reinterpret_cast<char*>(parts)});
        return;
    }
    const long elements = f.batch(2) * f.dim(2) * f.dim(1);
    Sum* totals = context.take<Sum>(f.batch(2) * f.dim(2));
    const Centred<Sum> centred(context, g);
    walk<Distances<Sum>, Given>(context, link, scale, f, g, upstream, centred.points, 1.0, out, totals,
                                parts);
    std::vector<LeadStride> steps;
    const Lead lead = collapse(leading(f.shape, 2),
                               {leading(f.stride, 2), leading(out.stride, 2), centred.mean_lead}, steps);
    Strided own = strided(f), to = strided(out);
    own.lead = steps[0];
    to.lead = steps[1];
    launch(join_sums<Sum>, ceil_div(elements, kJoinThreads), 1, kJoinThreads, 0, context.stream, lead,
           f.dim(2), int(f.dim(1)), own, to, centred.mean, steps[2], totals, Sum(2 * scale));
}

}  // namespace

template <class Sum>
void link_gradient(const Context& context, Link link, double scale, const Array& f, const Array& g,
                   const Upstream& upstream, const Array& out, Sum* parts) {
    if (f.batch(2) == 0 || f.dim(2) == 0) return;
    if (upstream.given.empty())
        gradient_of<Sum, false>(context, link, scale, f, g, upstream, out, parts);
    else
        gradient_of<Sum, true>(context, link, scale, f, g, upstream, out, parts);
}

#define RK_INSTANTIATE(Sum)                                                                                \
    template void link_gradient(const Context&, Link, double, const Array&, const Array&, const Upstream&, \
                                const Array&, Sum*);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk::cuda
