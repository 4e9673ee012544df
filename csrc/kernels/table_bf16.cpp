// The bfloat16 table of one instruction set: this file is compiled once for each, with RK_ISA_* set.
#include "kernels/in_place_bf16.hpp"
#include "kernels/micro_kernel_bf16.hpp"
#if defined(RK_ISA_AMX)
#include "kernels/micro_kernel_amx.hpp"
#endif

namespace rk::RK_ISA {

#if defined(RK_ISA_AMX)
#define RK_TABLE_BF16 \
    .mr = 2 * kAmxRows, .nr = kPanel<float>, .strip = 2 * kAmxRows, .depth_multiple = kAmxDepth
#define RK_PRODUCTS_BF16 .product = product_amx, .product_of_rows = nullptr, .weighted_rows = nullptr
#else
#define RK_TABLE_BF16 \
    .mr = kTileRows, .nr = kPanel<float>, .strip = kStripTiles * kTileRows, .depth_multiple = 2
#define RK_PRODUCTS_BF16 \
    .product = product_bf16, .product_of_rows = product_of_rows_bf16, .weighted_rows = weighted_rows_bf16
#endif

extern const KernelsBf16 kernels_bf16;
constinit const KernelsBf16 kernels_bf16 = {RK_TABLE_BF16, .pack = pack_bf16, .convert = convert_bf16,
                                            RK_PRODUCTS_BF16};

}  // namespace rk::RK_ISA
