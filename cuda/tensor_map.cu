#include "tensor_map.hpp"

namespace rk::cuda::sm90 {

namespace {

constexpr long kMaxStrideBytes = 1L << 40;  // the limit of cuTensorMapEncodeTiled
constexpr long kMaxSize = 1L << 31;         // coordinates are signed

bool suits(long stride) { return stride > 0 && stride % 8 == 0 && 2 * stride < kMaxStrideBytes; }
bool suits(const void* address, long pitch, long rows, long depth, long items, long item_stride) {
    return reinterpret_cast<std::uintptr_t>(address) % 16 == 0 && suits(pitch) && rows > 0 &&
           rows < kMaxSize && depth > 0 && depth <= pitch && items > 0 && items < kMaxSize &&
           suits(item_stride);
}

}  // namespace

#ifdef RK_CUDA_EMULATED

bool make_tensor_map(TensorMap& map, const void* address, long pitch, long rows, long depth, long items,
                     long item_stride, int box_rows, bool) {
    if (item_stride == 0) items = 1, item_stride = pitch;
    if (!suits(address, pitch, rows, depth, items, item_stride)) return false;
    map = {static_cast<const char*>(address), depth, rows, items, 2 * pitch, 2 * item_stride, box_rows};
    return true;
}

#else

namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// Looked up in the driver at run time, so that the extension loads without libcuda.
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

bool make_tensor_map(TensorMap& map, const void* address, long pitch, long rows, long depth, long items,
                     long item_stride, int box_rows, bool is_bfloat16) {
    if (item_stride == 0) items = 1, item_stride = pitch;
    const Encode encode = encode_tiled();
    if (!encode || !suits(address, pitch, rows, depth, items, item_stride)) return false;
    const cuuint64_t sizes[3] = {cuuint64_t(depth), cuuint64_t(rows), cuuint64_t(items)};
    const cuuint64_t strides[2] = {cuuint64_t(2 * pitch), cuuint64_t(2 * item_stride)};
    const cuuint32_t box[3] = {cuuint32_t(kRowValues), cuuint32_t(box_rows), 1};
    const cuuint32_t steps[3] = {1, 1, 1};
    return encode(&map, is_bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3,
                  const_cast<void*>(address), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#endif

}  // namespace rk::cuda::sm90
