// Gradients of relational attention (relational_attention.cpp), with A^l = act(Z^l) and upstream gradients dV
// of the values, dR of the relations and dlse:
//
//   dP^a_ij = <dV_i^a, v_j^a> + sum_l dR_i^al A^l_ij
//   D_i^a = <dV_i^a, values_i^a> + <dR_i^a, relations_i^a> - dlse_i^a
//   dS^a = P^a (dP^a - D^a),   dq^a = scale dS^a k^a,   dk^a = scale dS^aT q^a,   dv^a = P^aT dV^a
//   dZ^l_ij = act'(Z^l_ij) sum_a dR_i^al P^a_ij,   dq_rel^l = rel_scale dZ^l k_rel^l, and dk_rel^l alike
//
// A pair takes h (3 d + 2 d_v) + 3 R d_r + 2 h R multiply-adds (walk/lanes.hpp): with 8 heads, 8 relations
// and all widths 64, 4,200. All products of a tile are in memory at the same time, so a tile is processed
// kRows rows at a time: 2 h + R tiles of 32 x 144 floats, 432 KiB, and R more with an activation.
#include <algorithm>
#include <limits>
#include <vector>

#include "operations/relational.hpp"
#include "walk/lanes.hpp"
#include "walk/scoring.hpp"

namespace rk {

namespace {

// One head, or one relation.
template <class T>
struct OfHead {
    Points<T> q, k, v, of_values;
    const T *lse, *delta;
    Mask mask;
    T *to_q, *to_k, *to_v;
    double* scale_parts;
};
template <class T>
struct OfRelation {
    Points<T> q, k;
    T *to_q, *to_k;
    double* scale_parts;
};

template <class T>
struct RelationalTiles {
    const RelationalSides<T>& sides;
    std::vector<OfHead<T>> heads;
    std::vector<OfRelation<T>> relations;
    const T* of_relations;  // dR: row i of head a at of_relations + (a n + i) R
    const Kernels<T>& k = kernels<T>();

    static constexpr long kRows = 32;
    static constexpr long kLd = kLaneColumns + 16;  // rows would otherwise share sets of L1

    long head_count() const { return long(heads.size()); }
    long relation_count() const { return long(relations.size()); }
    long n() const { return sides.q.dim(2); }
    long width() const { return sides.q.dim(1); }
    long values_width() const { return sides.v.dim(1); }
    long relation_width() const { return sides.q_rel.dim(1); }
    long padded(long width) const { return round_up(width, k.nr); }

    // Sums of rows without their scale: each head's, then each relation's.
    struct State {
        T *q, *q_rel;
    };
    State make(Space& space, long rows) const {
        return {space.take<T>(head_count() * rows * width()),
                space.take<T>(relation_count() * rows * relation_width())};
    }
    T* head_sums(const State& s, long a) const { return s.q + a * kLaneRows * width(); }
    T* relation_sums(const State& s, long l) const { return s.q_rel + l * kLaneRows * relation_width(); }

    // q and dV of each head, and q_rel of each relation, as values.
    long size_of_head_rows() const { return kLaneRows * (padded(width()) + padded(values_width())); }
    long size_of_rows() const {
        return head_count() * size_of_head_rows() + relation_count() * kLaneRows * padded(relation_width());
    }
    const T* relation_rows(const T* packed, long l) const {
        return packed + head_count() * size_of_head_rows() + l * kLaneRows * padded(relation_width());
    }
    void pack_values(const Points<T>& p, long first, long count, T* to) const {
        if (p.dim > 0) k.pack(p.at(first), p.row, p.col, count, p.dim, to, count * k.nr);
    }
    void pack_rows(const LaneBlock& b, T* to) const {
        for (const OfHead<T>& h : heads) {
            pack_values(h.q, b.first, b.rows, to);
            pack_values(h.of_values, b.first, b.rows, to + kLaneRows * padded(width()));
            to += size_of_head_rows();
        }
        for (const OfRelation<T>& r : relations) {
            pack_values(r.q, b.first, b.rows, to);
            to += kLaneRows * padded(relation_width());
        }
    }
    // k and v of each head as columns, then k as values; k_rel of each relation likewise.
    long size_as_columns(long width) const { return padded(kLaneColumns) * width; }
    long size_of_head_columns() const {
        return size_as_columns(width() + values_width()) + kLaneColumns * padded(width());
    }
    long size_of_relation_columns() const {
        return size_as_columns(relation_width()) + kLaneColumns * padded(relation_width());
    }
    long size_of_columns() const {
        return head_count() * size_of_head_columns() + relation_count() * size_of_relation_columns();
    }
    void pack_as_columns(const Points<T>& p, long j, long m, T* to) const {
        if (p.dim > 0) k.pack(p.at(j), p.col, p.row, p.dim, m, to, k.nr * p.dim);
    }
    void pack_columns(long j, long m, T* to) const {
        for (const OfHead<T>& h : heads) {
            pack_as_columns(h.k, j, m, to);
            pack_as_columns(h.v, j, m, to + size_as_columns(width()));
            pack_values(h.k, j, m, to + size_as_columns(width() + values_width()));
            to += size_of_head_columns();
        }
        for (const OfRelation<T>& r : relations) {
            pack_as_columns(r.k, j, m, to);
            pack_values(r.k, j, m, to + size_as_columns(relation_width()));
            to += size_of_relation_columns();
        }
    }

    // Some rows of a tile: products of heads (P, dP) and of relations (A or dA, and Z with an activation).
    struct Part {
        long i, n, j, m;  // rows from i on, columns from j on
        T *p, *dp, *a, *z;
        Mask* masks;  // of each head
        Mask any;     // of pairs that some head allows

        static constexpr long kStride = kRows * kLd;  // from head to head, and from relation to relation
    };

    void tile(State& s, bool first, const LaneBlock& block, long j, long m, const T* rows,
              const T* columns) const {
        if (first) {
            std::fill_n(s.q, head_count() * kLaneRows * width(), T(0));
            std::fill_n(s.q_rel, relation_count() * kLaneRows * relation_width(), T(0));
        }
        for (long r0 = 0; r0 < block.rows; r0 += kRows) {
            const long i = block.first + r0, n = std::min(kRows, block.rows - r0);
            if (band_columns(heads[0].mask.band, i, n, j, m).empty()) continue;
            Arena::Scope scratch;
            Part t{
                i,
                n,
                j,
                m,
                scratch.take<T>(head_count() * Part::kStride),
                scratch.take<T>(head_count() * Part::kStride),
                scratch.take<T>(relation_count() * Part::kStride),
                sides.activation.is_identity() ? nullptr : scratch.take<T>(relation_count() * Part::kStride),
                scratch.take<Mask>(head_count()),
                {}};
            const T* relation_columns = columns + head_count() * size_of_head_columns();
            relate(t, relation_columns);
            weigh(t, columns);
            for (long a = 0; a < head_count(); ++a) add_head(t, a, s, block.rows, r0, rows, columns);
            find_allowed(t, scratch);
            differentiate_relations(t);
            for (long l = 0; l < relation_count(); ++l)
                add_relation(t, l, s, block.rows, r0, rows, relation_columns);
        }
    }
    void merge(State& into, const State& from, long rows) const {
        for (long a = 0; a < head_count(); ++a) k.add(head_sums(into, a), head_sums(from, a), rows * width());
        for (long l = 0; l < relation_count(); ++l)
            k.add(relation_sums(into, l), relation_sums(from, l), rows * relation_width());
    }
    void finish(const State& s, const LaneBlock& b) const {
        for (long r = 0; r < b.rows; ++r) {
            const long i = b.first + r;
            bool attends = false;
            for (long a = 0; a < head_count(); ++a) {
                const OfHead<T>& h = heads[std::size_t(a)];
                // A row with nothing to attend to has no part, even where it is NaN or infinite.
                const bool none = h.lse[i] == -std::numeric_limits<T>::infinity();
                attends = attends || !none;
                const T* sum = head_sums(s, a) + r * width();
                h.scale_parts[i] = none ? 0.0 : product_with(h.q, i, sum);
                for (long c = 0; c < width(); ++c) h.to_q[i * width() + c] = sides.scale * sum[c];
            }
            for (long l = 0; l < relation_count(); ++l) {
                const OfRelation<T>& of = relations[std::size_t(l)];
                const T* sum = relation_sums(s, l) + r * relation_width();
                of.scale_parts[i] = attends ? product_with(of.q, i, sum) : 0.0;
                for (long c = 0; c < relation_width(); ++c)
                    of.to_q[i * relation_width() + c] = sides.rel_scale * sum[c];
            }
        }
    }
    void merge_columns(long, long, long) const {}  // there is one part
    void finish_columns(long j, long m) const {
        for (const OfHead<T>& h : heads)
            for (long c = j * width(); c < (j + m) * width(); ++c) h.to_k[c] *= sides.scale;
        for (const OfRelation<T>& r : relations)
            for (long c = j * relation_width(); c < (j + m) * relation_width(); ++c)
                r.to_k[c] *= sides.rel_scale;
    }

   private:
    void relate(const Part& t, const T* columns) const {
        const long width = relation_width();
        for (long l = 0; l < relation_count(); ++l, columns += size_of_relation_columns()) {
            const Points<T>& q = relations[std::size_t(l)].q;
            T* a = t.a + l * Part::kStride;
            k.product(q.at(t.i), q.row, q.col, columns, k.nr * width, t.n, t.m, width, a, kLd,
                      {.scale = sides.rel_scale});
            if (!t.z) continue;
            k.copy(a, kLd, t.n, t.m, t.z + l * Part::kStride, kLd, false);
            activate(sides.activation, a, kLd, t.n, t.m);
        }
    }
    // The scores, and dP.
    void weigh(const Part& t, const T* columns) const {
        for (long a = 0; a < head_count(); ++a, columns += size_of_head_columns()) {
            const OfHead<T>& h = heads[std::size_t(a)];
            T *p = t.p + a * Part::kStride, *dp = t.dp + a * Part::kStride;
            k.product(h.q.at(t.i), h.q.row, h.q.col, columns, k.nr * width(), t.n, t.m, width(), p, kLd,
                      {.scale = sides.scale});
            if (values_width() == 0)  // an empty product is not written
                std::fill_n(dp, t.n * kLd, T(0));
            else
                k.product(h.of_values.at(t.i), h.of_values.row, h.of_values.col,
                          columns + size_as_columns(width()), k.nr * values_width(), t.n, t.m, values_width(),
                          dp, kLd, {});
        }
        for (long r = 0; r < t.n; ++r)
            k.mix_rows(of_relations + (t.i + r) * relation_count(), n() * relation_count(), 1, head_count(),
                       relation_count(), t.a + r * kLd, Part::kStride, t.m, t.dp + r * kLd, Part::kStride);
    }
    void add_head(const Part& t, long a, const State& s, long block_rows, long r0, const T* rows,
                  const T* columns) const {
        const OfHead<T>& h = heads[std::size_t(a)];
        T *p = t.p + a * Part::kStride, *dp = t.dp + a * Part::kStride;
        Arena::Scope scratch;
        const Mask here = t.masks[a] =
            ItemScoring<T>{.mask = h.mask}.score(p, kLd, t.i, t.n, t.j, t.m, nullptr, scratch);
        k.softmax_vjp(p, dp, nullptr, kLd, t.n, t.m, h.lse + t.i, h.delta + t.i);
        if (!here.empty()) {
            k.mask_tile(p, kLd, t.n, t.m, here, 0, 0, T(0));
            k.mask_tile(dp, kLd, t.n, t.m, here, 0, 0, T(0));
        }
        const T* q_values = rows + a * size_of_head_rows() + r0 * k.nr;
        const T* k_values = columns + a * size_of_head_columns() + size_as_columns(width() + values_width());
        const long panel = block_rows * k.nr;
        add_products(dp, kLd, 1, t.n, t.m, k_values, t.m * k.nr, width(), here,
                     head_sums(s, a) + r0 * width());
        add_products(dp, 1, kLd, t.m, t.n, q_values, panel, width(), transposed(here),
                     h.to_k + t.j * width());
        if (values_width() > 0)
            add_products(p, 1, kLd, t.m, t.n, q_values + kLaneRows * padded(width()), panel, values_width(),
                         transposed(here), h.to_v + t.j * values_width());
    }
    // The pairs that some head allows: relations of the others have no gradient.
    void find_allowed(Part& t, Arena::Scope& scratch) const {
        t.any = t.masks[0];
        for (long a = 1; a < head_count(); ++a) {
            if (t.any.empty() || t.masks[a].data == t.any.data) continue;
            if (t.masks[a].empty()) {
                t.any = {};
                continue;
            }
            auto* both = scratch.take<std::uint8_t>(t.n * t.m);
            for (long r = 0; r < t.n; ++r)
                for (long c = 0; c < t.m; ++c)
                    both[r * t.m + c] = t.any.allows(r, c) || t.masks[a].allows(r, c);
            t.any = {both, t.m, 1, {}};
        }
    }
    // A <- dZ.
    void differentiate_relations(const Part& t) const {
        const long count = relation_count(), head = n() * count;  // from head to head
        for (long r = 0; r < t.n; ++r) {
            const T *of_row = of_relations + (t.i + r) * count, *weights = t.p + r * kLd;
            T* to = t.a + r * kLd;
            for (long l = 0; l < count; ++l) std::fill_n(to + l * Part::kStride, t.m, T(0));
            if (is_clean(t, of_row)) {
                k.mix_rows(of_row, 1, head, count, head_count(), weights, Part::kStride, t.m, to,
                           Part::kStride);
                continue;
            }
            // The weight of a forbidden pair is 0, and may not be multiplied by NaN.
            for (long a = 0; a < head_count(); ++a)
                for (long c = 0; c < t.m; ++c)
                    for (long l = 0; t.masks[a].allows(r, c) && l < count; ++l)
                        to[l * Part::kStride + c] += of_row[a * head + l] * weights[a * Part::kStride + c];
        }
        for (long l = 0; l < count; ++l) {
            T* a = t.a + l * Part::kStride;
            if (t.z) activate_vjp(sides.activation, t.z + l * Part::kStride, a, kLd, t.n, t.m);
            if (!t.any.empty()) k.mask_tile(a, kLd, t.n, t.m, t.any, 0, 0, T(0));
        }
    }
    // True if the gradients of a row's relations are finite, or no head that has others forbids a pair.
    bool is_clean(const Part& t, const T* of_row) const {
        for (long a = 0; a < head_count(); ++a)
            if (!t.masks[a].empty() && !k.all_finite(of_row + a * n() * relation_count(), relation_count()))
                return false;
        return true;
    }
    void add_relation(const Part& t, long l, const State& s, long block_rows, long r0, const T* rows,
                      const T* columns) const {
        const long width = relation_width();
        const T* dz = t.a + l * Part::kStride;
        const T* k_values = columns + l * size_of_relation_columns() + size_as_columns(width);
        add_products(dz, kLd, 1, t.n, t.m, k_values, t.m * k.nr, width, t.any,
                     relation_sums(s, l) + r0 * width);
        add_products(dz, 1, kLd, t.m, t.n, relation_rows(rows, l) + r0 * k.nr, block_rows * k.nr, width,
                     transposed(t.any), relations[std::size_t(l)].to_k + t.j * width);
    }
};

}  // namespace

template <class T>
void relational_attention_vjp(const RelationalSides<T>& sides, const Allowed& allowed,
                              const RelationalResult<Array<const T>>& result,
                              const RelationalResult<Array<const T>>& grad, const RelationalGradient<T>& to) {
    const long h = sides.heads(), count = sides.relations(), n = sides.q.dim(2);
    const auto clear = [](const Array<T>& a) { std::fill_n(a.data, a.batch(0), T(0)); };
    for (const Array<T>* a : {&to.k, &to.k_rel, &to.v}) clear(*a);
    if (h == 0 || sides.k.dim(2) == 0) {
        for (const Array<T>* a : {&to.q, &to.q_rel}) clear(*a);
        std::fill_n(to.scale, to.q.batch(1), 0.0);
        std::fill_n(to.rel_scale, to.q_rel.batch(1), 0.0);
        return;
    }
    for_each_item(sides.q.batch(3), 3 * sides.work(), [&](const Team& team, long item) {
        const Buffer<T> deltas(h * n), of_relations(h * n * count);
        RelationalTiles<T> tiles{
            .sides = sides, .heads = {}, .relations = {}, .of_relations = of_relations.get()};
        for (long a = 0; a < h; ++a) {
            const Points<T> of_values = points_at(grad.values, item, a),
                            values = points_at(result.values, item, a);
            const Points<T> above = points_at(grad.relations, item, a),
                            related = points_at(result.relations, item, a);
            T* delta = deltas.get() + a * n;
            for (long i = 0; i < n; ++i) {
                delta[i] = T(product_with(of_values, i, values.at(i), values.col) +
                             product_with(above, i, related.at(i), related.col));
                if (!grad.lse.empty()) delta[i] -= grad.lse.item(item * h + a, 1)[i * grad.lse.step(1)];
                for (long l = 0; l < count; ++l)
                    of_relations.get()[(a * n + i) * count + l] = above.at(i)[l * above.col];
            }
            const long head = item * h + a;
            tiles.heads.push_back({.q = points_at(sides.q, item, a),
                                   .k = points_at(sides.k, item, a),
                                   .v = points_at(sides.v, item, a),
                                   .of_values = of_values,
                                   .lse = result.lse.item(head, 1),
                                   .delta = delta,
                                   .mask = allowed.of_item(head),
                                   .to_q = matrix_at(to.q, item, a),
                                   .to_k = matrix_at(to.k, item, a),
                                   .to_v = matrix_at(to.v, item, a),
                                   .scale_parts = to.scale + head * n});
        }
        for (long l = 0; l < count; ++l)
            tiles.relations.push_back({.q = points_at(sides.q_rel, item, l),
                                       .k = points_at(sides.k_rel, item, l),
                                       .to_q = matrix_at(to.q_rel, item, l),
                                       .to_k = matrix_at(to.k_rel, item, l),
                                       .scale_parts = to.rel_scale + (item * count + l) * n});
        walk_lanes<T>(team, {n}, sides.k.dim(2), 1, tiles);
    });
}

#define RK_INSTANTIATE(T)                                                                   \
    template void relational_attention_vjp(                                                 \
        const RelationalSides<T>&, const Allowed&, const RelationalResult<Array<const T>>&, \
        const RelationalResult<Array<const T>>&, const RelationalGradient<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
