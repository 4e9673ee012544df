// The table of one instruction set: this file is compiled once for each, with RK_ISA_* set.
#include "kernels/activations.hpp"
#include "kernels/ceiling_loops.hpp"
#include "kernels/codes.hpp"
#include "kernels/gather.hpp"
#include "kernels/half.hpp"
#include "kernels/in_place.hpp"
#include "kernels/links.hpp"
#include "kernels/losses.hpp"
#include "kernels/micro_kernel.hpp"
#include "kernels/mixing.hpp"
#include "kernels/nngp.hpp"
#include "kernels/normalize.hpp"
#include "kernels/pack.hpp"
#include "kernels/philox.hpp"
#include "kernels/softmax.hpp"
#include "kernels/tiles.hpp"
#include "kernels/vector_math.hpp"

namespace rk::RK_ISA {

#define RK_TABLE(T)                                                                           \
    {{.mr = kTileRows,                                                                        \
      .nr = kPanel<T>,                                                                        \
      .strip = kStripTiles * kTileRows,                                                       \
      .stream_bytes = kStreamBytes,                                                           \
      .pack = pack<T>,                                                                        \
      .product = product<T>,                                                                  \
      .product_of_rows = product_of_rows<T>,                                                  \
      .masked_product = masked_product<T>,                                                    \
      .weighted_rows = weighted_rows<T>,                                                      \
      .gather = gather<T>,                                                                    \
      .all_finite = all_finite<T>},                                                           \
     {.widen = widen<T>,                                                                      \
      .narrow = narrow<T>,                                                                    \
      .copy = copy<T>,                                                                        \
      .transpose = transpose<T>,                                                              \
      .activate = activate<T>,                                                                \
      .activate_vjp = activate_vjp<T>,                                                        \
      .normalize = normalize<T>,                                                              \
      .normalize_vjp = normalize_vjp<T>,                                                      \
      .add_column_sums = add_column_sums<T>,                                                  \
      .add = add<T>,                                                                          \
      .mask_tile = mask_tile<T>,                                                              \
      .score = score<T>,                                                                      \
      .softmax_accept = softmax_accept<T>,                                                    \
      .softmax_merge = softmax_merge<T>,                                                      \
      .softmax_finish = softmax_finish<T>,                                                    \
      .row_max = row_max<T>,                                                                  \
      .softmax_rows = softmax_rows<T>,                                                        \
      .softmax_vjp = softmax_vjp<T>,                                                          \
      .candidates = candidates<T>,                                                            \
      .link = link<T>,                                                                        \
      .link_dot = link_dot<T>,                                                                \
      .link_vjp = link_vjp<T>,                                                                \
      .loss_vjp = loss_vjp<T>,                                                                \
      .dot_rows = dot_rows<T>,                                                                \
      .mix_rows = mix_rows<T>},                                                               \
     {.nngp_tile = nngp_tile<T>, .nngp_variances = nngp_variances, .nngp_layer = nngp_layer}, \
     {.philox = philox, .random_panels = random_panels<T>},                                   \
     {.encode = encode, .screen = screen},                                                    \
     vector_math<T>}

extern const Kernels<float> kernels_float;
extern const Kernels<double> kernels_double;
extern const CeilingKernels ceilings;
constinit const Kernels<float> kernels_float = RK_TABLE(float);
constinit const Kernels<double> kernels_double = RK_TABLE(double);
constinit const CeilingKernels ceilings = {.fma_float_flops = kFmaFlops<float>,
                                           .fma_double_flops = kFmaFlops<double>,
                                           .bf16_flops = kBf16Flops,
                                           .fma_float = fma_chains<float>,
                                           .fma_double = fma_chains<double>,
                                           .bf16 = bf16_chains,
                                           .read = read_all,
                                           .write = write_all};

}  // namespace rk::RK_ISA
