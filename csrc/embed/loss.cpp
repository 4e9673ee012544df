// relation_loss of the public interface: targets and weights are converted to those of the engine.
#include <cmath>
#include <unordered_map>

#include "embed/gradients.hpp"
#include "operations/operations.hpp"

namespace relkernels {

using detail::Call;
using detail::Features;
using detail::Owned;
using detail::Sides;
using detail::text;

namespace {

// Targets as a matrix, or as labels of both sides.
template <class T>
struct Target {
    View<const T> matrix;
    View<const std::int64_t> labels_x, labels_y;  // labels_y left out: labels_x
};

template <class T>
LossResult<T> loss_of(const Call& call, const View<const T>& x, const View<const T>& y,
                      const Target<T>& target, const Mlp<T>* phi, const Mlp<T>* psi,
                      const LossOptions<T>& options) {
    const bool one_map = !psi || psi == phi;
    if (!psi) psi = phi;
    const char* y_name = y.absent() ? "x" : "y";
    const View<const T>& other = y.absent() ? x : y;
    for (const auto& [name, view] : {std::pair("x", x), {y_name, other}}) {
        call.array(name, view.shape(), 2, true);
        call.points(name, view.shape());
        if (view.shape()[0] == 0) call.fail(name, "at least one row", "shape " + text(view.shape()));
    }
    call.widths("x", x.shape(), phi, y_name, other.shape(), psi, one_map);
    if (!rk::is_member(options.loss))
        call.fail("loss", "one of the enumeration", std::to_string(int(options.loss)));
    const T scale = call.scale<T>(options.scale);
    const bool softmax = options.loss == Loss::softmax;
    const std::int64_t n = x.shape()[0], m = other.shape()[0];

    rk::PairTargets<T> pairs;
    std::vector<double> mass(softmax ? std::size_t(n) : 0);  // sums of the rows' targets
    std::vector<std::int64_t> labels_x, labels_y;
    if (target.labels_x.absent()) {
        const Shape& shape = target.matrix.shape();
        const bool fits = !shape.empty() && shape.size() <= 2 && (shape.back() == m || shape.back() == 1) &&
                          (shape.size() < 2 || shape[0] == n || shape[0] == 1);
        if (!fits)
            call.fail("target", "a shape that broadcasts to " + text({n, m}),
                      shape.empty() ? "none" : "shape " + text(shape));
        const rk::Array<const T> t = detail::array(target.matrix, {}, 2, {n, m});
        pairs.target = t.data;
        pairs.target_row = t.step(2);
        pairs.target_col = t.step(1);
        for (std::size_t i = 0; i < mass.size(); ++i)
            for (long j = 0; j < m; ++j) mass[i] += double(t.data[long(i) * t.step(2) + j * t.step(1)]);
    } else {
        const auto read = [&](const char* name, const View<const std::int64_t>& labels, std::int64_t rows) {
            call.shape(name, labels.shape(), {rows}, "one label a row");
            std::vector<std::int64_t> all;
            for (std::int64_t i = 0; i < rows; ++i) all.push_back(labels.data()[i * labels.strides()[0]]);
            return all;
        };
        labels_x = read("labels_x", target.labels_x, n);
        if (target.labels_y.absent() && n != m)
            call.fail("labels_y",
                      "labels of y, as x has " + std::to_string(n) + " rows and y " + std::to_string(m),
                      "none");
        if (!target.labels_y.absent()) labels_y = read("labels_y", target.labels_y, m);
        const std::vector<std::int64_t>& columns = target.labels_y.absent() ? labels_x : labels_y;
        pairs.row_label = labels_x.data();
        pairs.col_label = columns.data();
        std::unordered_map<std::int64_t, double> counts;
        for (const std::int64_t label : columns) ++counts[label];
        for (std::size_t i = 0; i < mass.size(); ++i) mass[i] = counts[labels_x[i]];
    }

    const View<const T>& weight = options.sample_weight;
    double total = double(n) * (softmax ? 1.0 : double(m));  // of the weights of all terms
    if (!weight.absent()) {
        const bool rows = weight.ndim() == 1;
        if (softmax || rows)
            call.shape("sample_weight", weight.shape(), {n}, "one weight a row");
        else
            call.shape("sample_weight", weight.shape(), {n, m}, "one weight a pair");
        pairs.weight = weight.data();
        pairs.weight_row = long(weight.strides()[0]);
        pairs.weight_col = rows ? 0 : long(weight.strides()[1]);
        total = 0;
        bool sound = true;
        for (long i = 0; i < n; ++i)
            for (long j = 0; j < (rows ? 1 : m); ++j) {
                const double w = double(weight.data()[i * pairs.weight_row + j * pairs.weight_col]);
                sound = sound && w >= 0;
                total += w;
            }
        if (!sound || !(total > 0) || !std::isfinite(total))
            call.fail("sample_weight", "finite weights >= 0 with a positive sum",
                      "sum " + std::to_string(total));
        if (rows && !softmax) total *= double(m);
    }
    pairs.factor = T(1 / total);
    std::vector<T> inverse_mass;
    for (std::size_t i = 0; i < mass.size(); ++i) {
        if (!(mass[i] > 0))
            call.fail("target", "a positive sum in every row",
                      std::to_string(mass[i]) + " in row " + std::to_string(i));
        inverse_mass.push_back(T(1 / mass[i]));
    }
    if (softmax) pairs.inverse_mass = inverse_mass.data();

    const Features<T> f(x, phi), g(other, psi);
    // Where loss and relation are symmetric, both sides have one gradient.
    const bool mirrored =
        y.absent() && one_map && !labels_x.empty() && target.labels_y.absent() && weight.absent() && !softmax;
    std::vector<double> values(std::size_t(n), 0.0), grad_scale(std::size_t(n), 0.0);
    Owned<T> grad_f(f.view().shape()), grad_g(g.view().shape());
    const rk::Relation<T> features{
        .rows = detail::array(f.view()), .columns = detail::array(g.view()), .scale = scale};
    rk::relation_loss<T>(features, pairs, options.loss, values.data(),
                         {detail::array(grad_f.view()),
                          mirrored ? rk::Array<T>{} : detail::array(grad_g.view()), grad_scale.data()});
    if (mirrored) grad_g.data() = grad_f.data();
    LossResult<T> result;
    result.value = detail::sum(values);
    result.scale = detail::sum(grad_scale);
    Owned<T> grad_x(x.shape()), grad_y(other.shape());
    MapGradients<T> maps =
        Sides<T>{x, y, phi, psi, one_map}.back(grad_f, grad_g, grad_x.view(), grad_y.view());
    result.phi = std::move(maps.phi);
    result.psi = std::move(maps.psi);
    result.x = std::move(grad_x.data());
    if (!y.absent()) result.y = std::move(grad_y.data());
    return result;
}

}  // namespace

template <class T>
LossResult<T> relation_loss(In<T> x, In<T> y, In<T> target, Map<T> phi, Map<T> psi,
                            const LossOptions<T>& options) {
    return loss_of<T>(Call("relation_loss"), x, y, {target, {}, {}}, phi, psi, options);
}

template <class T>
LossResult<T> relation_loss(In<T> x, In<T> y, View<const std::int64_t> labels_x,
                            View<const std::int64_t> labels_y, Map<T> phi, Map<T> psi,
                            const LossOptions<T>& options) {
    const Call call("relation_loss");
    call.array("labels_x", labels_x.shape(), 1);
    return loss_of<T>(call, x, y, {{}, labels_x, labels_y}, phi, psi, options);
}

#define RK_INSTANTIATE(T)                                                                                  \
    template LossResult<T> relation_loss(In<T>, In<T>, In<T>, Map<T>, Map<T>, const LossOptions<T>&);      \
    template LossResult<T> relation_loss(In<T>, In<T>, View<const std::int64_t>, View<const std::int64_t>, \
                                         Map<T>, Map<T>, const LossOptions<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace relkernels
