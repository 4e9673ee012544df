// The walk over pairs for gradients of both sides: each tile of pairs is made once, and adds to sums of its
// rows and to sums of its columns.
//
// The columns are cut into at most kMostLanes lanes, each a range of blocks of columns. A lane is the only
// one that adds to the sums of its columns, and has its own partial sums of the rows. The rows are those of
// one or several members of a group (base/batches.hpp), which share the columns. Few lanes leave little work
// for several threads, so the members may be cut into parts, each with its own sums of the columns. What
// happens to a tile is up to `Tiles`:
//
//   size_of_rows(), size_of_columns()  elements of a packed block of kLaneRows rows, of kLaneColumns columns
//   pack_rows(block, to), pack_columns(j, m, to)
//   State                      partial sums of a block of rows: pointers into memory that the walk owns
//   make(space, rows)          a State for at most this many rows, with arrays taken from `space`
//   tile(state, first, block, j, m, rows, columns)
//                              folds a block of rows and columns [j, j + m) into the state, which is not
//                              initialized where `first`, and adds to the block's part of the columns' sums
//   merge(into, from, n)       joins the states of two ranges of columns, left to right
//   finish(state, block)       writes the result of a block of rows
//   merge_columns(part, j, m)  adds the sums of a later part to those of the first
//   finish_columns(j, m)       after the last part
//
// Order of sums (invariant): within a tile as the kernels fix it; the tiles of a lane in order; lanes merged
// in order. Lanes depend on the number of columns alone, so that the sums of a row depend neither on threads
// nor on other rows. Parts depend on the numbers of columns and of members, and are merged in order too.
//
// Memory: states and packed blocks for a super-block of rows, 16 MiB each.
#pragma once

#include <algorithm>
#include <vector>

#include "base/arrays.hpp"
#include "base/threads.hpp"
#include "kernels/table.hpp"
#include "walk/pairs.hpp"

namespace rk {

inline constexpr long kLaneRows = 128, kLaneColumns = 128;  // of a tile: with its operands in L2
inline constexpr long kMostLanes = 32;

// to(r, :) += sum_c weights(r, c) values(c, :), of `count` packed rows of values. Pairs that the mask forbids
// contribute nothing, even where their values are NaN or infinite.
template <class T>
void add_products(const T* weights, long row, long col, long rows, long count, const T* values,
                  long panel_stride, long columns, const Mask& allowed, T* to) {
    const Kernels<T>& k = kernels<T>();
    bool clean = true;
    for (long c = 0; clean && !allowed.empty() && c < columns; c += k.nr)
        clean = k.all_finite(values + c / k.nr * panel_stride, count * k.nr);
    if (clean)
        return k.product(weights, row, col, values, panel_stride, rows, columns, count, to, columns,
                         {.accumulate = true});
    Arena::Scope scratch;
    if (col != 1) {
        T* turned = scratch.take<T>(rows * count);
        k.transpose(weights, col, count, rows, turned, count, false);
        weights = turned;
        row = count;
    }
    k.masked_product(weights, row, values, panel_stride, rows, columns, count, to, columns, allowed, 0, 0);
}

// Rows of a member.
struct LaneBlock {
    long member, first, rows, part;
};

// How m columns are cut.
template <class T>
struct Lanes {
    long m;
    // Columns of a block: few are cut finer, so that there is work for several threads.
    long each = std::min(kLaneColumns, std::max(round_up(ceil_div(m, 8), kernels<T>().nr), 32L));
    long blocks = ceil_div(m, each);
    long blocks_of_lane = std::max(ceil_div(blocks, kMostLanes), 1L);
    long count = ceil_div(blocks, blocks_of_lane);

    // The parts that this many members should be cut into.
    long parts(long members) const {
        return std::clamp(kMostLanes / std::max(count, 1L), 1L, std::max(members, 1L));
    }
};

template <class T, class Tiles>
class LaneWalk {
   public:
    // members: their numbers of rows.
    LaneWalk(const std::vector<long>& members, long columns, long parts, const Tiles& tiles)
        : lanes_{columns}, parts_(parts), tiles_(tiles) {
        const long count = long(members.size());
        for (long i = 0; i < count; ++i)
            for (long row = 0; row < members[std::size_t(i)]; row += kLaneRows)
                blocks_.push_back(
                    {i, row, std::min(kLaneRows, members[std::size_t(i)] - row), i * parts / count});
        Space counted;
        tiles_.make(counted, kLaneRows);
        state_ = counted.used();
    }

    void run(const Team& team) const {
        const long packed_block = tiles_.size_of_rows();
        const long bytes = std::max({lanes_.count * state_, packed_block * long(sizeof(T)), 1L});
        const long most = std::min(std::max(kWorkspace / bytes, 1L), long(blocks_.size()));
        const Buffer<T> packed(most * packed_block);
        const Buffer<std::byte> memory(most * lanes_.count * state_);
        std::vector<State> states;  // block by block, lane by lane
        states.reserve(std::size_t(most * lanes_.count));
        for (long s = 0; s < most * lanes_.count; ++s) {
            Space space(memory.get() + s * state_);
            states.push_back(tiles_.make(space, kLaneRows));
        }
        const auto state = [&](long b, long lane) -> State& {
            return states[std::size_t(b * lanes_.count + lane)];
        };
        for (long first = 0; first < long(blocks_.size()); first += most) {
            const LaneBlock* const block = blocks_.data() + first;
            const long count = std::min(most, long(blocks_.size()) - first);
            team.for_each(count,
                          [&](long b) { tiles_.pack_rows(block[b], packed.get() + b * packed_block); });
            team.for_each(lanes_.count * parts_, [&](long task) {
                const long lane = task / parts_, part = task % parts_;
                const auto begins = [&](long p) {
                    return std::find_if(block, block + count,
                                        [p](const LaneBlock& b) { return b.part >= p; }) -
                           block;
                };
                const long begin = begins(part), end = begins(part + 1);
                if (begin == end) return;
                Arena::Scope scratch;
                T* columns = scratch.take<T>(tiles_.size_of_columns());
                const long from = lane * lanes_.blocks_of_lane;
                const long to = std::min(from + lanes_.blocks_of_lane, lanes_.blocks);
                for (long at = from; at < to; ++at) {
                    const long j = at * lanes_.each, m = std::min(lanes_.each, lanes_.m - j);
                    tiles_.pack_columns(j, m, columns);
                    for (long b = begin; b < end; ++b) {
                        poll();
                        tiles_.tile(state(b, lane), at == from, block[b], j, m,
                                    packed.get() + b * packed_block, columns);
                    }
                }
            });
            team.for_each(count, [&](long b) {
                for (long lane = 1; lane < lanes_.count; ++lane)
                    tiles_.merge(state(b, 0), state(b, lane), block[b].rows);
                tiles_.finish(state(b, 0), block[b]);
            });
        }
        team.for_each(lanes_.blocks, [&](long at) {
            const long j = at * lanes_.each, m = std::min(lanes_.each, lanes_.m - j);
            for (long part = 1; part < parts_; ++part) tiles_.merge_columns(part, j, m);
            tiles_.finish_columns(j, m);
        });
    }

   private:
    using State = typename Tiles::State;

    const Lanes<T> lanes_;
    const long parts_;
    const Tiles& tiles_;
    std::vector<LaneBlock> blocks_;
    long state_;  // bytes
};

// members: their numbers of rows. parts: 1, or at most lanes.parts(members). Nothing is called without rows
// or without columns.
template <class T, class Tiles>
void walk_lanes(const Team& team, const std::vector<long>& members, long columns, long parts,
                const Tiles& tiles) {
    const bool no_rows = std::all_of(members.begin(), members.end(), [](long rows) { return rows == 0; });
    if (!no_rows && columns > 0) LaneWalk<T, Tiles>(members, columns, parts, tiles).run(team);
}

}  // namespace rk
