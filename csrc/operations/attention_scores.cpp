// A = softmax_j(R): R is written to the output one block of rows at a time, while its row maxima are
// collected; the softmax is computed in place when a block is complete.
#include "base/batches.hpp"
#include "operations/operations.hpp"
#include "walk/pairs.hpp"
#include "walk/scoring.hpp"

namespace rk {

namespace {

template <class T>
struct Scores {
    static constexpr bool kOrderFree = true;  // a maximum
    static constexpr long kRowBlock = 24;     // rows that stay in L2 until their softmax is computed
    T* out;
    long row, columns;
    ItemScoring<T> scoring;

    struct State {
        T* max;
    };
    State make(Space& space, long rows) const { return {space.take<T>(rows)}; }
    void init(State& s, long rows) const { std::fill_n(s.max, rows, -std::numeric_limits<T>::infinity()); }
    Span met(long i0, long rows, long j0, long cols) const {
        return band_columns(scoring.mask.band, i0, rows, j0, cols);
    }
    template <class A>
    void destination(Tile<A>& t, Finish<T>&) const {
        t.r = out + t.i0 * row + t.j0;
        t.ld = row;
    }
    template <class A>
    void accept(State& s, const Tile<A>& t) const {
        Arena::Scope scratch;
        scoring.apply(t, scratch);
        kernels<T>().row_max(t.r, t.ld, t.rows, t.cols, s.max + t.first);
    }
    void merge(State& a, const State& b, long rows) const {
        for (long i = 0; i < rows; ++i) a.max[i] = std::max(a.max[i], b.max[i]);
    }
    void finish(State& s, long i0, long rows) const {
        // Tiles outside of the band were not computed.
        const Mask band = mask_in({.band = scoring.mask.band}, i0, rows, 0, columns);
        T* block = out + i0 * row;
        if (!band.empty())
            kernels<T>().mask_tile(block, row, rows, columns, band, i0, 0,
                                   -std::numeric_limits<T>::infinity());
        kernels<T>().softmax_rows(block, row, rows, columns, s.max);
    }
};

}  // namespace

template <class T>
void attention_scores(const Relation<T>& r, const Scoring<T>& scoring, const Array<T>& out) {
    Groups groups(r.segments, r.columns);
    join_members(groups, scoring, r.rows.dim(2), r.columns.dim(2), r.rows, out);
    const auto work = [&](long group) { return r.work_of(groups, group, scoring.work()); };
    for_each_item(groups.count(), work, [&](const Team& team, long group) {
        const Array<const T> rows = groups.rows(r.rows, group), keys = groups.columns(r.columns, group);
        const Array<T> to = groups.rows(out, group);
        const Scoring<T> pairs = scoring.of_group(groups, group, rows.dim(2), keys.dim(2));
        std::vector<Member<T, Scores<T>>> members;
        for (long i = 0; i < rows.batch(2); ++i)
            members.push_back(
                {points_of(rows, i, r.phi), {to.item(i, 2), to.step(2), keys.dim(2), pairs.of_item(i)}});
        with_arithmetic<T>(r.precision, [&]<class A>() {
            const std::vector<Operand<A>> columns = {{points_of(keys, 0, r.psi), Operand<A>::columns}};
            walk_pairs<A>(team, members, columns, r.scale, 1);
        });
    });
}

#define RK_INSTANTIATE(T) \
    template void attention_scores(const Relation<T>&, const Scoring<T>&, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
