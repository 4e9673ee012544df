// The shared memory of a block of the walk (pairs.cuh), and the copies that fill it: rows for the whole walk
// or 128 bytes of the depth at a time (a stage), and tiles of values.
#pragma once

#include "arithmetic.cuh"
#include "arrays.hpp"

namespace rk::cuda {

// Points in the layout that kernels read: depth-contiguous rows that begin at multiples of 16 bytes, padded
// with zeros to the next such multiple (by factors.cuh).
template <class F>
struct Rows {
    const F* data = nullptr;
    long count = 0, pitch = 0;  // elements
    int width = 0;              // elements, including the padding
    LeadStride lead;
};

// The layout of a block's shared memory: offsets, sizes and pitches in bytes.
struct SharedLayout {
    long row_pitch[2] = {0, 0};  // 0: rows are part of the stages
    long rows[2], stage, stage_bytes, values, values_bytes, staged, consumer, total;

    template <class A>
    RK_HOST_DEVICE static SharedLayout of(int block_rows, const int* width, int products, int value_tiles,
                                          bool resident) {
        using F = typename A::Factor;
        SharedLayout s;
        long at = 0;
        for (int p = 0; p < 2; ++p) {
            s.rows[p] = at;
            if (p >= products || !resident) continue;
            s.row_pitch[p] = round_up(width[p] * long(sizeof(F)), kDepthBytes) + 16;
            at += block_rows * s.row_pitch[p];
        }
        s.stage = at;
        s.stage_bytes = long(resident ? 0 : block_rows) * kStagePitch + kTileColumns * kStagePitch;
        at += 2 * s.stage_bytes;
        s.values = at;
        s.values_bytes = value_tiles ? kTileColumns * value_pitch<A>(value_tiles) * long(sizeof(F)) : 0;
        at += 2 * s.values_bytes;
        s.staged = at;
        if (value_tiles) at += block_rows * staged_pitch<A>() * long(sizeof(typename A::Sum));
        s.consumer = at;
        s.total = at;
        return s;
    }
    // Pitches of values and of staged weights, in elements.
    template <class A>
    RK_HOST_DEVICE static constexpr int value_pitch(int tiles) {
        return kTileColumns * tiles + A::kValuePad;
    }
    template <class A>
    RK_HOST_DEVICE static constexpr int staged_pitch() {
        return kTileColumns + 16 / int(sizeof(typename A::Sum));
    }
};

// Starts copies of 128 bytes, from byte `from` of the depth, of `rows` rows beginning with `first`, to rows
// `pitch` bytes apart. Values past the last of the `count` rows at `item` or past the end of the depth are
// zeros.
template <class F>
RK_DEVICE void load_depth(char* to, long pitch, const Rows<F>& source, const F* item, long count, long first,
                          int rows, long from) {
    const long end = source.width * long(sizeof(F));
    for (int piece = thread_index(); piece < rows * 8; piece += block_threads()) {
        const int r = piece / 8, c = piece % 8 * 16;
        const bool inside = first + r < count && from + c < end;
        const char* at = reinterpret_cast<const char*>(item + (inside ? (first + r) * source.pitch : 0));
        copy16_async(to + r * pitch + c, at + (inside ? from + c : 0), inside ? 16 : 0);
    }
}

// The same for a tile of values: 64 rows, and `tiles` times 64 columns from element `from` on.
template <class A, class F>
RK_DEVICE void load_values(char* to, int tiles, const Rows<F>& source, const F* item, long count, long first,
                           int from) {
    const long pitch = SharedLayout::value_pitch<A>(tiles) * long(sizeof(F));
    const long end = source.width * long(sizeof(F)), begin = from * long(sizeof(F));
    const int pieces = kTileColumns * tiles * int(sizeof(F)) / 16;
    for (int piece = thread_index(); piece < kTileColumns * pieces; piece += block_threads()) {
        const int r = piece / pieces;
        const long c = piece % pieces * 16;
        const bool inside = first + r < count && begin + c < end;
        const char* at = reinterpret_cast<const char*>(item + (inside ? (first + r) * source.pitch : 0));
        copy16_async(to + r * pitch + c, at + (inside ? begin + c : 0), inside ? 16 : 0);
    }
}

}  // namespace rk::cuda
