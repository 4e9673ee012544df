// The arguments that attention and its relatives share, made into pairs. csrc/attention.hpp and masks.hpp on
// a device.
#pragma once

#include "operations.hpp"
#include "weighted.cuh"

namespace rk::cuda {

inline Mask mask_of(const MaybeArray& mask, const Band& band) {
    Mask m;
    m.band = band;
    if (mask) {
        m.data = reinterpret_cast<const std::uint8_t*>(mask->data);
        m.row = mask->step(2);
        m.column = mask->step(1);
    }
    return m;
}

inline std::vector<long> no_strides(const std::vector<long>& shape) {
    return std::vector<long>(shape.size(), 0);
}

// Queries, keys and perhaps values of a batch, their leading dimensions put together with those of the mask
// and of the output.
template <class A>
struct Attended {
    using F = typename A::Factor;
    Pairs<F> pairs;
    Mask mask;
    Strided out;
    LeadStride more;

    // `more_lead`: strides of one more array.
    template <class M>
    Attended(const Context& context, const Array& q, const Array& k, const Array* v, const Mlp<M>* phi,
             const Mlp<M>* psi, const MaybeArray& allowed, const Band& band, const Array& to,
             const std::vector<long>& more_lead = {})
        : mask(mask_of(allowed, band)), out(strided(to)) {
        const Factors<F> f = features<A>(context, q, phi), g = features<A>(context, k, psi);
        Factors<F> values;
        const std::vector<long> shape = leading(q.shape, 2);
        values.lead = no_strides(shape);
        if (v) values = factors<F>(context, *v);
        pairs.rows[0] = f.rows;
        pairs.columns[0] = g.rows;
        pairs.values = values.rows;
        std::vector<LeadStride> steps;
        pairs.lead =
            collapse(shape,
                     {f.lead, g.lead, values.lead, allowed ? leading(allowed->stride, 2) : no_strides(shape),
                      leading(to.stride, 2), more_lead.empty() ? no_strides(shape) : more_lead},
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
    RK_DEVICE Sum weigh(const Parameters&, Sum r, Sum, int, long) const {
        return r;
    }
};

}  // namespace rk::cuda
