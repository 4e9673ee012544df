// Vector-Jacobian products of the public interface.
#include "embed/gradients.hpp"

#include <numeric>

#include "operations/operations.hpp"

namespace relkernels {
namespace detail {

namespace {

template <class T>
void add(std::vector<T>& into, const std::vector<T>& from) {
    for (std::size_t i = 0; i < from.size(); ++i) into[i] += from[i];
}

Shape with_last(Shape shape, std::int64_t width) {
    shape.back() = width;
    return shape;
}

template <class T>
MlpGradient<T> zeros_like(const Mlp<T>& mlp) {
    MlpGradient<T> g;
    const Shape& widths = mlp.widths();
    for (std::size_t l = 0; l + 1 < widths.size(); ++l) {
        g.weights.emplace_back(std::size_t(widths[l] * widths[l + 1]));
        if (mlp.has_bias()) g.biases.emplace_back(std::size_t(widths[l + 1]));
    }
    return g;
}

template <class T>
void add(MlpGradient<T>& into, const MlpGradient<T>& from) {
    for (std::size_t l = 0; l < from.weights.size(); ++l) add(into.weights[l], from.weights[l]);
    for (std::size_t l = 0; l < from.biases.size(); ++l) add(into.biases[l], from.biases[l]);
}

// grad_x is contiguous.
template <class T>
MlpGradient<T> through(const View<const T>& x, const Mlp<T>& mlp, const View<const T>& grad,
                       const View<T>& grad_x) {
    MlpGradient<T> g = zeros_like(mlp);
    rk::MapGradient<T> to{array(grad_x), {}, {}};
    for (std::vector<T>& w : g.weights) to.weights.push_back(w.data());
    for (std::vector<T>& b : g.biases) to.biases.push_back(b.data());
    rk::feature_map_vjp<T>(array(x), Access::packed(mlp), array(grad), to);
    return g;
}

}  // namespace

double sum(const std::vector<double>& parts) { return std::accumulate(parts.begin(), parts.end(), 0.0); }

template <class T>
Features<T>::Features(const View<const T>& x, const Mlp<T>* map) : view_(x) {
    if (!map) return;
    own_ = std::make_unique<Owned<T>>(with_last(x.shape(), map->widths().back()));
    rk::feature_map<T>(array(x), *packed(map), Precision::full, array(own_->view()));
    view_ = own_->view();
}

template <class T>
MapGradients<T> Sides<T>::back(Owned<T>& grad_f, Owned<T>& grad_g, const View<T>& grad_x,
                               const View<T>& grad_y) const {
    // One side: the gradient of its input, contiguous, and of its map.
    const auto side = [](const View<const T>& input, const Mlp<T>* map, Owned<T>& grad, MlpGradient<T>& to) {
        Owned<T> own = summed_to(grad, with_last(input.shape(), grad.view().shape().back()));
        if (!map) return own;
        Owned<T> below(input.shape());
        to = through<T>(input, *map, own.view(), below.view());
        return below;
    };
    MapGradients<T> maps;
    if (y.absent() && one_map) {
        add(grad_f.data(), grad_g.data());
        copy<T>(side(x, phi, grad_f, maps.phi).view(), grad_x);
        return maps;
    }
    Owned<T> of_x = side(x, phi, grad_f, maps.phi);
    Owned<T> of_y = side(y.absent() ? x : y, psi, grad_g, maps.psi);
    if (one_map) {
        add(maps.phi, maps.psi);
        maps.psi = {};
    }
    if (y.absent())
        add(of_x.data(), of_y.data());
    else
        copy<T>(of_y.view(), grad_y);
    copy<T>(of_x.view(), grad_x);
    return maps;
}

#define RK_INSTANTIATE(T)       \
    template class Features<T>; \
    template struct Sides<T>;
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)
#undef RK_INSTANTIATE

}  // namespace detail

using detail::array;
using detail::Attended;
using detail::Call;
using detail::Features;
using detail::Layout;
using detail::Multiplied;
using detail::Output;
using detail::Owned;
using detail::Sides;

template <class T>
MlpGradient<T> feature_map_vjp(In<T> x, const Mlp<T>& mlp, In<T> grad, Out<T> grad_x) {
    const Call call("feature_map_vjp");
    call.points("x", x.shape());
    Shape shape = x.shape();
    shape.back() = call.width("x", x.shape(), "mlp", &mlp);
    call.shape("grad", grad.shape(), shape, "that of the features");
    if (grad_x.absent()) {
        const Owned<T> unwanted(x.shape());
        return detail::through<T>(x, mlp, grad, unwanted.view());
    }
    call.shape("grad_x", grad_x.shape(), x.shape(), "that of x");
    const Output<T> to(call, "grad_x", grad_x, Layout::contiguous);
    MlpGradient<T> g = detail::through<T>(x, mlp, grad, to.view());
    to.write_back();
    return g;
}

template <class T>
MapGradients<T> relation_matrix_vjp(In<T> x, In<T> y, In<T> grad, Map<T> phi, Map<T> psi, View<T> grad_x,
                                    Out<T> grad_y, const RelationOptions& options) {
    const Call call("relation_matrix_vjp");
    call.points("x", x.shape());
    const bool one_map = !psi || psi == phi;
    if (!psi) psi = phi;
    const char* y_name = y.absent() ? "x" : "y";
    const View<const T>& other = y.absent() ? x : y;
    call.points(y_name, other.shape());
    const std::int64_t width = call.widths("x", x.shape(), phi, y_name, other.shape(), psi, one_map);
    const T scale = call.scale_of<T>(options.link, options.scale, Precision::full);
    const std::int64_t heads = options.heads;
    if (heads < 1 || width % heads)
        call.fail("heads", "a divisor of the feature width " + std::to_string(width), std::to_string(heads));
    if (options.precision != Precision::full) call.fail("precision", "full for gradients", "bf16");
    const Shape lead = call.lead({{"x", x.shape(), 2}, {y_name, other.shape(), 2}});
    const std::int64_t n = x.shape()[x.ndim() - 2], m = other.shape()[other.ndim() - 2];
    Shape shape = lead;
    if (heads > 1) shape.push_back(heads);
    shape.insert(shape.end(), {n, m});
    call.shape("grad", grad.shape(), shape, "that of the relation");
    call.shape("grad_x", grad_x.shape(), x.shape(), "that of x");
    call.shape("grad_y", grad_y.shape(), y.shape(), y.absent() ? "left out as y is" : "that of y");
    Output<T>(call, "grad_x", grad_x, Layout::rows);
    Output<T>(call, "grad_y", grad_y, Layout::rows);

    const Features<T> f(x, phi), g(other, psi);
    const auto full = [&](std::int64_t rows) {
        Shape s = lead;
        s.insert(s.end(), {rows, width});
        return s;
    };
    Owned<T> grad_f(full(n)), grad_g(full(m));
    std::vector<double> grad_scale(std::size_t(detail::count(lead) * n));
    const std::size_t core = heads > 1 ? 3 : 2;
    const rk::Relation<T> features{
        .rows = array(f.view(), lead, 2), .columns = array(g.view(), lead, 2), .scale = scale};
    rk::relation_matrix_vjp<T>(features, options.link, long(heads), array(View<const T>(grad), lead, core),
                               {array(grad_f.view()), array(grad_g.view()), grad_scale.data()});
    MapGradients<T> maps = Sides<T>{x, y, phi, psi, one_map}.back(grad_f, grad_g, grad_x, grad_y);
    maps.scale = detail::sum(grad_scale);
    return maps;
}

namespace {

template <class T>
using Outputs = std::vector<std::pair<const char*, View<T>>>;

// The gradient of the bias as the engine writes it: contiguous, with all leading dimensions; or absent.
template <class T>
rk::Array<T> bias_gradient(const Output<T>& to, const Attended<T>& a) {
    const View<T>& v = to.view();
    if (v.absent()) return {};
    Shape shape(a.lead.size() + 2 - v.ndim(), 1);
    shape.insert(shape.end(), v.shape().begin(), v.shape().end());
    return array(View<T>(v.data(), shape));
}

// What the gradients of attention and of its scores check alike.
template <class T>
void check_outputs(const Call& call, const AttentionOptions& options, const View<const T>& bias,
                   const View<T>& grad_bias, const Outputs<T>& outputs) {
    if (options.precision != Precision::full) call.fail("precision", "full for gradients", "bf16");
    if (!grad_bias.absent()) call.shape("grad_bias", grad_bias.shape(), bias.shape(), "that of bias");
    for (const auto& [name, to] : outputs) Output<T>(call, name, to, Layout::rows);
}

}  // namespace

template <class T>
MapGradients<T> relation_matvec_vjp(In<T> x, In<T> y, In<T> v, In<T> grad, Map<T> phi, Map<T> psi,
                                    View<T> grad_x, View<T> grad_y, View<T> grad_v,
                                    const MatvecOptions& options) {
    const Call call("relation_matvec_vjp");
    const Multiplied<T> a(call, x, y, v, phi, psi, options);
    if (options.precision != Precision::full) call.fail("precision", "full for gradients", "bf16");
    call.shape("grad", grad.shape(), a.product(), "that of the product");
    call.shape("grad_x", grad_x.shape(), x.shape(), "that of x");
    call.shape("grad_y", grad_y.shape(), y.shape(), "that of y");
    call.shape("grad_v", grad_v.shape(), v.shape(), "that of v");
    for (const auto& [name, to] : {std::pair("grad_x", grad_x), {"grad_y", grad_y}, {"grad_v", grad_v}})
        Output<T>(call, name, to, Layout::rows);

    const Features<T> f(x, phi), g(y, a.psi);
    const rk::Relation<T> features{
        .rows = array(f.view(), a.lead, 2), .columns = array(g.view(), a.lead, 2), .scale = a.scale};
    const View<const T> above = a.single ? detail::as_column<const T>(grad) : View<const T>(grad);
    const std::int64_t c = a.columns.shape().back();
    Owned<T> grad_f(a.shape({a.n, a.width})), grad_g(a.shape({a.m, a.width}));
    Owned<T> grad_values(a.shape({a.m, c}));
    std::vector<double> grad_scale(std::size_t(detail::count(a.shape({a.n}))));
    rk::relation_matvec_vjp<T>(features, array(a.columns, a.lead, 2), array(above, a.lead, 2), options.link,
                               {array(grad_f.view()), array(grad_g.view()), grad_scale.data()},
                               array(grad_values.view()));
    const View<T> of_values = a.single ? detail::as_column(grad_v) : grad_v;
    detail::copy<T>(detail::summed_to(grad_values, of_values.shape()).view(), of_values);
    MapGradients<T> maps = Sides<T>{x, y, phi, a.psi, a.one_map}.back(grad_f, grad_g, grad_x, grad_y);
    maps.scale = detail::sum(grad_scale);
    return maps;
}

template <class T>
MapGradients<T> attention_vjp(In<T> q, In<T> k, In<T> v, In<T> grad, Map<T> phi, Map<T> psi, View<T> grad_q,
                              View<T> grad_k, View<T> grad_v, const AttentionOptions& options, In<T> bias,
                              Out<T> grad_bias, In<T> grad_lse) {
    const Call call("attention_vjp");
    call.array("v", v.shape(), 2);
    const Attended<T> a(call, q, k, "k", v, phi, psi, options.mask, bias, options.ragged);
    const T scale = a.scale(call, options.scale);
    call.shape("grad", grad.shape(), a.shape({a.n, v.shape().back()}), "that of the attention");
    call.shape("grad_q", grad_q.shape(), q.shape(), "that of q");
    call.shape("grad_k", grad_k.shape(), k.shape(), "that of k");
    call.shape("grad_v", grad_v.shape(), v.shape(), "that of v");
    if (!grad_lse.absent()) call.shape("grad_lse", grad_lse.shape(), a.shape({a.n}), "one for each row of q");
    check_outputs<T>(call, options, bias, grad_bias,
                     {{"grad_q", grad_q}, {"grad_k", grad_k}, {"grad_v", grad_v}});
    const Output<T> to_bias(call, "grad_bias", grad_bias, Layout::contiguous);

    const Features<T> f(q, a.phi), g(k, a.psi);
    const rk::Relation<T> features{.rows = array(f.view(), a.lead, 2),
                                   .columns = array(g.view(), a.lead, 2),
                                   .scale = scale,
                                   .segments = a.segments()};
    const rk::Scoring<T> scoring = a.scoring(call, options);
    const auto values = array(v, a.lead, 2);
    const Owned<T> out(a.shape({a.n, v.shape().back()})), lse(a.shape({a.n}));
    rk::attention<T>(features, values, scoring, array(out.view()), array(lse.view(), a.lead, 1));
    Owned<T> grad_f(a.shape({a.n, a.width})), grad_g(a.shape({a.m, a.width}));
    Owned<T> grad_values(a.shape({a.m, v.shape().back()}));
    std::vector<double> grad_scale(std::size_t(detail::count(a.shape({a.n}))));
    rk::attention_vjp<T>(features, values, scoring,
                         {array(View<const T>(out.view())), array(View<const T>(lse.view()), a.lead, 1)},
                         {array(View<const T>(grad), a.lead, 2), array(View<const T>(grad_lse), a.lead, 1)},
                         {array(grad_f.view()), array(grad_g.view()), grad_scale.data()},
                         array(grad_values.view()), bias_gradient<T>(to_bias, a));
    to_bias.write_back();
    detail::copy<T>(detail::summed_to(grad_values, v.shape()).view(), grad_v);
    MapGradients<T> maps = Sides<T>{q, k, a.phi, a.psi, a.one_map}.back(grad_f, grad_g, grad_q, grad_k);
    maps.scale = detail::sum(grad_scale);
    return maps;
}

template <class T>
MapGradients<T> attention_scores_vjp(In<T> q, In<T> k, In<T> grad, Map<T> phi, Map<T> psi, View<T> grad_q,
                                     View<T> grad_k, const AttentionOptions& options, In<T> bias,
                                     Out<T> grad_bias) {
    const Call call("attention_scores_vjp");
    if (!options.ragged.q_offsets.absent()) call.fail("q_offsets", "none for scores", "offsets");
    if (!options.ragged.k_offsets.absent()) call.fail("k_offsets", "none for scores", "offsets");
    const Attended<T> a(call, q, k, "k", {}, phi, psi, options.mask, bias);
    const T scale = a.scale(call, options.scale);
    call.shape("grad", grad.shape(), a.shape({a.n, a.m}), "that of the scores");
    call.shape("grad_q", grad_q.shape(), q.shape(), "that of q");
    call.shape("grad_k", grad_k.shape(), k.shape(), "that of k");
    check_outputs<T>(call, options, bias, grad_bias, {{"grad_q", grad_q}, {"grad_k", grad_k}});
    const Output<T> to_bias(call, "grad_bias", grad_bias, Layout::contiguous);

    const Features<T> f(q, a.phi), g(k, a.psi);
    const rk::Relation<T> features{
        .rows = array(f.view(), a.lead, 2), .columns = array(g.view(), a.lead, 2), .scale = scale};
    Owned<T> grad_f(a.shape({a.n, a.width})), grad_g(a.shape({a.m, a.width}));
    std::vector<double> grad_scale(std::size_t(detail::count(a.shape({a.n}))));
    rk::attention_scores_vjp<T>(features, a.scoring(call, options), array(View<const T>(grad), a.lead, 2),
                                {array(grad_f.view()), array(grad_g.view()), grad_scale.data()},
                                bias_gradient<T>(to_bias, a));
    to_bias.write_back();
    MapGradients<T> maps = Sides<T>{q, k, a.phi, a.psi, a.one_map}.back(grad_f, grad_g, grad_q, grad_k);
    maps.scale = detail::sum(grad_scale);
    return maps;
}

#define RK_INSTANTIATE(T)                                                                                \
    template MlpGradient<T> feature_map_vjp(In<T>, const Mlp<T>&, In<T>, Out<T>);                        \
    template MapGradients<T> relation_matrix_vjp(In<T>, In<T>, In<T>, Map<T>, Map<T>, View<T>, Out<T>,   \
                                                 const RelationOptions&);                                \
    template MapGradients<T> relation_matvec_vjp(In<T>, In<T>, In<T>, In<T>, Map<T>, Map<T>, View<T>,    \
                                                 View<T>, View<T>, const MatvecOptions&);                \
    template MapGradients<T> attention_vjp(In<T>, In<T>, In<T>, In<T>, Map<T>, Map<T>, View<T>, View<T>, \
                                           View<T>, const AttentionOptions&, In<T>, Out<T>, In<T>);      \
    template MapGradients<T> attention_scores_vjp(In<T>, In<T>, In<T>, Map<T>, Map<T>, View<T>, View<T>, \
                                                  const AttentionOptions&, In<T>, Out<T>);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace relkernels
