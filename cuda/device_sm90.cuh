// The part of the hardware interface that needs sm_90a: barriers in shared memory that count bytes, the bulk
// tensor copy engine, and products of a whole warpgroup (128 threads) with factors in shared memory.
//
// Sources: PTX ISA 8.0 and later, sections mbarrier, cp.async.bulk.tensor, Tensor swizzling modes,
// Asynchronous warpgroup level matrix instructions. The descriptor was compared with cute::GmmaDescriptor of
// CUTLASS (include/cute/arch/mma_sm90_desc.hpp) and the layouts it accepts
// (include/cute/atom/mma_traits_sm90_gmma.hpp).
//
// A tile of factors in shared memory consists of consecutive rows of 128 bytes (64 values of 16 bits), at an
// address that is a multiple of 1,024 bytes. Its 16-byte chunks are swizzled: chunk c of row r is stored as
// chunk c ^ (r % 8). In terms of addresses, bits 4 to 6 are XORed with bits 7 to 9. The copy engine writes
// and the matrix unit reads this layout without bank conflicts.
//
// Descriptor of such a tile, 64 bits:
//   0-13   address of the first row, bits 4 to 17      (14, 15 unused)
//   16-29  leading byte offset / 16: distance between columns; not used by swizzled K-major tiles, 1
//   32-45  stride byte offset / 16: from 8 rows to the next 8, 1,024 bytes
//   49-51  base offset: 0, because the pattern of 8 rows starts at a multiple of 1,024 bytes
//   62-63  swizzle: 0 none, 1 128 bytes, 2 64 bytes, 3 32 bytes
// A step of 16 values along the depth adds 32 bytes to the address: the swizzle is applied to the final
// address, so the step stays within the row of 128 bytes.
#pragma once

#include "device.cuh"

namespace rk::cuda::sm90 {

constexpr int kRowBytes = 128;                         // of a tile of factors
constexpr int kRowValues = 64;                         // of 16 bits
constexpr int kStepValues = 16;                        // depth of one product
constexpr std::uint64_t kStep = kStepValues * 2 / 16;  // the same in a descriptor
constexpr int kProductRows = 64, kProductColumns = 128;

}  // namespace rk::cuda::sm90

#ifdef RK_CUDA_EMULATED
#include "emulator_sm90.hpp"
#else

#include <cuda.h>

#define RK_KERNEL_SM90(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define RK_GRID_CONSTANT __grid_constant__

namespace rk::cuda::sm90 {

// Dynamic shared memory of the block, on a boundary of the swizzle pattern.
RK_DEVICE char* shared_memory() {
    extern __shared__ __align__(1024) char swizzled_memory[];
    return swizzled_memory;
}

// ---- Barriers. A phase ends after `count` arrivals and all expected bytes; phases alternate between parity
// 0 and 1.

using Barrier = std::uint64_t;

RK_DEVICE void init_barrier(Barrier* barrier, unsigned count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
                 : "memory");
}
// Call after init_barrier and before sync_block: makes the barriers visible to the copy engine.
RK_DEVICE void publish_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
RK_DEVICE void arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and makes the phase wait for this many bytes of copies.
RK_DEVICE void arrive_expecting(Barrier* barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}
// Waits until the phase of this parity has ended.
RK_DEVICE void wait(Barrier* barrier, unsigned parity) {
    unsigned done;
    do {
        asm volatile(
            "{\n .reg .pred p;\n"
            " mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            " selp.b32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
    } while (!done);
}

// ---- The bulk tensor copy engine

using TensorMap = CUtensorMap;

// Copies the box of the map at (depth, row, item) to shared memory; its bytes are counted by the barrier.
// Called by one thread. Values outside the tensor are zeros, and their bytes count, too.
RK_DEVICE void copy_box(void* to, const TensorMap& map, Barrier* barrier, int depth, int row, int item) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
        "%5}], "
        "[%2];" ::"r"(shared_address(to)),
        "l"(&map), "r"(shared_address(barrier)), "r"(depth), "r"(row), "r"(item)
        : "memory");
}
RK_DEVICE void prefetch(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// ---- Products of a warpgroup. They run asynchronously: between begin_products and wait_products no thread
// may access the accumulators, and the factors must stay in shared memory.

RK_DEVICE std::uint64_t descriptor(const void* tile) {
    return std::uint64_t((shared_address(tile) & 0x3ffff) >> 4) | std::uint64_t(1) << 16 |
           std::uint64_t(8 * kRowBytes / 16) << 32 | std::uint64_t(1) << 62;
}
RK_DEVICE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
RK_DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until all but the last N groups of products have finished.
template <int N>
RK_DEVICE void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Call after wait_products: keeps the compiler from moving reads of the accumulators before it.
RK_DEVICE void settle(float (&d)[64]) {
#pragma unroll
    for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define RK_ACCUMULATORS_8(i)                                                                    \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define RK_MULTIPLY_64X128X16(type)                                                                         \
    asm volatile(                                                                                           \
        "{\n .reg .pred p;\n setp.ne.b32 p, %66, 0;\n"                                                      \
        " wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                       \
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
        "%21, "                                                                                             \
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "   \
        "%41, "                                                                                             \
        "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, "   \
        "%61, "                                                                                             \
        "%62, %63}, %64, %65, p, 1, 1, 0, 0;\n}"                                                            \
        : RK_ACCUMULATORS_8(0), RK_ACCUMULATORS_8(8), RK_ACCUMULATORS_8(16), RK_ACCUMULATORS_8(24),         \
          RK_ACCUMULATORS_8(32), RK_ACCUMULATORS_8(40), RK_ACCUMULATORS_8(48), RK_ACCUMULATORS_8(56)        \
        : "l"(a), "l"(b), "r"(int(accumulate))                                                              \
        : "memory")

// d (64 x 128) <- a (64 x 16) b^T (128 x 16)  [+ d]. With g = lane / 4 and t = lane % 4, warp w of the
// warpgroup holds in d[4 j + e] row 16 w + g + 8 (e / 2), column 8 j + 2 t + e % 2.
RK_DEVICE void multiply_64x128x16(float (&d)[64], std::uint64_t a, std::uint64_t b, bool accumulate,
                                  bfloat16) {
    RK_MULTIPLY_64X128X16("bf16");
}
RK_DEVICE void multiply_64x128x16(float (&d)[64], std::uint64_t a, std::uint64_t b, bool accumulate,
                                  float16) {
    RK_MULTIPLY_64X128X16("f16");
}
#undef RK_MULTIPLY_64X128X16
#undef RK_ACCUMULATORS_8

// Transposes an 8 x 8 matrix of 16-bit values; lanes pass and receive values (g, 2 t) and (g, 2 t + 1).
RK_DEVICE std::uint32_t transpose_8x8(std::uint32_t pair) {
    std::uint32_t result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
    return result;
}

}  // namespace rk::cuda::sm90

#endif
