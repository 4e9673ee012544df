// Relational attention: for each head a, sums over j with the weights P^a of its softmax, of values v_j^a and
// of R relations that all heads share.
//
//   S^a_ij = scale <q_i^a, k_j^a>,  Z^l_ij = rel_scale <q_rel_i^l, k_rel_j^l>
//   values_i^a = sum_j P^a_ij v_j^a,  relations_i^al = sum_j P^a_ij act(Z^l_ij)
//
// A pair takes h (d + d_v) + R d_r + h R multiply-adds, h exponentials and R activations: with 8 heads, 8
// relations and all widths 64, 1,600 multiply-adds, 50 cycles at two 8-lane instructions per cycle, besides
// some 30 cycles of exponentials. Without an activation the relations are also
// <q_rel_i^l, sum_j P^a_ij k_rel_j^l>, attention over R d_r more values in each head: h R d_r multiply-adds
// in place of R d_r + h R, 4,096 in place of 576. That is fewer only if d_r (h - 1) < h, so there is one way
// for all activations.
//
// The walk makes h products of scores and R of relations of a strip together. Row i of the strip then adds an
// h x R product of the rows of its weights and of its relations.
#include <algorithm>
#include <limits>
#include <vector>

#include "operations/relational.hpp"
#include "walk/pairs.hpp"
#include "walk/scoring.hpp"

namespace rk {

namespace {

// Where the results of one head are written, and which pairs it uses.
template <class T>
struct HeadResult {
    T *relations, *values;
    long relations_row, values_row;
    T* lse;  // may be null
    ItemScoring<T> scoring;
};

template <class T>
struct RelationalAccumulate {
    static constexpr bool kOrderFree = false;
    static constexpr bool kTogether = true;
    static constexpr long kRowBlock = rk::kRowBlock;
    const std::vector<HeadResult<T>>& heads;
    long width, relations;  // of the values; number of relations
    T scale, rel_scale;
    const RelationActivation& activation;

    long count() const { return long(heads.size()); }
    long sums_width() const { return width + relations; }

    // Head by head, of `rows` rows each; sums: of the values, then of the relations.
    struct State {
        long rows;
        T *max, *sum, *sums;
    };
    struct HeadState {
        T *max, *sum, *sums;
    };
    HeadState head(const State& s, long a, long first) const {
        const long at = a * s.rows + first;
        return {s.max + at, s.sum + at, s.sums + at * sums_width()};
    }
    State make(Space& space, long rows) const {
        const long all = count() * rows;
        return {rows, space.take<T>(all), space.take<T>(all), space.take<T>(all * sums_width())};
    }
    void init(State& s, long rows) const {
        for (long a = 0; a < count(); ++a) {
            const HeadState h = head(s, a, 0);
            std::fill_n(h.max, rows, -std::numeric_limits<T>::infinity());
            std::fill_n(h.sum, rows, T(0));
            std::fill_n(h.sums, rows * sums_width(), T(0));
        }
    }
    Span met(long i0, long rows, long j0, long cols) const {
        return band_columns(heads[0].scoring.mask.band, i0, rows, j0, cols);
    }
    template <class A>
    void destination(Tile<A>& t, Finish<T>& finish) const {
        finish.scale = t.head < count() ? scale : rel_scale;
    }
    template <class A>
    void accept(State& state, const Tile<A>& t) const {
        Arena::Scope scratch;
        T* const related = t.of_product(count()).r;
        for (long l = 0; l < relations; ++l)
            activate(activation, related + l * t.stride, t.ld, t.rows, t.cols);
        auto* masks = scratch.take<Mask>(count());
        bool masked = false;
        for (long a = 0; a < count(); ++a) {
            const Tile<A> scores = t.of_product(a);
            const HeadState s = head(state, a, t.first);
            masks[a] = heads[std::size_t(a)].scoring.apply(scores, scratch);
            masked = masked || !masks[a].empty();
            kernels<T>().softmax_accept(scores.r, t.ld, t.rows, t.cols, s.max, s.sum, s.sums, sums_width(),
                                        sums_width());
            if (width > 0)
                add_weighted(scores.r, t.ld, t, std::size_t(count() + relations + a), width, masks[a], s.sums,
                             sums_width());
        }
        const long sums_row = state.rows * sums_width();  // from head to head
        for (long i = 0; i < t.rows; ++i) {
            T *weights = t.r + i * t.ld, *values = related + i * t.ld;
            T* sums = head(state, 0, t.first + i).sums + width;
            if (masked && !finite(values, t.stride, t.cols))
                add_allowed(weights, values, t.stride, i, t.cols, masks, sums, sums_row, scratch);
            else
                kernels<T>().dot_rows(weights, t.stride, count(), values, t.stride, relations, t.cols, sums,
                                      sums_row);
        }
    }
    void merge(State& into, const State& from, long rows) const {
        for (long a = 0; a < count(); ++a) {
            const HeadState x = head(into, a, 0), y = head(from, a, 0);
            kernels<T>().softmax_merge(x.max, x.sum, x.sums, y.max, y.sum, y.sums, rows, sums_width());
        }
    }
    void finish(State& state, long i0, long rows) const {
        for (long a = 0; a < count(); ++a) {
            const HeadState s = head(state, a, 0);
            const HeadResult<T>& to = heads[std::size_t(a)];
            kernels<T>().softmax_finish(s.max, s.sum, s.sums, rows, sums_width(), s.sums, sums_width(),
                                        to.lse ? to.lse + i0 : nullptr);
            for (long i = 0; i < rows; ++i) {
                const T* from = s.sums + i * sums_width();
                std::copy_n(from, width, to.values + (i0 + i) * to.values_row);
                std::copy_n(from + width, relations, to.relations + (i0 + i) * to.relations_row);
            }
        }
    }

   private:
    bool finite(const T* values, long stride, long cols) const {
        for (long l = 0; l < relations; ++l)
            if (!kernels<T>().all_finite(values + l * stride, cols)) return false;
        return true;
    }
    // The sums of row i where a forbidden pair may have a NaN: each head has the relations of its pairs only.
    void add_allowed(const T* weights, const T* values, long stride, long i, long cols, const Mask* masks,
                     T* sums, long sums_row, Arena::Scope& scratch) const {
        T* own = scratch.take<T>(relations * cols);
        for (long a = 0; a < count(); ++a) {
            for (long l = 0; l < relations; ++l) {
                std::copy_n(values + l * stride, cols, own + l * cols);
                kernels<T>().mask_tile(own + l * cols, cols, 1, cols, masks[a], i, 0, T(0));
            }
            kernels<T>().dot_rows(weights + a * stride, stride, 1, own, cols, relations, cols,
                                  sums + a * sums_row, sums_row);
        }
    }
};

}  // namespace

template <class T>
void relational_attention(const RelationalSides<T>& r, const Allowed& allowed,
                          const RelationalResult<Array<T>>& out) {
    const long h = r.heads(), relations = r.relations(), items = r.q.batch(3);
    if (h == 0) return;
    for_each_item(items, r.work(), [&](const Team& team, long item) {
        std::vector<HeadResult<T>> heads;
        for (long a = 0; a < h; ++a)
            heads.push_back({matrix_at(out.relations, item, a), matrix_at(out.values, item, a),
                             out.relations.step(2), out.values.step(2), out.lse.item(item * h + a, 1),
                             ItemScoring<T>{.mask = allowed.of_item(item * h + a)}});
        using A = Full<T>;
        Member<T, RelationalAccumulate<T>> member{
            points_at(r.q, item, 0), {heads, r.v.dim(1), relations, r.scale, r.rel_scale, r.activation}};
        std::vector<Operand<A>> columns;
        for (long a = 0; a < h; ++a) {
            if (a > 0) member.more.push_back(points_at(r.q, item, a));
            columns.push_back({points_at(r.k, item, a), Role::columns});
        }
        for (long l = 0; l < relations; ++l) {
            member.more.push_back(points_at(r.q_rel, item, l));
            columns.push_back({points_at(r.k_rel, item, l), Role::columns});
        }
        for (long a = 0; a < h; ++a) columns.push_back({points_at(r.v, item, a), Role::values});
        walk_pairs<A>(team, std::vector{std::move(member)}, columns, T(1), 1);
    });
}

#define RK_INSTANTIATE(T)                                                         \
    template void relational_attention(const RelationalSides<T>&, const Allowed&, \
                                       const RelationalResult<Array<T>>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
