// Masks of attention and retrieval: which pairs (i, j) may attend. Mirrors csrc/walk/masks.hpp.
#pragma once

#include "arrays.hpp"

namespace rk::cuda {

// A band of diagonals: pairs with least <= j - i <= greatest. The causal rule is greatest = 0, a sliding
// window of w is (-w, 0).
struct Band {
    // Beyond any difference of indices, and far enough from overflow to be added to an index.
    static constexpr long kNoLimit = 1L << 62;
    long least = -kNoLimit, greatest = kNoLimit;

    RK_HOST_DEVICE bool contains(long i, long j) const { return j - i >= least && j - i <= greatest; }
    // Whether the band contains all pairs of a tile.
    RK_HOST_DEVICE bool contains(long i0, long rows, long j0, long columns) const {
        return j0 - (i0 + rows - 1) >= least && j0 + columns - 1 - i0 <= greatest;
    }
    // The columns that rows [begin, end) may use: none below 0, but perhaps more than there are.
    RK_HOST_DEVICE Span columns_of(long begin, long end) const {
        const long first = begin + least, past = end + greatest;
        return {first > 0 ? first : 0, past > 0 ? past : 0};
    }
};

inline Band transposed(const Band& band) { return {-band.greatest, -band.least}; }

// Which pairs may attend, as an argument: those of the mask (absent: all) that are in the band. In a ragged
// batch the band is that of each segment, with `from_last` relative to the diagonal that ends at its last row
// and column.
struct Allowed {
    Array mask;
    Band band;
    bool from_last = false;
};

// The same pairs of the transposed relation.
inline Allowed transposed(const Allowed& allowed) {
    return {allowed.mask.empty() ? allowed.mask : transposed(allowed.mask), transposed(allowed.band),
            allowed.from_last};
}

// The same in the form that kernels read.
struct Mask {
    const std::uint8_t* data = nullptr;  // of boolean values; null: all pairs
    long row = 0, column = 0;
    LeadStride lead;
    Band band;
    bool from_last = false;

    // The matrix of an item.
    RK_DEVICE const std::uint8_t* of_item(const Lead& batch, unsigned item) const {
        return data ? data + lead.offset(batch, item) : nullptr;
    }
    // What is added to the rows of a segment before they are looked up in the band.
    RK_DEVICE long shift(long rows, long columns) const { return from_last ? columns - rows : 0; }
    RK_DEVICE bool allows(const std::uint8_t* item, long i, long j, long shift = 0) const {
        return band.contains(i + shift, j) && (item == nullptr || item[i * row + j * column] != 0);
    }
};

// `lead` is set later, with the strides of the other arrays of the call.
inline Mask mask_of(const Allowed& allowed) {
    Mask m;
    m.band = allowed.band;
    m.from_last = allowed.from_last;
    if (allowed.mask.empty()) return m;
    m.data = reinterpret_cast<const std::uint8_t*>(allowed.mask.data);
    m.row = allowed.mask.step(2);
    m.column = allowed.mask.step(1);
    return m;
}

}  // namespace rk::cuda
