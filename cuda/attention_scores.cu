// Attention weights, each written once: one walk computes the log-sum-exp of each row, a second writes
// exp(S - lse). Mirrors csrc/operations/attention_scores.cpp.
#include "attention.cuh"
#include "scored_tile.cuh"

namespace rk::cuda {

namespace {

template <class A, int G>
struct StoreScores : Stateless {
    using Sum = typename A::Sum;
    static constexpr int kProducts = 1, kValueTiles = 0;
    struct Parameters {
        Strided out;
        Scorer<Sum> scorer;
        Sum scale;
        const Sum* lse;
    };

    const Parameters& q;
    const long row0, rows, count, out;
    const typename Scorer<Sum>::Item scored;
    const Sum* lse;

    RK_DEVICE StoreScores(const Parameters& parameters, const Pairs<typename A::Factor>& p,
                          const Place& place, char*)
        : q(parameters),
          row0(place.first_row + 16 * G * warp_index()),
          rows(p.rows[0].count),
          count(p.columns[0].count),
          out(parameters.out.lead.offset(p.lead, place.item)),
          scored(parameters.scorer.of_item(p.lead, place.item, rows, count)),
          lse(parameters.lse + place.item * p.rows[0].count) {}
    // All columns: pairs outside of the band are written, too (zeros).
    RK_DEVICE Span columns() const { return {0, count}; }
    RK_DEVICE void accept(Sum (&acc)[1][A::kRows][A::kColumns], long tile, const char*, char*) const {
        const TileOfPairs here = {row0, tile * kTileColumns, rows, count};
        // In a row with nothing to attend to, no pair is allowed.
        const std::uint32_t allowed = make_scores<A>(q.scorer, scored, here, q.scale, acc[0]);
        with_element<Sum>(q.out.dtype,
                          [&](auto element) { write<decltype(element)>(acc[0], here, allowed); });
    }

   private:
    template <class T>
    RK_DEVICE void write(const Sum (&scores)[A::kRows][A::kColumns], const TileOfPairs& here,
                         std::uint32_t allowed) const {
#pragma unroll
        for (int i = 0; i < A::kRows; ++i) {
            const long r = row0 + A::row_of(lane_index(), i);
            if (r >= rows) continue;
            const Sum origin = exponent_origin(lse[r]);
            T* row = static_cast<T*>(q.out.data) + out + r * q.out.row;
#pragma unroll
            for (int j = 0; j < A::kColumns; ++j) {
                const long c = here.column0 + A::column_of(lane_index(), j);
                if (c >= count) continue;
                Sum s = scores[i][j];
                if (q.scorer.cap != Sum(0)) s = capped(s, q.scorer.cap).value;
                narrow(allowed >> (i * A::kColumns + j) & 1 ? exp(s - origin) : Sum(0),
                       row[c * q.out.column]);
            }
        }
    }
};

}  // namespace

template <class A>
void attention_scores(const Context& context, const Relation<A>& relation, const Scoring& scoring,
                      const Array& out) {
    using Sum = typename A::Sum;
    using Consumer = StoreScores<A, 1>;
    if (out.dim(1) == 0 || out.dim(2) == 0 || out.batch(2) == 0) return;
    Attended<A> a(context, relation, {}, scoring, out);
    Sum* lse = context.take<Sum>(a.pairs.lead.items() * relation.rows.dim(2));
    log_sum_exp(context, a, relation.scale, lse);
    const Grid grid = grid_of_tiles(a.pairs.row_blocks * a.pairs.lead.items(), relation.columns.dim(2),
                                    context.multiprocessors);
    launch_walk<A, 1, Consumer>(context, a.pairs, grid, {a.out, a.scorer, Sum(relation.scale), lse});
    check_launch("attention_scores");
}

#define RK_INSTANTIATE(A) \
    template void attention_scores(const Context&, const Relation<A>&, const Scoring&, const Array&);
RK_FOR_EACH_ARITHMETIC(RK_INSTANTIATE)

}  // namespace rk::cuda
