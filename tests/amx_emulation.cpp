// The AMX kernels with tiles emulated in software, for processors without them: tests/test_amx.py.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace emulated {

struct Tile {
    alignas(64) unsigned char row[16][64];
};
static Tile tiles[8];
static bool configured = false;

static void load(int t, const void* from, long stride) {
    for (int r = 0; r < 16; ++r)
        std::memcpy(tiles[t].row[r], static_cast<const char*>(from) + r * stride, 64);
}
static void store(int t, void* to, long stride) {
    for (int r = 0; r < 16; ++r) std::memcpy(static_cast<char*>(to) + r * stride, tiles[t].row[r], 64);
}
static float widen(std::uint16_t x) {
    const std::uint32_t bits = std::uint32_t(x) << 16;
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}
// TDPBF16PS: c[m][n] += a[m][2k] b[k][2n] + a[m][2k + 1] b[k][2n + 1], Intel SDM volume 2.
static void dot(int c, int a, int b) {
    float sums[16][16];
    std::uint16_t left[16][32], right[16][32];
    std::memcpy(sums, tiles[c].row, sizeof sums);
    std::memcpy(left, tiles[a].row, sizeof left);
    std::memcpy(right, tiles[b].row, sizeof right);
    for (int m = 0; m < 16; ++m)
        for (int k = 0; k < 16; ++k)
            for (int n = 0; n < 16; ++n)
                for (int half = 0; half < 2; ++half)
                    sums[m][n] += widen(left[m][2 * k + half]) * widen(right[k][2 * n + half]);
    std::memcpy(tiles[c].row, sums, sizeof sums);
}

}  // namespace emulated

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) \
    (emulated::configured = *static_cast<const unsigned char*>((const void*)(config)) == 1)
#define _tile_release() (emulated::configured = false)
#define _tile_zero(t) (std::memset(&emulated::tiles[t], 0, sizeof(emulated::Tile)))
#define _tile_loadd(t, from, stride) (emulated::load(t, from, stride))
#define _tile_stored(t, to, stride) (emulated::store(t, to, stride))
#define _tile_dpbf16ps(c, a, b) (emulated::dot(c, a, b))

#include "kernels/table_bf16.cpp"

// c <- finish(a b^T) for row-major a (rows x depth), b (cols x depth); work is large enough for both packed.
extern "C" __attribute__((visibility("default"))) void product(const float* a, const float* b, long rows,
                                                               long cols, long depth, float scale,
                                                               const float* bias, float floor, int accumulate,
                                                               float* c, long c_row, std::uint16_t* work) {
    const rk::KernelsBf16& k = rk::RK_ISA::kernels_bf16;
    const long padded = (depth + k.depth_multiple - 1) / k.depth_multiple * k.depth_multiple;
    k.convert(a, depth, 1, rows, depth, padded, work, padded);
    std::uint16_t* panels = work + rows * padded;
    k.pack(b, 1, depth, depth, padded, cols, panels, padded * k.nr);
    k.product(work, padded, panels, padded * k.nr, rows, cols, padded, c, c_row,
              {.scale = scale, .bias = bias, .floor = floor, .accumulate = accumulate != 0, .stream = false});
}
