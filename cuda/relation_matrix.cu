// R = scale F G^T, or a link of it, each value written once. Mirrors csrc/operations/relation_matrix.cpp.
//
// Flops: 2 n m d. Bytes: the output, and the features once per block of rows. The symmetric relation computes
// the tiles on and above the diagonal and writes each value twice.
#include "links.cuh"
#include "product.cuh"
#include "relation_matrix_wgmma.hpp"

namespace rk::cuda {

namespace {

// With 32 rows to a warp, values are inner products; with 16 they may be links, chosen at run time.
template <class A, int G>
struct Store : Stateless {
    using Sum = typename A::Sum;
    static constexpr int kProducts = 1, kValueTiles = 0, kRows = A::kRows * G;
    struct Parameters {
        Strided out;
        Sum scale;
        bool symmetric;
        Link link;
    };

    const Parameters& q;
    const long row0, first_row, rows, count, out;

    RK_DEVICE Store(const Parameters& parameters, const Pairs<typename A::Factor>& p, const Place& place,
                    char*)
        : q(parameters),
          row0(place.first_row + 16 * G * warp_index()),
          first_row(place.first_row),
          rows(p.rows[0].count),
          count(p.columns[0].count),
          out(parameters.out.lead.offset(p.lead, place.item)) {}
    RK_DEVICE Span columns() const { return {q.symmetric ? first_row : 0, count}; }
    RK_DEVICE void accept(Sum (&acc)[1][kRows][A::kColumns], long tile, const char*, char*) const {
        for_each_unrolled(acc[0], [&](Sum product) { return q.scale * product; });
        if (G == 1 && q.link != Link::identity)
            for_each_unrolled(acc[0], [&](Sum r) { return linked<has_distances<A>>(q.link, r); });
        with_element<Sum>(q.out.dtype, [&](auto element) { write<decltype(element)>(acc[0], tile); });
    }

   private:
    template <class T>
    RK_DEVICE void write(const Sum (&values)[kRows][A::kColumns], long tile) const {
        const int lane = lane_index();
        const long c0 = tile * kTileColumns + A::column_of(lane, 0);
        T* const to = static_cast<T*>(q.out.data) + out;
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            const long r = row0 + A::row_of(lane, i);
            if (r >= rows) continue;
            T *const row = to + r * q.out.row + c0 * q.out.column, *const mirrored =
                                                                       to + c0 * q.out.row + r * q.out.column;
#pragma unroll
            for (int j = 0; j < A::kColumns; ++j) {
                // The columns of a thread lie as those of thread 0 do.
                const long step = A::column_of(0, j), c = c0 + step;
                if (c >= count || (q.symmetric && c < r)) continue;
                narrow(values[i][j], row[step * q.out.column]);
                if (q.symmetric && c > r) narrow(values[i][j], mirrored[step * q.out.row]);
            }
        }
    }
};

template <class A, int G>
void store(const Context& context, Pairs<typename A::Factor>& p, const Strided& out, double scale,
           bool symmetric, Link link) {
    p.row_blocks = unsigned(ceil_div(p.rows[0].count, 16L * G * p.warps));
    const Grid grid =
        grid_of_tiles(long(p.row_blocks) * p.lead.items(), p.columns[0].count, context.multiprocessors);
    launch_walk<A, G, Store<A, G>>(context, p, grid, {out, typename A::Sum(scale), symmetric, link});
}

// Fuses the leading dimensions and chooses the shape of the blocks.
template <class A>
void store_products(const Context& context, const std::vector<long>& shape,
                    const Factors<typename A::Factor>& f, const Factors<typename A::Factor>& g,
                    const Array& out, double scale, bool symmetric, Link link) {
    Pairs<typename A::Factor> p;
    p.rows[0] = f.rows;
    p.columns[0] = g.rows;
    std::vector<LeadStride> steps;
    p.lead = collapse(shape, {f.lead, g.lead, leading(out.stride, 2)}, steps);
    p.rows[0].lead = steps[0];
    p.columns[0].lead = steps[1];
    Strided to = strided(out);
    to.lead = steps[2];
    const bool plain = link == Link::identity;
    if constexpr (sizeof(typename A::Factor) == 2)
        if (plain && relation_matrix_wgmma(context, p, to, scale, symmetric)) return;
    // Few rows: blocks of 32 rows, so that a batch of small relations wastes little. The bits are the same.
    const bool few = p.rows[0].count <= 32;
    if (few) p.warps = 2;
    if constexpr (sizeof(typename A::Sum) == 4 && !has_distances<A>)
        if (plain && !few) return store<A, 2>(context, p, to, scale, symmetric, link);
    store<A, 1>(context, p, to, scale, symmetric, link);
}

// The relation of one side with the other, or with itself, in the arithmetic P.
template <class P, class A>
void store_relation(const Context& context, const Relation<A>& relation, Link link, long heads,
                    const Array& out) {
    using F = typename P::Factor;
    const Array &x = relation.rows, &y = relation.columns;
    const bool symmetric = y.empty();
    std::vector<long> shape = leading(x.shape, 2);
    const long width = relation.phi ? relation.phi->outputs() : x.dim(1);
    Factors<F> f = features<P>(context, x, relation.phi), g = f;
    if (!symmetric) g = features<P>(context, y, relation.psi);
    if (heads > 1) {
        f = split_heads(context, f, shape, width, heads);
        g = symmetric ? f : split_heads(context, g, shape, width, heads);
        shape.push_back(heads);
    }
    store_products<P>(context, shape, f, g, out, relation.scale, symmetric, link);
}

}  // namespace

template <class A>
void relation_matrix(const Context& context, const Relation<A>& relation, Link link, long heads,
                     const Array& out) {
    if (out.dim(1) == 0 || out.dim(2) == 0 || out.batch(2) == 0) return;
    if (is_of_distance(link))
        store_relation<Distances<typename A::Sum>>(context, relation, link, heads, out);
    else
        store_relation<A>(context, relation, link, heads, out);
    check_launch("relation_matrix");
}

// At most this many bytes of rows are copied at a time.
#ifdef RK_CUDA_EMULATED
constexpr long kSlabBytes = 16 << 10;  // so that small tests cover several slabs
#else
constexpr long kSlabBytes = 64 << 20;
#endif

template <class A>
void multiply(const Context& context, const Array& a, const Array& b, double scale, const Array& c,
              const char* call) {
    using F = typename A::Factor;
    if (c.dim(1) == 0 || c.dim(2) == 0 || c.batch(2) == 0) return;
    const std::vector<long> shape = leading(c.shape, 2);
    const Factors<F> columns = factors<F>(context, b);
    const long row_bytes = std::max(1L, padded_width<F>(a.dim(1)) * a.batch(2) * long(sizeof(F)));
    const long slab = std::max(64L, kSlabBytes / row_bytes / 64 * 64);
    // The copy of each slab reuses the memory of the one before it: work on the stream runs in order.
    Context reusing = context;
    char* place = nullptr;
    long size = 0;
    reusing.allocate = [&](long bytes) {
        if (bytes > size) place = context.allocate(bytes);
        size = std::max(size, bytes);
        return place;
    };
    for (long first = 0; first < a.dim(2); first += slab) {
        const long count = std::min(slab, a.dim(2) - first);
        const Factors<F> rows = factors<F>(reusing, row_slab(a, first, count));
        store_products<A>(context, shape, rows, columns, row_slab(c, first, count), scale, false,
                          Link::identity);
    }
    check_launch(call);
}

#define RK_INSTANTIATE(A) \
    template void relation_matrix(const Context&, const Relation<A>&, Link, long, const Array&);
RK_FOR_EACH_ARITHMETIC(RK_INSTANTIATE)

#define RK_INSTANTIATE_PRODUCT(A) \
    template void multiply<A>(const Context&, const Array&, const Array&, double, const Array&, const char*);
RK_INSTANTIATE_PRODUCT(Fma<float>)
RK_INSTANTIATE_PRODUCT(Fma<double>)

}  // namespace rk::cuda
