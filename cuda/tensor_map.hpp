// Tensor maps, which describe a matrix in global memory to the copy engine. The driver creates them on the
// host.
#pragma once

#include "device_sm90.cuh"

namespace rk::cuda::sm90 {

// Makes the map of row-major matrices of 16-bit values, one per item of a batch (pitch and item stride in
// values; an item stride of 0: one matrix for all items), to be copied in boxes of box_rows rows x 64 values
// with the swizzle of device_sm90.cuh, zeros beyond the edges. Returns false if the driver does not support
// tensor maps, or if the address, pitch or item stride is not a multiple of 16 bytes.
bool make_tensor_map(TensorMap& map, const void* address, long pitch, long rows, long depth, long items,
                     long item_stride, int box_rows, bool is_bfloat16);

}  // namespace rk::cuda::sm90
