// Gradients of the scores of attention, A = softmax_j(S), in two walks: the log-sum-exp of each row and
// D_i = sum_j A_ij dA_ij, then that of attention_gradient.hpp. A is not stored.
#include "operations/attention_gradient.hpp"
#include "operations/softmax_consumer.hpp"

namespace rk {

namespace {

// The log-sum-exp of a row, and sum_j A_ij dA_ij in place of the weighted sum of values.
template <class T>
struct SoftmaxDot : SoftmaxAccumulate<T> {
    PairMatrix<const T> grad;

    using State = typename SoftmaxAccumulate<T>::State;
    template <class A>
    void accept(State& state, const Tile<A>& t) const {
        Arena::Scope scratch;
        const State s = state.from(t.first, 1);
        const Mask mask = this->scoring.apply(t, scratch);
        kernels<T>().softmax_accept(t.r, t.ld, t.rows, t.cols, s.max, s.sum, s.acc, 1, 1);
        T* copy = scratch.template take<T>(t.cols);
        for (long i = 0; i < t.rows; ++i) {
            const T* row = grad.at(t.i0 + i, t.j0);
            if (grad.col != 1 || !mask.empty()) {
                grad.copy(t.i0 + i, 1, t.j0, t.cols, copy, t.cols);
                kernels<T>().mask_tile(copy, t.cols, 1, t.cols, mask, i, 0, T(0));
                row = copy;
            }
            kernels<T>().link_dot(Link::identity, t.r + i * t.ld, t.ld, 1, t.cols, row, s.acc + i);
        }
    }
};

}  // namespace

template <class T>
void attention_scores_vjp(const Relation<T>& features, const Scoring<T>& scoring, const Array<const T>& grad,
                          const RelationGradient<T>& to, const Array<T>& to_bias) {
    const Array<T> bias = cleared(to_bias, features);
    const double work = 3 * features.work(scoring.work());
    const auto compute = [&](const Team& team, long item) {
        const auto side = [&](const Array<const T>& a) { return points_of<T>(a, item, nullptr); };
        const Points<T> rows = side(features.rows), keys = side(features.columns);
        const long n = rows.count;
        const Buffer<T> lse(n), delta(n);
        const PairMatrix<const T> above = pair_matrix(grad, item);
        const std::vector<Operand<Full<T>>> columns = {{keys, Operand<Full<T>>::columns}};
        walk_pairs(team, rows, columns, features.scale, 1,
                   SoftmaxDot<T>{{1, delta.get(), 1, lse.get(), scoring.of_item(item)}, above});
        Points<T> none_of_keys = keys, none_of_rows = rows;
        none_of_keys.dim = none_of_rows.dim = 0;
        const Queries<T> queries{.f = rows,
                                 .of_out = none_of_rows,
                                 .lse = lse.get(),
                                 .delta = delta.get(),
                                 .scoring = scoring.of_item(item),
                                 .to = to.rows.item(item, 2),
                                 .scale_parts = to.scale ? to.scale + item * n : nullptr,
                                 .of_scores = above,
                                 .to_bias = pair_matrix(bias, item)};
        AttentionGradient<T> gradient{.members = {queries},
                                      .g = keys,
                                      .v = none_of_keys,
                                      .scale = features.scale,
                                      .to_keys = to.columns.item(item, 2),
                                      .to_values = nullptr};
        gradient.run(team);
    };
    const long items = features.rows.batch(2);
    if (bias.empty()) return for_each_item(items, work, compute);
    for_each_adding_item(
        items, [&](long) { return work; }, [&](long item) { return bias.item(item, 2); }, compute);
}

#define RK_INSTANTIATE(T)                                                                            \
    template void attention_scores_vjp(const Relation<T>&, const Scoring<T>&, const Array<const T>&, \
                                       const RelationGradient<T>&, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
