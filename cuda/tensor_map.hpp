// Tensor maps: how the copy engine is told of a matrix in global memory. The driver makes them on the host.
#pragma once

#include "device_sm90.cuh"

namespace rk::cuda::sm90 {

// Row-major matrices of 16-bit values, one an item of a batch (pitch and item stride in values, zero beyond
// the edges; an item stride of 0 is one matrix for all), brought in boxes of box_rows rows x 64 values with
// the swizzle of device_sm90.cuh. False where the driver knows no tensor maps or these addresses do not suit
// it: the address, pitch and item stride must be multiples of 16 bytes.
bool make_tensor_map(TensorMap& map, const void* address, long pitch, long rows, long depth, long items,
                     long item_stride, int box_rows, bool is_bfloat16);

}  // namespace rk::cuda::sm90
