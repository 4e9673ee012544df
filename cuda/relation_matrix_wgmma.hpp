// relation_matrix on the tensor cores of sm_90a (relation_matrix_wgmma.cu). It has never run on a GPU, only
// on the emulated one of the tests: the environment asks for it with RELKERNELS_CUDA_WGMMA=1.
#pragma once

#include <cstdint>

#include "device.cuh"

namespace rk::cuda {

// R = scale F G^T of one item of a batch.
struct RelationWgmma {
    const void *f, *g;  // factors, row-major; addresses and pitches are multiples of 16 bytes
    long f_pitch, g_pitch;
    long rows, columns, depth;
    bool symmetric;  // g is f: half is computed, the other half is its mirror image
    float scale;
    void* out;
    long out_pitch;
};

// Is this path asked for, and is the device one for it (compute capability 9.0)?
bool wgmma_available(int major, int minor);

// Launches it and returns true; false where shapes or addresses are not for it, or where the driver makes no
// tensor maps: nothing has happened then. Half: bfloat16 or float16. Out: Half or float.
template <class Half, class Out>
bool relation_matrix_wgmma(const RelationWgmma& r, int multiprocessors, Stream stream);

}  // namespace rk::cuda
