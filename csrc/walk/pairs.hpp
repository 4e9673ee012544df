// The walk over pairs: tiles of features -> inner products -> consumer.
//
// Every operation on relations is this walk with its own consumer. The walk decides on blocks, threads and
// workspace; the consumer defines what happens to a strip of R and how partial results merge:
//
//   State                      what it keeps for a block of rows: pointers into memory that the walk
//                              owns, or any type with a destructor
//   make(space, rows)          a State for at most this many rows, with arrays taken from `space`
//   init(state, rows)          sets it to the state of no columns
//   met(i0, rows, j0, cols)    the range of columns in this tile that any of these rows may use; the walk
//                              may skip the rest
//   destination(tile, finish)  may set tile.r and tile.ld, where R is written (else scratch memory), and
//                              how (finish): distances instead of inner products, stores past the caches
//   accept(state, tile)        folds a strip of a tile of R into the state of its block
//   merge(into, from, rows)    joins the states of two ranges of columns, left to right
//   finish(state, i0, rows)    writes the result of a block of rows
//   kOrderFree                 merge and accept commute exactly (store, top-k)
//   kRowBlock                  the most rows of a block
//   kTogether (optional)       true: accept receives all products of a strip in one tile
//
// Products: a strip and a tile have one product, or one for each head, equal groups of the features of both
// sides, which accept receives one after the other. With kTogether each member has one or more sets of rows,
// features that are read in place; set p is multiplied with operand p, and accept receives product p as
// tile.of_product(p). In both cases destination is called for each product, numbered by tile.head.
//
// Tiles: blocks of at most kRowBlock rows against kTileColumns packed columns (256 x 64 floats: 64 KiB, in
// L2), in strips of one to four micro-tiles' rows (table.hpp): a panel of columns comes from L2 once a strip.
// The strip of R (12 x 256 floats with AVX-512: 12 KiB, 24 x 256 with AVX2: 24 KiB) stays in L1 between the
// product that makes it and the consumer.
//
// Order of sums (invariant): within a tile as the kernels fix it; the tiles of a chunk of kChunk columns
// in order, from an empty state; chunks merged in order. Chunks begin at multiples of kChunk, so a row's
// result depends neither on threads nor on the other rows. Several threads share a block of rows by taking
// different chunks, and the merges stay in order.
//
// Members: sets of rows with the same columns, such as the heads of a group of queries. Each has its own
// consumer, and its rows are numbered from 0 in tiles and results. A block has rows of one member; all
// members share the packed columns, so that columns are mapped and packed once for all of them.
//
// Memory: factors of at most kWorkspace bytes of rows and of columns at a time, besides the states. More
// rows or columns are taken in turn (super-blocks); columns are then mapped again for every super-block of
// rows, which costs under 3 % for an MLP of 64-256-256-64.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "base/arrays.hpp"
#include "base/threads.hpp"
#include "walk/arithmetic.hpp"
#include "walk/factors.hpp"

namespace rk {

inline constexpr long kChunk = 2048;
inline constexpr long kWorkspace = 16L << 20;

// Carves arrays out of a block of memory. Without a block it only counts the bytes they need.
class Space {
   public:
    explicit Space(std::byte* memory = nullptr) : memory_(memory) {}

    // 64-byte aligned, not initialized.
    template <class T>
    T* take(long n) {
        T* at = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
        used_ += round_up(n * long(sizeof(T)), 64);
        return at;
    }
    long used() const { return used_; }

   private:
    std::byte* memory_;
    long used_ = 0;
};

// A set of rows that the walk multiplies with its columns; `more`: the sets of products 1, 2, ... of a
// consumer with kTogether.
template <class T, class Consumer>
struct Member {
    Points<T> rows;
    Consumer consumer;
    std::vector<Points<T>> more = {};
};

template <class Consumer>
inline constexpr bool kReceivesTogether = requires { Consumer::kTogether; };

template <class A, class Consumer>
class PairWalk {
   public:
    using T = typename A::Value;
    using Factor = typename A::Factor;
    using State = typename Consumer::State;
    using Members = std::span<const Member<T, Consumer>>;

    // Members differ only in the memory and the number of their rows, and in where their consumers read and
    // write.
    PairWalk(const Team& team, Members members, const std::vector<Operand<A>>& operands, T scale, long heads)
        : team_(team), members_(members), operands_(operands), scale_(scale), heads_(heads) {
        for (const Operand<A>& o : operands_) tile_stride_ += o.tile_size();
        for (const auto& member : members_) {
            total_rows_ += member.rows.count;
            most_rows_ = std::max(most_rows_, member.rows.count);
        }
    }

    void run() {
        if (total_rows_ == 0) return;
        const long columns = operands_[0].points.count;
        const long block = row_block();
        const std::vector<Block> all = blocks_of(block);
        Space counted;
        members_[0].consumer.make(counted, block);
        const long state = counted.used();
        const bool own_rows = !factors_are_points<A>(members_[0].rows);
        const long row = own_rows ? row_of_factors<A>(width(), heads_) : 0;
        const long per_block = block * row * long(sizeof(Factor)) + state;
        const long super_blocks = std::max(kWorkspace / std::max(per_block, 1L), 2L * team_.size());
        const long tile_bytes = tile_stride_ * long(sizeof(Factor));
        const long tiles = std::max(kWorkspace / (tile_bytes * kTilesOfChunk), 1L) * kTilesOfChunk;
        const long super_columns = tiles * kTileColumns;

        for (std::size_t first = 0; first < all.size(); first += std::size_t(super_blocks)) {
            const long blocks = std::min(super_blocks, long(all.size() - first));
            const Block& last = all[first + std::size_t(blocks) - 1];
            const Buffer<Factor> row_space((last.before + last.rows - all[first].before) * row);
            const Buffer<std::byte> memory(blocks * state);
            std::vector<State> states = make_states(blocks, block, memory.get(), state);
            const Step s{
                {&all[first], std::size_t(blocks)}, block, row_space.get(), row, states.data(), state};
            // A single block of rows packs each tile of columns just before use, into space that stays in L2.
            // So do the blocks of a few rows, if they read all columns in place.
            const bool shared = blocks > 1 && !read_in_place(total_rows_);
            const long most = shared ? std::min(super_columns, round_up(columns, kTileColumns)) : 0;
            const Buffer<Factor> packed(most / kTileColumns * tile_stride_);
            long j = 0;
            do {  // runs once even without columns: it initializes and finishes the states
                const long m = std::min(super_columns, columns - j);
                if (shared) pack(s, j, m, packed.get());
                step(s, j, m, shared ? packed.get() : nullptr, j == 0, j + m == columns);
                j += super_columns;
            } while (j < columns);
        }
    }

   private:
    static constexpr long kTilesOfChunk = kChunk / kTileColumns;

    // Rows of a member; `before`: those of all blocks before it.
    struct Block {
        const Member<T, Consumer>* member;
        long first, rows, before;

        const Consumer& consumer() const { return member->consumer; }
        Span met(long j0, long cols) const { return consumer().met(first, rows, j0, cols); }
    };

    // A super-block of rows: blocks whose factors and states are in memory at the same time.
    struct Step {
        std::span<const Block> all;
        long block;  // the most rows of a block
        Factor* row_space;
        long row;
        State* states;
        long state_size;  // bytes of memory from the walk

        long blocks() const { return long(all.size()); }
        const Block& at(long b) const { return all[std::size_t(b)]; }
        State& state(long b) const { return states[b]; }
    };

    long width() const { return members_[0].rows.width(); }

    std::vector<Block> blocks_of(long block) const {
        std::vector<Block> all;
        long before = 0;
        for (const auto& member : members_)
            for (long i = 0; i < member.rows.count; i += block) {
                all.push_back({&member, i, std::min(block, member.rows.count - i), before});
                before += all.back().rows;
            }
        return all;
    }

    // States of blocks of at most `block` rows, each with `size` bytes of the memory.
    std::vector<State> make_states(long count, long block, std::byte* memory, long size) const {
        std::vector<State> states;
        states.reserve(std::size_t(count));
        for (long i = 0; i < count; ++i) {
            Space space(memory + i * size);
            states.push_back(members_[0].consumer.make(space, block));
        }
        return states;
    }

    // At least eight blocks for each of several threads, so that none waits long for the last, unless they
    // would be smaller than a strip (or two micro-tiles). If all rows fit in one block and there are many
    // columns, each member is one block: the threads then share the columns.
    long row_block() const {
        const long mr = A::mr(), most = std::max(Consumer::kRowBlock / mr * mr, mr);
        const long whole = std::min(round_up(most_rows_, mr), most);
        if (team_.size() == 1) return whole;
        if (total_rows_ <= most && operands_[0].points.count >= 2 * team_.size() * kChunk) return whole;
        const long least = std::min(std::max(2 * mr, A::strip()), most);
        return std::clamp(total_rows_ / (8 * team_.size()) / mr * mr, least, most);
    }

    // True if this many rows read all columns in place.
    bool read_in_place(long rows) const {
        return std::all_of(operands_.begin(), operands_.end(),
                           [&](const Operand<A>& o) { return o.read_in_place(rows); });
    }

    // The tiles of m columns from j on that any row of the super-block may use.
    void pack(const Step& s, long j, long m, Factor* packed) const {
        team_.for_each(ceil_div(m, kTileColumns), [&](long t) {
            const long first = j + t * kTileColumns, cols = std::min(kTileColumns, m - t * kTileColumns);
            const auto uses = [&](const Block& b) { return !b.met(first, cols).empty(); };
            if (std::none_of(s.all.begin(), s.all.end(), uses)) return;
            Factor* tile = packed + t * tile_stride_;
            for (const Operand<A>& o : operands_) {
                o.pack(first, cols, tile);
                tile += o.tile_size();
            }
        });
    }

    // Packs the operands that these rows do not read in place.
    void pack_tile(long j0, long cols, Factor* tile, long rows) const {
        for (const Operand<A>& o : operands_) {
            if (!o.read_in_place(rows)) o.pack(j0, cols, tile);
            tile += o.tile_size();
        }
    }

    // Rows of block b as factors; computed at the first step.
    Rows<A> rows_of(const Step& s, long b, bool first) const {
        const Block& of = s.at(b);
        const Points<T> part = of.member->rows.sub(of.first, of.rows);
        Factor* space = s.row_space + (of.before - s.at(0).before) * s.row;
        if (first || factors_are_points<A>(part)) return rows_in<A>(part, heads_, space);
        return {space, s.row, 1, s.row / heads_};
    }

    // Columns j .. j + m - 1 against a super-block of rows. The first step initializes the states, the last
    // one finishes them.
    void step(const Step& s, long j, long m, const Factor* packed, bool first, bool last) const {
        const long chunks = ceil_div(m, kChunk);
        if (s.blocks() >= team_.size() || chunks <= 1) {
            team_.for_each(s.blocks(), [&](long task) {
                const long b = s.blocks() - 1 - task;  // the last rows have most work under the causal rule
                const Block& block = s.at(b);
                const Consumer& consumer = block.consumer();
                const Rows<A> f = rows_of(s, b, first);
                State& state = s.state(b);
                if (first) consumer.init(state, block.rows);
                const auto for_each_chunk = [&](const auto& take) {
                    for (long c = 0; c < chunks; ++c) {
                        const long at = c * kChunk;  // a chunk outside of the band adds nothing
                        if (block.met(j + at, std::min(kChunk, m - at)).empty()) continue;
                        poll();
                        take(c);
                    }
                };
                // A chunk merged into the state of no columns is the chunk.
                const bool direct = Consumer::kOrderFree || (first && chunks == 1);
                if (direct) {
                    for_each_chunk([&](long c) { chunk(s, b, f, j, m, c, packed, state); });
                } else {
                    Arena::Scope scratch;
                    Space space(static_cast<std::byte*>(scratch.bytes(std::size_t(s.state_size))));
                    State partial = consumer.make(space, s.block);
                    for_each_chunk([&](long c) {
                        consumer.init(partial, block.rows);
                        chunk(s, b, f, j, m, c, packed, partial);
                        consumer.merge(state, partial, block.rows);
                    });
                }
                if (last) consumer.finish(state, block.first, block.rows);
            });
            return;
        }
        // Few rows: the threads take parts of the chunks, a wave of them at a time, and merge them in order.
        team_.for_each(s.blocks(), [&](long b) {
            rows_of(s, b, first);
            if (first) s.at(b).consumer().init(s.state(b), s.at(b).rows);
        });
        // If merges commute, one state accumulates all chunks of a task; starting afresh would discard, say,
        // the k best values so far.
        const long each = Consumer::kOrderFree ? ceil_div(chunks, 4 * team_.size()) : 1;
        const long parts = ceil_div(chunks, each);
        const long fit = kWorkspace / 2 / std::max(s.blocks() * s.state_size, 1L);
        const long wave = std::min(std::max(fit, 4L * team_.size()), parts);
        const Buffer<std::byte> memory(s.blocks() * wave * s.state_size);
        std::vector<State> partials = make_states(s.blocks() * wave, s.block, memory.get(), s.state_size);
        for (long c0 = 0; c0 < parts; c0 += wave) {
            const long count = std::min(wave, parts - c0);
            const auto partial = [&](long b, long c) -> State& {
                return partials[std::size_t(b * wave + c)];
            };
            team_.for_each(s.blocks() * count, [&](long task) {
                const long b = task / count, c = task % count;
                s.at(b).consumer().init(partial(b, c), s.at(b).rows);
                const long end = std::min(chunks, (c0 + c + 1) * each);
                for (long at = (c0 + c) * each; at < end; ++at)
                    chunk(s, b, rows_of(s, b, false), j, m, at, packed, partial(b, c));
            });
            for (long b = 0; b < s.blocks(); ++b)
                for (long c = 0; c < count; ++c)
                    s.at(b).consumer().merge(s.state(b), partial(b, c), s.at(b).rows);
        }
        if (last)
            for (long b = 0; b < s.blocks(); ++b)
                s.at(b).consumer().finish(s.state(b), s.at(b).first, s.at(b).rows);
    }

    void chunk(const Step& s, long b, const Rows<A>& f, long j, long m, long c, const Factor* packed,
               State& state) const {
        const Block& block = s.at(b);
        const Consumer& consumer = block.consumer();
        const long i0 = block.first, rows = block.rows, strip = A::strip();
        const long depth = width() / heads_;
        const long end = std::min(m, (c + 1) * kChunk);
        for (long t = c * kChunk; t < end; t += kTileColumns) {
            const long cols = std::min(kTileColumns, end - t);
            if (block.met(j + t, cols).empty()) continue;
            Arena::Scope scratch;
            const long products = kReceivesTogether<Consumer> ? 1 + long(block.member->more.size()) : 1;
            const Factor* tile = packed ? packed + t / kTileColumns * tile_stride_ : nullptr;
            if (!packed) {
                Factor* own = scratch.take<Factor>(tile_stride_);
                pack_tile(j + t, cols, own, rows);
                tile = own;
            }
            const long count = long(operands_.size());
            auto* of_tile = scratch.take<TileOperand<A>>(count);
            auto* operands = scratch.take<TileOperand<A>>(count);
            for (std::size_t o = 0; o < operands_.size(); tile += operands_[o++].tile_size())
                of_tile[o] = operands_[o].in_tile(tile, !packed && operands_[o].read_in_place(rows), j + t);
            T* space = scratch.take<T>(products * strip * kTileColumns);
            for (long r0 = 0; r0 < rows; r0 += strip) {
                const long n = std::min(strip, rows - r0);
                const Span met = whole_panels(consumer.met(i0 + r0, n, j + t, cols), cols);
                if (met.empty()) continue;
                for (long o = 0; o < count; ++o) operands[o] = of_tile[o].from(met.begin);
                const auto of_strip = [&](T* to, long ld, long h) -> Tile<A> {
                    return {to,
                            ld,
                            i0 + r0,
                            n,
                            j + t + met.begin,
                            met.end - met.begin,
                            r0,
                            h,
                            operands,
                            strip * kTileColumns};
                };
                if constexpr (kReceivesTogether<Consumer>) {
                    for (long p = 0; p < products; ++p) {
                        Tile<A> r = of_strip(space + p * strip * kTileColumns, kTileColumns, p);
                        Finish<T> finish{.scale = scale_};
                        consumer.destination(r, finish);
                        const Points<T>& rows_of_p = p == 0 ? block.member->rows : block.member->more[p - 1];
                        operands[p].product(rows_of_p.at(i0 + r0), rows_of_p.row, rows_of_p.col, 0, n, r.cols,
                                            rows_of_p.dim, r.r, r.ld, finish);
                    }
                    consumer.accept(state, of_strip(space, kTileColumns, 0));
                    continue;
                }
                for (long h = 0; h < heads_; ++h) {
                    Tile<A> r = of_strip(nullptr, 0, h);
                    Finish<T> finish{.scale = scale_};
                    consumer.destination(r, finish);
                    if (!r.r) {
                        r.r = space;
                        r.ld = kTileColumns;
                    }
                    operands[0].product(f.at(r0, h), f.row, f.col, h * A::padded(depth), n, r.cols, depth,
                                        r.r, r.ld, finish);
                    consumer.accept(state, r);
                }
            }
        }
    }

    // The range widened to whole panels, where packed columns begin; values keep their lanes. The pairs added
    // by this change no sum, since the consumer masks them.
    static Span whole_panels(Span met, long cols) {
        if (met.empty()) return met;
        return {met.begin / A::nr() * A::nr(), std::min(round_up(met.end, A::nr()), cols)};
    }

    const Team& team_;
    const Members members_;
    const std::vector<Operand<A>>& operands_;
    const T scale_;
    const long heads_;
    long tile_stride_ = 0;
    long total_rows_ = 0, most_rows_ = 0;  // of all members; of one
};

template <class A, class Consumer>
void walk_pairs(const Team& team, const std::vector<Member<typename A::Value, Consumer>>& members,
                const std::vector<Operand<A>>& operands, typename A::Value scale, long heads) {
    PairWalk<A, Consumer>(team, members, operands, scale, heads).run();
}

template <class A, class Consumer>
void walk_pairs(const Team& team, const Points<typename A::Value>& rows,
                const std::vector<Operand<A>>& operands, typename A::Value scale, long heads,
                const Consumer& consumer) {
    const Member<typename A::Value, Consumer> all{rows, consumer};
    PairWalk<A, Consumer>(team, {&all, 1}, operands, scale, heads).run();
}

}  // namespace rk
