// Random numbers from a counter: Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011), and normal variates from
// it by the method of Box & Muller.
//
// A number is a function of its key and counter alone, so that weights can be made where they are needed, in
// any order and on any thread, and need not be kept. Bits are the same on every processor; normal variates
// agree to a few ulp. Lanes are columns of a panel, and the four words of a counter four rows of it:
//   W(k, j) of a layer: word k mod 4 of counter (k / 4, j, layer, stream).
#pragma once

#include "kernels/math_trig.hpp"
#include "kernels/micro_kernel.hpp"

namespace rk::RK_ISA {

static constexpr std::int64_t kWord = 0xffffffff;
static constexpr double kHalfPi = 1.57079632679489662;

// c[0..3] <- ten rounds of Philox; words in the low halves of lanes.
RK_INLINE void philox_rounds(Id (&c)[4], std::uint64_t key) {
    std::uint32_t k0 = (std::uint32_t)key, k1 = (std::uint32_t)(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const Id p = product_of_words(c[0], 0xd2511f53u), q = product_of_words(c[2], 0xcd9e8d57u);
        const Id high_p = (Id)((U<double>)p >> 32), high_q = (Id)((U<double>)q >> 32);
        c[0] = high_q ^ c[1] ^ (std::int64_t)k0;
        c[1] = q & kWord;
        c[2] = high_p ^ c[3] ^ (std::int64_t)k1;
        c[3] = p & kWord;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}

// The 32-bit integers of lanes as doubles, exactly: they fill the low bits of the magic number's mantissa.
RK_INLINE Vd words_as_doubles(Id words) {
    const Vd magic = broadcast<double>(Format<double>::magic);
    return (Vd)((Id)magic + words) - magic;
}

// Two normal variates from two words: radius sqrt(-2 log u), u = (a + 1/2) / 2^32, and angle (b + 1/2) / 2^32
// of a turn, reduced to an eighth of a turn while it is an integer.
RK_INLINE void box_muller(Id a, Id b, Vd& first, Vd& second) {
    const Vd radius = sqrt(log<double>((words_as_doubles(a) + 0.5) * 0x1p-32) * -2.0);
    const Id quarter = (b + (1 << 29)) >> 30;
    const Vd r = (words_as_doubles(b - (quarter << 30)) + 0.5) * (kHalfPi * 0x1p-30);
    const Vd s = sin_kernel(r, Vd{}), c = cos_kernel(r, Vd{});
    const Id odd = (quarter & 1) != Id{};
    const Vd x = odd ? s : c, y = odd ? c : s;
    first = radius * (((quarter + 1) & 2) != Id{} ? -x : x);
    second = radius * ((quarter & 2) != Id{} ? -y : y);
}

static void philox(const std::uint32_t* counters, std::uint64_t key, std::uint32_t* out, long n) {
    for (long i = 0; i < n; ++i) {
        Id c[4];
        for (int w = 0; w < 4; ++w) c[w] = Id{} + (std::int64_t)counters[4 * i + w];
        philox_rounds(c, key);
        for (int w = 0; w < 4; ++w) out[4 * i + w] = (std::uint32_t)c[w][0];
    }
}

// Panels (table.hpp) of columns j0 .. j0 + cols - 1 of a matrix of normal variates, zeros beyond.
template <class T>
static void random_panels(std::uint64_t key, long layer, long stream, long depth, long j0, long cols,
                          T* panels, long panel_stride) {
    constexpr int lanes = kLanes<double>;
    for (long j = 0; j < cols; j += lanes) {
        T* panel = panels + j / kPanel<T> * panel_stride + j % kPanel<T>;
        const Id there = first_lanes<double>(cols - j);
        for (long k = 0; k < depth; k += 4) {
            Id c[4] = {Id{} + k / 4, iota<double>() + (j0 + j), Id{} + layer, Id{} + stream};
            philox_rounds(c, key);
            Vd z[4];
            box_muller(c[0], c[1], z[0], z[1]);
            box_muller(c[2], c[3], z[2], z[3]);
            for (long w = 0; w < 4 && k + w < depth; ++w) {
                const Vd value = there ? z[w] : Vd{};
                T* to = panel + (k + w) * kPanel<T>;
                if constexpr (sizeof(T) == 8)
                    store(to, value);
                else
                    for (int l = 0; l < lanes; ++l) to[l] = (T)value[l];
            }
        }
    }
    // Whole vectors that the last panel still lacks.
    for (long j = (cols + lanes - 1) / lanes * lanes; j % kPanel<T>; j += lanes) {
        T* panel = panels + j / kPanel<T> * panel_stride + j % kPanel<T>;
        for (long k = 0; k < depth; ++k)
            for (int l = 0; l < lanes; ++l) panel[k * kPanel<T> + l] = T(0);
    }
}

}  // namespace rk::RK_ISA
