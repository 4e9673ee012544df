// Vector-Jacobian products and losses.
#include "bindings/conversions.hpp"
#include "operations/operations.hpp"

namespace rk::bindings {

namespace {

using Maybe = std::optional<py::array>;

using Layers = std::vector<py::array>;

template <class T>
MapGradient<T> map_gradient(const Maybe& x, const Layers& weights, const std::optional<Layers>& biases) {
    MapGradient<T> to{view_or_none<T>(x), {}, {}};
    for (const py::array& a : weights) to.weights.push_back(view<T>(a).data);
    if (biases)
        for (const py::array& a : *biases) to.biases.push_back(view<T>(a).data);
    return to;
}

void feature_map_vjp(const py::array& x, const MlpHandle& mlp, const py::array& grad, const py::array& grad_x,
                     const Layers& grad_weights, const std::optional<Layers>& grad_biases) {
    with_dtype(x, [&]<class T>() {
        const auto from = view<const T>(x), above = view<const T>(grad);
        const Mlp<T>& map = mlp.as<T>();
        const MapGradient<T> to = map_gradient<T>(grad_x, grad_weights, grad_biases);
        without_gil([&] { rk::feature_map_vjp<T>(from, map, above, to); });
    });
}

void sparse_feature_map_vjp(const py::array& values, const py::array& columns, const py::array& offsets,
                            const py::array& weights, const MlpHandle& mlp, const py::array& grad,
                            const Layers& grad_weights, const std::optional<Layers>& grad_biases) {
    with_dtype(values, [&]<class T>() {
        const auto x = sparse_rows<T>(values, columns, offsets);
        const auto first = view<const T>(weights), above = view<const T>(grad);
        const Mlp<T>& map = mlp.as<T>();
        const MapGradient<T> to = map_gradient<T>({}, grad_weights, grad_biases);
        without_gil([&] { rk::sparse_feature_map_vjp<T>(x, first.data, map, above, to); });
    });
}

using MaybeLayers = std::vector<Maybe>;

template <class T>
rk::Layers<T> layers_of(const Layers& weights, const Layers& biases, const std::string& activation,
                        double parameter, bool normalize) {
    rk::Layers<T> map{{}, {}, activation_named(activation), T(parameter), normalize};
    for (const py::array& a : weights) map.weights.push_back(view<const T>(a));
    for (const py::array& a : biases) {
        map.biases.push_back(view<const T>(a));
        contiguous<T>(a);
    }
    return map;
}

// The hidden layers, or None if they are not kept.
Maybe feature_map_forward(const py::array& x, const Layers& weights, const Layers& biases,
                          const std::string& activation, double parameter, bool normalize,
                          const py::array& out, bool keep) {
    Maybe kept;
    with_dtype(x, [&]<class T>() {
        const auto map = layers_of<T>(weights, biases, activation, parameter, normalize);
        const auto from = view<const T>(x);
        const auto to = view<T>(out);
        T* hidden = nullptr;
        if (keep) {
            const long size = hidden_size(map, from.dim(2));
            auto* space = new Buffer<T>(size);
            const py::capsule owner(space, [](void* p) { delete static_cast<Buffer<T>*>(p); });
            hidden = space->get();
            kept = py::array_t<T>(size, hidden, owner);
        }
        without_gil([&] { rk::feature_map_forward<T>(from, map, hidden, to); });
    });
    return kept;
}

void feature_map_backward(const py::array& x, const Layers& weights, const std::string& activation,
                          double parameter, bool normalize, const py::array& hidden, const py::array& grad,
                          const Maybe& grad_x, const MaybeLayers& grad_weights,
                          const MaybeLayers& grad_biases) {
    with_dtype(x, [&]<class T>() {
        const auto map = layers_of<T>(weights, {}, activation, parameter, normalize);
        const auto from = view<const T>(x), above = view<const T>(grad);
        const T* kept = contiguous<T>(hidden);
        MapGradient<T> to{view_or_none<T>(grad_x), {}, {}};
        for (const Maybe& a : grad_weights) to.weights.push_back(data_or_null<T>(a));
        for (const Maybe& a : grad_biases) to.biases.push_back(data_or_null<T>(a));
        without_gil([&] { rk::feature_map_backward<T>(from, map, kept, above, to); });
    });
}

void normalize_vjp(const py::array& x, const py::array& grad, const py::array& grad_x) {
    with_dtype(x, [&]<class T>() {
        const auto from = view<const T>(x), above = view<const T>(grad);
        const auto to = view<T>(grad_x);
        without_gil([&] { rk::normalize_vjp<T>(from, above, to); });
    });
}

// Features as both sides of a relation.
template <class T>
Relation<T> features_of(const py::array& f, const py::array& g, double scale) {
    return {.rows = view<const T>(f), .columns = view<const T>(g), .scale = T(scale)};
}

template <class T>
RelationGradient<T> gradient_in(const Maybe& grad_f, const Maybe& grad_g, const Maybe& grad_scale) {
    return {view_or_none<T>(grad_f), view_or_none<T>(grad_g), data_or_null<double>(grad_scale)};
}

void relation_matrix_vjp(const py::array& f, const py::array& g, const py::array& grad,
                         const std::string& link, double scale, long heads, const Maybe& grad_f,
                         const Maybe& grad_g, const Maybe& grad_scale) {
    with_dtype(f, [&]<class T>() {
        const auto features = features_of<T>(f, g, scale);
        const auto above = view<const T>(grad);
        const Link kind = link_named(link);
        const auto to = gradient_in<T>(grad_f, grad_g, grad_scale);
        without_gil([&] { rk::relation_matrix_vjp<T>(features, kind, heads, above, to); });
    });
}

void relation_matvec_vjp(const py::array& f, const py::array& g, const py::array& v, const py::array& grad,
                         const std::string& link, double scale, const Maybe& grad_f, const Maybe& grad_g,
                         const Maybe& grad_v, const Maybe& grad_scale) {
    with_dtype(f, [&]<class T>() {
        const auto features = features_of<T>(f, g, scale);
        const auto values = view<const T>(v), above = view<const T>(grad);
        const Link kind = link_named(link);
        const auto to = gradient_in<T>(grad_f, grad_g, grad_scale);
        const auto to_values = view_or_none<T>(grad_v);
        without_gil([&] { rk::relation_matvec_vjp<T>(features, values, above, kind, to, to_values); });
    });
}

// grad_bias: of as many dimensions as f.
void attention_vjp(const py::array& f, const py::array& g, const py::array& v, const Maybe& mask,
                   const Limits& band, const Maybe& bias, std::optional<double> softcap, double scale,
                   const py::array& out, const py::array& lse, const py::array& grad, const Maybe& grad_lse,
                   const py::array& grad_f, const py::array& grad_g, const py::array& grad_v,
                   const Maybe& grad_bias, const Maybe& grad_scale, const Ragged& ragged) {
    with_dtype(f, [&]<class T>() {
        auto features = features_of<T>(f, g, scale);
        features.segments = segments_of<T>(ragged, features.rows, features.columns);
        const auto values = view<const T>(v);
        const AttentionResult<T> result{view<const T>(out), view<const T>(lse)};
        const AttentionResult<T> above{view<const T>(grad), view_or_none<const T>(grad_lse)};
        const auto scoring = scoring_of<T>(mask, band, bias, softcap, ragged);
        const auto to = gradient_in<T>(grad_f, grad_g, grad_scale);
        const auto to_values = view<T>(grad_v), to_bias = view_or_none<T>(grad_bias);
        without_gil(
            [&] { rk::attention_vjp<T>(features, values, scoring, result, above, to, to_values, to_bias); });
    });
}

void attention_scores_vjp(const py::array& f, const py::array& g, const Maybe& mask, const Limits& band,
                          const Maybe& bias, std::optional<double> softcap, double scale,
                          const py::array& grad, const py::array& grad_f, const py::array& grad_g,
                          const Maybe& grad_bias, const Maybe& grad_scale) {
    with_dtype(f, [&]<class T>() {
        const auto features = features_of<T>(f, g, scale);
        const auto above = view<const T>(grad);
        const auto scoring = scoring_of<T>(mask, band, bias, softcap);
        const auto to = gradient_in<T>(grad_f, grad_g, grad_scale);
        const auto to_bias = view_or_none<T>(grad_bias);
        without_gil([&] { rk::attention_scores_vjp<T>(features, scoring, above, to, to_bias); });
    });
}

// result and grad: relations, values and their log-sum-exp. to: of q, k, q_rel, k_rel and v.
using Results = std::tuple<py::array, py::array, py::array>;
using MaybeResults = std::tuple<py::array, py::array, Maybe>;
using Gradients = std::tuple<py::array, py::array, py::array, py::array, py::array>;

void relational_attention_vjp(const py::array& q, const py::array& k, const py::array& q_rel,
                              const py::array& k_rel, const py::array& v, const std::string& activation,
                              double parameter, double scale, double rel_scale, const Maybe& mask,
                              const Limits& band, const Results& result, const MaybeResults& grad,
                              const Gradients& to, const py::array& grad_scale,
                              const py::array& grad_rel_scale) {
    with_dtype(q, [&]<class T>() {
        const auto sides =
            relational_sides<T>(q, k, q_rel, k_rel, v, activation, parameter, scale, rel_scale);
        const auto allowed = allowed_of(mask, band);
        const auto& [relations, values, lse] = result;
        const auto& [of_relations, of_values, of_lse] = grad;
        const RelationalResult<Array<const T>> found{view<const T>(relations), view<const T>(values),
                                                     view<const T>(lse)};
        const RelationalResult<Array<const T>> above{view<const T>(of_relations), view<const T>(of_values),
                                                     view_or_none<const T>(of_lse)};
        const auto& [to_q, to_k, to_q_rel, to_k_rel, to_v] = to;
        const RelationalGradient<T> gradient{view<T>(to_q),
                                             view<T>(to_k),
                                             view<T>(to_q_rel),
                                             view<T>(to_k_rel),
                                             view<T>(to_v),
                                             view<double>(grad_scale).data,
                                             view<double>(grad_rel_scale).data};
        without_gil([&] { rk::relational_attention_vjp<T>(sides, allowed, found, above, gradient); });
    });
}

void relation_loss(const py::array& f, const py::array& g, const Maybe& target, const Maybe& labels_f,
                   const Maybe& labels_g, const Maybe& weight, const Maybe& row_scale,
                   const std::string& loss, double scale, double factor, const py::array& values,
                   const py::array& grad_f, const Maybe& grad_g, const Maybe& grad_scale) {
    with_dtype(f, [&]<class T>() {
        const auto features = features_of<T>(f, g, scale);
        const Loss kind = loss_named(loss);
        PairTargets<T> targets;
        if (target) {
            const auto t = view<const T>(*target);
            targets.target = t.data;
            targets.target_row = t.step(2);
            targets.target_col = t.step(1);
        }
        targets.row_label = data_or_null<const std::int64_t>(labels_f);
        targets.col_label = data_or_null<const std::int64_t>(labels_g);
        if (weight) {
            const auto w = view<const T>(*weight);
            targets.weight = w.data;
            targets.weight_row = w.step(2);
            targets.weight_col = w.step(1);
        }
        targets.factor = T(factor);
        targets.inverse_mass = data_or_null<const T>(row_scale);
        double* value = view<double>(values).data;
        const auto to = gradient_in<T>(grad_f, grad_g, grad_scale);
        without_gil([&] { rk::relation_loss<T>(features, targets, kind, value, to); });
    });
}

}  // namespace

void register_gradients(py::module_& m) {
    using py::arg;
    m.def("feature_map_vjp", &feature_map_vjp, arg("x"), arg("mlp"), arg("grad"), arg("grad_x"),
          arg("grad_weights"), arg("grad_biases"));
    m.def("feature_map_forward", &feature_map_forward, arg("x"), arg("weights"), arg("biases"),
          arg("activation"), arg("parameter"), arg("normalize"), arg("out"), arg("keep"));
    m.def("feature_map_backward", &feature_map_backward, arg("x"), arg("weights"), arg("activation"),
          arg("parameter"), arg("normalize"), arg("hidden"), arg("grad"), arg("grad_x"), arg("grad_weights"),
          arg("grad_biases"));
    m.def("normalize_vjp", &normalize_vjp, arg("x"), arg("grad"), arg("grad_x"));
    m.def("sparse_feature_map_vjp", &sparse_feature_map_vjp, arg("values"), arg("columns"), arg("offsets"),
          arg("weights"), arg("mlp"), arg("grad"), arg("grad_weights"), arg("grad_biases"));
    m.def("relation_matrix_vjp", &relation_matrix_vjp, arg("f"), arg("g"), arg("grad"), arg("link"),
          arg("scale"), arg("heads"), arg("grad_f"), arg("grad_g"), arg("grad_scale") = py::none());
    m.def("relation_matvec_vjp", &relation_matvec_vjp, arg("f"), arg("g"), arg("v"), arg("grad"), arg("link"),
          arg("scale"), arg("grad_f"), arg("grad_g"), arg("grad_v"), arg("grad_scale") = py::none());
    m.def("attention_vjp", &attention_vjp, arg("f"), arg("g"), arg("v"), arg("mask"), arg("band"),
          arg("bias"), arg("softcap"), arg("scale"), arg("out"), arg("lse"), arg("grad"), arg("grad_lse"),
          arg("grad_f"), arg("grad_g"), arg("grad_v"), arg("grad_bias"), arg("grad_scale"),
          arg("ragged") = py::none());
    m.def("attention_scores_vjp", &attention_scores_vjp, arg("f"), arg("g"), arg("mask"), arg("band"),
          arg("bias"), arg("softcap"), arg("scale"), arg("grad"), arg("grad_f"), arg("grad_g"),
          arg("grad_bias"), arg("grad_scale"));
    m.def("relational_attention_vjp", &relational_attention_vjp, arg("q"), arg("k"), arg("q_rel"),
          arg("k_rel"), arg("v"), arg("activation"), arg("parameter"), arg("scale"), arg("rel_scale"),
          arg("mask"), arg("band"), arg("result"), arg("grad"), arg("to"), arg("grad_scale"),
          arg("grad_rel_scale"));
    m.def("relation_loss", &relation_loss, arg("f"), arg("g"), arg("target"), arg("labels_f"),
          arg("labels_g"), arg("weight"), arg("row_scale"), arg("loss"), arg("scale"), arg("factor"),
          arg("values"), arg("grad_f"), arg("grad_g"), arg("grad_scale"));
}

}  // namespace rk::bindings
