// Segments of ragged batches. Mirrors csrc/base/batches.hpp.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arrays.hpp"
#include "context.hpp"

namespace rk::cuda {

// A ragged batch, as an argument: segment s has the rows rows[s] .. rows[s + 1] - 1 of matrices that hold the
// rows of all segments one after the other, and columns likewise. Without offsets, a matrix is one segment.
struct Segments {
    const std::int64_t *rows = nullptr, *columns = nullptr;  // count + 1 offsets each, in main memory
    long count = 1;

    bool ragged() const { return rows != nullptr; }
};

// The same in the form that kernels read: offsets on the device.
struct SegmentTable {
    const std::int64_t *rows = nullptr, *columns = nullptr;
    long count = 1;
    long most_rows = 0, most_columns = 0;  // of a segment

    // Where a block of rows is: its number in its segment, and the segment's rows and columns.
    struct Block {
        long number;
        Span rows, columns;
    };

    RK_HOST_DEVICE bool ragged() const { return rows != nullptr; }

    // Blocks of `size` rows that cover all segments. Segment s has those from rows[s] / size + s on, which
    // are enough and at most one too many: blocks find their segments by the offsets alone.
    long blocks(long all_rows, long size) const {
        return ragged() ? all_rows / size + count : ceil_div(all_rows, size);
    }
    RK_DEVICE Block find(long block, long size) const {
        long s = 0, end = count;  // s <= the segment < end
        while (end - s > 1) {
            const long middle = (s + end) / 2;
            if (rows[middle] / size + middle <= block)
                s = middle;
            else
                end = middle;
        }
        return {block - rows[s] / size - s, {rows[s], rows[s + 1]}, {columns[s], columns[s + 1]}};
    }
};

inline SegmentTable transposed(const SegmentTable& s) {
    return {s.columns, s.rows, s.count, s.most_columns, s.most_rows};
}

// Brings the offsets to the device as arguments of kernels: nothing waits, and a graph can capture it.
SegmentTable table_of(const Context& context, const Segments& segments);

}  // namespace rk::cuda
