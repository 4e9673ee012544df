// Which pairs attention and retrieval may use: masks and bands, transposed and cut to tiles; lists of columns
// excluded per row.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "base/arrays.hpp"
#include "base/batches.hpp"
#include "kernels/table.hpp"
#include "walk/factors.hpp"

namespace rk {

// The pairs that count: those of a boolean matrix (absent: all) that are in a band. In a ragged batch the
// band is that of each segment, with `from_last` relative to the diagonal that ends at its last row and
// column.
struct Allowed {
    Array<const std::uint8_t> mask;
    Band band;
    bool from_last = false;

    // Of a group of items. Joined members have no band (join_members).
    Allowed of_group(const Groups& groups, long group, long n, long m) const {
        Allowed a{groups.rows(mask, group), groups.joined() ? Band{} : band};
        if (from_last)
            for (long* limit : {&a.band.least, &a.band.greatest})
                if (std::abs(*limit) != Band::kNoLimit) *limit += m - n;
        return a;
    }
    Mask of_item(long item) const {
        if (mask.empty()) return {.band = band};
        return {mask.item(item, 2), mask.step(2), mask.step(1), band};
    }
};

// The columns that a search may not return, as a list per row: row i has the elements ranges(i, 0) to
// ranges(i, 1) - 1 of `columns`, ascending.
struct Excluded {
    Array<const std::int64_t> ranges;  // (..., n, 2)
    const std::int64_t* columns = nullptr;
    std::int64_t first = 0;  // added to a column's number before it is looked up in the list

    bool none() const { return ranges.empty(); }
};

// The pairs of one item that a search may return.
struct Searched {
    Mask mask;
    const std::int64_t* ranges = nullptr;  // null: none is excluded
    long row_stride = 0, end = 0;
    const std::int64_t* columns = nullptr;
    std::int64_t first = 0;

    bool allows(long i, long j) const {
        if (!mask.allows(i, j)) return false;
        if (!ranges) return true;
        const std::int64_t* const range = ranges + i * row_stride;
        return !std::binary_search(columns + range[0], columns + range[end], j + first);
    }
};

// The pairs that a search may return.
struct Searchable {
    Allowed allowed = {};
    Excluded excluded = {};

    // Of a group of items (base/batches.hpp).
    Searchable of_group(const Groups& groups, long group, long n, long m) const {
        return {allowed.of_group(groups, group, n, m),
                {groups.rows(excluded.ranges, group), excluded.columns, excluded.first}};
    }
    Searched of_item(long item) const {
        const Mask mask = allowed.of_item(item);
        if (excluded.none()) return {mask};
        return {mask,
                excluded.ranges.item(item, 2),
                excluded.ranges.step(2),
                excluded.ranges.step(1),
                excluded.columns,
                excluded.first};
    }
};

// Joins the members of each group, items of n rows and m columns, if the band allows all of their pairs and
// the rows of all these arrays continue (base/batches.hpp).
template <class... Arrays>
void join_members(Groups& groups, const Allowed& allowed, long n, long m, const Arrays&... arrays) {
    if (allowed.band.least <= 1 - n && allowed.band.greatest >= m - 1) groups.join(allowed.mask, arrays...);
}

// The mask of the transposed relation.
inline Mask transposed(const Mask& mask) {
    return {mask.data, mask.col_stride, mask.row_stride, {-mask.band.greatest, -mask.band.least}};
}

// The columns of a tile that the band allows to at least one of its rows.
inline Span band_columns(const Band& band, long i0, long rows, long j0, long cols) {
    return {std::clamp(i0 - j0 + band.least, 0L, cols), std::clamp(i0 - j0 + rows + band.greatest, 0L, cols)};
}

// The mask that this tile needs: a tile inside the band needs only the matrix.
inline Mask mask_in(const Mask& mask, long i0, long rows, long j0, long cols) {
    Mask m = mask;
    if (j0 - (i0 + rows - 1) >= mask.band.least && j0 + cols - 1 - i0 <= mask.band.greatest) m.band = {};
    return m;
}

}  // namespace rk
