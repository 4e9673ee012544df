// The hardware interface of cuda/device_sm90.cuh on the CPU, byte by byte as the PTX ISA documents it.
//
// Timing is adversarial: a box of the copy engine arrives only when a thread waits for its barrier; a product
// of a warpgroup reads its factors only when its thread waits for it, and its accumulators are NaN until
// then. Descriptors are decoded field by field, and tiles are read through the swizzle of their final
// addresses. The program stops if warps of a warpgroup issue different products, if a barrier receives more
// arrivals or bytes than it expects, or if copies or products are unfinished at the end.
#pragma once

#include <map>
#include <memory>

#define RK_KERNEL_SM90(threads, blocks) void
#define RK_GRID_CONSTANT

namespace rk::cuda::sm90 {

using Barrier = std::uint64_t;

// The contents of a tensor map: matrices of 16-bit values, boxes of box_rows x 64 values, swizzle of 128
// bytes.
struct TensorMap {
    const char* address;
    long depth, rows, items, row_bytes, item_bytes;
    int box_rows;
};

namespace emulation {

[[noreturn]] inline void stop(const char* why) {
    std::fprintf(stderr, "emulated sm_90a: %s\n", why);
    std::abort();
}

struct Box {
    char* to;
    TensorMap map;
    int depth, row, item;
};

inline void run_box(const Box& box);

struct BarrierState {
    long count = 0, arrivals_left = 0, bytes_left = 0;
    unsigned parity = 0;  // of the current phase
    std::vector<Box> boxes;
    cuda::emulation::Barrier gate;  // opens when a waiting thread should check again

    void look_again() {
        ++gate.generation;
        ++cuda::emulation::block().progress;
    }
    void end_phase_if_complete() {
        if (arrivals_left > 0 || bytes_left > 0) return;
        arrivals_left = count;
        parity ^= 1;
        look_again();
    }
    void bring_oldest() {
        const Box box = boxes.front();
        boxes.erase(boxes.begin());
        run_box(box);
        bytes_left -= box.map.box_rows * kRowBytes;
        if (bytes_left < 0) stop("a barrier receives more bytes than it expects");
        end_phase_if_complete();
    }
};

// A product that a thread has issued but not waited for. The first of a chain holds the initial accumulators.
struct Product {
    float* d;
    std::uint64_t a, b;
    bool accumulate;
    float (*widen)(std::uint16_t);
    std::vector<float> start;
};

struct State {
    std::map<Barrier*, BarrierState> barriers;
    std::map<int, std::vector<std::vector<Product>>> groups;  // by thread; the last group is open
    std::map<int, std::vector<Product>> issued;  // by warpgroup: the products its first thread issued
    std::map<int, std::size_t> issued_by;        // by thread: their number

    void check_at_end() {
        for (const auto& [barrier, state] : barriers)
            if (!state.boxes.empty()) stop("a copy is unfinished when the block ends");
        for (const auto& [thread, open] : groups)
            for (const auto& group : open)
                if (!group.empty()) stop("products are unfinished when the block ends");
        for (const auto& [thread, count] : issued_by)
            if (count != issued[thread / 128].size())
                stop("the warps of a warpgroup issued different products");
    }
};

inline State& state() {
    auto& extension = cuda::emulation::block().extension;
    if (!extension) {
        extension = std::make_shared<State>();
        cuda::emulation::block().at_end = [] { state().check_at_end(); };
    }
    return *static_cast<State*>(extension.get());
}

// RK_EMULATED_COPIES: early, late (the default), or never.
inline bool copies_are(const char* when) {
    const char* copies = std::getenv("RK_EMULATED_COPIES");
    return copies && std::string(copies) == when;
}

inline BarrierState& find(Barrier* barrier) {
    auto at = state().barriers.find(barrier);
    if (at == state().barriers.end()) stop("a barrier that was not initialized");
    return at->second;
}

// Addresses of shared memory are offsets into the block's window, as in hardware.
inline char* shared_byte(std::uint32_t address) { return cuda::shared_memory() + address; }
inline std::uint32_t shared_offset(const void* p) {
    const long offset = static_cast<const char*>(p) - cuda::shared_memory();
    if (offset < 0 || offset >= 227 * 1024) stop("an address outside shared memory");
    return std::uint32_t(offset);
}
// 128-byte swizzle: bits 4 to 6 of an address XOR bits 7 to 9.
inline std::uint32_t swizzle_128(std::uint32_t address) { return address ^ (address >> 3 & 0x70); }

inline void run_box(const Box& box) {
    for (int r = 0; r < box.map.box_rows; ++r)
        for (int chunk = 0; chunk < kRowBytes / 16; ++chunk) {
            std::uint16_t values[8] = {};
            const long row = box.row + r, depth = box.depth + 8 * chunk;
            const long inside = std::min(8L, box.map.depth - depth);
            if (row < box.map.rows && box.item < box.map.items && inside > 0)
                std::memcpy(
                    values,
                    box.map.address + box.item * box.map.item_bytes + row * box.map.row_bytes + depth * 2,
                    std::size_t(inside) * 2);
            const std::uint32_t at = shared_offset(box.to) + std::uint32_t(r * kRowBytes + chunk * 16);
            std::memcpy(shared_byte(swizzle_128(at)), values, sizeof(values));
        }
}

// Reads a row of 16 values of the (K-major) factor that a descriptor describes.
inline void read_row(std::uint64_t descriptor, int row, float (*widen)(std::uint16_t),
                     float (&values)[kStepValues]) {
    const auto start = std::uint32_t(descriptor & 0x3fff) << 4;
    const auto leading = std::uint32_t(descriptor >> 16 & 0x3fff) << 4;
    const auto stride = std::uint32_t(descriptor >> 32 & 0x3fff) << 4;
    const int base = int(descriptor >> 49 & 7), mode = int(descriptor >> 62);
    if (base != 0) stop("a base offset other than 0");
    for (int chunk = 0; chunk < kStepValues / 8; ++chunk) {
        std::uint32_t at = start + std::uint32_t(row / 8) * stride;
        switch (mode) {
            case 0: at += std::uint32_t(row % 8) * 16 + std::uint32_t(chunk) * leading; break;
            case 1: at = swizzle_128(at + std::uint32_t(row % 8) * 128 + std::uint32_t(chunk) * 16); break;
            default: stop("a swizzle that is not emulated");
        }
        std::uint16_t bits[8];
        std::memcpy(bits, shared_byte(at), sizeof(bits));
        for (int k = 0; k < 8; ++k) values[8 * chunk + k] = widen(bits[k]);
    }
}

// This thread's part of a product: 2 of its warp's 16 rows, and 32 of the 128 columns.
inline void run_product(const Product& p, std::vector<float>& d) {
    const int warp = warp_index() % 4, g = lane_index() / 4, t = lane_index() % 4;
    float a[2][kStepValues], b[kStepValues];
    for (int half = 0; half < 2; ++half) read_row(p.a, 16 * warp + g + 8 * half, p.widen, a[half]);
    for (int j = 0; j < kProductColumns / 8; ++j)
        for (int c = 0; c < 2; ++c) {
            read_row(p.b, 8 * j + 2 * t + c, p.widen, b);
            for (int half = 0; half < 2; ++half) {
                float& sum = d[std::size_t(4 * j + 2 * half + c)];
                if (!p.accumulate) sum = 0;
                for (int k = 0; k < kStepValues; ++k) sum += a[half][k] * b[k];
            }
        }
}

inline std::vector<std::vector<Product>>& groups() {
    auto& mine = state().groups[thread_index()];
    if (mine.empty()) mine.emplace_back();
    return mine;
}

inline void issue(float* d, std::size_t size, std::uint64_t a, std::uint64_t b, bool accumulate,
                  float (*widen)(std::uint16_t)) {
    State& s = state();
    auto& all = s.issued[thread_index() / 128];
    const std::size_t number = s.issued_by[thread_index()]++;
    if (number == all.size()) all.push_back({nullptr, a, b, accumulate, nullptr, {}});
    if (all[number].a != a || all[number].b != b || all[number].accumulate != accumulate)
        stop("the warps of a warpgroup issued different products");
    bool chained = false;
    for (const auto& group : groups())
        for (const Product& earlier : group) chained = chained || earlier.d == d;
    Product product{d, a, b, accumulate, widen, {}};
    if (!chained) {
        product.start.assign(d, d + size);
        std::fill(d, d + size, NAN);
    }
    groups().back().push_back(std::move(product));
}

inline void run_oldest_group() {
    auto& mine = groups();
    std::vector<Product> group = std::move(mine.front());
    mine.erase(mine.begin());
    for (std::size_t i = 0; i < group.size(); ++i) {
        run_product(group[i], group[i].start);
        Product* next = nullptr;  // in the same chain
        for (std::size_t j = i + 1; j < group.size() && !next; ++j)
            if (group[j].d == group[i].d) next = &group[j];
        for (auto& later : mine)
            for (Product& p : later)
                if (!next && p.d == group[i].d) next = &p;
        if (next)
            next->start = std::move(group[i].start);
        else
            std::copy(group[i].start.begin(), group[i].start.end(), group[i].d);
    }
}

template <class Half>
float widen_bits(std::uint16_t bits) {
    return widen(Half{bits});
}

}  // namespace emulation

inline char* shared_memory() { return cuda::shared_memory(); }

// ---- Barriers

inline void init_barrier(Barrier* barrier, unsigned count) {
    emulation::shared_offset(barrier);
    emulation::BarrierState fresh;
    fresh.count = fresh.arrivals_left = count;
    if (!emulation::state().barriers.emplace(barrier, fresh).second)
        emulation::stop("a barrier is initialized twice");
}
inline void publish_barriers() {}
inline void arrive(Barrier* barrier) {
    emulation::BarrierState& b = emulation::find(barrier);
    if (--b.arrivals_left < 0) emulation::stop("a barrier receives more arrivals than it expects");
    b.end_phase_if_complete();
}
inline void arrive_expecting(Barrier* barrier, unsigned bytes) {
    emulation::find(barrier).bytes_left += bytes;
    arrive(barrier);
}
inline void wait(Barrier* barrier, unsigned parity) {
    emulation::BarrierState& b = emulation::find(barrier);
    cuda::emulation::Thread& me = cuda::emulation::self();
    while (b.parity == parity) {
        if (!b.boxes.empty() && !emulation::copies_are("never")) {
            b.bring_oldest();
            continue;
        }
        me.waits_for = &b.gate;
        me.generation = b.gate.generation;
        cuda::emulation::yield();
        me.waits_for = nullptr;
    }
}

// ---- The bulk tensor copy engine

inline void copy_box(void* to, const TensorMap& map, Barrier* barrier, int depth, int row, int item) {
    emulation::BarrierState& b = emulation::find(barrier);
    if (emulation::shared_offset(to) % 1024) emulation::stop("a box must begin at a multiple of 1,024 bytes");
    b.boxes.push_back({static_cast<char*>(to), map, depth, row, item});
    if (emulation::copies_are("early"))
        b.bring_oldest();
    else
        b.look_again();
}
inline void prefetch(const TensorMap&) {}

// ---- Products of a warpgroup

inline std::uint64_t descriptor(const void* tile) {
    return std::uint64_t((emulation::shared_offset(tile) & 0x3ffff) >> 4) | std::uint64_t(1) << 16 |
           std::uint64_t(8 * kRowBytes / 16) << 32 | std::uint64_t(1) << 62;
}
inline void begin_products() {}
inline void commit_products() { emulation::groups().emplace_back(); }
template <int N>
void wait_products() {
    while (emulation::groups().size() > std::size_t(N) + 1) emulation::run_oldest_group();
}
inline void settle(float (&)[64]) {}
template <class Half>
void multiply_64x128x16(float (&d)[64], std::uint64_t a, std::uint64_t b, bool accumulate, Half) {
    emulation::issue(d, 64, a, b, accumulate, emulation::widen_bits<Half>);
}

inline std::uint32_t transpose_8x8(std::uint32_t pair) {
    std::uint32_t result = 0;
    cuda::emulation::exchange_in_warp(&pair, sizeof(pair), [&](int first) {
        const int g = lane_index() / 4, t = lane_index() % 4;
        for (int half = 0; half < 2; ++half) {
            std::uint32_t row;  // row 2 t + half, columns of which g is one
            std::memcpy(&row, cuda::emulation::slot(first + 4 * (2 * t + half) + g / 2), sizeof(row));
            result |= (row >> (16 * (g % 2)) & 0xffff) << (16 * half);
        }
    });
    return result;
}

}  // namespace rk::cuda::sm90
