// The walk over pairs: tiles of features -> inner products -> consumer. Mirrors csrc/walk/pairs.hpp.
//
// A block of 4 (or 2) warps owns 16 G rows a warp of an item of the batch and processes the columns 64 at a
// time. Rows, columns and values are copied to shared memory asynchronously: a stage is 128 bytes of the
// depth of every column (and of every row, if the rows' whole depth does not fit or there is a series), and
// while one stage is multiplied the next is being copied. The consumer receives a tile of R in registers.
//
//   consumer   kProducts      inner products of a pair: 1, or 2 (the gradients of attention)
//              kValueTiles    values of a column, in tiles of 64: 0, 1 or 2
//              kOrderFree     one state for all chunks, since accept commutes exactly (store, top-k)
//              kMerges        blocks that share rows leave states, which merge_parts joins
//              shared_bytes(parameters, rows)   shared memory that it needs besides the walk's
//              columns()      the range of columns that the block's rows use; the walk skips other tiles
//              init()         begins with an empty state
//              accept(products, tile, values, staged)   folds a tile of R, with its values, into the state
//              merge(more)    at the end of a chunk of columns: joins its state to that of the chunks before
//                             it, and if there are more, begins the next with an empty state
//              finish()       writes the results of the rows, or the state if other blocks share the rows
//              merge_threads(parameters), merge_parts(parameters, pairs, parts)   in a second launch: joins
//                             the states of all parts in order and writes the results
//              kSeries        optional, true: a pair also has a series of inner products, computed one after
//                             the other after the last of the kProducts and before the first of two
//              series()       their rows and columns
//              members()      which of them this block needs
//              begin_series(products, tile)                  is called before the first of a tile
//              add(member, product, products, tile, staged)  folds one into the consumer or the products
//
// Sums over columns are cut into chunks of 2,048 (kChunkTiles) at fixed places and merged from left to
// right, whether one block processes them all or each has its own block: the bits are the same.
//
// In a ragged batch each block of rows is in one segment and only processes its columns. Rows, columns, tiles
// and chunks are counted from the beginning of the segment.
#pragma once

#include <type_traits>

#include "batches.hpp"
#include "stages.cuh"

namespace rk::cuda {

inline constexpr int kChunkTiles = 32;
inline constexpr int kMaxWarps = 4;  // of a block
// Rows of at most this many bytes stay in shared memory for the whole walk, if they fit.
inline constexpr int kResidentBytes = 1024;

template <class F>
struct Pairs {
    Lead lead;
    Rows<F> rows[2], columns[2];  // one for each inner product
    Rows<F> values;
    SegmentTable segments;
    unsigned row_blocks = 0, value_blocks = 1;
    int warps = kMaxWarps;    // of a block
    long tiles_per_part = 0;  // of columns; the parts are the second dimension of the grid
    bool resident = false;

    // Blocks of `size` rows of an item.
    unsigned blocks_of(long size) const { return unsigned(segments.blocks(rows[0].count, size)); }
    // The most columns that a row is compared with.
    long most_columns() const { return segments.ragged() ? segments.most_columns : columns[0].count; }
};

// Inner products of a pair beyond those of Pairs: product s is of rows and columns that begin s steps after
// those of product 0.
template <class F>
struct Series {
    Rows<F> rows, columns;
    long row_step = 0, column_step = 0;  // elements
    int count = 0;
};

template <class C>
inline constexpr bool has_series = [] {
    if constexpr (requires { C::kSeries; }) return C::kSeries;
    return false;
}();

// The position of a block in the walk: its segment, and its first row there.
struct Place {
    unsigned item;
    int value_block, part, block_rows;
    long row_begin, rows, column_begin, columns;  // where the segment begins, and its size
    long first_row;
};

template <class A, int G, class C>
RK_KERNEL(32 * kMaxWarps)
walk_pairs(const __grid_constant__ Pairs<typename A::Factor> p,
           const __grid_constant__ typename C::Parameters parameters) {
    using F = typename A::Factor;
    const int block_rows = 16 * G * p.warps;
    constexpr int kProducts = C::kProducts;

    unsigned block = block_index();
    Place place;
    place.value_block = int(block % p.value_blocks);
    block /= p.value_blocks;
    place.first_row = long(block % p.row_blocks) * block_rows;
    place.item = block / p.row_blocks;
    place.part = int(block_row());
    place.block_rows = block_rows;
    place.row_begin = place.column_begin = 0;
    place.rows = p.rows[0].count;
    place.columns = p.columns[0].count;
    if (p.segments.ragged()) {
        const SegmentTable::Block found = p.segments.find(block % p.row_blocks, block_rows);
        place.first_row = found.number * block_rows;
        place.row_begin = found.rows.begin;
        place.rows = found.rows.end - found.rows.begin;
        place.column_begin = found.columns.begin;
        place.columns = found.columns.end - found.columns.begin;
        if (place.first_row >= place.rows) return;
    }

    const int width[2] = {p.rows[0].width, p.rows[1].width};
    const bool resident = p.resident;
    const SharedLayout at = SharedLayout::of<A>(block_rows, width, kProducts, C::kValueTiles, resident);
    char* memory = shared_memory();
    const F *rows[2], *columns[2];
    int steps_of[2] = {0, 0};
#pragma unroll
    for (int k = 0; k < kProducts; ++k) {
        rows[k] =
            p.rows[k].data + p.rows[k].lead.offset(p.lead, place.item) + place.row_begin * p.rows[k].pitch;
        columns[k] = p.columns[k].data + p.columns[k].lead.offset(p.lead, place.item) +
                     place.column_begin * p.columns[k].pitch;
        steps_of[k] = int(ceil_div(width[k] * long(sizeof(F)), kDepthBytes));
    }
    const F* values = C::kValueTiles ? p.values.data + p.values.lead.offset(p.lead, place.item) +
                                           place.column_begin * p.values.pitch
                                     : nullptr;

    C consumer(parameters, p, place, memory + at.consumer);
    const Span used = consumer.columns();
    const long part = place.part * p.tiles_per_part;
    const long first = max(part, used.begin / kTileColumns);
    const long last = min(part + p.tiles_per_part, ceil_div(min(used.end, place.columns), kTileColumns));
    consumer.init();

    // Resident rows are copied together with the first stage.
    if (resident && first < last)
#pragma unroll
        for (int k = 0; k < kProducts; ++k)
            for (int s = 0; s < steps_of[k]; ++s)
                load_depth(memory + at.rows[k] + s * kDepthBytes, at.row_pitch[k], p.rows[k], rows[k],
                           place.rows, place.first_row, block_rows, long(s) * kDepthBytes);

    // Stages of the series: those of a member, and of all.
    int member_steps = 0, first_member = 0, series_steps = 0;
    if constexpr (has_series<C>) {
        const Span members = consumer.members();
        member_steps = int(ceil_div(consumer.series().rows.width * long(sizeof(F)), kDepthBytes));
        first_member = int(members.begin);
        series_steps = member_steps * int(members.end - members.begin);
    }
    const int steps = steps_of[0] + steps_of[1] + series_steps;
    // The arrays of two elements are indexed by constants only; otherwise the compiler puts them in local
    // memory.
    const auto issue_sides = [&](const Rows<F>& of_rows, const F* row_item, const Rows<F>& of_columns,
                                 const F* column_item, char* stage, long tile, int step) {
        const long from = long(step) * kDepthBytes;
        load_depth(stage, kStagePitch, of_columns, column_item, place.columns, tile * kTileColumns,
                   kTileColumns, from);
        if (!resident)
            load_depth(stage + kTileColumns * kStagePitch, kStagePitch, of_rows, row_item, place.rows,
                       place.first_row, block_rows, from);
    };
    const auto issue_side = [&](auto side, char* stage, long tile, int step) {
        constexpr int k = decltype(side)::value;
        issue_sides(p.rows[k], rows[k], p.columns[k], columns[k], stage, tile, step);
    };
    const std::integral_constant<int, 0> first_product;
    const std::integral_constant<int, kProducts - 1> last_product;
    const auto issue = [&](long tile, int step) {
        char* stage = memory + at.stage + (int(tile - first) * steps + step) % 2 * at.stage_bytes;
        if constexpr (has_series<C>) {
            const int before = steps_of[kProducts - 1];
            if (step < before) {
                issue_side(last_product, stage, tile, step);
            } else if (step < before + series_steps) {
                const Series<F>& s = consumer.series();
                const long member = first_member + (step - before) / member_steps;
                issue_sides(
                    s.rows, s.rows.data + s.rows.lead.offset(p.lead, place.item) + member * s.row_step,
                    s.columns,
                    s.columns.data + s.columns.lead.offset(p.lead, place.item) + member * s.column_step,
                    stage, tile, (step - before) % member_steps);
            } else {
                issue_side(first_product, stage, tile, step - before - series_steps);
            }
        } else if (kProducts == 1 || step < steps_of[0]) {
            issue_side(first_product, stage, tile, step);
        } else {
            issue_side(last_product, stage, tile, step - steps_of[0]);
        }
        if (C::kValueTiles && step == 0)
            load_values<A>(memory + at.values + int(tile - first) % 2 * at.values_bytes, C::kValueTiles,
                           p.values, values, place.columns, tile * kTileColumns,
                           place.value_block * C::kValueTiles * kTileColumns);
        commit_copies();
    };

    using Product = typename A::Sum[A::kRows * G][A::kColumns];
    Product acc[kProducts];
    const int warp_row = 16 * G * warp_index();
    // An inner product of `count` stages, which begin with number `first_step` of the tile. Rows that are
    // resident begin at `rows_at`.
    const auto multiply = [&](auto side, Product& sums, long tile, int first_step, int count, int features,
                              long rows_at, long rows_pitch) {
#pragma unroll
        for (int i = 0; i < A::kRows * G; ++i)
#pragma unroll
            for (int j = 0; j < A::kColumns; ++j) sums[i][j] = 0;
        for (int s = 0; s < count; ++s) {
            const int step = first_step + s;
            wait_copies<0>();
            sync_block();  // the stage has arrived, and all warps have read the one before
            if (step + 1 < steps)
                issue(tile, step + 1);
            else if (tile + 1 < last)
                issue(tile + 1, 0);
            const char* stage = memory + at.stage + (int(tile - first) * steps + step) % 2 * at.stage_bytes;
            const char* a = resident ? memory + rows_at + warp_row * rows_pitch + s * kDepthBytes
                                     : stage + (kTileColumns + warp_row) * kStagePitch;
            const long a_pitch = resident ? rows_pitch : kStagePitch;
            const int left = features - s * (kDepthBytes / int(sizeof(F)));
            const int depth = min(kDepthBytes / int(sizeof(F)), int(round_up(left, A::kStep)));
            const F *from = reinterpret_cast<const F*>(a), *to = reinterpret_cast<const F*>(stage);
            const int from_pitch = int(a_pitch / long(sizeof(F))), to_pitch = kStagePitch / int(sizeof(F));
            if constexpr (decltype(side)::value == 0)
                A::template multiply<G>(sums, from, from_pitch, to, to_pitch, depth);
            else
                SecondProduct<A>::Type::template multiply<G>(sums, from, from_pitch, to, to_pitch, depth);
        }
    };
    const auto multiply_side = [&](auto side, long tile, int first_step) {
        constexpr int k = decltype(side)::value;
        multiply(side, acc[k], tile, first_step, steps_of[k], width[k], at.rows[k], at.row_pitch[k]);
    };

    if (first < last && steps > 0) issue(first, 0);  // products of points without features are zero
    for (long tile = first; tile < last; ++tile) {
        char* const staged =
            memory + at.staged + warp_row * SharedLayout::staged_pitch<A>() * sizeof(typename A::Sum);
        if constexpr (has_series<C>) {
            multiply_side(last_product, tile, 0);
            int step = steps_of[kProducts - 1];
            consumer.begin_series(acc, tile);
            for (int member = 0; member * member_steps < series_steps; ++member) {
                Product product;
                multiply(first_product, product, tile, step, member_steps, consumer.series().rows.width, 0,
                         0);
                step += member_steps;
                consumer.add(first_member + member, product, acc, tile, staged);
            }
            if constexpr (kProducts == 2) multiply_side(first_product, tile, step);
        } else {
            multiply_side(first_product, tile, 0);
            if constexpr (kProducts == 2) multiply_side(last_product, tile, steps_of[0]);
        }
        consumer.accept(acc, tile, memory + at.values + int(tile - first) % 2 * at.values_bytes, staged);
        if constexpr (!C::kOrderFree)
            if ((tile + 1) % kChunkTiles == 0 || tile + 1 == last) consumer.merge(tile + 1 < last);
    }
    consumer.finish();
}

inline constexpr int kMergeThreads = 128;

template <class A, class C>
RK_KERNEL(kMergeThreads)
merge_parts(const __grid_constant__ Pairs<typename A::Factor> p,
            const __grid_constant__ typename C::Parameters parameters, long parts) {
    C::merge_parts(parameters, p, parts);
}

// A base of consumers without a state, which write results as soon as they receive a tile.
struct Stateless {
    static constexpr bool kOrderFree = true, kMerges = false;
    template <class Parameters>
    static long shared_bytes(const Parameters&, int) {
        return 0;
    }
    RK_DEVICE void init() const {}
    RK_DEVICE void finish() const {}
};

// How a walk is cut into blocks.
struct Grid {
    long blocks, parts, tiles_per_part;
};

// For columns that may be cut anywhere, since no sum runs over them: enough blocks to give every
// multiprocessor several, but at least 4 tiles in each.
inline Grid grid_of_tiles(long row_blocks, long columns, int multiprocessors) {
    const long tiles = ceil_div(columns, kTileColumns);
    const long wanted = ceil_div(8L * multiprocessors, std::max(1L, row_blocks));
    const long parts = std::max(1L, std::min({wanted, ceil_div(tiles, 4), 65535L}));
    const long each = std::max(1L, ceil_div(tiles, parts));
    return {row_blocks, std::max(1L, ceil_div(tiles, each)), each};
}

// For sums over columns: if there are enough blocks, each processes all chunks; else each chunk has its own
// block.
inline Grid grid_of_chunks(long row_blocks, long columns, int multiprocessors) {
    const long tiles = ceil_div(columns, kTileColumns), chunks = ceil_div(tiles, kChunkTiles);
    if (chunks <= 1 || row_blocks >= 2L * multiprocessors || chunks > 65535)
        return {row_blocks, 1, std::max(1L, tiles)};
    return {row_blocks, chunks, kChunkTiles};
}

// Bytes of shared memory that a block of the walk needs.
template <class A, int G, class C>
long walk_bytes(const Pairs<typename A::Factor>& p, const typename C::Parameters& parameters, bool resident) {
    const int width[2] = {p.rows[0].width, p.rows[1].width}, block_rows = 16 * G * p.warps;
    return SharedLayout::of<A>(block_rows, width, C::kProducts, C::kValueTiles, resident).total +
           C::shared_bytes(parameters, block_rows);
}

template <class A, int G, class C>
void launch_walk(const Context& context, Pairs<typename A::Factor>& p, const Grid& grid,
                 const typename C::Parameters& parameters) {
    if (grid.blocks == 0) return;
    p.tiles_per_part = grid.tiles_per_part;
    p.resident = !has_series<C> && walk_bytes<A, G, C>(p, parameters, true) <= context.shared_bytes;
    for (int k = 0; k < C::kProducts; ++k)
        p.resident = p.resident && p.rows[k].width * long(sizeof(typename A::Factor)) <= kResidentBytes;
    const long bytes = walk_bytes<A, G, C>(p, parameters, p.resident);
    if (bytes > context.shared_bytes)
        throw Error("the kernel needs " + std::to_string(bytes) +
                    " bytes of shared memory a block, this GPU has " + std::to_string(context.shared_bytes));
    launch(walk_pairs<A, G, C>, grid.blocks, grid.parts, 32 * p.warps, bytes, context.stream, p, parameters);
    if constexpr (C::kMerges)
        if (grid.parts > 1)
            launch(merge_parts<A, C>, ceil_div(C::merge_threads(parameters), kMergeThreads), 1, kMergeThreads,
                   0, context.stream, p, parameters, grid.parts);
}

}  // namespace rk::cuda
