// The extension relkernels._cuda: from descriptions of arrays on a device to the operations.
//
// Names, defaults, checks and messages are Python's (python/relkernels/cuda/). Calls put work on a stream and
// return; they hold the GIL, for they take memory from a Python allocator and wait for nothing.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <variant>

#include "base/names.hpp"
#include "operations.hpp"

#ifdef RK_CUDA_EMULATED
#define RK_CUDA_MODULE _cuda_emulated  // for tests (tests/cuda_emulation)
#else
#define RK_CUDA_MODULE _cuda
#endif

namespace rk::cuda {

namespace {

namespace py = pybind11;
using Maybe = std::optional<Array>;

Dtype dtype_named(const std::string& name) {
    if (name == "float32") return Dtype::float32;
    if (name == "float64") return Dtype::float64;
    if (name == "bfloat16") return Dtype::bfloat16;
    if (name == "float16") return Dtype::float16;
    if (name == "bool") return Dtype::boolean;
    if (name == "int64") return Dtype::int64;
    throw std::invalid_argument("no dtype is called '" + name + "'");
}

Link link_named(const std::string& name) {
    if (name == "identity") return Link::identity;
    if (name == "exp") return Link::exp;
    if (name == "relu") return Link::relu;
    if (name == "square") return Link::square;
    throw std::invalid_argument("no link is called '" + name + "'");
}

// f.template operator()<A>() with the arithmetic of a name.
template <class F>
auto with_arithmetic(const std::string& name, const F& f) {
    if (name == "float32") return f.template operator()<Fma<float>>();
    if (name == "tf32") return f.template operator()<Tf32>();
    if (name == "bfloat16") return f.template operator()<Half<bfloat16>>();
    if (name == "float16") return f.template operator()<Half<float16>>();
    if (name == "float64") return f.template operator()<Fma<double>>();
    throw std::invalid_argument("no arithmetic is called '" + name + "'");
}

// Pairs (i, j) that may attend have least <= j - i <= greatest; None: no limit. No limits, or the causal
// rule.
using Limits = std::pair<std::optional<long>, std::optional<long>>;

bool is_causal(const Limits& band) {
    if (band == Limits{}) return false;
    if (band == Limits{std::nullopt, 0}) return true;
    throw std::invalid_argument("expected no limits, or the causal rule");
}

// Gradients are for whole precision.
template <class F>
void with_full_precision(const Array& a, const F& f) {
    if (a.dtype == Dtype::float32) return f.template operator()<Fma<float>>();
    if (a.dtype == Dtype::float64) return f.template operator()<Fma<double>>();
    throw std::invalid_argument("expected float32 or float64");
}

class MlpHandle {
   public:
    MlpHandle(const Context& context, std::uintptr_t memory, const std::vector<Array>& weights,
              const std::vector<Array>& biases, const std::string& activation, double parameter,
              const std::string& arithmetic) {
        const DeviceGuard guard(context.device);
        with_arithmetic(arithmetic, [&]<class A>() {
            mlp_ = std::make_shared<Mlp<A>>(context, reinterpret_cast<char*>(memory), weights, biases,
                                            activation_named(activation), parameter);
        });
    }
    template <class A>
    const Mlp<A>& as() const {
        const auto* held = std::get_if<std::shared_ptr<Mlp<A>>>(&mlp_);
        if (!held) throw std::invalid_argument("a map was packed for another arithmetic");
        return **held;
    }

   private:
    std::variant<std::shared_ptr<Mlp<Fma<float>>>, std::shared_ptr<Mlp<Fma<double>>>,
                 std::shared_ptr<Mlp<Tf32>>, std::shared_ptr<Mlp<Half<bfloat16>>>,
                 std::shared_ptr<Mlp<Half<float16>>>>
        mlp_;
};

template <class A>
const Mlp<A>* map_or_null(const MlpHandle* handle) {
    return handle ? &handle->as<A>() : nullptr;
}

Array make_array(std::uintptr_t pointer, const std::vector<long>& shape, const std::vector<long>& strides,
                 const std::string& dtype) {
    if (shape.size() != strides.size()) throw std::invalid_argument("shape and strides differ in length");
    return {reinterpret_cast<char*>(pointer), shape, strides, dtype_named(dtype)};
}

Context make_context(int device, std::uintptr_t stream, const std::function<std::uintptr_t(long)>& allocate) {
    Context context;
    context.device = device;
#ifdef RK_CUDA_EMULATED
    context.stream = long(stream);
#else
    context.stream = reinterpret_cast<Stream>(stream);
#endif
    context.allocate = [allocate](long bytes) { return reinterpret_cast<char*>(allocate(bytes)); };
    context.multiprocessors = multiprocessors_of(device);
    context.shared_bytes = shared_bytes_of(device);
    return context;
}

int device_count() {
#ifdef RK_CUDA_EMULATED
    return 1;
#else
    int count = 0;
    // Without a driver this fails; the failure must not be found by a later call.
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return count;
#endif
}

py::dict device_info(int device) {
    py::dict info;
#ifdef RK_CUDA_EMULATED
    info["name"] = "emulated on the CPU";
    info["compute_capability"] = "8.0";
    info["memory"] = 0;
    info["multiprocessors"] = multiprocessors_of(device);
#else
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, device), "device_info");
    info["name"] = properties.name;
    info["compute_capability"] = std::to_string(properties.major) + "." + std::to_string(properties.minor);
    info["memory"] = properties.totalGlobalMem;
    info["multiprocessors"] = properties.multiProcessorCount;
#endif
    return info;
}

py::dict build_info() {
    py::dict info;
#ifdef RK_CUDA_EMULATED
    info["toolkit"] = "none: emulated on the CPU";
    info["architectures"] = std::vector<std::string>{};
#else
    info["toolkit"] =
        std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
    info["architectures"] = std::vector<std::string>{"sm_80", "sm_90a", "compute_80"};
#endif
    return info;
}

}  // namespace

PYBIND11_MODULE(RK_CUDA_MODULE, m, py::mod_gil_not_used()) {
    using py::arg;
    py::class_<Array>(m, "Array", "An array on a device: pointer, shape, strides in elements, dtype.",
                      py::module_local())
        .def(py::init(&make_array), arg("pointer"), arg("shape"), arg("strides"), arg("dtype"));
    py::class_<Context>(m, "Context", "Device, stream and allocator of a call.", py::module_local())
        .def(py::init(&make_context), arg("device"), arg("stream"), arg("allocate"));
    py::class_<MlpHandle>(m, "Mlp", "Packed weights of a multi-layer perceptron on a device.",
                          py::module_local())
        .def(py::init<const Context&, std::uintptr_t, const std::vector<Array>&, const std::vector<Array>&,
                      const std::string&, double, const std::string&>(),
             arg("context"), arg("memory"), arg("weights"), arg("biases"), arg("activation"),
             arg("parameter"), arg("arithmetic"))
        .def_static(
            "bytes",
            [](const std::vector<long>& widths, const std::string& arithmetic) {
                return with_arithmetic(arithmetic, [&]<class A>() { return Mlp<A>::bytes(widths); });
            },
            arg("widths"), arg("arithmetic"));
    m.def("device_count", &device_count);
    m.def("device_info", &device_info, arg("device"));
    m.def("build_info", &build_info);

    m.def(
        "feature_map",
        [](const Context& context, const Array& x, const MlpHandle& mlp, const std::string& arithmetic,
           const Array& out) {
            const DeviceGuard guard(context.device);
            with_arithmetic(arithmetic, [&]<class A>() { feature_map<A>(context, x, mlp.as<A>(), out); });
        },
        arg("context"), arg("x"), arg("mlp"), arg("arithmetic"), arg("out"));
    m.def(
        "relation_matrix",
        [](const Context& context, const Array& x, const Maybe& y, const MlpHandle* phi, const MlpHandle* psi,
           const std::string& arithmetic, double scale, long heads, const Array& out) {
            const DeviceGuard guard(context.device);
            with_arithmetic(arithmetic, [&]<class A>() {
                relation_matrix<A>(context, x, y, map_or_null<A>(phi), map_or_null<A>(psi), scale, heads,
                                   out);
            });
        },
        arg("context"), arg("x"), arg("y").none(true), arg("phi").none(true), arg("psi").none(true),
        arg("arithmetic"), arg("scale"), arg("heads"), arg("out"));
    m.def(
        "attention_scores",
        [](const Context& context, const Array& q, const Array& k, const MlpHandle* phi, const MlpHandle* psi,
           const std::string& arithmetic, double scale, const Maybe& mask, const Limits& band,
           const Array& out) {
            const DeviceGuard guard(context.device);
            with_arithmetic(arithmetic, [&]<class A>() {
                attention_scores<A>(context, q, k, map_or_null<A>(phi), map_or_null<A>(psi), scale, mask,
                                    is_causal(band), out);
            });
        },
        arg("context"), arg("q"), arg("k"), arg("phi").none(true), arg("psi").none(true), arg("arithmetic"),
        arg("scale"), arg("mask").none(true), arg("band"), arg("out"));
    m.def(
        "attention",
        [](const Context& context, const Array& q, const Array& k, const Array& v, const MlpHandle* phi,
           const MlpHandle* psi, const std::string& arithmetic, double scale, const Maybe& mask,
           const Limits& band, const Array& out, const Maybe& lse) {
            const DeviceGuard guard(context.device);
            with_arithmetic(arithmetic, [&]<class A>() {
                attention<A>(context, q, k, v, map_or_null<A>(phi), map_or_null<A>(psi), scale, mask,
                             is_causal(band), out, lse);
            });
        },
        arg("context"), arg("q"), arg("k"), arg("v"), arg("phi").none(true), arg("psi").none(true),
        arg("arithmetic"), arg("scale"), arg("mask").none(true), arg("band"), arg("out"),
        arg("lse").none(true));
    m.def(
        "retrieve",
        [](const Context& context, const Array& q, const Array& keys, const MlpHandle* phi,
           const MlpHandle* psi, const std::string& arithmetic, const Maybe& mask, const Array& values,
           const Array& indices) {
            const DeviceGuard guard(context.device);
            with_arithmetic(arithmetic, [&]<class A>() {
                retrieve<A>(context, q, keys, map_or_null<A>(phi), map_or_null<A>(psi), mask, values,
                            indices);
            });
        },
        arg("context"), arg("q"), arg("keys"), arg("phi").none(true), arg("psi").none(true),
        arg("arithmetic"), arg("mask").none(true), arg("values"), arg("indices"));
    m.def(
        "relation_matvec",
        [](const Context& context, const Array& x, const Array& y, const Array& v, const MlpHandle* phi,
           const MlpHandle* psi, const std::string& arithmetic, const std::string& link, double scale,
           const Array& out) {
            const DeviceGuard guard(context.device);
            with_arithmetic(arithmetic, [&]<class A>() {
                relation_matvec<A>(context, x, y, v, map_or_null<A>(phi), map_or_null<A>(psi),
                                   link_named(link), scale, out);
            });
        },
        arg("context"), arg("x"), arg("y"), arg("v"), arg("phi").none(true), arg("psi").none(true),
        arg("arithmetic"), arg("link"), arg("scale"), arg("out"));
    m.def(
        "feature_map_vjp",
        [](const Context& context, const Array& x, const MlpHandle& mlp, const Array& grad,
           const Array& grad_x, const std::vector<Array>& grad_weights,
           const std::vector<Array>& grad_biases) {
            const DeviceGuard guard(context.device);
            with_full_precision(x, [&]<class A>() {
                feature_map_vjp<A>(context, x, mlp.as<A>(), grad, grad_x, grad_weights, grad_biases);
            });
        },
        arg("context"), arg("x"), arg("mlp"), arg("grad"), arg("grad_x"), arg("grad_weights"),
        arg("grad_biases"));
    m.def(
        "relation_matrix_vjp",
        [](const Context& context, const Array& f, const Array& g, const Array& grad, double scale,
           long heads, const Array& grad_f, const Array& grad_g, const Array& grad_scale) {
            const DeviceGuard guard(context.device);
            with_full_precision(f, [&]<class A>() {
                relation_matrix_vjp<A>(context, f, g, grad, scale, heads, grad_f, grad_g, grad_scale);
            });
        },
        arg("context"), arg("f"), arg("g"), arg("grad"), arg("scale"), arg("heads"), arg("grad_f"),
        arg("grad_g"), arg("grad_scale"));
    m.def(
        "attention_vjp",
        [](const Context& context, const Array& f, const Array& g, const Array& v, const Maybe& mask,
           const Limits& band, double scale, const Array& out, const Array& lse, const Array& grad,
           const Array& grad_f, const Array& grad_g, const Array& grad_v, const Array& grad_scale) {
            const DeviceGuard guard(context.device);
            with_full_precision(f, [&]<class A>() {
                attention_vjp<A>(context, f, g, v, mask, is_causal(band), scale, out, lse, grad, grad_f,
                                 grad_g, grad_v, grad_scale);
            });
        },
        arg("context"), arg("f"), arg("g"), arg("v"), arg("mask").none(true), arg("band"), arg("scale"),
        arg("out"), arg("lse"), arg("grad"), arg("grad_f"), arg("grad_g"), arg("grad_v"), arg("grad_scale"));
}

}  // namespace rk::cuda
