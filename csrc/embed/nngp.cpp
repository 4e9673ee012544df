// nngp_kernel of the public interface, for the activations with a closed form.
#include "embed/call.hpp"
#include "operations/operations.hpp"

namespace relkernels {

using detail::array;
using detail::Call;
using detail::Layout;
using detail::Output;

namespace {

// The dual of an activation and its parameter.
std::pair<rk::Dual, double> dual_of(const Call& call, const NngpOptions& options) {
    switch (options.activation) {
        case NngpActivation::step: return {rk::Dual::step, 0};
        case NngpActivation::identity: return {rk::Dual::leaky_relu, 1};
        case NngpActivation::relu: return {rk::Dual::relu, 0};
        case NngpActivation::relu_squared: return {rk::Dual::relu_squared, 0};
        case NngpActivation::leaky_relu: return {rk::Dual::leaky_relu, options.slope};
        case NngpActivation::erf: return {rk::Dual::erf, 0};
        case NngpActivation::gelu: return {rk::Dual::gelu, 0};
        case NngpActivation::sin: return {rk::Dual::sin, 0};
        case NngpActivation::cos: return {rk::Dual::cos, 0};
        case NngpActivation::gaussian: return {rk::Dual::gaussian, 0};
        case NngpActivation::sigma_1: return {rk::Dual::sigma_1, 0};
    }
    call.fail("activation", "one of the enumeration", std::to_string(int(options.activation)));
}

}  // namespace

template <class T>
void nngp_kernel(In<T> x, In<T> y, View<T> out, const NngpOptions& options) {
    const Call call("nngp_kernel");
    call.points("x", x.shape());
    const View<const T>& other = y.absent() ? x : y;
    const Mlp<T>* none = nullptr;
    if (!y.absent()) {
        call.points("y", y.shape());
        call.widths("x", x.shape(), none, "y", y.shape(), none, true);
    }
    if (options.depth < 0) call.fail("depth", "an integer >= 0", std::to_string(options.depth));
    call.finite("weight_std", options.weight_std, 0, false);
    call.finite("bias_std", options.bias_std, 0, true);
    if (options.activation == NngpActivation::leaky_relu && !(options.slope - options.slope == 0))
        call.fail("slope", "a finite number", std::to_string(options.slope));
    if (options.ntk && options.activation == NngpActivation::step)
        call.fail("ntk", "false with activation step, whose derivative is no function", "true");
    const Shape lead = call.lead({{"x", x.shape(), 2}, {"y", y.shape(), 2}});
    Shape shape = lead;
    shape.push_back(x.shape()[x.ndim() - 2]);
    shape.push_back(other.shape()[other.ndim() - 2]);
    call.shape("out", out.shape(), shape, "that of the kernel");

    const auto [dual, parameter] = dual_of(call, options);
    rk::NngpSpec spec;
    spec.dual = dual;
    spec.parameter = parameter;
    spec.weight_variance = options.weight_std * options.weight_std;
    spec.bias_variance = options.bias_std * options.bias_std;
    spec.depth = long(options.depth);
    spec.dim = long(x.shape().back());
    spec.ntk = options.ntk;
    const Output<T> to(call, "out", out, Layout::rows);
    rk::nngp_kernel<T>(array(x, lead, 2), y.absent() ? rk::Array<const T>{} : array(y, lead, 2), spec,
                       nullptr, to.array(2));
    to.write_back();
}

template void nngp_kernel(In<float>, In<float>, View<float>, const NngpOptions&);
template void nngp_kernel(In<double>, In<double>, View<double>, const NngpOptions&);

}  // namespace relkernels
