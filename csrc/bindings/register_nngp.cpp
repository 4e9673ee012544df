// Wide random networks: their kernel (with the dual activation as a handle), and features of a random one.
#include <string>

#include "bindings/conversions.hpp"
#include "operations/nngp_points.hpp"
#include "operations/operations.hpp"

namespace rk::bindings {

namespace {

std::vector<double> numbers(const py::array& a) {
    const auto from = view<const double>(a);
    return {from.data, from.data + a.size()};
}

// A dual activation with its tables: the parameters of a kernel except variances, depth and kind.
struct DualHandle {
    NngpSpec spec;
    std::vector<double> eta, eta_slope;
    std::shared_ptr<const NngpSeries> series;

    NngpSpec with(double weight_variance, double bias_variance, long depth, bool ntk, long terms,
                  long dim) const {
        NngpSpec s = spec;
        s.weight_variance = weight_variance;
        s.bias_variance = bias_variance;
        s.depth = depth;
        s.dim = dim;
        s.ntk = ntk;
        s.eta = eta.data();
        s.eta_slope = eta_slope.data();
        s.terms = series ? terms : 0;
        return s;
    }
};

DualHandle closed_form(const std::string& name, double parameter) {
    DualHandle handle;
    handle.spec.dual = dual_named(name);
    handle.spec.parameter = parameter;
    return handle;
}

DualHandle relu_power(double exponent, double square_mean, double slope_square_mean, const py::array& eta,
                      const py::array& eta_slope) {
    DualHandle handle;
    handle.spec.dual = Dual::relu_power;
    handle.spec.parameter = exponent;
    handle.spec.square_mean = square_mean;
    handle.spec.slope_square_mean = slope_square_mean;
    handle.eta = numbers(eta);
    handle.eta_slope = numbers(eta_slope);
    for (const auto* table : {&handle.eta, &handle.eta_slope})
        if (long(table->size()) != 2L * kAngleOctaves * kAngleTerms)
            throw std::invalid_argument("a table over the angle has another size");
    return handle;
}

DualHandle series(const std::string& activation, double constant, double linear, double slope_constant,
                  bool is_odd, const py::array& nodes, const py::array& even, const py::array& odd,
                  double base, double rate, double reach) {
    DualHandle handle;
    handle.spec.dual = Dual::series;
    handle.spec.activation = activation_named(activation);
    handle.spec.reach = reach;
    handle.spec.constant = constant;
    handle.spec.linear = linear;
    handle.spec.slope_constant = slope_constant;
    handle.spec.odd = is_odd;
    handle.series = std::make_shared<const NngpSeries>(NngpSeries{
        activation_named(activation), 0.0, numbers(nodes), numbers(even), numbers(odd), base, rate});
    return handle;
}

void nngp_kernel(const py::array& x, const std::optional<py::array>& y, const DualHandle& dual,
                 double weight_variance, double bias_variance, long depth, bool ntk, long terms,
                 const py::array& out) {
    with_dtype(x, [&]<class T>() {
        const auto rows = view<const T>(x), columns = view_or_none<const T>(y);
        const auto to = view<T>(out);
        const NngpSpec spec = dual.with(weight_variance, bias_variance, depth, ntk, terms, rows.dim(1));
        without_gil([&] { rk::nngp_kernel<T>(rows, columns, spec, dual.series.get(), to); });
    });
}

void nngp_diagonal(const py::array& x, const DualHandle& dual, double weight_variance, double bias_variance,
                   long depth, bool ntk, long terms, const py::array& out) {
    with_dtype(x, [&]<class T>() {
        const auto rows = view<const T>(x);
        const auto to = view<T>(out);
        const NngpSpec spec = dual.with(weight_variance, bias_variance, depth, ntk, terms, rows.dim(1));
        without_gil([&] { rk::nngp_diagonal<T>(rows, spec, dual.series.get(), to); });
    });
}

void random_features(const py::array& x, std::uint64_t key, const std::vector<long>& widths,
                     const std::string& activation, double parameter, double weight_std, double bias_std,
                     const py::array& out) {
    const bool step = activation == "step";
    const RandomNetwork net{
        key,       widths,     step,    step ? Activation::identity : activation_named(activation),
        parameter, weight_std, bias_std};
    with_dtype(x, [&]<class T>() {
        const auto rows = view<const T>(x);
        const auto to = view<T>(out);
        without_gil([&] { rk::random_features<T>(rows, net, to); });
    });
}

// Columns of the weights of a layer: panels, as the kernels make them, unpacked.
void random_normals(std::uint64_t key, long layer, long stream, const py::array& out) {
    with_dtype(out, [&]<class T>() {
        const auto to = view<T>(out);
        const Kernels<T>& k = kernels<T>();
        const long depth = to.dim(2), cols = to.dim(1);
        const Buffer<T> panel(depth * k.nr);
        for (long j = 0; j < cols; j += k.nr) {
            const long n = std::min(long(k.nr), cols - j);
            k.random_panels(key, layer, stream, depth, j, n, panel.get(), depth * k.nr);
            for (long i = 0; i < depth; ++i)
                std::copy_n(panel.get() + i * k.nr, n, to.data + i * to.step(2) + j);
        }
    });
}

void philox(const py::array_t<std::uint32_t>& counters, std::uint64_t key,
            const py::array_t<std::uint32_t>& out) {
    const auto from = view<const std::uint32_t>(counters);
    kernels<double>().philox(from.data, key, view<std::uint32_t>(out).data, from.dim(2));
}

}  // namespace

void register_nngp(py::module_& m) {
    using py::arg;
    m.attr("angle_octaves") = kAngleOctaves;
    m.attr("angle_terms") = kAngleTerms;
    py::class_<DualHandle>(m, "Dual", "The dual of an activation, E[a(u) a(v)].")
        .def_static("closed_form", &closed_form, arg("name"), arg("parameter"))
        .def_static("relu_power", &relu_power, arg("exponent"), arg("square_mean"), arg("slope_square_mean"),
                    arg("eta"), arg("eta_slope"))
        .def_static("series", &series, arg("activation"), arg("constant"), arg("linear"),
                    arg("slope_constant"), arg("is_odd"), arg("nodes"), arg("even"), arg("odd"), arg("base"),
                    arg("rate"), arg("reach"));
    m.def("nngp_kernel", &nngp_kernel, arg("x"), arg("y"), arg("dual"), arg("weight_variance"),
          arg("bias_variance"), arg("depth"), arg("ntk"), arg("terms"), arg("out"));
    m.def("nngp_diagonal", &nngp_diagonal, arg("x"), arg("dual"), arg("weight_variance"),
          arg("bias_variance"), arg("depth"), arg("ntk"), arg("terms"), arg("out"));
    m.def("random_features", &random_features, arg("x"), arg("key"), arg("widths"), arg("activation"),
          arg("parameter"), arg("weight_std"), arg("bias_std"), arg("out"));
    m.def("random_normals", &random_normals, arg("key"), arg("layer"), arg("stream"), arg("out"),
          "Weights (stream 0) or biases (stream 1) of a layer of random_features; columns of unit stride.");
    m.def("philox", &philox, arg("counters"), arg("key"), arg("out"),
          "Philox 4x32-10, for tests: contiguous rows of four words.");
}

}  // namespace rk::bindings
