// The scores of attention from inner products, s_ij = cap(r_ij + bias_ij) with cap(s) = c tanh(s / c), and
// the pairs that have a score. Mirrors csrc/walk/scoring.hpp.
#pragma once

#include "masks.hpp"

namespace rk::cuda {

// Everything beyond the relation that makes scores, as an argument.
struct Scoring {
    Allowed allowed;
    Array bias = {};  // absent: none
    double cap = 0;   // 0: none
};

// The scoring of the transposed relation.
inline Scoring transposed(const Scoring& s) {
    return {transposed(s.allowed), s.bias.empty() ? s.bias : transposed(s.bias), s.cap};
}

// The cap of a score s, c tanh(s / c), and its derivative.
template <class Sum>
struct Capped {
    Sum value, slope;
};
template <class Sum>
RK_DEVICE_CALL Capped<Sum> capped(Sum s, Sum c) {
    // tanh'(z) = 4 e / (1 + e)^2, without cancellation for large z.
    const Sum z = s / c, e = exp(Sum(-2) * fabs(z)), d = e + Sum(1);
    return {tanh(z) * c, e * Sum(4) / (d * d)};
}

// A Scoring in the form that kernels read.
template <class Sum>
struct Scorer {
    // Where the values of an item begin, and the shift of its segment's band.
    struct Item {
        const std::uint8_t* mask;
        long bias, shift;
    };

    Mask mask;
    const void* bias = nullptr;  // null: none
    Dtype bias_dtype = Dtype::float32;
    long bias_row = 0, bias_column = 0;
    LeadStride bias_lead;
    Sum cap = 0;

    RK_DEVICE Item of_item(const Lead& batch, unsigned item, long rows, long columns) const {
        return {mask.of_item(batch, item), bias_lead.offset(batch, item), mask.shift(rows, columns)};
    }
    RK_DEVICE bool in_mask(const Item& item, long i, long j) const {
        return mask.allows(item.mask, i, j, item.shift);
    }
    // A bias of -inf forbids a pair.
    RK_DEVICE bool allows(const Item& item, long i, long j) const {
        return in_mask(item, i, j) && (bias == nullptr || term(item, i, j) != Sum(-kInfinity));
    }

   private:
    RK_DEVICE Sum term(const Item& item, long i, long j) const {
        return load_element<Sum>(bias, bias_dtype, item.bias + i * bias_row + j * bias_column);
    }
};

// The strides of the leading dimensions are set later, with those of the other arrays of the call.
template <class Sum>
Scorer<Sum> scorer_of(const Scoring& scoring) {
    Scorer<Sum> s;
    s.mask = mask_of(scoring.allowed);
    s.cap = Sum(scoring.cap);
    if (scoring.bias.empty()) return s;
    s.bias = scoring.bias.data;
    s.bias_dtype = scoring.bias.dtype;
    s.bias_row = scoring.bias.step(2);
    s.bias_column = scoring.bias.step(1);
    return s;
}

// The strides of an optional array over the leading dimensions of a call.
inline std::vector<long> leading_strides(const Array& a, const std::vector<long>& shape, int core = 2) {
    return a.empty() ? std::vector<long>(shape.size(), 0) : leading(a.stride, core);
}

}  // namespace rk::cuda
