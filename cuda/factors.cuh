// The factors of a walk: arrays of any strides and dtype, converted to rows that kernels can read. Nothing
// past this file deals with strides. Mirrors csrc/walk/factors.hpp.
#pragma once

#include "arrays.hpp"
#include "context.hpp"
#include "pairs.cuh"

namespace rk::cuda {

// One matrix per item of a batch, with any strides.
struct Strided {
    void* data = nullptr;
    Dtype dtype = Dtype::float32;
    long row = 0, column = 0;
    LeadStride lead;
};

inline Strided strided(const Array& a, int core = 2) {
    Strided s;
    s.data = a.data;
    s.dtype = a.dtype;
    s.row = core == 2 ? a.step(2) : a.step(1);
    s.column = core == 2 ? a.step(1) : 0;
    return s;
}

// For every item, to(r, c) <- from(r, c) for c < columns and zero for columns <= c < padded, converted to the
// dtype of `to`. Tiles of 32 x 32 pass through shared memory, so that both sides are accessed along their
// shorter stride.
void copy_matrices(const Context& context, const Lead& lead, long rows, long columns, long padded,
                   const Strided& from, const Strided& to);

// Feature rows with the strides of their leading dimensions, before these are fused with those of the other
// arrays of a call.
template <class F>
struct Factors {
    Rows<F> rows;            // lead is not set yet
    std::vector<long> lead;  // strides, one per leading dimension
};

// The distinct items of an array: leading dimensions of stride 0 count once.
struct Distinct {
    std::vector<long> shape, stride;
    long items = 1;

    explicit Distinct(const Array& a, int core = 2)
        : shape(leading(a.shape, core)), stride(leading(a.stride, core)) {
        for (std::size_t i = 0; i < shape.size(); ++i) {
            if (stride[i] == 0) shape[i] = 1;
            items *= shape[i];
        }
    }
    // Strides over the array's leading dimensions when its distinct items are stored one after the other.
    std::vector<long> packed(long item_elements) const {
        std::vector<long> out(shape.size(), 0);
        long step = item_elements;
        for (std::size_t i = shape.size(); i-- > 0;) {
            out[i] = shape[i] > 1 ? step : 0;
            step *= shape[i];
        }
        return out;
    }
};

template <class F>
long padded_width(long width) {
    return round_up(width, 16 / long(sizeof(F)));
}

// An array as rows of F: in place if kernels can read it as it is, else a copy.
template <class F>
Factors<F> factors(const Context& context, const Array& a) {
    constexpr long kUnit = 16 / long(sizeof(F));
    Factors<F> out;
    const long width = a.dim(1);
    out.rows.count = a.dim(2);
    out.lead = leading(a.stride, 2);
    bool as_it_is = a.dtype == DtypeOf<F>::value && (a.step(1) == 1 || width == 1) && width % kUnit == 0 &&
                    (a.step(2) % kUnit == 0 || a.dim(2) <= 1) && a.step(2) >= 0 &&
                    reinterpret_cast<std::uintptr_t>(a.data) % 16 == 0;
    for (std::size_t i = 0; i < out.lead.size(); ++i)
        as_it_is = as_it_is && (out.lead[i] % kUnit == 0 || a.shape[i] <= 1);
    out.rows.width = int(padded_width<F>(width));
    if (as_it_is) {
        out.rows.data = reinterpret_cast<const F*>(a.data);
        out.rows.pitch = a.step(2);
        return out;
    }
    const Distinct items(a);
    const long pitch = out.rows.width, elements = out.rows.count * pitch;
    F* data = context.take<F>(items.items * elements);
    std::vector<LeadStride> steps;
    const Lead lead = collapse(items.shape, {items.stride, items.packed(elements)}, steps);
    Strided from = strided(a), to{data, DtypeOf<F>::value, pitch, 1, steps[1]};
    from.lead = steps[0];
    copy_matrices(context, lead, out.rows.count, width, pitch, from, to);
    out.rows.data = data;
    out.rows.pitch = pitch;
    out.lead = items.packed(elements);
    return out;
}

// Makes heads items of the batch: they become the last leading dimension.
template <class F>
Factors<F> split_heads(const Context& context, const Factors<F>& f, const std::vector<long>& lead_shape,
                       long width, long heads) {
    Array a;
    a.data = reinterpret_cast<char*>(const_cast<F*>(f.rows.data));
    a.dtype = DtypeOf<F>::value;
    a.shape = lead_shape;
    a.stride = f.lead;
    a.shape.insert(a.shape.end(), {heads, f.rows.count, width / heads});
    a.stride.insert(a.stride.end(), {width / heads, f.rows.pitch, 1});
    return factors<F>(context, a);
}

}  // namespace rk::cuda
