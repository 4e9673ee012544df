#include "tensor_map.hpp"

namespace rk::cuda::sm90 {

namespace {

constexpr long kMaxPitchBytes = 1L << 40;  // as cuTensorMapEncodeTiled has it
constexpr long kMaxRows = 1L << 31;        // coordinates are signed

bool suits(const void* address, long pitch, long rows, long depth) {
    return reinterpret_cast<std::uintptr_t>(address) % 16 == 0 && pitch % 8 == 0 &&
           2 * pitch < kMaxPitchBytes && rows > 0 && rows < kMaxRows && depth > 0 && depth <= pitch;
}

}  // namespace

#ifdef RK_CUDA_EMULATED

bool make_tensor_map(TensorMap& map, const void* address, long pitch, long rows, long depth, int box_rows,
                     bool) {
    if (!suits(address, pitch, rows, depth)) return false;
    map = {static_cast<const char*>(address), depth, rows, 2 * pitch, box_rows};
    return true;
}

#else

namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// From the driver itself, so that the extension needs no libcuda to load.
Encode encode_tiled() {
    static const Encode function = [] {
        void* entry = nullptr;
        cudaDriverEntryPointQueryResult result;
        const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                                                   cudaEnableDefault, &result);
        if (error != cudaSuccess) cudaGetLastError();
        const bool found = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
        return found ? reinterpret_cast<Encode>(entry) : nullptr;
    }();
    return function;
}

}  // namespace

bool make_tensor_map(TensorMap& map, const void* address, long pitch, long rows, long depth, int box_rows,
                     bool is_bfloat16) {
    const Encode encode = encode_tiled();
    if (!encode || !suits(address, pitch, rows, depth)) return false;
    const cuuint64_t sizes[2] = {cuuint64_t(depth), cuuint64_t(rows)};
    const cuuint64_t strides[1] = {cuuint64_t(2 * pitch)};
    const cuuint32_t box[2] = {cuuint32_t(kRowValues), cuuint32_t(box_rows)};
    const cuuint32_t steps[2] = {1, 1};
    return encode(&map, is_bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
                  const_cast<void*>(address), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#endif

}  // namespace rk::cuda::sm90
