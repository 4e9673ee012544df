// The hardware interface of the CUDA kernels: 16-bit floats, operations of warps and blocks, asynchronous
// copies, tensor-core products, launches. Kernels use the hardware only through it, as the CPU's kernels do
// through csrc/simd/simd.hpp. With RK_CUDA_EMULATED, tests/cuda_emulation defines the same names: kernels
// then run unmodified on the CPU, each thread of a block as a fiber.
//
// Instructions: PTX ISA, sm_80 and newer; the layouts of fragments are those of its sections on
// mma.m16n8k16, mma.m16n8k8 and ldmatrix.
#pragma once

#include <cstdint>

#ifdef RK_CUDA_EMULATED
#include "emulator.hpp"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define RK_HOST_DEVICE __host__ __device__ __forceinline__
#define RK_DEVICE __device__ __forceinline__
// Functions that stay functions: code that is long or rare, and would otherwise be compiled again for each of
// a thread's 32 pairs.
#define RK_DEVICE_CALL __device__ __noinline__
#define RK_KERNEL(threads) __global__ void __launch_bounds__(threads, 1)

namespace rk::cuda {

// ---- 16-bit floats, stored as their bits

struct bfloat16 {
    std::uint16_t bits;
};
struct float16 {
    std::uint16_t bits;
};

RK_DEVICE float widen(bfloat16 x) { return __uint_as_float(std::uint32_t(x.bits) << 16); }
RK_DEVICE float widen(float16 x) { return __half2float(__ushort_as_half(x.bits)); }
// Rounds to nearest, ties to even.
RK_DEVICE void narrow(float x, bfloat16& to) { to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
RK_DEVICE void narrow(float x, float16& to) { to.bits = __half_as_ushort(__float2half_rn(x)); }

// ---- Indices of a thread

RK_DEVICE int thread_index() { return int(threadIdx.x); }
RK_DEVICE int lane_index() { return int(threadIdx.x & 31); }
RK_DEVICE int warp_index() { return int(threadIdx.x >> 5); }
RK_DEVICE unsigned block_index() { return blockIdx.x; }
RK_DEVICE unsigned block_row() { return blockIdx.y; }
RK_DEVICE unsigned block_count() { return gridDim.x; }
RK_DEVICE int block_threads() { return int(blockDim.x); }

// Dynamic shared memory of the block, aligned to 128 bytes.
RK_DEVICE char* shared_memory() {
    extern __shared__ __align__(128) char memory[];
    return memory;
}

// ---- Synchronization and exchange between threads

RK_DEVICE void sync_block() { __syncthreads(); }
RK_DEVICE bool any_in_block(bool predicate) { return __syncthreads_or(predicate) != 0; }
RK_DEVICE void sync_warp() { __syncwarp(); }
template <class T>
RK_DEVICE T shuffle_xor(T value, int mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <class T>
RK_DEVICE T shuffle(T value, int lane) {
    return __shfl_sync(0xffffffffu, value, lane);
}
// Increments a counter in shared memory and returns its previous value. Integers only: no floating-point sum
// may depend on the order of threads.
RK_DEVICE int count_up(int* counter) { return atomicAdd(counter, 1); }
// Sets bits of a word in shared memory that several threads write to.
RK_DEVICE void set_bits(std::uint64_t* word, std::uint64_t bits) {
    static_assert(sizeof(unsigned long long) == sizeof(std::uint64_t));
    atomicOr(reinterpret_cast<unsigned long long*>(word), bits);
}
RK_DEVICE int count_bits(std::uint64_t word) { return __popcll(word); }

// ---- Asynchronous copies from global to shared memory, 16 bytes per thread

RK_DEVICE std::uint32_t shared_address(const void* p) { return std::uint32_t(__cvta_generic_to_shared(p)); }

// Copies `bytes` (0 to 16) bytes and fills the rest of the 16 with zeros.
RK_DEVICE void copy16_async(void* to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(bytes)
                 : "memory");
}
RK_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until all but the last N groups of this thread have arrived.
template <int N>
RK_DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- Tensor cores. Every thread of a warp takes part; g = lane / 4, t = lane % 4.

// Loads four 8 x 8 matrices of 16-bit values: lanes 8 i to 8 i + 7 pass the addresses of the rows of matrix
// i, and r[i] receives its values (g, 2 t) and (g, 2 t + 1).
RK_DEVICE void load_matrices(std::uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// The same with transposed matrices: r[i] receives values (2 t, g) and (2 t + 1, g).
RK_DEVICE void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c (16 x 8: rows g, g + 8, columns 2 t, 2 t + 1) += a (16 x 16) b (16 x 8)
RK_DEVICE void multiply_16x8x16(float* c, const std::uint32_t* a, const std::uint32_t* b, bfloat16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
RK_DEVICE void multiply_16x8x16(float* c, const std::uint32_t* a, const std::uint32_t* b, float16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// c (16 x 8) += a (16 x 8) b (8 x 8), factors in TF32 (10 bits of fraction).
// a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); b: (t, g), (t + 4, g).
RK_DEVICE void multiply_16x8x8(float* c, const std::uint32_t* a, const std::uint32_t* b) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
RK_DEVICE std::uint32_t round_to_tf32(float x) {
    std::uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

// ---- Launches

using Stream = cudaStream_t;

// `block_rows` is the grid's second dimension. The runtime keeps an error of the launch until check_launch
// (context.hpp) fetches it.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), long blocks, long block_rows, int threads, long shared_bytes,
            Stream stream, const Arguments&... arguments) {
    if (shared_bytes > 48 * 1024)
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    kernel<<<dim3(unsigned(blocks), unsigned(block_rows)), unsigned(threads), std::size_t(shared_bytes),
             stream>>>(arguments...);
}

}  // namespace rk::cuda

#endif

namespace rk::cuda {

inline constexpr float kInfinity = __builtin_huge_valf();

RK_DEVICE float widen(float x) { return x; }
RK_DEVICE double widen(double x) { return x; }
RK_DEVICE void narrow(float x, float& to) { to = x; }
RK_DEVICE void narrow(double x, double& to) { to = x; }

// Two 16-bit floats in one register, the first in the low half.
template <class Half>
RK_DEVICE std::uint32_t pair_of(float first, float second) {
    Half a, b;
    narrow(first, a);
    narrow(second, b);
    return std::uint32_t(a.bits) | std::uint32_t(b.bits) << 16;
}

}  // namespace rk::cuda
