// Value and gradients of a loss over all pairs, streaming: neither R nor dR is written.
//
//   R = scale F G^T,   dR = d loss / dR  (kernels/losses.hpp)
//   dF = scale dR G,   dG = scale dR^T F,   dscale = sum_i <f_i, (dR G)_i>
//
// One walk makes each tile of R once and adds to both gradients: three products of n m d multiply-adds. The
// softmax loss first computes the log-sum-exp of each row, by the consumer of attention and a fourth product.
#include <algorithm>

#include "base/threads.hpp"
#include "operations/operations.hpp"
#include "operations/softmax_consumer.hpp"
#include "walk/lanes.hpp"
#include "walk/pairs.hpp"

namespace rk {

namespace {

template <class T>
struct LossGradient {
    Points<T> f, g;
    PairTargets<T> targets;
    Loss loss;
    T scale;
    double* values;    // the loss of each row
    T *to_f, *to_g;    // contiguous; to_g may be null
    double* to_scale;  // a part for each row; may be null
    const Kernels<T>& k = kernels<T>();

    struct State {
        double* values;
        T* grad;  // rows x width, without the scale
    };
    State make(Space& space, long rows) const {
        return {space.take<double>(rows), space.take<T>(rows * width())};
    }
    long width() const { return f.dim; }

    // F as values.
    long size_of_rows() const { return to_g ? kLaneRows * round_up(width(), k.nr) : 0; }
    void pack_rows(const LaneBlock& b, T* to) const {
        if (to_g) pack_values(f, b.first, b.rows, to);
    }
    // G as columns, and as values.
    long size_of_columns() const { return size_as_columns() + kLaneColumns * round_up(width(), k.nr); }
    void pack_columns(long j, long m, T* to) const {
        k.pack(g.at(j), g.col, g.row, width(), m, to, k.nr * width());
        pack_values(g, j, m, to + size_as_columns());
    }
    long size_as_columns() const { return round_up(kLaneColumns, k.nr) * width(); }
    void pack_values(const Points<T>& p, long first, long count, T* to) const {
        k.pack(p.at(first), p.row, p.col, count, p.dim, to, count * k.nr);
    }

    void tile(State& s, bool first, const LaneBlock& block, long j, long m, const T* rows,
              const T* columns) const {
        const long i = block.first, n = block.rows;
        constexpr long ld = kLaneColumns + 16;  // rows, read as columns too, would otherwise share sets of L1
        Arena::Scope scratch;
        T* r = scratch.take<T>(n * ld);
        if (width() == 0)  // an empty product is not written
            std::fill_n(r, n * ld, T(0));
        else
            k.product(f.at(i), f.row, f.col, columns, k.nr * width(), n, m, width(), r, ld, {.scale = scale});
        PairTargets<T> here = targets.from(i, j);
        if (here.target && here.target_row == 1 && here.target_col != 1) {  // read as rows
            T* turned = scratch.take<T>(n * kLaneColumns);
            k.transpose(here.target, here.target_col, m, n, turned, kLaneColumns, false);
            here.target = turned;
            here.target_row = kLaneColumns;
            here.target_col = 1;
        }
        if (first) std::fill_n(s.values, n, 0.0);
        k.loss_vjp(loss, r, ld, n, m, here, s.values);
        k.product(r, ld, 1, columns + size_as_columns(), m * k.nr, n, width(), m, s.grad, width(),
                  {.accumulate = !first});
        if (to_g)
            k.product(r, 1, ld, rows, n * k.nr, m, width(), n, to_g + j * width(), width(),
                      {.accumulate = i > 0});
    }
    void merge(State& a, const State& b, long n) const {
        for (long i = 0; i < n; ++i) a.values[i] += b.values[i];
        k.add(a.grad, b.grad, n * width());
    }
    void finish(const State& s, const LaneBlock& block) const {
        const long i0 = block.first, n = block.rows;
        std::copy_n(s.values, n, values + i0);
        for (long i = 0; to_scale && i < n; ++i)
            to_scale[i0 + i] = product_with(f, i0 + i, s.grad + i * width());
        for (long i = 0; i < n * width(); ++i) to_f[i0 * width() + i] = scale * s.grad[i];
    }
    void merge_columns(long, long, long) const {}  // one part
    void finish_columns(long j, long m) const {
        for (long c = j * width(); to_g && c < (j + m) * width(); ++c) to_g[c] *= scale;
    }
};

}  // namespace

template <class T>
void relation_loss(const Relation<T>& features, const PairTargets<T>& given, Loss loss, double* values,
                   const RelationGradient<T>& to) {
    const Team team = team_for(3 * features.work(kWorkOfExp));
    const Points<T> rows = points_of<T>(features.rows, 0, nullptr);
    const Points<T> cols = points_of<T>(features.columns, 0, nullptr);
    const T scale = features.scale;
    PairTargets<T> targets = given;
    const Buffer<T> lse(loss == Loss::softmax ? rows.count : 0);
    if (loss == Loss::softmax) {
        const std::vector<Operand<Full<T>>> columns = {{cols, Operand<Full<T>>::columns}};
        walk_pairs(team, rows, columns, scale, 1, SoftmaxAccumulate<T>{0, nullptr, 0, lse.get(), {}});
        targets.lse = lse.get();
    }
    walk_lanes<T>(
        team, {rows.count}, cols.count, 1,
        LossGradient<T>{rows, cols, targets, loss, scale, values, to.rows.data, to.columns.data, to.scale});
    if (loss == Loss::softmax)
        for (long i = 0; i < rows.count; ++i) {
            const T w = targets.weight ? targets.weight[i * targets.weight_row] : T(1);
            values[i] += double(w * targets.factor) * double(lse.get()[i]);
        }
}

#define RK_INSTANTIATE(T)                                                                 \
    template void relation_loss(const Relation<T>&, const PairTargets<T>&, Loss, double*, \
                                const RelationGradient<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
