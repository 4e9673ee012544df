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
    for_each_item(r.rows.batch(2), r.work(scoring.work()), [&](const Team& team, long item) {
        with_arithmetic<T>(r.precision, [&]<class A>() {
            const std::vector<Operand<A>> columns = {
                {points_of(r.columns, item, r.psi), Operand<A>::columns}};
            walk_pairs(team, points_of(r.rows, item, r.phi), columns, r.scale, 1,
                       Scores<T>{out.item(item, 2), out.step(2), r.columns.dim(2), scoring.of_item(item)});
        });
    });
}

#define RK_INSTANTIATE(T) \
    template void attention_scores(const Relation<T>&, const Scoring<T>&, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
