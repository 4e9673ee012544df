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
            add_weighted(t.r, t.ld, t, 1, width, Mask{}, acc, width);
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
    Groups groups(r.segments, r.columns, v);
    groups.join(r.rows, out);
    const auto work = [&](long group) { return r.work_of(groups, group, double(v.dim(1)) + kWorkOfExp); };
    for_each_item(groups.count(), work, [&](const Team& team, long group) {
        const Array<const T> rows = groups.rows(r.rows, group);
        const Array<T> to = groups.rows(out, group);
        const Points<T> values = points_of<T>(groups.columns(v, group), 0, nullptr);
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
        std::vector<Member<T, LinkedSum<T>>> members;
        for (long i = 0; i < rows.batch(2); ++i)
            members.push_back(
                {points_of(rows, i, r.phi), {link, vector, values.dim, to.item(i, 2), to.step(2)}});
        with_arithmetic<T>(precision_of(link, r.precision), [&]<class A>() {
            std::vector<Operand<A>> columns = {
                {points_of(groups.columns(r.columns, group), 0, r.psi), Operand<A>::columns}};
            if (!one) columns.push_back({values, Operand<A>::values});
            walk_pairs<A>(team, members, columns, r.scale, 1);
        });
    });
}

#define RK_INSTANTIATE(T) \
    template void relation_matvec(const Relation<T>&, const Array<const T>&, Link, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
