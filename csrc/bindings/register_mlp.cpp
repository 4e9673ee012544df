// MLP handles: packed weights of either dtype.
#include <array>
#include <string>

#include "bindings/arrays.hpp"

namespace rk::bindings {

namespace {

// In the order of enum class Activation.
constexpr std::array<const char*, 13> kActivations = {
    "identity", "relu",    "leaky_relu", "relu_power", "gelu", "gelu_tanh", "silu",
    "tanh",     "sigmoid", "softplus",   "erf",        "sin",  "cos"};

MlpHandle make_mlp(const std::vector<py::array>& weights, const std::optional<std::vector<py::array>>& biases,
                   const std::string& activation, double parameter) {
    MlpHandle handle;
    with_dtype(weights.at(0), [&]<class T>() {
        std::vector<Array<const T>> w, b;
        for (const py::array& a : weights) w.push_back(view<const T>(a));
        if (biases)
            for (const py::array& a : *biases) b.push_back(view<const T>(a));
        handle.mlp = std::make_shared<Mlp<T>>(w, b, activation_named(activation), T(parameter));
    });
    return handle;
}

}  // namespace

Activation activation_named(const std::string& name) {
    for (std::size_t i = 0; i < kActivations.size(); ++i)
        if (name == kActivations[i]) return Activation(int(i));
    throw std::invalid_argument("no activation is called '" + name + "'");
}

void register_mlp(py::module_& m) {
    py::class_<MlpHandle>(m, "Mlp", "Packed weights of a multi-layer perceptron.")
        .def(py::init(&make_mlp), py::arg("weights"), py::arg("biases"), py::arg("activation"),
             py::arg("parameter"));
}

}  // namespace rk::bindings
