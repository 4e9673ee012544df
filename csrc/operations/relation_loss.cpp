// Value and gradients of a loss over all pairs, streaming: neither R nor dR is written.
//
//   R = scale F G^T,   dR = d loss / dR  (kernels/losses.hpp)
//   dF = scale dR G,   dG = scale dR^T F,   dscale = sum_i <f_i, (dR G)_i>
//
// Two walks, over the rows of F and over those of G: each result has one owner. The softmax loss first
// computes the log-sum-exp of each row, by the consumer of attention.
#include <algorithm>

#include "base/threads.hpp"
#include "operations/operations.hpp"
#include "operations/softmax_consumer.hpp"
#include "walk/pairs.hpp"

namespace rk {

namespace {

template <class T>
struct LossGradient {
    static constexpr bool kOrderFree = false;
    static constexpr long kRowBlock = rk::kRowBlock;
    Loss loss;
    PairTargets<T> targets;
    Points<T> rows_of;  // the features that the walk's rows are
    T scale;
    double* values;      // null in the walk over G
    T* grad;             // contiguous
    double* grad_scale;  // a part for each row; null in the walk over G
    long width = rows_of.dim;

    struct State {
        double* values;  // the loss of each row
        T* grad;         // rows x width
    };
    State make(Space& space, long rows) const {
        return {space.take<double>(rows), space.take<T>(rows * width)};
    }
    void init(State& s, long rows) const {
        std::fill_n(s.values, rows, 0.0);
        std::fill_n(s.grad, rows * width, T(0));
    }
    Span met(long, long, long, long cols) const { return {0, cols}; }
    template <class A>
    void destination(Tile<A>&, Finish<T>&) const {}
    template <class A>
    void accept(State& s, const Tile<A>& t) const {
        const Kernels<T>& k = kernels<T>();
        Arena::Scope scratch;
        PairTargets<T> here = targets.from(t.i0, t.j0);
        if (here.target && here.target_row == 1 && here.target_col != 1) {
            // The walk over G reads the targets' columns: transposed once, they are read as rows.
            T* turned = scratch.take<T>(t.rows * kTileColumns);
            k.transpose(here.target, here.target_col, t.cols, t.rows, turned, kTileColumns, false);
            here.target = turned;
            here.target_row = kTileColumns;
            here.target_col = 1;
        }
        k.loss_vjp(loss, t.r, t.ld, t.rows, t.cols, here, s.values + t.first);
        add_weighted(t.r, t.ld, t, 1, width, Mask{}, s.grad + t.first * width);
    }
    void merge(State& a, const State& b, long rows) const {
        for (long i = 0; i < rows; ++i) a.values[i] += b.values[i];
        kernels<T>().add(a.grad, b.grad, rows * width);
    }
    void finish(State& s, long i0, long rows) const {
        for (long i = 0; i < rows * width; ++i) grad[i0 * width + i] = scale * s.grad[i];
        if (values) std::copy_n(s.values, rows, values + i0);
        for (long i = 0; grad_scale && i < rows; ++i)
            grad_scale[i0 + i] = product_with(rows_of, i0 + i, s.grad + i * width);
    }
};

template <class T>
PairTargets<T> transposed(PairTargets<T> t) {
    std::swap(t.target_row, t.target_col);
    std::swap(t.row_label, t.col_label);
    std::swap(t.weight_row, t.weight_col);
    std::swap(t.sample_row, t.sample_col);
    return t;
}

}  // namespace

template <class T>
void relation_loss(const Relation<T>& features, const PairTargets<T>& given, Loss loss, double* values,
                   const RelationGradient<T>& to) {
    // A product and a sum of features in each of two walks.
    const Team team = team_for(4 * features.work(kWorkOfExp));
    const Points<T> rows = points_of<T>(features.rows, 0, nullptr);
    const Points<T> cols = points_of<T>(features.columns, 0, nullptr);
    const T scale = features.scale;
    PairTargets<T> targets = given;
    const Buffer<T> lse(loss == Loss::softmax ? rows.count : 0);
    if (loss == Loss::softmax) {
        const std::vector<Operand<Full<T>>> columns = {{cols, Operand<Full<T>>::columns}};
        walk_pairs(team, rows, columns, scale, 1, SoftmaxAccumulate<T>{0, nullptr, 0, lse.get(), Mask{}});
        targets.lse = lse.get();
    }
    const std::vector<Operand<Full<T>>> of_g = {{cols, Operand<Full<T>>::columns},
                                                {cols, Operand<Full<T>>::values}};
    walk_pairs(team, rows, of_g, scale, 1,
               LossGradient<T>{loss, targets, rows, scale, values, to.rows.data, to.scale});
    if (!to.columns.empty()) {
        const std::vector<Operand<Full<T>>> of_f = {{rows, Operand<Full<T>>::columns},
                                                    {rows, Operand<Full<T>>::values}};
        walk_pairs(
            team, cols, of_f, scale, 1,
            LossGradient<T>{loss, transposed(targets), cols, scale, nullptr, to.columns.data, nullptr});
    }
    if (loss == Loss::softmax)
        for (long i = 0; i < rows.count; ++i) {
            const T w = targets.weight ? targets.weight[i * targets.weight_row] : targets.uniform_weight;
            values[i] += double(w) * double(lse.get()[i]);
        }
}

#define RK_INSTANTIATE(T)                                                                 \
    template void relation_loss(const Relation<T>&, const PairTargets<T>&, Loss, double*, \
                                const RelationGradient<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
