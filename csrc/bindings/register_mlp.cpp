// MLP handles: packed weights of either dtype.
#include <string>

#include "bindings/conversions.hpp"

namespace rk::bindings {

namespace {

MlpHandle make_mlp(const std::vector<py::array>& weights, const std::optional<std::vector<py::array>>& biases,
                   const std::string& activation, double parameter, bool normalize) {
    MlpHandle handle;
    with_dtype(weights.at(0), [&]<class T>() {
        std::vector<Array<const T>> w, b;
        for (const py::array& a : weights) w.push_back(view<const T>(a));
        if (biases)
            for (const py::array& a : *biases) b.push_back(view<const T>(a));
        handle.mlp = std::make_shared<Mlp<T>>(w, b, activation_named(activation), T(parameter), normalize);
    });
    return handle;
}

}  // namespace

// A static function instead of a constructor: if there is no memory to register the object, the exception of
// a pybind11 constructor ends the process.
void register_mlp(py::module_& m) {
    py::class_<MlpHandle>(m, "Mlp", "Packed weights of a multi-layer perceptron.")
        .def_static("pack", &make_mlp, py::arg("weights"), py::arg("biases"), py::arg("activation"),
                    py::arg("parameter"), py::arg("normalize"));
}

}  // namespace rk::bindings
