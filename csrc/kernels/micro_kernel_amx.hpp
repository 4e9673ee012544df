// The product of micro_kernel_bf16.hpp on AMX tiles: 1,024 multiply-adds an instruction.
//
// Tile shapes: C is 2 x 2 tiles of 16 x 16 floats (32 rows, one panel of 32 columns), A two tiles of 16 rows
// x 32 bfloat16, B two of 16 pairs x 16 columns, as panels hold them: a row of pairs is 128 bytes, its halves
// are the two tiles. A step of 32 depths loads 4 tiles for 4 TDPBF16PS of 16 cycles each.
//
// Contract and order of sums are those of micro_kernel_bf16.hpp with depths in steps of 32 (depth_multiple).
// Rows that are left over are copied into whole tiles first, since a tile reads all its rows. Tiles are
// configured in every call: other libraries of the process use them too.
#pragma once

#include "kernels/micro_kernel_bf16.hpp"

namespace rk::RK_ISA {

static constexpr long kAmxRows = 16, kAmxDepth = 32, kAmxColumns = 16;

// 64-byte configuration of LDTILECFG, palette 1: all tiles are 16 rows of 64 bytes.
RK_INLINE void configure_tiles() {
    struct alignas(64) {
        std::uint8_t palette, start_row, reserved[14];
        std::uint16_t row_bytes[16];
        std::uint8_t rows[16];
    } config = {};
    config.palette = 1;
    for (int t = 0; t < 8; ++t) {
        config.row_bytes[t] = 64;
        config.rows[t] = kAmxRows;
    }
    _tile_loadconfig(&config);
}

// The first `rows` (at most 16) rows of 32 depths, in memory that a tile may read whole.
RK_INLINE const bfloat16* whole_rows(const bfloat16* a, long& a_row, long rows, bfloat16* copy) {
    if (rows >= kAmxRows) return a;
    for (long r = 0; r < kAmxRows; ++r)
        store((float*)(copy + r * kAmxDepth), r < rows ? load((const float*)(a + r * a_row)) : Vf{});
    a_row = kAmxDepth;
    return copy;
}

// Two tiles of C that were stored side by side: the rows and columns of them that exist go to C, finished.
RK_INLINE void finish_tiles(const float* left, const float* right, float* c, long c_row, long rows, long cols,
                            const Epilogue<float>& e) {
    for (long r = 0; r < kAmxRows && r < rows; ++r) {
        Vf acc[1][2] = {{load(left + r * kAmxColumns), load(right + r * kAmxColumns)}};
        finish_tile<float, 1, 2>(acc, c + r * c_row, c_row, cols, e);
    }
}

static void product_amx(const bfloat16* a, long a_row, const bfloat16* panels, long panel_stride, long rows,
                        long cols, long depth, float* c, long c_row, const Finish<float>& finish) {
    constexpr long kPairRow = 2 * kPanel<float>;  // values of a row of pairs in a panel
    alignas(64) float tile[4][kAmxRows * kAmxColumns];
    alignas(64) bfloat16 copy[2][kAmxRows * kAmxDepth];
    configure_tiles();
    for (long j = 0; j < cols; j += kPanel<float>) {
        const Epilogue<float> e{finish, finish.bias ? finish.bias + j : nullptr, finish.accumulate, true};
        const bfloat16* panel = panels + j / kPanel<float> * panel_stride;
        for (long i = 0; i < rows; i += 2 * kAmxRows) {
            const bfloat16* a_tile = a + i * a_row;
            const long left = rows - i;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (long k = 0; k < depth; k += kAmxDepth) {
                const bfloat16* b = panel + k / 2 * kPairRow;
                _tile_loadd(6, b, kPairRow * 2);
                _tile_loadd(7, b + kPairRow / 2, kPairRow * 2);
                long row = a_row;
                const bfloat16* upper = whole_rows(a_tile + k, row, left, copy[0]);
                _tile_loadd(4, upper, row * 2);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                if (left <= kAmxRows) continue;
                row = a_row;
                const bfloat16* lower =
                    whole_rows(a_tile + kAmxRows * a_row + k, row, left - kAmxRows, copy[1]);
                _tile_loadd(5, lower, row * 2);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            constexpr long kTileRow = kAmxColumns * sizeof(float);
            _tile_stored(0, tile[0], kTileRow);
            _tile_stored(1, tile[1], kTileRow);
            _tile_stored(2, tile[2], kTileRow);
            _tile_stored(3, tile[3], kTileRow);
            for (long half = 0; half < 2 && left > half * kAmxRows; ++half)
                finish_tiles(tile[2 * half], tile[2 * half + 1], c + (i + half * kAmxRows) * c_row + j, c_row,
                             left - half * kAmxRows, cols - j, e);
        }
    }
    _tile_release();
    if (finish.stream) stream_fence();
}

}  // namespace rk::RK_ISA
