#include "factors.cuh"

namespace rk::cuda {

namespace {

constexpr int kTile = 32, kCopyThreads = 256;

// Each block copies one tile. Values are converted through double if the source is float64, else through
// float.
template <class Word>
RK_KERNEL(kCopyThreads)
copy_tiles(const __grid_constant__ Lead lead, long rows, long columns, long padded, unsigned row_tiles,
           unsigned column_tiles, const __grid_constant__ Strided from, const __grid_constant__ Strided to) {
    Word(*tile)[kTile + 1] = reinterpret_cast<Word(*)[kTile + 1]>(shared_memory());
    unsigned block = block_index();
    const long c0 = long(block % column_tiles) * kTile;
    block /= column_tiles;
    const long r0 = long(block % row_tiles) * kTile;
    const unsigned item = block / row_tiles;
    const long source = from.lead.offset(lead, item), target = to.lead.offset(lead, item);
    const auto magnitude = [](long x) { return x < 0 ? -x : x; };
    // Neighbouring threads move along the dimension with the shorter stride.
    const bool down_in = magnitude(from.row) < magnitude(from.column);
    const bool down_out = magnitude(to.row) < magnitude(to.column);
    for (int e = thread_index(); e < kTile * kTile; e += kCopyThreads) {
        const int r = down_in ? e % kTile : e / kTile, c = down_in ? e / kTile : e % kTile;
        Word value = 0;
        if (r0 + r < rows && c0 + c < columns)
            value = load_element<Word>(from.data, from.dtype,
                                       source + (r0 + r) * from.row + (c0 + c) * from.column);
        tile[r][c] = value;
    }
    sync_block();
    for (int e = thread_index(); e < kTile * kTile; e += kCopyThreads) {
        const int r = down_out ? e % kTile : e / kTile, c = down_out ? e / kTile : e % kTile;
        if (r0 + r < rows && c0 + c < padded)
            store_element<Word>(to.data, to.dtype, target + (r0 + r) * to.row + (c0 + c) * to.column,
                                tile[r][c]);
    }
}

}  // namespace

void copy_matrices(const Context& context, const Lead& lead, long rows, long columns, long padded,
                   const Strided& from, const Strided& to) {
    const long row_tiles = ceil_div(rows, kTile), column_tiles = ceil_div(padded, kTile);
    const long blocks = lead.items() * row_tiles * column_tiles;
    if (blocks == 0) return;
    const auto run = [&](auto kernel, long word) {
        launch(kernel, blocks, 1, kCopyThreads, kTile * (kTile + 1) * word, context.stream, lead, rows,
               columns, padded, unsigned(row_tiles), unsigned(column_tiles), from, to);
    };
    if (from.dtype == Dtype::float64)
        run(copy_tiles<double>, 8);
    else
        run(copy_tiles<float>, 4);
    check_launch("copy_matrices");
}

}  // namespace rk::cuda
