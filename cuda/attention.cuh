// The common arguments of attention, retrieval and matrix-free products, converted to the pairs of a walk;
// and the weights of attention. Mirrors csrc/operations/softmax_consumer.hpp.
#pragma once

#include "operations.hpp"
#include "weighted.cuh"

namespace rk::cuda {

// Queries, keys and optionally values of a batch, with the leading dimensions of all arrays fused, those of
// the mask and the output included.
template <class A>
struct Attended {
    using F = typename A::Factor;
    Pairs<F> pairs;
    Mask mask;
    Strided out;
    LeadStride more;

    // `values` may be absent. `more_lead`: strides of one more array.
    template <class M>
    Attended(const Context& context, const Relation<M>& relation, const Array& values, const Allowed& allowed,
             const Array& to, const std::vector<long>& more_lead = {})
        : mask(mask_of(allowed)), out(strided(to)) {
        const Factors<F> f = features<A>(context, relation.rows, relation.phi),
                         g = features<A>(context, relation.columns, relation.psi);
        const std::vector<long> shape = leading(relation.rows.shape, 2), none(shape.size(), 0);
        Factors<F> v;
        v.lead = none;
        if (!values.empty()) v = factors<F>(context, values);
        pairs.rows[0] = f.rows;
        pairs.columns[0] = g.rows;
        pairs.values = v.rows;
        std::vector<LeadStride> steps;
        pairs.lead =
            collapse(shape,
                     {f.lead, g.lead, v.lead, allowed.mask.empty() ? none : leading(allowed.mask.stride, 2),
                      leading(to.stride, 2), more_lead.empty() ? none : more_lead},
                     steps);
        pairs.rows[0].lead = steps[0];
        pairs.columns[0].lead = steps[1];
        pairs.values.lead = steps[2];
        mask.lead = steps[3];
        out.lead = steps[4];
        more = steps[5];
    }
};

// Weights of attention: the scaled inner products themselves, until their maximum is known.
struct SoftmaxWeigher {
    struct Parameters {};
    static constexpr int kProducts = 1;
    static constexpr bool kSoftmax = true;
    static constexpr float kForbidden = -kInfinity;
    template <class A, int G>
    RK_DEVICE void begin(const Parameters&, long, long, long) {}
    template <class Sum>
    RK_DEVICE Sum weigh(const Parameters&, Sum r, Sum, int, long, long) const {
        return r;
    }
};

}  // namespace rk::cuda
