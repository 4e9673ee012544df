// The product of tiles of 16-bit factors on sm_90a: 128 x 128 sums per block, with factors loaded by the copy
// engine.
//
// Tile shapes: C is 128 x 128 floats, 64 x 128 for each of two warpgroups (64 registers per thread); A and B
// are loaded in boxes of 128 rows x 64 depths (16 KiB). Two blocks share a multiprocessor, so that one stores
// its tile while the other multiplies: each has 113 KiB of shared memory and 96 registers per thread. An
// additional warp issues the copies. Registers are not reallocated between warps (setmaxnreg): that requires
// a whole warpgroup of copying threads, and with two blocks it would leave 104 registers to the multiplying
// threads, which need no more than 96.
//
// A block processes a run of tiles, row after row. If all depths of A's rows fit (kResident boxes, 256
// depths), they stay in shared memory for the whole row of tiles and only B is loaded for each tile: half the
// traffic with the L2 cache.
//
// Pipeline: kStages slots for B. The phase of a slot's `full` barrier ends when its bytes have arrived, that
// of `empty` when all 8 warps have finished reading. Box number p, counted over all tiles, uses slot p %
// kStages in that slot's phase p / kStages.
//
// An inner product is a single chain over the depth in steps of 16: its bits depend on the depth alone.
#pragma once

#include "device_sm90.cuh"

namespace rk::cuda::sm90 {

constexpr int kBlockRows = 128, kBlockColumns = 128;
constexpr int kStages = 3, kResident = 4;
constexpr int kWarps = 8;  // multiplying
constexpr int kThreads = 32 * (kWarps + 1);
constexpr int kBoxBytes = kBlockRows * kRowBytes;
static_assert(kBlockRows == kBlockColumns && kBlockRows == 2 * kProductRows &&
              kBlockColumns == kProductColumns);
static_assert(kStages <= kResident, "slots of A are the stages of A if it is not resident");

struct Pipeline {
    char a[kResident][kBoxBytes];
    char b[kStages][kBoxBytes];
    Barrier full[kStages], empty[kStages];
};
static_assert(2 * (sizeof(Pipeline) + 1024) <= 228 * 1024, "two blocks share a multiprocessor");

RK_DEVICE void init_pipeline(Pipeline& pipe) {
    if (thread_index() == 0) {
        for (int s = 0; s < kStages; ++s) {
            init_barrier(&pipe.full[s], 1);
            init_barrier(&pipe.empty[s], kWarps);
        }
        publish_barriers();
    }
    sync_block();
}

// The position of a box in the pipeline; the copying thread and the multiplying warps count alike.
struct Position {
    int stage = 0;
    unsigned parity = 0;  // of the phase that this box fills

    RK_DEVICE int stage_before() const { return stage == 0 ? kStages - 1 : stage - 1; }
    RK_DEVICE void advance() {
        if (++stage == kStages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// Called by the copying thread: loads the boxes of the tile at (row, column) of an item. `fresh_rows`: the
// tile before had other rows of A.
RK_DEVICE void bring_tile(Pipeline& pipe, Position& at, const TensorMap& a, const TensorMap& b, int item_a,
                          int item_b, int row, int column, int boxes, bool fresh_rows) {
    const bool resident = boxes <= kResident;
    const bool bring_a = fresh_rows || !resident;
    // Earlier tiles read the slots of A; the warps may still be reading the last kStages boxes.
    if (resident && fresh_rows) {
        Position earlier = at;
        for (int s = 0; s < kStages; ++s) {
            wait(&pipe.empty[earlier.stage], earlier.parity ^ 1);
            earlier.advance();
        }
    }
    for (int k = 0; k < boxes; ++k, at.advance()) {
        wait(&pipe.empty[at.stage], at.parity ^ 1);  // returns at once in a slot's first phase
        arrive_expecting(&pipe.full[at.stage], bring_a ? 2 * kBoxBytes : kBoxBytes);
        if (bring_a)
            copy_box(pipe.a[resident ? k : at.stage], a, &pipe.full[at.stage], k * kRowValues, row, item_a);
        copy_box(pipe.b[at.stage], b, &pipe.full[at.stage], k * kRowValues, column, item_b);
    }
}

// Called by the multiplying warps: sums <- A B^T of the tile, over all its boxes.
template <class Half>
RK_DEVICE void multiply_tile(Pipeline& pipe, Position& at, int boxes, float (&sums)[64]) {
    const bool resident = boxes <= kResident;
    const int half_rows = warp_index() / 4 * kProductRows * kRowBytes;
    const bool first_lane = lane_index() == 0;
    const auto multiply_box = [&](int k) {
        wait(&pipe.full[at.stage], at.parity);
        const std::uint64_t a = descriptor(pipe.a[resident ? k : at.stage] + half_rows);
        const std::uint64_t b = descriptor(pipe.b[at.stage]);
        begin_products();
#pragma unroll
        for (int step = 0; step < kRowValues / kStepValues; ++step)
            multiply_64x128x16(sums, a + step * kStep, b + step * kStep, k + step > 0, Half{});
        commit_products();
    };
    multiply_box(0);
    at.advance();
    for (int k = 1; k < boxes; ++k) {
        multiply_box(k);
        wait_products<1>();
        if (first_lane) arrive(&pipe.empty[at.stage_before()]);
        at.advance();
    }
    wait_products<0>();
    settle(sums);
    if (first_lane) arrive(&pipe.empty[at.stage_before()]);
}

}  // namespace rk::cuda::sm90
