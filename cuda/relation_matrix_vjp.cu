// dF = scale dR G, dG = scale dR^T F and dscale = sum_i <f_i, (dR G)_i>. Mirrors
// csrc/operations/relation_matrix_vjp.cpp.
//
// Both are products with the gradient as rows and the transposed features as columns. If the gradient must be
// copied or transposed, that happens one slab of rows at a time, which bounds the workspace. With a link, dR
// is formed in a walk over the pairs (link_gradient.hpp).
#include "link_gradient.hpp"
#include "product.cuh"

namespace rk::cuda {

namespace {

constexpr int kRowThreads = 128;

// One thread per row; the inner product is a single chain.
template <class Sum>
RK_KERNEL(kRowThreads)
scale_rows(const __grid_constant__ Lead lead, long rows, int width, const __grid_constant__ Strided f,
           const __grid_constant__ Strided grad, Sum scale, const Sum* lse, Sum* parts) {
    const long index = long(block_index()) * kRowThreads + thread_index();
    if (index >= lead.items() * rows) return;
    const long item = index / rows, row = index % rows;
    const Sum* x = static_cast<const Sum*>(f.data) + f.lead.offset(lead, item) + row * f.row;
    Sum* g = static_cast<Sum*>(grad.data) + grad.lead.offset(lead, item) + row * grad.row;
    double sum = 0;
    for (int c = 0; c < width; ++c) {
        sum = fma(double(x[c * f.column]), double(g[c * grad.column]), sum);
        g[c * grad.column] *= scale;
    }
    parts[index] = lse && lse[index] == -Sum(__builtin_huge_val()) ? Sum(0) : Sum(sum);
}

// to (items, rows) <- the sums of `from` (items, heads, rows) over heads, both contiguous; one thread per
// row.
template <class Sum>
RK_KERNEL(kRowThreads)
add_heads(long items, long heads, long rows, const Sum* from, Sum* to) {
    const long index = long(block_index()) * kRowThreads + thread_index();
    if (index >= items * rows) return;
    from += index / rows * heads * rows + index % rows;
    Sum sum = 0;
    for (long h = 0; h < heads; ++h) sum += from[h * rows];
    to[index] = sum;
}

}  // namespace

template <class Sum>
void scale_gradient(const Context& context, const Array& f, const Array& grad_f, double scale, const Sum* lse,
                    const Array& parts) {
    const long rows = f.dim(2), items = f.batch(2);
    if (rows * items == 0) return;
    std::vector<LeadStride> steps;
    const Lead lead = collapse(leading(f.shape, 2), {leading(f.stride, 2), leading(grad_f.stride, 2)}, steps);
    Strided a = strided(f), b = strided(grad_f);
    a.lead = steps[0];
    b.lead = steps[1];
    launch(scale_rows<Sum>, ceil_div(items * rows, kRowThreads), 1, kRowThreads, 0, context.stream, lead,
           rows, int(f.dim(1)), a, b, Sum(scale), lse, reinterpret_cast<Sum*>(parts.data));
}

template <class A>
void relation_matrix_vjp(const Context& context, const Relation<A>& relation, Link link, long heads,
                         const Array& grad, const Array& grad_f, const Array& grad_g,
                         const Array& grad_scale) {
    using Sum = typename A::Sum;
    // Heads become the last leading dimension.
    const auto by_head = [&](const Array& a) {
        Array split = a;
        if (heads == 1) return split;
        const long width = a.dim(1) / heads, at = a.ndim() - 2;
        split.shape.back() = width;
        split.shape.insert(split.shape.begin() + at, heads);
        split.stride.insert(split.stride.begin() + at, width * a.step(1));
        return split;
    };
    const double scale = relation.scale;
    const Array rows = by_head(relation.rows), columns = by_head(relation.columns);
    const Upstream upstream = {{}, {}, grad};
    if (!grad_f.empty() && link == Link::identity) {
        multiply<A>(context, grad, transposed(columns), 1.0, by_head(grad_f), "relation_matrix_vjp");
        scale_gradient<Sum>(context, relation.rows, grad_f, scale, nullptr, grad_scale);
    } else if (!grad_f.empty()) {
        const long items = relation.rows.batch(2), n = relation.rows.dim(2);
        Sum* parts = reinterpret_cast<Sum*>(grad_scale.data);
        Sum* by_heads = heads == 1 ? parts : context.take<Sum>(items * heads * n);
        link_gradient<Sum>(context, link, scale, rows, columns, upstream, by_head(grad_f), by_heads);
        if (heads > 1 && items * n > 0)
            launch(add_heads<Sum>, ceil_div(items * n, kRowThreads), 1, kRowThreads, 0, context.stream, items,
                   heads, n, by_heads, parts);
    }
    if (!grad_g.empty() && link == Link::identity)
        multiply<A>(context, transposed(grad), transposed(rows), scale, by_head(grad_g),
                    "relation_matrix_vjp");
    else if (!grad_g.empty())
        link_gradient<Sum>(context, link, scale, columns, rows, upstream.transposed(), by_head(grad_g),
                           nullptr);
    check_launch("relation_matrix_vjp");
}

#define RK_INSTANTIATE(A)                                                                           \
    template void relation_matrix_vjp(const Context&, const Relation<A>&, Link, long, const Array&, \
                                      const Array&, const Array&, const Array&);
RK_INSTANTIATE(Fma<float>)
RK_INSTANTIATE(Fma<double>)

#define RK_INSTANTIATE_SCALE(Sum)                                                                \
    template void scale_gradient(const Context&, const Array&, const Array&, double, const Sum*, \
                                 const Array&);
RK_INSTANTIATE_SCALE(float)
RK_INSTANTIATE_SCALE(double)

}  // namespace rk::cuda
