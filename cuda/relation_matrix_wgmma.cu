// R = scale F G^T from 16-bit factors, by the warpgroup products of micro_kernel_wgmma.cuh. A symmetric R is
// computed in its upper triangle and mirrored.
//
// Grid: each block processes a run of tiles in row-major order (of the upper triangle if R is symmetric), all
// runs of equal length. The bits of a tile do not depend on the block.
//
// Stores: a warp holds 16 x 128 sums. 16-bit results are exchanged among the 4 lanes of a row so that each
// lane stores 16 bytes; for the mirror image, blocks of 8 x 8 values are transposed first.
#include "relation_matrix_wgmma.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "arithmetic.cuh"
#include "micro_kernel_wgmma.cuh"
#include "tensor_map.hpp"

namespace rk::cuda {

namespace sm90 {

struct Tiles {
    int rows, columns;  // counted in tiles
    bool symmetric;
    long items;

    RK_HOST_DEVICE long count() const { return items * per_item(); }
    RK_HOST_DEVICE long per_item() const {
        return symmetric ? long(rows) * (rows + 1) / 2 : long(rows) * columns;
    }
};

// The current tile; next() advances to the following one.
struct Tile {
    int item, row = 0, column = 0;
    bool fresh_row = true;

    RK_DEVICE Tile(const Tiles& tiles, long number) : item(int(number / tiles.per_item())) {
        number %= tiles.per_item();
        if (!tiles.symmetric) {
            row = int(number / tiles.columns);
            column = int(number % tiles.columns);
            return;
        }
        for (; number >= tiles.rows - row; ++row) number -= tiles.rows - row;
        column = row + int(number);
    }
    RK_DEVICE void next(const Tiles& tiles) {
        fresh_row = ++column == tiles.columns;
        if (!fresh_row) return;
        if (++row == tiles.rows) {
            row = 0;
            ++item;
        }
        column = tiles.symmetric ? row : 0;
    }
};

template <class Out>
struct Output {
    Out* data;
    long item_stride, pitch, rows, columns;
    bool aligned;  // rows begin on 16-byte boundaries
};

// Transposes registers and lanes among the 4 lanes of a row: register i of lane t goes to register t of lane
// i.
RK_DEVICE void exchange_in_quad(std::uint32_t (&r)[4]) {
    const int t = lane_index() % 4;
    const bool odd = t & 1, upper = t & 2;
    const std::uint32_t x = shuffle_xor(odd ? r[0] : r[1], 1), y = shuffle_xor(odd ? r[2] : r[3], 1);
    (odd ? r[0] : r[1]) = x;
    (odd ? r[2] : r[3]) = y;
    const std::uint32_t z = shuffle_xor(upper ? r[0] : r[2], 2), w = shuffle_xor(upper ? r[1] : r[3], 2);
    (upper ? r[0] : r[2]) = z;
    (upper ? r[1] : r[3]) = w;
}

// Stores those of eight neighbours in a row that are inside the matrix.
template <class Out>
RK_DEVICE void store_eight(const Output<Out>& out, long row, long column, const std::uint32_t (&pairs)[4]) {
    if (row >= out.rows || column >= out.columns) return;
    Out* to = out.data + row * out.pitch + column;
    if (out.aligned && column + 8 <= out.columns) {
        *reinterpret_cast<Pack<std::uint32_t, 4>*>(to) = {{pairs[0], pairs[1], pairs[2], pairs[3]}};
        return;
    }
    for (int i = 0; i < 8 && column + i < out.columns; ++i)
        to[i] = Out{std::uint16_t(pairs[i / 2] >> (16 * (i % 2)))};
}

// Stores the 16 x 128 sums of this warp at rows from `row` on, columns from `column` on.
template <class Out>
RK_DEVICE void store_tile(const Output<Out>& out, long row, long column, const float (&sums)[64]) {
    const int g = lane_index() / 4, t = lane_index() % 4;
    if constexpr (std::is_same_v<Out, float>) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const long i = row + g + 8 * half;
            if (i >= out.rows) continue;
            float* to = out.data + i * out.pitch + column + 2 * t;
            const int left =
                int(out.columns - column) - 2 * t;  // columns from the first of this lane to the edge
            if (out.aligned && left > kBlockColumns - 8 + 1) {
#pragma unroll
                for (int j = 0; j < 16; ++j)
                    *reinterpret_cast<Pack<float, 2>*>(to + 8 * j) = {
                        {sums[4 * j + 2 * half], sums[4 * j + 2 * half + 1]}};
                continue;
            }
#pragma unroll
            for (int j = 0; j < 16; ++j)
#pragma unroll
                for (int c = 0; c < 2; ++c)
                    if (8 * j + c < left) to[8 * j + c] = sums[4 * j + 2 * half + c];
        }
    } else {
#pragma unroll
        for (int j = 0; j < 16; j += 4)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                std::uint32_t pairs[4];
#pragma unroll
                for (int b = 0; b < 4; ++b) {
                    const float* from = sums + 4 * (j + b) + 2 * half;
                    pairs[b] = pair_of<Out>(from[0], from[1]);
                }
                exchange_in_quad(pairs);
                store_eight(out, row + g + 8 * half, column + 8 * (j + t), pairs);
            }
    }
}

// Stores their mirror image: rows from `column` on, columns from `row` on.
template <class Out>
RK_DEVICE void store_mirrored(const Output<Out>& out, long row, long column, const float (&sums)[64]) {
    const int g = lane_index() / 4, t = lane_index() % 4;
    if constexpr (std::is_same_v<Out, float>) {
        const int rows = int(out.rows - column) - 2 * t, columns = int(out.columns - row) - g;
        float* to = out.data + (column + 2 * t) * out.pitch + row + g;
#pragma unroll
        for (int j = 0; j < 16; ++j, to += 8 * out.pitch)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                if (8 * j + c >= rows) continue;
                if (columns > 0) to[c * out.pitch] = sums[4 * j + c];
                if (columns > 8) to[c * out.pitch + 8] = sums[4 * j + 2 + c];
            }
    } else {
#pragma unroll
        for (int j = 0; j < 16; j += 2) {
            std::uint32_t pairs[4];  // of 8 x 8 blocks: two of rows for each of two of columns
#pragma unroll
            for (int b = 0; b < 4; ++b) {
                const float* from = sums + 4 * (j + b / 2) + 2 * (b % 2);
                pairs[b] = transpose_8x8(pair_of<Out>(from[0], from[1]));
            }
            exchange_in_quad(pairs);
            store_eight(out, column + 8 * (j + t / 2) + g, row + 8 * (t % 2), pairs);
        }
    }
}

// Stores a tile on the diagonal: values above the diagonal are stored twice, so that the matrix is symmetric
// to the last bit whatever the matrix unit computes.
template <class Out>
RK_DEVICE void store_diagonal(const Output<Out>& out, long row, long column, const float (&sums)[64]) {
    const int g = lane_index() / 4, t = lane_index() % 4;
    const int below = int(row - column) + g - 2 * t;        // row minus column
    const int columns = int(out.columns - column) - 2 * t;  // from the first of this lane to the edge
    Out* to = out.data + (row + g) * out.pitch + column + 2 * t;
    Out* mirrored = out.data + (column + 2 * t) * out.pitch + row + g;
#pragma unroll
    for (int j = 0; j < 16; ++j, to += 8, mirrored += 8 * out.pitch)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int i = 8 * (e / 2), c = e % 2;
            if (below + i > 8 * j + c || 8 * j + c >= columns) continue;
            Out value;
            narrow(sums[4 * j + e], value);
            to[i * out.pitch + c] = value;
            mirrored[c * out.pitch + i] = value;
        }
}

template <class Half, class Out>
RK_KERNEL_SM90(kThreads, 2)
relation_matrix_kernel(const RK_GRID_CONSTANT TensorMap f, const RK_GRID_CONSTANT TensorMap g, Tiles tiles,
                       int boxes, float scale, const Output<Out> all, bool one_f, bool one_g) {
    Pipeline& pipe = *reinterpret_cast<Pipeline*>(sm90::shared_memory());
    init_pipeline(pipe);
    const long begin = tiles.count() * block_index() / block_count();
    const int count = int(tiles.count() * (block_index() + 1) / block_count() - begin);
    Tile tile(tiles, begin);
    Position at;
    if (warp_index() == kWarps) {
        if (lane_index() == 0) {
            prefetch(f);
            prefetch(g);
            for (int n = 0; n < count; ++n, tile.next(tiles))
                bring_tile(pipe, at, f, g, one_f ? 0 : tile.item, one_g ? 0 : tile.item,
                           tile.row * kBlockRows, tile.column * kBlockColumns, boxes, tile.fresh_row);
        }
        return;
    }
    for (int n = 0; n < count; ++n, tile.next(tiles)) {
        float sums[64];
        multiply_tile<Half>(pipe, at, boxes, sums);
#pragma unroll
        for (int e = 0; e < 64; ++e) sums[e] *= scale;
        Output<Out> out = all;
        out.data += tile.item * all.item_stride;
        const long row = long(tile.row) * kBlockRows + 16 * warp_index(),
                   column = long(tile.column) * kBlockColumns;
        if (tiles.symmetric && tile.row == tile.column) {
            store_diagonal(out, row, column, sums);
            continue;
        }
        store_tile(out, row, column, sums);
        if (tiles.symmetric) store_mirrored(out, row, column, sums);
    }
}

}  // namespace sm90

bool wgmma_asked_for(int device) {
    const char* asked = std::getenv("RELKERNELS_CUDA_WGMMA");
    if (asked && std::strcmp(asked, "0") != 0 && std::strcmp(asked, "1") != 0)
        throw std::invalid_argument("RELKERNELS_CUDA_WGMMA: expected 0 or 1, got '" +
                                    std::string(asked).substr(0, 60) + "'");
    if (!asked || *asked == '0') return false;
#ifdef RK_CUDA_EMULATED
    return device >= 0;
#else
    int major = 0, minor = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "relation_matrix");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "relation_matrix");
    return major == 9 && minor == 0;
#endif
}

template <class Half, class Out>
bool relation_matrix_wgmma(const RelationWgmma& r, int multiprocessors, Stream stream) {
    using namespace sm90;
    TensorMap f, g;
    const bool is_bfloat16 = std::is_same_v<Half, bfloat16>;
    if (!make_tensor_map(f, r.f, r.f_pitch, r.rows, r.depth, r.items, r.f_item, kBlockRows, is_bfloat16) ||
        !make_tensor_map(g, r.g, r.g_pitch, r.columns, r.depth, r.items, r.g_item, kBlockColumns,
                         is_bfloat16))
        return false;
    const Tiles tiles{int(ceil_div(r.rows, kBlockRows)), int(ceil_div(r.columns, kBlockColumns)), r.symmetric,
                      r.items};
    constexpr long kUnit = 16 / long(sizeof(Out));
    const bool aligned = reinterpret_cast<std::uintptr_t>(r.out) % 16 == 0 && r.out_pitch % kUnit == 0 &&
                         r.out_item % kUnit == 0;
    const Output<Out> out{static_cast<Out*>(r.out), r.out_item, r.out_pitch, r.rows, r.columns, aligned};
    launch(relation_matrix_kernel<Half, Out>, std::min(tiles.count(), 2L * multiprocessors), 1, kThreads,
           long(sizeof(Pipeline)), stream, f, g, tiles, int(ceil_div(r.depth, kRowValues)), r.scale, out,
           r.f_item == 0, r.g_item == 0);
    return true;
}

template bool relation_matrix_wgmma<bfloat16, bfloat16>(const RelationWgmma&, int, Stream);
template bool relation_matrix_wgmma<bfloat16, float>(const RelationWgmma&, int, Stream);
template bool relation_matrix_wgmma<float16, float16>(const RelationWgmma&, int, Stream);
template bool relation_matrix_wgmma<float16, float>(const RelationWgmma&, int, Stream);

}  // namespace rk::cuda
