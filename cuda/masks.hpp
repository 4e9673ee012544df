// Masks of attention and retrieval: which pairs (i, j) may attend. Mirrors csrc/masks.hpp.
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
    // Columns [first_column, end_column) contain all that rows [begin, end) may use.
    RK_HOST_DEVICE long first_column(long begin) const { return begin + least > 0 ? begin + least : 0; }
    RK_HOST_DEVICE long end_column(long end) const { return end + greatest > 0 ? end + greatest : 0; }
};

// A boolean matrix of any strides (null: all pairs), and a band; a pair needs the consent of both.
struct Mask {
    const std::uint8_t* data = nullptr;
    long row = 0, column = 0;
    LeadStride lead;
    Band band;

    // The matrix of an item.
    RK_DEVICE const std::uint8_t* of_item(const Lead& batch, unsigned item) const {
        return data ? data + lead.offset(batch, item) : nullptr;
    }
    RK_DEVICE bool allows(const std::uint8_t* item, long i, long j) const {
        return band.contains(i, j) && (item == nullptr || item[i * row + j * column] != 0);
    }
};

// The mask of the transposed relation.
inline Mask transposed(const Mask& mask) {
    Mask t = mask;
    std::swap(t.row, t.column);
    t.band = {-mask.band.greatest, -mask.band.least};
    return t;
}

}  // namespace rk::cuda
