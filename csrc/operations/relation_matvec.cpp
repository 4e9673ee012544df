// u_i = sum_j link(R_ij) v_j with R never written.
#include "base/batches.hpp"
#include "operations/operations.hpp"
#include "walk/masks.hpp"
#include "walk/pairs.hpp"

namespace rk {

namespace {

template <class T>
struct LinkedSum {
    static constexpr bool kOrderFree = false;
    static constexpr long kRowBlock = rk::kRowBlock;
    Link link;
    const T* vector;  // v if it has one column, with unit stride; else null
    long width;
    T* out;
    long out_row;

    struct State {
        T* sums;  // rows x width
    };
    State make(Space& space, long rows) const { return {space.take<T>(rows * width)}; }
    void init(State& s, long rows) const { std::fill_n(s.sums, rows * width, T(0)); }
    Span met(long, long, long, long cols) const { return {0, cols}; }
    template <class A>
    void destination(Tile<A>&, Finish<T>& finish) const {
        finish.distances = is_of_distance(link);
    }
    template <class A>
    void accept(State& s, const Tile<A>& t) const {
        T* acc = s.sums + t.first * width;
        if (vector) {
            kernels<T>().link_dot(link, t.r, t.ld, t.rows, t.cols, vector + t.j0, acc);
        } else {
            kernels<T>().link(link, t.r, t.ld, t.rows, t.cols);
            add_weighted(t.r, t.ld, t, 1, width, Mask{}, acc);
        }
    }
    void merge(State& a, const State& b, long rows) const { kernels<T>().add(a.sums, b.sums, rows * width); }
    void finish(State& s, long i0, long rows) const {
        for (long i = 0; i < rows; ++i) std::copy_n(s.sums + i * width, width, out + (i0 + i) * out_row);
    }
};

}  // namespace

template <class T>
void relation_matvec(const Relation<T>& r, const Array<const T>& v, Link link, const Array<T>& out) {
    if (v.repeats() && one_relation(r.rows, r.columns, out))
        return relation_matvec(r.as_one(), v.first_item(), link, out.as_matrix());
    for_each_item(r.rows.batch(2), r.work(double(v.dim(1)) + kWorkOfExp), [&](const Team& team, long item) {
        const Points<T> values = points_of<T>(v, item, nullptr);
        // One column is a dot product with each row of the tile; its stride must be 1.
        const bool one = values.dim == 1, in_place = values.are_features() && values.row == 1;
        const Buffer<T> space(one && !in_place ? values.count : 0);
        const T* vector = nullptr;
        if (one) {
            if (!values.are_features())
                kernels<T>().widen(values.data, values.storage, values.row, 1, values.count, 1, space.get(),
                                   1);
            else
                for (long j = 0; space.get() && j < values.count; ++j) space.get()[j] = *values.at(j);
            vector = space.get() ? space.get() : values.data;
        }
        with_arithmetic<T>(precision_of(link, r.precision), [&]<class A>() {
            std::vector<Operand<A>> columns = {{points_of(r.columns, item, r.psi), Operand<A>::columns}};
            if (!one) columns.push_back({values, Operand<A>::values});
            walk_pairs(team, points_of(r.rows, item, r.phi), columns, r.scale, 1,
                       LinkedSum<T>{link, vector, values.dim, out.item(item, 2), out.step(2)});
        });
    });
}

#define RK_INSTANTIATE(T) \
    template void relation_matvec(const Relation<T>&, const Array<const T>&, Link, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
