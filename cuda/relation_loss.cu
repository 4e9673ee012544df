// Value and gradients of a loss over all pairs. Neither R nor dR is written. Mirrors
// csrc/operations/relation_loss.cpp; csrc/kernels/losses.hpp has the formulas of dR.
//
//   R = scale F G^T,   dR = d loss / dR,   dF = scale dR G,   dG = scale dR^T F
//
// A walk over the rows for dF and the losses of the rows, and one over the columns for dG, in which one block
// owns a result. Each makes R again: 4 products of n m d multiply-adds, the CPU takes 3. The softmax loss
// first takes a fifth for the log-sum-exp of each row.
#include "activations.cuh"
#include "attention.cuh"
#include "product.cuh"

namespace rk::cuda {

namespace {

// The targets of all pairs as kernels read them: a matrix, or labels, equal for 1 and unequal for 0.
template <class T>
struct TargetsOfPairs {
    Loss loss;
    Strided matrix;  // a null pointer: labels
    const std::int64_t *row_labels, *column_labels;
    Strided weight;               // a null pointer: ones
    T factor;                     // of all weights
    const T *inverse_mass, *lse;  // of the rows, for softmax
};

template <class T>
struct LossOfPair {
    T value, slope;
};

// lse: of the row of R, for softmax, whose targets are shares of the row's.
template <class T>
RK_DEVICE_CALL LossOfPair<T> loss_of_pair(Loss loss, T r, T target, T lse) {
    switch (loss) {
        case Loss::squared: {
            const T difference = r - target;
            return {difference * difference, difference + difference};
        }
        case Loss::logistic:
            return {activate(Activation::softplus, T(0), r) - target * r, sigmoid(r) - target};
        case Loss::hinge: {
            const T sign = target + target - T(1), margin = T(1) - sign * r;
            if (margin <= T(0)) return {T(0), T(0)};
            return {margin, margin == margin ? -sign : margin};
        }
        case Loss::softmax: return {-target * r, exp(r - lse) - target};
    }
    return {r, r};
}

// dR, and with ByRow the losses of the rows. The rows of R are the rows of the walk, or else its columns.
template <class T, bool ByRow>
struct LossWeigher {
    struct Parameters {
        TargetsOfPairs<T> targets;
        long rows;  // of the walk
        T* values;
    };
    static constexpr int kProducts = 1, kSums = ByRow ? 1 : 0;
    static constexpr bool kSoftmax = false, kScores = false;
    T sums[1][4];

    template <class A, int G>
    RK_DEVICE void begin(const Parameters&, const Place&, long) {}
    RK_DEVICE T weigh(const Parameters& q, T r, T, T, int i, long walk_row, long walk_column) {
        walk_row = min(walk_row, q.rows - 1);  // the sums of rows past the edge are not written
        const long row = ByRow ? walk_row : walk_column, column = ByRow ? walk_column : walk_row;
        const TargetsOfPairs<T>& t = q.targets;
        T target = t.matrix.data ? element(t.matrix, row, column)
                                 : T(t.row_labels[row] == t.column_labels[column] ? 1 : 0);
        T lse = 0;
        if (t.loss == Loss::softmax) {
            target *= t.inverse_mass[row];
            lse = t.lse[row];
        }
        const LossOfPair<T> l = loss_of_pair(t.loss, r, target, lse);
        const T weight = weight_of(t, row, column);
        if constexpr (ByRow) sums[0][i] = fma(weight, l.value, sums[0][i]);
        return weight * l.slope;
    }
    RK_DEVICE static void write_sums(const Parameters& q, long row, const T (&sums)[1]) {
        const TargetsOfPairs<T>& t = q.targets;
        const T once = t.loss == Loss::softmax ? weight_of(t, row, 0) * t.lse[row] : T(0);
        q.values[row] = sums[0] + once;
    }

   private:
    RK_DEVICE static T element(const Strided& a, long row, long column) {
        return static_cast<const T*>(a.data)[row * a.row + column * a.column];
    }
    RK_DEVICE static T weight_of(const TargetsOfPairs<T>& t, long row, long column) {
        return t.weight.data ? element(t.weight, row, column) * t.factor : t.factor;
    }
};

}  // namespace

template <class A>
void relation_loss(const Context& context, const Relation<A>& relation, const PairTargets& targets, Loss loss,
                   const Array& values, const Array& grad_f, const Array& grad_g, const Array& grad_scale) {
    using T = typename A::Sum;
    const Array &f = relation.rows, &g = relation.columns;
    const double scale = relation.scale;
    const int width = int(f.dim(1));
    const auto data = [](const Array& a) { return reinterpret_cast<T*>(a.data); };
    const auto labels = [](const Array& a) { return reinterpret_cast<const std::int64_t*>(a.data); };
    TargetsOfPairs<T> t = {.loss = loss,
                           .matrix = targets.matrix.empty() ? Strided{} : strided(targets.matrix),
                           .row_labels = labels(targets.row_labels),
                           .column_labels = labels(targets.column_labels),
                           .weight = targets.weight.empty() ? Strided{} : strided(targets.weight),
                           .factor = T(targets.factor),
                           .inverse_mass = data(targets.inverse_mass),
                           .lse = nullptr};
    const auto result = [&](const Attended<A>& a, double factor) {
        return WeightedOut<T>{a.out, width, T(factor), nullptr, nullptr, 0, 0, 0};
    };
    Attended<A> by_row(context, relation, g, {}, grad_f);
    if (loss == Loss::softmax) {
        T* lse = context.take<T>(f.dim(2));
        log_sum_exp(context, by_row, scale, lse);
        t.lse = lse;
    }
    sum_weighted_values<A, LossWeigher<T, true>, false>(context, by_row.pairs, result(by_row, 1.0),
                                                        by_row.scorer, scale, {t, f.dim(2), data(values)});
    scale_gradient<T>(context, f, grad_f, scale, nullptr, grad_scale);
    if (!grad_g.empty()) {
        Attended<A> by_column(context, Relation<A>{g, f}, f, {}, grad_g);
        sum_weighted_values<A, LossWeigher<T, false>, false>(context, by_column.pairs,
                                                             result(by_column, scale), by_column.scorer,
                                                             scale, {t, g.dim(2), nullptr});
    }
    check_launch("relation_loss");
}

#define RK_INSTANTIATE(A)                                                                                   \
    template void relation_loss(const Context&, const Relation<A>&, const PairTargets&, Loss, const Array&, \
                                const Array&, const Array&, const Array&);
RK_INSTANTIATE(Fma<float>)
RK_INSTANTIATE(Fma<double>)

}  // namespace rk::cuda
