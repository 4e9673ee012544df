// Threads, instruction set and build, for show_config and the tests.
#include "base/openmp.hpp"
#include "bindings/conversions.hpp"
#include "processor/isa.hpp"

// threadpoolctl recognizes our _core by this symbol.
extern "C" __attribute__((visibility("default"))) int relkernels_num_threads() { return rk::num_threads(); }

namespace rk::bindings {

namespace {

void vector_math(const std::string& name, const py::array& x, double parameter, const py::array& out) {
    with_dtype(x, [&]<class T>() {
        const Array<const T> from = view<const T>(x);
        const Array<T> to = view<T>(out);
        if (!kernels<T>().vector_math(name.c_str(), T(parameter), from.data, to.data, from.dim(1)))
            throw std::invalid_argument("no function is called '" + name + "'");
    });
}

py::dict build_info() {
    py::dict info;
    info["version"] = RK_VERSION;
    info["compiler"] = RK_COMPILER;
    info["flags"] = RK_FLAGS;
#ifdef RK_CUDA_NOT_BUILT  // why there is no extension _cuda beside this one
    info["cuda_not_built"] = RK_CUDA_NOT_BUILT;
#endif
    return info;
}

py::dict cpu_info() {
    py::dict info;
    for (const auto& [name, present] : cpu_features()) info[name.c_str()] = present;
    return info;
}

}  // namespace

void register_system(py::module_& m) {
    m.attr("__version__") = RK_VERSION;
    m.attr("isa") = isa_name();
    m.def("available_isas", &available_isas, "Instruction sets this processor can run, best first.");
    m.def("cpu_info", &cpu_info, "Instruction-set extensions of this processor, by name.");
    m.def("build_info", &build_info, "Version, compiler and flags of this build.");
    m.def("get_num_threads", &num_threads);
    m.def("set_num_threads", &set_num_threads, py::arg("n"));
    m.def("find_openmp", &find_openmp, py::arg("path"));
    m.def("use_openmp", &use_openmp, py::arg("use"));
    m.def("vector_math", &vector_math, py::arg("name"), py::arg("x"), py::arg("parameter"), py::arg("out"),
          "Elementwise function of the kernels by name, for tests: out <- name(x), contiguous arrays.");
}

}  // namespace rk::bindings
