// The walk over pairs for gradients of both sides: each tile of pairs is made once, and adds to sums of its
// rows and to sums of its columns.
//
// The columns are cut into at most kMostLanes lanes, each a range of blocks of columns. A lane is the only
// one that adds to the sums of its columns, and has its own partial sums of the rows. What happens to a tile
// is up to `Tiles`:
//
//   size_of_rows(), size_of_columns()  elements of a packed block of kLaneRows rows, of kLaneColumns columns
//   pack_rows(i, n, to), pack_columns(j, m, to)
//   State                      partial sums of a block of rows: pointers into memory that the walk owns
//   make(space, rows)          a State for at most this many rows, with arrays taken from `space`
//   tile(state, first, i, n, j, m, rows, columns)
//                              folds rows [i, i + n) and columns [j, j + m) into the state, which is not
//                              initialized where `first`, and adds to the sums of the columns
//   merge(into, from, n)       joins the states of two ranges of columns, left to right
//   finish(state, i, n)        writes the result of a block of rows
//   finish_columns(j, m)       after the last block of rows
//
// Order of sums (invariant): within a tile as the kernels fix it; the tiles of a lane in order; lanes merged
// in order. Lanes depend on the number of columns alone, so that the sums of a row depend neither on threads
// nor on other rows.
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

template <class T, class Tiles>
class LaneWalk {
   public:
    LaneWalk(long rows, long columns, const Tiles& tiles) : n_(rows), m_(columns), tiles_(tiles) {
        // Few columns are cut finer, so that there is work for several threads.
        each_ = std::min(kLaneColumns, std::max(round_up(ceil_div(m_, 8), kernels<T>().nr), 32L));
        blocks_ = ceil_div(m_, each_);
        of_lane_ = ceil_div(blocks_, kMostLanes);
        lanes_ = ceil_div(blocks_, of_lane_);
        Space counted;
        tiles_.make(counted, kLaneRows);
        state_ = counted.used();
    }

    void run(const Team& team) const {
        const long packed_block = tiles_.size_of_rows();
        const long bytes = std::max(lanes_ * state_, packed_block * long(sizeof(T)));
        const long most = std::min(std::max(kWorkspace / bytes, 1L), ceil_div(n_, kLaneRows));
        const Buffer<T> packed(most * packed_block);
        const Buffer<std::byte> memory(most * lanes_ * state_);
        std::vector<State> states;  // block by block, lane by lane
        states.reserve(std::size_t(most * lanes_));
        for (long s = 0; s < most * lanes_; ++s) {
            Space space(memory.get() + s * state_);
            states.push_back(tiles_.make(space, kLaneRows));
        }
        const auto state = [&](long b, long lane) -> State& {
            return states[std::size_t(b * lanes_ + lane)];
        };
        for (long i0 = 0; i0 < n_; i0 += most * kLaneRows) {
            const long blocks = std::min(most, ceil_div(n_ - i0, kLaneRows));
            const bool last = i0 + blocks * kLaneRows >= n_;
            const auto rows = [&](long b) { return std::min(kLaneRows, n_ - i0 - b * kLaneRows); };
            team.for_each(blocks, [&](long b) {
                tiles_.pack_rows(i0 + b * kLaneRows, rows(b), packed.get() + b * packed_block);
            });
            team.for_each(lanes_, [&](long lane) {
                Arena::Scope scratch;
                T* columns = scratch.take<T>(tiles_.size_of_columns());
                const long begin = lane * of_lane_, end = std::min(begin + of_lane_, blocks_);
                for (long block = begin; block < end; ++block) {
                    const long j = block * each_, m = std::min(each_, m_ - j);
                    tiles_.pack_columns(j, m, columns);
                    for (long b = 0; b < blocks; ++b) {
                        poll();
                        tiles_.tile(state(b, lane), block == begin, i0 + b * kLaneRows, rows(b), j, m,
                                    packed.get() + b * packed_block, columns);
                    }
                    if (last) tiles_.finish_columns(j, m);
                }
            });
            team.for_each(blocks, [&](long b) {
                for (long lane = 1; lane < lanes_; ++lane) tiles_.merge(state(b, 0), state(b, lane), rows(b));
                tiles_.finish(state(b, 0), i0 + b * kLaneRows, rows(b));
            });
        }
    }

   private:
    using State = typename Tiles::State;

    const long n_, m_;
    const Tiles& tiles_;
    long each_, blocks_;    // columns of a block; blocks
    long of_lane_, lanes_;  // blocks of a lane; lanes
    long state_;            // bytes
};

template <class T, class Tiles>
void walk_lanes(const Team& team, long rows, long columns, const Tiles& tiles) {
    if (rows > 0 && columns > 0) LaneWalk<T, Tiles>(rows, columns, tiles).run(team);
}

}  // namespace rk
