// What the gradient of relational attention needs of its queries: what is subtracted from their scores to get
// weights, D, and the gradients of their relations.
#pragma once

#include "attention.cuh"

namespace rk::cuda {

inline constexpr int kQueryThreads = 128;

// What a thread for each row of a head reads and writes. lse, origin and delta are contiguous, (items, rows);
// of_relations is (items, relations, rows).
template <class Sum>
struct RowsOfHeads {
    Lead lead;
    long rows;
    int width, relations;
    Strided values, related, of_values, of_related, of_lse;  // of_lse: a null pointer if it is zero
    const Sum* lse;
    Sum *origin, *delta, *of_relations;
};

template <class Sum>
RK_KERNEL(kQueryThreads)
prepare_rows(const __grid_constant__ RowsOfHeads<Sum> q) {
    const long index = long(block_index()) * kQueryThreads + thread_index();
    if (index >= q.lead.items() * q.rows) return;
    const long item = index / q.rows, row = index % q.rows;
    const auto row_of = [&](const Strided& a) {
        return static_cast<const Sum*>(a.data) + a.lead.offset(q.lead, unsigned(item)) + row * a.row;
    };
    const auto product = [](const Sum* x, long x_step, const Sum* y, long y_step, int width) {
        double sum = 0;
        for (int c = 0; c < width; ++c) sum = fma(double(x[c * x_step]), double(y[c * y_step]), sum);
        return sum;
    };
    const Sum* of_related = row_of(q.of_related);
    Sum delta =
        Sum(product(row_of(q.of_values), q.of_values.column, row_of(q.values), q.values.column, q.width) +
            product(of_related, q.of_related.column, row_of(q.related), q.related.column, q.relations));
    if (q.of_lse.data) delta -= *row_of(q.of_lse);
    q.delta[index] = delta;
    q.origin[index] = gradient_origin(q.lse[index]);
    for (int l = 0; l < q.relations; ++l)
        q.of_relations[(item * q.relations + l) * q.rows + row] = of_related[l * q.of_related.column];
}

// none (batch, relations, rows) <- -inf where no head of a row has anything to attend to, else 0.
template <class Sum>
RK_KERNEL(kQueryThreads)
find_idle_rows(long batch, long heads, long relations, long rows, const Sum* lse, Sum* none) {
    const long index = long(block_index()) * kQueryThreads + thread_index();
    if (index >= batch * relations * rows) return;
    const Sum* of_row = lse + index / rows / relations * heads * rows + index % rows;
    bool attends = false;
    for (long a = 0; a < heads; ++a) attends = attends || of_row[a * rows] != Sum(-kInfinity);
    none[index] = attends ? Sum(0) : Sum(-kInfinity);
}

// What the kernels need of the queries, in the workspace.
template <class Sum>
struct Queries {
    const Sum* lse;
    Sum *origin, *delta, *of_relations;  // relational_attention_vjp.cu
    Sum* none;                           // find_idle_rows

    Queries(const Context& context, const RelationalSides& sides, const RelationalResult& result,
            const RelationalResult& grad)
        : lse(reinterpret_cast<const Sum*>(result.lse.data)) {
        const long batch = sides.items(), h = sides.heads(), count = sides.relations(), n = sides.q.dim(2);
        origin = context.take<Sum>(batch * h * n);
        delta = context.take<Sum>(batch * h * n);
        of_relations = context.take<Sum>(batch * h * count * n);
        none = context.take<Sum>(batch * count * n);
        if (batch * count * n > 0)
            launch(find_idle_rows<Sum>, ceil_div(batch * count * n, kQueryThreads), 1, kQueryThreads, 0,
                   context.stream, batch, h, count, n, lse, none);
        if (batch * h * n == 0) return;
        RowsOfHeads<Sum> rows = {.lead = {},
                                 .rows = n,
                                 .width = int(sides.v.dim(1)),
                                 .relations = int(count),
                                 .values = strided(result.values),
                                 .related = strided(result.relations),
                                 .of_values = strided(grad.values),
                                 .of_related = strided(grad.relations),
                                 .of_lse = grad.lse.empty() ? Strided{} : strided(grad.lse, 1),
                                 .lse = lse,
                                 .origin = origin,
                                 .delta = delta,
                                 .of_relations = of_relations};
        const std::vector<long> shape = leading(sides.q.shape, 2);
        std::vector<LeadStride> steps;
        rows.lead = collapse(shape,
                             {leading(result.values.stride, 2), leading(result.relations.stride, 2),
                              leading(grad.values.stride, 2), leading(grad.relations.stride, 2),
                              leading_strides(grad.lse, shape, 1)},
                             steps);
        Strided* arrays[] = {&rows.values, &rows.related, &rows.of_values, &rows.of_related, &rows.of_lse};
        for (std::size_t i = 0; i < steps.size(); ++i) arrays[i]->lead = steps[i];
        launch(prepare_rows<Sum>, ceil_div(batch * h * n, kQueryThreads), 1, kQueryThreads, 0, context.stream,
               rows);
    }
};

}  // namespace rk::cuda
