// An entry for ctypes to the wgmma kernel: relation_matrix of 16-bit factors on the emulated sm_90a.
#include "relation_matrix_wgmma.hpp"

using rk::cuda::bfloat16;
using rk::cuda::float16;

extern "C" __attribute__((visibility("default"))) int relation_matrix(
    const void* f, long f_pitch, long f_item, const void* g, long g_pitch, long g_item, long rows,
    long columns, long depth, long items, int symmetric, float scale, void* out, long out_pitch,
    long out_item, int is_bfloat16, int is_float, int multiprocessors) {
    const rk::cuda::RelationWgmma r{f,    g,         f_pitch, g_pitch, f_item,         g_item,
                                    rows, columns,   depth,   items,   symmetric != 0, scale,
                                    out,  out_pitch, out_item};
    if (is_bfloat16 && is_float)
        return rk::cuda::relation_matrix_wgmma<bfloat16, float>(r, multiprocessors, {});
    if (is_bfloat16) return rk::cuda::relation_matrix_wgmma<bfloat16, bfloat16>(r, multiprocessors, {});
    if (is_float) return rk::cuda::relation_matrix_wgmma<float16, float>(r, multiprocessors, {});
    return rk::cuda::relation_matrix_wgmma<float16, float16>(r, multiprocessors, {});
}
