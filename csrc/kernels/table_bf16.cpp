// The bfloat16 table of one instruction set: this file is compiled once for each, with RK_ISA_* set.
#include "kernels/micro_kernel_bf16.hpp"
#include "kernels/pack.hpp"

namespace rk::RK_ISA {

extern const KernelsBf16 kernels_bf16;
constinit const KernelsBf16 kernels_bf16 = {.mr = kTileRows,
                                            .nr = kPanel<float>,
                                            .depth_multiple = 2,
                                            .pack = pack_bf16,
                                            .convert = convert_bf16,
                                            .product = product_bf16};

}  // namespace rk::RK_ISA
