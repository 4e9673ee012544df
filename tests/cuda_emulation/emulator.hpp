// The hardware interface of cuda/device.cuh on the CPU, so that unmodified kernels run without a GPU.
//
// The threads of a block are fibers that yield only when they wait for each other; blocks run one after the
// other. Behaviour that a GPU leaves undefined is chosen adversarially: shared memory is initialized to NaN,
// asynchronous copies arrive only when they are waited for, and RK_EMULATED_ORDER=backward runs the threads
// in reverse order. A thread that exits while others wait for it, or a barrier that some threads never reach,
// ends the launch with an error. The emulator does not find races that happen to be harmless in both orders,
// and says nothing about speed.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#ifndef __x86_64__
#error "fibers are switched by x86-64 instructions"
#endif

#define __grid_constant__
#define RK_HOST_DEVICE inline
#define RK_DEVICE inline
#define RK_DEVICE_CALL inline
#define RK_KERNEL(threads) void

namespace rk::cuda {

// Defined for every floating-point type, as on the device.
using std::exp, std::log, std::log1p, std::expm1, std::tanh, std::erf, std::erfc, std::pow, std::sqrt,
    std::sin, std::cos;
using std::fabs, std::fma, std::isfinite, std::max, std::min;

namespace emulation {

// ---- Fibers

// Saves the callee-saved registers and the stack pointer, and resumes another stack.
__attribute__((naked, noinline)) static void switch_stack(void** /*from*/, void* /*to*/) {
    asm volatile(
        "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
        "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

// Threads wait until all expected ones have arrived.
struct Barrier {
    int arrived = 0;
    long generation = 0;
};

struct Copy {
    void* to;
    const void* from;
    int bytes;
};

struct Thread {
    void* stack = nullptr;
    std::vector<char> memory;
    bool done = false;
    const Barrier* waits_for = nullptr;
    long generation = 0;  // of that barrier when the thread arrived
    int index = 0;
    std::vector<std::vector<Copy>> groups;  // of asynchronous copies that are still in flight
    std::vector<Copy> open;
};

struct Block {
    unsigned x = 0, y = 0, count_x = 0;
    int threads = 0;
    std::vector<Thread> fibers;
    std::vector<char> shared;
    Barrier barrier;
    std::vector<Barrier> warp_barriers;
    std::vector<std::uint64_t> exchange;  // 8 words per thread, for exchange within a warp
    bool vote = false;
    void* scheduler = nullptr;
    Thread* current = nullptr;
    const std::function<void()>* body = nullptr;
    long progress = 0;
    std::shared_ptr<void> extension;  // state of emulator_sm90.hpp
    std::function<void()> at_end;     // and its checks after all threads have ended
};

inline Block& block() {
    static thread_local Block state;
    return state;
}

// Not inlined: a fiber must not keep an address of thread-local storage across a switch. It stays on one
// thread of the CPU, though.
__attribute__((noinline)) inline Thread& self() { return *block().current; }

inline void yield() {
    Block& b = block();
    switch_stack(&self().stack, b.scheduler);
}

inline void wait(Barrier& barrier, int expected) {
    Thread& me = self();
    if (++barrier.arrived == expected) {
        barrier.arrived = 0;
        ++barrier.generation;
        ++block().progress;
        return;
    }
    me.waits_for = &barrier;
    me.generation = barrier.generation;
    while (barrier.generation == me.generation) yield();
    me.waits_for = nullptr;
}

inline void enter() {
    Block& b = block();
    (*b.body)();
    Thread& me = self();
    if (!me.open.empty() || !me.groups.empty()) {
        std::fprintf(stderr, "a thread ended before its asynchronous copies were waited for\n");
        std::abort();
    }
    me.done = true;
    ++b.progress;
    for (;;) yield();
}

inline void prepare(Thread& thread) {
    constexpr std::size_t kStack = 256 * 1024;
    if (thread.memory.empty()) thread.memory.resize(kStack);
    auto top = (reinterpret_cast<std::uintptr_t>(thread.memory.data()) + kStack) & ~std::uintptr_t(63);
    auto* words = reinterpret_cast<void**>(top);
    words[-1] = nullptr;  // the return address of enter(), which never returns
    words[-2] = reinterpret_cast<void*>(&enter);
    for (int i = 3; i <= 8; ++i) words[-i] = nullptr;
    thread.stack = words - 8;
    thread.done = false;
    thread.waits_for = nullptr;
    thread.groups.clear();
    thread.open.clear();
}

inline void run_block(const std::function<void()>& body, int threads, long shared_bytes, bool backward) {
    Block& b = block();
    b.body = &body;
    b.extension.reset();
    b.at_end = nullptr;
    b.threads = threads;
    b.shared.assign(std::size_t(shared_bytes) + 1024, char(0xff));
    b.barrier = {};
    b.warp_barriers.assign(std::size_t(threads / 32), {});
    b.exchange.assign(std::size_t(threads) * 8, 0);
    if (b.fibers.size() < std::size_t(threads)) b.fibers.resize(std::size_t(threads));
    for (int i = 0; i < threads; ++i) {
        b.fibers[std::size_t(i)].index = i;
        prepare(b.fibers[std::size_t(i)]);
    }
    for (int left = threads; left > 0;) {
        const long before = b.progress;
        left = 0;
        for (int step = 0; step < threads; ++step) {
            Thread& t = b.fibers[std::size_t(backward ? threads - 1 - step : step)];
            if (t.done) continue;
            ++left;
            if (t.waits_for && t.waits_for->generation == t.generation) continue;
            b.current = &t;
            switch_stack(&b.scheduler, t.stack);
            if (t.done) --left;
        }
        if (left > 0 && b.progress == before)
            throw std::runtime_error("emulated block " + std::to_string(b.x) + ", " + std::to_string(b.y) +
                                     ": " + std::to_string(left) +
                                     " threads wait for threads that never arrive");
    }
    if (b.at_end) b.at_end();
}

inline Barrier& warp_barrier() { return block().warp_barriers[std::size_t(self().index / 32)]; }
inline std::uint64_t* slot(int thread) { return block().exchange.data() + std::size_t(thread) * 8; }

// Publishes `bytes` bytes of each lane to the whole warp, then calls read(first thread of the warp);
// slot(thread) is the address of a thread's bytes.
template <class Read>
void exchange_in_warp(const void* mine, std::size_t bytes, const Read& read) {
    std::memcpy(slot(self().index), mine, bytes);
    wait(warp_barrier(), 32);
    read(self().index / 32 * 32);
    wait(warp_barrier(), 32);
}

}  // namespace emulation

// ---- 16-bit floats

struct bfloat16 {
    std::uint16_t bits;
};
struct float16 {
    std::uint16_t bits;
};

inline float widen(bfloat16 x) {
    const std::uint32_t bits = std::uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline float widen(float16 x) {
    const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    float value;
    if (exponent == 31)
        value = fraction ? NAN : INFINITY;
    else if (exponent == 0)
        value = std::ldexp(float(fraction), -24);
    else
        value = std::ldexp(float(1024 + fraction), exponent - 25);
    return x.bits & 0x8000 ? -value : value;
}
inline void narrow(float x, bfloat16& to) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x != x)
        to.bits = 0x7fff;
    else
        to.bits = std::uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline void narrow(float x, float16& to) {
    const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    std::uint16_t bits;
    if (x != x)
        bits = 0x7fff;
    else if (size >= 65520.0f)
        bits = 0x7c00;
    else if (size < 6.103515625e-05f)
        bits = std::uint16_t(std::nearbyint(std::ldexp(size, 24)));
    else {
        int exponent;
        const float fraction =
            std::frexp(size, &exponent);  // size = fraction 2^exponent, 1/2 <= fraction < 1
        const int rounded = int(std::nearbyint(std::ldexp(fraction, 11)));
        bits = std::uint16_t(((exponent + 14) << 10) + (rounded - 1024));
    }
    to.bits = bits | sign;
}

// ---- Indices of a thread

inline int thread_index() { return emulation::self().index; }
inline int lane_index() { return emulation::self().index & 31; }
inline int warp_index() { return emulation::self().index >> 5; }
inline unsigned block_index() { return emulation::block().x; }
inline unsigned block_row() { return emulation::block().y; }
inline unsigned block_count() { return emulation::block().count_x; }
inline int block_threads() { return emulation::block().threads; }
inline char* shared_memory() {
    auto at = reinterpret_cast<std::uintptr_t>(emulation::block().shared.data());
    return reinterpret_cast<char*>((at + 1023) & ~std::uintptr_t(1023));
}

// ---- Synchronization and exchange between threads

inline void sync_block() { emulation::wait(emulation::block().barrier, emulation::block().threads); }
inline bool any_in_block(bool predicate) {
    emulation::Block& b = emulation::block();
    sync_block();
    b.vote = false;
    sync_block();
    if (predicate) b.vote = true;
    sync_block();
    return b.vote;
}
inline void sync_warp() { emulation::wait(emulation::warp_barrier(), 32); }
template <class T>
T shuffle(T value, int lane) {
    T result;
    emulation::exchange_in_warp(&value, sizeof(T), [&](int first) {
        std::memcpy(static_cast<void*>(&result), emulation::slot(first + (lane & 31)), sizeof(T));
    });
    return result;
}
template <class T>
T shuffle_xor(T value, int mask) {
    return shuffle(value, lane_index() ^ mask);
}
inline int count_up(int* counter) { return (*counter)++; }
inline void set_bits(std::uint64_t* word, std::uint64_t bits) { *word |= bits; }
inline int count_bits(std::uint64_t word) { return std::popcount(word); }

// ---- Asynchronous copies

inline void copy16_async(void* to, const void* from, int bytes) {
    if (reinterpret_cast<std::uintptr_t>(to) % 16 || (bytes && reinterpret_cast<std::uintptr_t>(from) % 16) ||
        bytes < 0 || bytes > 16) {
        std::fprintf(stderr, "asynchronous copy: addresses of 16 bytes and 0 to 16 bytes are expected\n");
        std::abort();
    }
    emulation::self().open.push_back({to, from, bytes});
}
inline void commit_copies() {
    emulation::Thread& me = emulation::self();
    me.groups.push_back(std::move(me.open));
    me.open.clear();
}
template <int N>
void wait_copies() {
    auto& groups = emulation::self().groups;
    while (groups.size() > std::size_t(N)) {
        for (const emulation::Copy& copy : groups.front()) {
            std::memset(copy.to, 0, 16);
            if (copy.bytes) std::memcpy(copy.to, copy.from, std::size_t(copy.bytes));
        }
        groups.erase(groups.begin());
    }
}

// ---- Tensor cores

inline void load_matrices(std::uint32_t (&r)[4], const void* row) {
    emulation::exchange_in_warp(&row, sizeof(row), [&](int first) {
        const int g = lane_index() / 4, t = lane_index() % 4;
        for (int i = 0; i < 4; ++i) {
            const char* at;
            std::memcpy(&at, emulation::slot(first + 8 * i + g), sizeof(at));
            std::memcpy(&r[i], at + 4 * t, 4);
        }
    });
}
inline void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
    emulation::exchange_in_warp(&row, sizeof(row), [&](int first) {
        const int g = lane_index() / 4, t = lane_index() % 4;
        for (int i = 0; i < 4; ++i) {
            std::uint16_t value[2];
            for (int half = 0; half < 2; ++half) {
                const char* at;
                std::memcpy(&at, emulation::slot(first + 8 * i + 2 * t + half), sizeof(at));
                std::memcpy(&value[half], at + 2 * g, 2);
            }
            std::memcpy(&r[i], value, 4);
        }
    });
}

namespace emulation {

struct Fragments {
    std::uint32_t a[4], b[2];
};

template <class Half>
float half_of(std::uint32_t pair, int which) {
    return widen(Half{std::uint16_t(pair >> (16 * which))});
}

}  // namespace emulation

template <class Half>
void multiply_16x8x16(float* c, const std::uint32_t* a, const std::uint32_t* b, Half) {
    emulation::Fragments mine;
    std::copy_n(a, 4, mine.a);
    std::copy_n(b, 2, mine.b);
    emulation::exchange_in_warp(&mine, sizeof(mine), [&](int first) {
        const int g = lane_index() / 4, t = lane_index() % 4;
        for (int element = 0; element < 4; ++element) {
            const int row = g + 8 * (element / 2), column = 2 * t + element % 2;
            float sum = c[element];
            for (int k = 0; k < 16; ++k) {
                emulation::Fragments of_a, of_b;
                std::memcpy(&of_a, emulation::slot(first + 4 * (row % 8) + k % 8 / 2), sizeof(of_a));
                std::memcpy(&of_b, emulation::slot(first + 4 * column + k % 8 / 2), sizeof(of_b));
                sum += emulation::half_of<Half>(of_a.a[row / 8 + 2 * (k / 8)], k % 2) *
                       emulation::half_of<Half>(of_b.b[k / 8], k % 2);
            }
            c[element] = sum;
        }
    });
}
inline void multiply_16x8x8(float* c, const std::uint32_t* a, const std::uint32_t* b) {
    emulation::Fragments mine;
    std::copy_n(a, 4, mine.a);
    std::copy_n(b, 2, mine.b);
    emulation::exchange_in_warp(&mine, sizeof(mine), [&](int first) {
        const int g = lane_index() / 4, t = lane_index() % 4;
        for (int element = 0; element < 4; ++element) {
            const int row = g + 8 * (element / 2), column = 2 * t + element % 2;
            float sum = c[element];
            for (int k = 0; k < 8; ++k) {
                emulation::Fragments of_a, of_b;
                std::memcpy(&of_a, emulation::slot(first + 4 * (row % 8) + k % 4), sizeof(of_a));
                std::memcpy(&of_b, emulation::slot(first + 4 * column + k % 4), sizeof(of_b));
                float x, y;
                std::memcpy(&x, &of_a.a[row / 8 + 2 * (k / 4)], 4);
                std::memcpy(&y, &of_b.b[k / 4], 4);
                sum += x * y;
            }
            c[element] = sum;
        }
    });
}
// 10 bits of fraction, rounded to nearest, ties away from zero.
inline std::uint32_t round_to_tf32(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x == x && std::isfinite(x)) bits += 0x1000;
    return bits & 0xffffe000u;
}

// ---- Launches

using Stream = long;

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), long blocks, long block_rows, int threads, long shared_bytes,
            Stream, const Arguments&... arguments) {
    if (blocks < 1 || block_rows < 1 || block_rows > 65535 || threads < 32 || threads > 1024 ||
        threads % 32 || shared_bytes > 227 * 1024)
        throw std::runtime_error("emulated launch: a grid that no GPU supports");
    const char* order = std::getenv("RK_EMULATED_ORDER");
    const bool backward = order && std::string(order) == "backward";
    const std::function<void()> body = [&] { kernel(arguments...); };
    emulation::Block& b = emulation::block();
    b.count_x = unsigned(blocks);
    for (long y = 0; y < block_rows; ++y)
        for (long x = 0; x < blocks; ++x) {
            b.x = unsigned(x);
            b.y = unsigned(y);
            emulation::run_block(body, threads, shared_bytes, backward);
        }
}

}  // namespace rk::cuda
