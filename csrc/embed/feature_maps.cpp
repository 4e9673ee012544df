// Feature maps of the public interface: Mlp, which owns the engine's packed weights, and feature_map.
#include "embed/call.hpp"
#include "operations/operations.hpp"

namespace relkernels {

template <class T>
Mlp<T>::Mlp(const std::vector<View<const T>>& weights, const std::vector<View<const T>>& biases,
            Activation activation, std::optional<double> parameter, bool normalize) {
    const detail::Call call("Mlp");
    if (weights.empty()) call.fail("weights", "at least one layer", "none");
    if (!biases.empty() && biases.size() != weights.size())
        call.fail("biases", "none, or one for each of " + std::to_string(weights.size()) + " layers",
                  std::to_string(biases.size()));
    Shape widths;
    std::vector<rk::Array<const T>> w, b;
    for (std::size_t l = 0; l < weights.size(); ++l) {
        const std::string name = "weights[" + std::to_string(l) + "]";
        const Shape& shape = weights[l].shape();
        call.array(name.c_str(), shape, 2, true);
        if (l > 0 && shape[0] != widths.back())
            call.fail(name, std::to_string(widths.back()) + " rows, the width of the layer before",
                      "shape " + detail::text(shape));
        if (shape[0] == 0 || shape[1] == 0)
            call.fail(name, "widths of at least 1", "shape " + detail::text(shape));
        if (l == 0) widths.push_back(shape[0]);
        widths.push_back(shape[1]);
        w.push_back(detail::array(weights[l], {}, 2));
    }
    for (std::size_t l = 0; l < biases.size(); ++l) {
        const std::string name = "biases[" + std::to_string(l) + "]";
        call.shape(name.c_str(), biases[l].shape(), {widths[l + 1]}, "the width of the layer");
        b.push_back(detail::array(biases[l], {}, 1));
    }
    if (!rk::is_member(activation))
        call.fail("activation", "one of the enumeration", std::to_string(int(activation)));
    const T value = T(call.parameter(activation, parameter));
    impl_ = std::shared_ptr<const Impl>(new Impl{rk::Mlp<T>(w, b, activation, value, normalize), widths});
}

template <class T>
const Shape& Mlp<T>::widths() const {
    return impl_->widths;
}

template <class T>
bool Mlp<T>::has_bias() const {
    return impl_->packed.has_bias();
}

template <class T>
bool Mlp<T>::normalizes() const {
    return impl_->packed.normalizes();
}

template <class T>
void feature_map(In<T> x, const Mlp<T>& mlp, View<T> out, Precision precision) {
    const detail::Call call("feature_map");
    call.points("x", x.shape());
    Shape shape = x.shape();
    shape.back() = call.width("x", x.shape(), "mlp", &mlp);
    call.shape("out", out.shape(), shape, "that of the features");
    const detail::Output<T> to(call, "out", out, detail::Layout::rows);
    rk::feature_map<T>(detail::array(x), detail::Access::packed(mlp), call.precision<T>(precision),
                       to.array(2));
    to.write_back();
}

template <class T>
void normalize(In<T> x, View<T> out) {
    const detail::Call call("normalize");
    call.points("x", x.shape());
    call.shape("out", out.shape(), x.shape(), "that of x");
    const detail::Output<T> to(call, "out", out, detail::Layout::rows);
    rk::normalize<T>(detail::array(x), to.array(2));
    to.write_back();
}

template <class T>
void normalize_vjp(In<T> x, In<T> grad, View<T> grad_x) {
    const detail::Call call("normalize_vjp");
    call.points("x", x.shape());
    call.shape("grad", grad.shape(), x.shape(), "that of x");
    call.shape("grad_x", grad_x.shape(), x.shape(), "that of x");
    const detail::Output<T> to(call, "grad_x", grad_x, detail::Layout::rows);
    rk::normalize_vjp<T>(detail::array(x), detail::array(grad), to.array(2));
    to.write_back();
}

template class Mlp<float>;
template class Mlp<double>;
template void feature_map(In<float>, const Mlp<float>&, View<float>, Precision);
template void feature_map(In<double>, const Mlp<double>&, View<double>, Precision);
template void normalize(In<float>, View<float>);
template void normalize(In<double>, View<double>);
template void normalize_vjp(In<float>, In<float>, View<float>);
template void normalize_vjp(In<double>, In<double>, View<double>);

}  // namespace relkernels
