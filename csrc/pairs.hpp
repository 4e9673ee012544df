// The walk over pairs: tiles of features -> inner products -> consumer.
//
// Every operation on relations is this walk with a consumer of its own (pair_store.cpp and so on). The walk
// decides on blocks, threads and workspace; a consumer says what to do with a tile of R and how partial
// results merge:
//
//   state_bytes(rows)                what it keeps for a block of rows
//   init(state, rows)                an empty state
//   skip(i0, rows, j0, cols)         true where the tile can be left out
//   destination(tile)                may set tile.r, tile.ld to where R is to be written (else scratch)
//   accept(state, tile)              folds a tile of R into the state
//   merge(into, from, rows)          joins the states of two ranges of columns, left to right
//   finish(state, i0, rows)          writes the result of a block of rows
//   kOrderFree                       merge and accept commute exactly (store, top-k)
//   kRowBlock                        rows of a block
//
// Tiles: kRowBlock x kTileColumns values of R (96 x 256 floats: 96 KiB, in L2), made from kTileColumns
// packed columns (256 x 64 floats: 64 KiB, in L2) of which one panel at a time is in L1.
//
// Order of sums (invariant): within a tile as the kernels fix it; the tiles of a chunk of kChunk columns
// in order, from an empty state; chunks merged in order. Chunks begin at multiples of kChunk, so a row's
// result depends neither on threads nor on the other rows. Several threads share a block of rows by taking
// different chunks, and the merges stay in order.
//
// Memory: features of at most kWorkspace bytes of rows and of columns at a time, besides the states. More
// rows or columns are taken in turn (super-blocks); columns are then mapped again for every super-block of
// rows, which costs under 3 % for an MLP of 64-256-256-64.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "arrays.hpp"
#include "kernels.hpp"
#include "mlp.hpp"

namespace rk {

inline constexpr long kTileColumns = 256;
inline constexpr long kChunk = 2048;
inline constexpr long kWorkspace = 16L << 20;

// Rows of a matrix, seen through a feature map or, where there is none, as they are.
template <class T>
struct Points {
    const T* data;
    long count, dim;
    long row, col;  // strides
    const Mlp<T>* map = nullptr;

    long width() const { return map ? map->outputs() : dim; }
    const T* at(long i) const { return data + i * row; }
    Points sub(long first, long n) const { return {at(first), n, dim, row, col, map}; }
};

template <class T>
Points<T> points_of(const Array<const T>& a, long item, const Mlp<T>* map) {
    return {a.item(item, 2), a.dim(2), a.dim(1), a.step(2), a.step(1), map};
}

// Features of points in any strides: computed into `space`, or the points themselves.
template <class T>
Points<T> features_in(const Points<T>& p, T* space, long space_row) {
    if (!p.map) return p;
    p.map->forward(p.data, p.row, p.col, p.count, space, space_row);
    return {space, p.count, p.width(), space_row, 1, nullptr};
}

// Columns of the relation, packed tile by tile: as columns to multiply with (depth = features), or as
// values to sum with weights from a tile of R (depth = the columns of the tile).
template <class T>
struct Operand {
    enum Layout { columns, values };
    Points<T> points;
    Layout layout;

    long tile_size() const {
        const long nr = kernels<T>().nr;
        return layout == columns ? kTileColumns * points.width()
                                 : round_up(points.width(), nr) * kTileColumns;
    }
    long panel_stride() const {
        return kernels<T>().nr * (layout == columns ? points.width() : kTileColumns);
    }

    void pack(long j0, long cols, T* tile) const {
        Arena::Scope scratch;
        const long width = points.width();
        T* space = points.map ? scratch.take<T>(cols * width) : nullptr;
        const Points<T> f = features_in(points.sub(j0, cols), space, width);
        if (layout == columns)
            kernels<T>().pack(f.data, f.col, f.row, width, cols, tile, panel_stride());
        else
            kernels<T>().pack(f.data, f.row, f.col, cols, width, tile, panel_stride());
    }
};

// A tile of R, with the packed columns it was made from.
template <class T>
struct Tile {
    T* r;
    long ld;
    long i0, rows, j0, cols;
    long head;
    const T* const* operands;  // of this tile, in the order given to the walk
};

// acc(i, :) += sum_j p(i, j) values(j, :) for a tile p. Pairs that the mask forbids contribute nothing,
// even where their values are NaN or infinite.
template <class T>
void add_weighted(const T* p, long ld, const Tile<T>& t, const T* values, long width, const Mask& mask,
                  T* acc) {
    const Kernels<T>& k = kernels<T>();
    const long stride = k.nr * kTileColumns;
    bool clean = mask.empty();
    for (long j = 0; !clean && j < width; j += k.nr)
        if (!k.all_finite(values + j / k.nr * stride, t.cols * k.nr)) {
            k.masked_product(p, ld, values, stride, t.rows, width, t.cols, acc, width, mask, t.i0, t.j0);
            return;
        }
    k.product(p, ld, 1, values, stride, t.rows, width, t.cols, acc, width, T(1), nullptr, true);
}

template <class T, class Consumer>
class PairWalk {
   public:
    PairWalk(const Team& team, const Points<T>& rows, const std::vector<Operand<T>>& operands, T scale,
             long heads, const Consumer& consumer)
        : team_(team), rows_(rows), operands_(operands), scale_(scale), heads_(heads), consumer_(consumer) {}

    void run() {
        const long width = rows_.width();
        const long columns = operands_[0].points.count;
        const long block = row_block();
        const long state = round_up(long(consumer_.state_bytes(block)), 64);
        long column_bytes = 0;
        bool mapped = false;
        for (const Operand<T>& o : operands_) {
            column_bytes += o.tile_size() * long(sizeof(T)) / kTileColumns;
            mapped = mapped || o.points.map;
        }
        const long per_block = block * width * long(sizeof(T)) * (rows_.map ? 1 : 0) + state;
        const long super_rows = block * std::max(kWorkspace / std::max(per_block, 1L), 2L * team_.size());
        const long super_columns = kChunk * std::max(kWorkspace / (column_bytes * kChunk), 1L);

        for (long i = 0; i < rows_.count; i += super_rows) {
            const long n = std::min(super_rows, rows_.count - i), blocks = ceil_div(n, block);
            const Buffer<T> feature_space(rows_.map ? n * width : 0);
            const Buffer<std::byte> states(blocks * state);
            Step s{i, n, block, features(i, n, block, feature_space.get()), states.get(), state};
            team_.for_each(blocks, [&](long b) { consumer_.init(s.state(b), s.rows(b)); });
            const bool shared = mapped || blocks > 1;
            const long most = shared ? std::min(super_columns, round_up(columns, kTileColumns)) : 0;
            const Buffer<T> packed(most / kTileColumns * tile_stride());
            for (long j = 0; j < columns; j += super_columns) {
                const long m = std::min(super_columns, columns - j);
                if (shared) pack(j, m, packed.get());
                step(s, j, m, shared ? packed.get() : nullptr);
            }
            team_.for_each(blocks, [&](long b) { consumer_.finish(s.state(b), s.first(b), s.rows(b)); });
        }
    }

   private:
    // A super-block of rows.
    struct Step {
        long i0, n, block;
        Points<T> features;
        std::byte* states;
        long state_size;

        long blocks() const { return ceil_div(n, block); }
        long first(long b) const { return i0 + b * block; }
        long rows(long b) const { return std::min(block, n - b * block); }
        void* state(long b) const { return states + b * state_size; }
    };

    // Fewer rows than threads x kRowBlock are shared out evenly.
    long row_block() const {
        const long share = round_up(ceil_div(rows_.count, team_.size()), kernels<T>().mr);
        return std::min(share, Consumer::kRowBlock);
    }

    long tile_stride() const {
        long n = 0;
        for (const Operand<T>& o : operands_) n += o.tile_size();
        return n;
    }

    Points<T> features(long i, long n, long block, T* space) const {
        const Points<T> part = rows_.sub(i, n);
        if (!part.map) return part;
        const long width = part.width();
        team_.for_each(ceil_div(n, block), [&](long b) {
            features_in(part.sub(b * block, std::min(block, n - b * block)), space + b * block * width,
                        width);
        });
        return {space, n, width, width, 1, nullptr};
    }

    void pack(long j, long m, T* packed) const {
        team_.for_each(ceil_div(m, kTileColumns), [&](long t) {
            pack_tile(j + t * kTileColumns, std::min(kTileColumns, m - t * kTileColumns),
                      packed + t * tile_stride());
        });
    }

    void pack_tile(long j0, long cols, T* tile) const {
        for (const Operand<T>& o : operands_) {
            o.pack(j0, cols, tile);
            tile += o.tile_size();
        }
    }

    // Columns j .. j + m - 1 against a super-block of rows.
    void step(const Step& s, long j, long m, const T* packed) const {
        const long chunks = ceil_div(m, kChunk);
        if (s.blocks() >= team_.size() || chunks == 1) {
            team_.for_each(s.blocks(), [&](long b) {
                Arena::Scope scratch;
                void* partial = Consumer::kOrderFree ? nullptr : scratch.bytes(std::size_t(s.state_size));
                for (long c = 0; c < chunks; ++c) {
                    poll();
                    if constexpr (Consumer::kOrderFree) {
                        chunk(s, b, j, m, c, packed, s.state(b));
                    } else {
                        consumer_.init(partial, s.rows(b));
                        chunk(s, b, j, m, c, packed, partial);
                        consumer_.merge(s.state(b), partial, s.rows(b));
                    }
                }
            });
            return;
        }
        // Few rows: the threads take chunks, a wave of them at a time, and merge them in order.
        const long wave = 4 * team_.size();
        const Buffer<std::byte> partials(s.blocks() * wave * s.state_size);
        for (long c0 = 0; c0 < chunks; c0 += wave) {
            const long count = std::min(wave, chunks - c0);
            const auto partial = [&](long b, long c) {
                return partials.get() + (b * wave + c) * s.state_size;
            };
            team_.for_each(s.blocks() * count, [&](long task) {
                const long b = task / count, c = task % count;
                consumer_.init(partial(b, c), s.rows(b));
                chunk(s, b, j, m, c0 + c, packed, partial(b, c));
            });
            for (long b = 0; b < s.blocks(); ++b)
                for (long c = 0; c < count; ++c) consumer_.merge(s.state(b), partial(b, c), s.rows(b));
        }
    }

    void chunk(const Step& s, long b, long j, long m, long c, const T* packed, void* state) const {
        const Kernels<T>& k = kernels<T>();
        const long i0 = s.first(b), rows = s.rows(b);
        const long depth = s.features.width() / heads_;
        const T* f = s.features.at(i0 - s.i0);
        const long end = std::min(m, (c + 1) * kChunk);
        for (long t = c * kChunk; t < end; t += kTileColumns) {
            const long cols = std::min(kTileColumns, end - t);
            if (consumer_.skip(i0, rows, j + t, cols)) continue;
            Arena::Scope scratch;
            const T* tile = packed ? packed + t / kTileColumns * tile_stride() : nullptr;
            if (!packed) {
                T* own = scratch.take<T>(tile_stride());
                pack_tile(j + t, cols, own);
                tile = own;
            }
            std::vector<const T*> operands;
            for (const Operand<T>& o : operands_) {
                operands.push_back(tile);
                tile += o.tile_size();
            }
            T* space = nullptr;
            for (long h = 0; h < heads_; ++h) {
                Tile<T> r{nullptr, 0, i0, rows, j + t, cols, h, operands.data()};
                consumer_.destination(r);
                if (!r.r) {
                    if (!space) space = scratch.take<T>(rows * kTileColumns);
                    r.r = space;
                    r.ld = kTileColumns;
                }
                k.product(f + h * depth * s.features.col, s.features.row, s.features.col,
                          operands[0] + h * depth * k.nr, operands_[0].panel_stride(), rows, cols, depth, r.r,
                          r.ld, scale_, nullptr, false);
                consumer_.accept(state, r);
            }
        }
    }

    const Team& team_;
    const Points<T> rows_;
    const std::vector<Operand<T>>& operands_;
    const T scale_;
    const long heads_;
    const Consumer& consumer_;
};

template <class T, class Consumer>
void walk_pairs(const Team& team, const Points<T>& rows, const std::vector<Operand<T>>& operands, T scale,
                long heads, const Consumer& consumer) {
    if (rows.count == 0) return;
    PairWalk<T, Consumer>(team, rows, operands, scale, heads, consumer).run();
}

}  // namespace rk
