// The features of all rows. Mirrors csrc/operations/feature_map.cpp.
#include "operations.hpp"

namespace rk::cuda {

template <class A>
void feature_map(const Context& context, const Array& x, const Mlp<A>& map, const Array& out) {
    std::vector<LeadStride> steps;
    const Lead lead = collapse(leading(x.shape, 2), {leading(x.stride, 2), leading(out.stride, 2)}, steps);
    Strided from = strided(x), to = strided(out);
    from.lead = steps[0];
    to.lead = steps[1];
    map.forward(context, lead, x.dim(2), from, to, map.outputs());
}

#define RK_INSTANTIATE(A) \
    template void feature_map(const Context&, const Array&, const Mlp<A>&, const Array&);
RK_FOR_EACH_ARITHMETIC(RK_INSTANTIATE)

}  // namespace rk::cuda
