// The extension relkernels._cuda: passes descriptions of arrays on a device to the operations.
//
// Names, defaults, checks and messages belong to Python (python/relkernels/cuda/). Calls put work on a stream
// and return. They hold the GIL because they allocate memory through Python; they never wait for the device.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <tuple>
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
using Maybe = std::optional<Array>;  // None: absent

Dtype dtype_named(const std::string& name) {
    if (name == "float32") return Dtype::float32;
    if (name == "float64") return Dtype::float64;
    if (name == "bfloat16") return Dtype::bfloat16;
    if (name == "float16") return Dtype::float16;
    if (name == "bool") return Dtype::boolean;
    if (name == "int64") return Dtype::int64;
    throw std::invalid_argument("no dtype is called '" + name + "'");
}

// Calls f.template operator()<A>() with the arithmetic of this name.
template <class F>
auto with_arithmetic(const std::string& name, const F& f) {
    if (name == "float32") return f.template operator()<Fma<float>>();
    if (name == "tf32") return f.template operator()<Tf32>();
    if (name == "bfloat16") return f.template operator()<Half<bfloat16>>();
    if (name == "float16") return f.template operator()<Half<float16>>();
    if (name == "float64") return f.template operator()<Fma<double>>();
    throw std::invalid_argument("no arithmetic is called '" + name + "'");
}

class MlpHandle {
   public:
    MlpHandle(const Context& context, std::uintptr_t memory, const std::vector<Array>& weights,
              const std::vector<Array>& biases, const std::string& activation, double parameter,
              bool normalize, const std::string& arithmetic) {
        const DeviceGuard guard(context.device);
        with_arithmetic(arithmetic, [&]<class A>() {
            mlp_ = std::make_shared<Mlp<A>>(context, reinterpret_cast<char*>(memory), weights, biases,
                                            activation_named(activation), parameter, normalize);
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

// ---- The operations: the arithmetic of a call, and its arguments in structs

// Calls f.template operator()<A>() on the context's device, A being the arithmetic of this name.
template <class F>
void run(const Context& context, const std::string& arithmetic, const F& f) {
    const DeviceGuard guard(context.device);
    with_arithmetic(arithmetic, f);
}

// The same with the arithmetic of the arrays' dtype.
template <class F>
void run_in(const Context& context, Dtype dtype, const F& f) {
    const DeviceGuard guard(context.device);
    switch (dtype) {
        case Dtype::float32: return f.template operator()<Fma<float>>();
        case Dtype::float64: return f.template operator()<Fma<double>>();
        case Dtype::bfloat16: return f.template operator()<Half<bfloat16>>();
        case Dtype::float16: return f.template operator()<Half<float16>>();
        default: throw std::invalid_argument("expected an array of floats");
    }
}

// The same for gradients: float32 or float64.
template <class F>
void run_gradient(const Context& context, Dtype dtype, const F& f) {
    const DeviceGuard guard(context.device);
    if (dtype == Dtype::float32) return f.template operator()<Fma<float>>();
    if (dtype == Dtype::float64) return f.template operator()<Fma<double>>();
    throw std::invalid_argument("expected float32 or float64");
}

template <class A>
Relation<A> relation_of(const Array& rows, const Maybe& columns, const MlpHandle* phi, const MlpHandle* psi,
                        double scale) {
    return {rows, columns.value_or(Array{}), phi ? &phi->as<A>() : nullptr, psi ? &psi->as<A>() : nullptr,
            scale};
}

// The offsets of rows and of columns of a ragged batch, in main memory, and whether a band is relative to the
// last row and column of a segment (python/relkernels/ops/allowed.py).
using Offsets = py::array_t<std::int64_t, py::array::c_style>;
using Ragged = std::optional<std::tuple<Offsets, Offsets, bool>>;

Segments segments_of(const Ragged& ragged, const Array& rows, const Array& columns) {
    if (!ragged) return {};
    const auto& [of_rows, of_columns, from_last] = *ragged;
    const Segments s{of_rows.data(), of_columns.data(), long(of_rows.size()) - 1};
    const auto covers = [&](const std::int64_t* offsets, long size) {
        return offsets[0] == 0 && offsets[s.count] == size && std::is_sorted(offsets, offsets + s.count + 1);
    };
    if (s.count < 0 || of_columns.size() != of_rows.size() || !covers(s.rows, rows.dim(2)) ||
        !covers(s.columns, columns.dim(2)))
        throw std::invalid_argument("offsets do not cover the rows of a ragged batch");
    return s;
}

// The least and the greatest j - i of the pairs (i, j) that may attend; None: no limit.
using Limits = std::pair<std::optional<long>, std::optional<long>>;

Allowed allowed_by(const Maybe& mask, const Limits& band) {
    const auto clamped = [](long limit) { return std::clamp(limit, -Band::kNoLimit, Band::kNoLimit); };
    return {mask.value_or(Array{}),
            {clamped(band.first.value_or(-Band::kNoLimit)), clamped(band.second.value_or(Band::kNoLimit))}};
}

Scoring scored_by(const Maybe& mask, const Limits& band, const Maybe& bias,
                  const std::optional<double>& softcap, const Ragged& ragged = {}) {
    Scoring scoring{allowed_by(mask, band), bias.value_or(Array{}), softcap.value_or(0.0)};
    scoring.allowed.from_last = ragged && std::get<bool>(*ragged);
    return scoring;
}

// Ranges, columns and the number of the first column, as ops/excluded.py makes them.
using Exclusions = std::optional<std::tuple<Array, Array, long>>;

Searchable searchable_by(const Maybe& mask, const Exclusions& excluded) {
    Searchable s{allowed_by(mask, {})};
    if (excluded) {
        const auto& [ranges, columns, first] = *excluded;
        s.excluded = {ranges, columns, first};
    }
    return s;
}

// Arguments of relational attention: arrays in the order of the public function.
RelationalSides relational_sides(const std::array<Array, 5>& sides, const std::string& activation,
                                 double parameter, double scale, double rel_scale) {
    const auto& [q, k, q_rel, k_rel, v] = sides;
    return {q, k, q_rel, k_rel, v, scale, rel_scale, RelationActivation::named(activation, parameter)};
}
using Result = std::tuple<Array, Array, Maybe>;

RelationalResult relational_result(const Result& result) {
    const auto& [relations, values, lse] = result;
    return {relations, values, lse.value_or(Array{})};
}

// What retrieve_above found, until it is written.
struct FoundPairsHandle {
    int device;
    FoundPairs pairs;

    void write(const Array& offsets, const Array& indices, const Array& values) const {
        const DeviceGuard guard(device);
        pairs.write(offsets, indices, values);
    }
};

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
    // Fails without a driver; clear the error, so that no later call reports it.
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
    info["architectures"] = std::vector<std::string>{"sm_80"};  // as the emulator's one GPU
#else
    info["toolkit"] =
        std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
    std::istringstream names(RK_CUDA_ARCHITECTURES);
    info["architectures"] = std::vector<std::string>(std::istream_iterator<std::string>(names), {});
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
                      const std::string&, double, bool, const std::string&>(),
             arg("context"), arg("memory"), arg("weights"), arg("biases"), arg("activation"),
             arg("parameter"), arg("normalize"), arg("arithmetic"))
        .def_static(
            "bytes",
            [](const std::vector<long>& widths, const std::string& arithmetic) {
                return with_arithmetic(arithmetic, [&]<class A>() { return Mlp<A>::bytes(widths); });
            },
            arg("widths"), arg("arithmetic"));
    m.def("device_count", &device_count);
    m.def("device_info", &device_info, arg("device"));
    m.def("build_info", &build_info);

    // The operations take their arguments by position, options without which most calls are made by name.
    m.def("feature_map", [](const Context& context, const Array& x, const MlpHandle& mlp,
                            const std::string& arithmetic, const Array& out) {
        run(context, arithmetic, [&]<class A>() { feature_map(context, x, mlp.as<A>(), out); });
    });
    m.def("normalize", [](const Context& context, const Array& x, const Array& out) {
        const DeviceGuard guard(context.device);
        normalize(context, x, out);
    });
    m.def("relation_matrix", [](const Context& context, const Array& x, const Maybe& y, const MlpHandle* phi,
                                const MlpHandle* psi, const std::string& arithmetic, const std::string& link,
                                double scale, long heads, const Array& out) {
        run(context, arithmetic, [&]<class A>() {
            relation_matrix(context, relation_of<A>(x, y, phi, psi, scale), link_named(link), heads, out);
        });
    });
    m.def("attention_scores",
          [](const Context& context, const Array& q, const Array& k, const MlpHandle* phi,
             const MlpHandle* psi, const std::string& arithmetic, double scale, const Maybe& mask,
             const Limits& band, const Maybe& bias, const std::optional<double>& softcap, const Array& out) {
              run(context, arithmetic, [&]<class A>() {
                  attention_scores(context, relation_of<A>(q, k, phi, psi, scale),
                                   scored_by(mask, band, bias, softcap), out);
              });
          });
    m.def("attention",
          [](const Context& context, const Array& q, const Array& k, const Array& v, const MlpHandle* phi,
             const MlpHandle* psi, const std::string& arithmetic, double scale, const Maybe& mask,
             const Limits& band, const Maybe& bias, const std::optional<double>& softcap, const Array& out,
             const Maybe& lse, const Ragged& ragged) {
              run(context, arithmetic, [&]<class A>() {
                  Relation<A> relation = relation_of<A>(q, k, phi, psi, scale);
                  relation.segments = segments_of(ragged, q, k);
                  attention(context, relation, v, scored_by(mask, band, bias, softcap, ragged), out,
                            lse.value_or(Array{}));
              });
          });
    m.def("relational_attention", [](const Context& context, const Array& q, const Array& k,
                                     const Array& q_rel, const Array& k_rel, const Array& v,
                                     const std::string& activation, double parameter, double scale,
                                     double rel_scale, const Maybe& mask, const Limits& band,
                                     const Array& relations, const Array& values, const Maybe& lse) {
        run_in(context, q.dtype, [&]<class A>() {
            relational_attention<A>(
                context, relational_sides({q, k, q_rel, k_rel, v}, activation, parameter, scale, rel_scale),
                allowed_by(mask, band), {relations, values, lse.value_or(Array{})});
        });
    });
    m.def(
        "retrieve",
        [](const Context& context, const Array& q, const Array& keys, const MlpHandle* phi,
           const MlpHandle* psi, const std::string& arithmetic, const Maybe& mask, const Array& values,
           const Array& indices, const Exclusions& excluded, const Ragged& ragged) {
            run(context, arithmetic, [&]<class A>() {
                Relation<A> relation = relation_of<A>(q, keys, phi, psi, 1.0);
                relation.segments = segments_of(ragged, q, keys);
                retrieve(context, relation, searchable_by(mask, excluded), values, indices);
            });
        },
        arg("context"), arg("q"), arg("keys"), arg("phi").none(true), arg("psi").none(true),
        arg("arithmetic"), arg("mask"), arg("values"), arg("indices"), arg("excluded") = py::none(),
        arg("ragged") = py::none());
    py::class_<FoundPairsHandle>(m, "FoundPairs", py::module_local()).def("write", &FoundPairsHandle::write);
    m.def(
        "retrieve_above",
        [](const Context& context, const Array& q, const Array& keys, const MlpHandle* phi,
           const MlpHandle* psi, const std::string& arithmetic, const Maybe& mask, const Array& thresholds,
           const Array& total, const Exclusions& excluded) {
            FoundPairsHandle found{context.device, {}};
            run(context, arithmetic, [&]<class A>() {
                found.pairs = retrieve_above(context, relation_of<A>(q, keys, phi, psi, 1.0),
                                             searchable_by(mask, excluded), thresholds, total);
            });
            return found;
        },
        arg("context"), arg("q"), arg("keys"), arg("phi").none(true), arg("psi").none(true),
        arg("arithmetic"), arg("mask"), arg("thresholds"), arg("total"), arg("excluded") = py::none());
    m.def("relation_matvec", [](const Context& context, const Array& x, const Array& y, const Array& v,
                                const MlpHandle* phi, const MlpHandle* psi, const std::string& arithmetic,
                                const std::string& link, double scale, const Array& out) {
        run(context, arithmetic, [&]<class A>() {
            relation_matvec(context, relation_of<A>(x, y, phi, psi, scale), v, link_named(link), out);
        });
    });
    m.def("feature_map_vjp",
          [](const Context& context, const Array& x, const MlpHandle& mlp, const Array& grad,
             const Array& grad_x, const std::vector<Array>& grad_weights,
             const std::vector<Array>& grad_biases) {
              run_gradient(context, x.dtype, [&]<class A>() {
                  feature_map_vjp(context, x, mlp.as<A>(), grad, grad_x, grad_weights, grad_biases);
              });
          });
    m.def("normalize_vjp",
          [](const Context& context, const Array& x, const Array& grad, const Array& grad_x) {
              const DeviceGuard guard(context.device);
              normalize_vjp(context, x, grad, grad_x);
          });
    m.def("relation_matrix_vjp", [](const Context& context, const Array& f, const Array& g, const Array& grad,
                                    const std::string& link, double scale, long heads, const Maybe& grad_f,
                                    const Maybe& grad_g, const Maybe& grad_scale) {
        run_gradient(context, f.dtype, [&]<class A>() {
            relation_matrix_vjp(context, relation_of<A>(f, g, nullptr, nullptr, scale), link_named(link),
                                heads, grad, grad_f.value_or(Array{}), grad_g.value_or(Array{}),
                                grad_scale.value_or(Array{}));
        });
    });
    m.def("relation_matvec_vjp",
          [](const Context& context, const Array& f, const Array& g, const Array& v, const Array& grad,
             const std::string& link, double scale, const Array& grad_f, const Array& grad_g,
             const Array& grad_v, const Array& grad_scale) {
              run_gradient(context, f.dtype, [&]<class A>() {
                  relation_matvec_vjp(context, relation_of<A>(f, g, nullptr, nullptr, scale), v, grad,
                                      link_named(link), grad_f, grad_g, grad_v, grad_scale);
              });
          });
    m.def("attention_vjp",
          [](const Context& context, const Array& f, const Array& g, const Array& v, const Maybe& mask,
             const Limits& band, const Maybe& bias, const std::optional<double>& softcap, double scale,
             const Array& out, const Array& lse, const Array& grad, const Maybe& grad_lse,
             const Array& grad_f, const Array& grad_g, const Array& grad_v, const Maybe& grad_bias,
             const Array& grad_scale, const Ragged& ragged) {
              run_gradient(context, f.dtype, [&]<class A>() {
                  Relation<A> features = relation_of<A>(f, g, nullptr, nullptr, scale);
                  features.segments = segments_of(ragged, f, g);
                  attention_vjp(context, features, v, scored_by(mask, band, bias, softcap, ragged), out, lse,
                                grad, grad_lse.value_or(Array{}), grad_f, grad_g, grad_v,
                                grad_bias.value_or(Array{}), grad_scale);
              });
          });
    m.def("relational_attention_vjp",
          [](const Context& context, const Array& q, const Array& k, const Array& q_rel, const Array& k_rel,
             const Array& v, const std::string& activation, double parameter, double scale, double rel_scale,
             const Maybe& mask, const Limits& band, const Result& result, const Result& grad,
             const std::array<Array, 5>& to, const Array& grad_scale, const Array& grad_rel_scale) {
              run_gradient(context, q.dtype, [&]<class A>() {
                  const auto& [to_q, to_k, to_q_rel, to_k_rel, to_v] = to;
                  relational_attention_vjp<A>(
                      context,
                      relational_sides({q, k, q_rel, k_rel, v}, activation, parameter, scale, rel_scale),
                      allowed_by(mask, band), relational_result(result), relational_result(grad),
                      {to_q, to_k, to_q_rel, to_k_rel, to_v, grad_scale, grad_rel_scale});
              });
          });
    m.def("relation_loss", [](const Context& context, const Array& f, const Array& g, const Maybe& target,
                              const Maybe& labels_f, const Maybe& labels_g, const Maybe& weight,
                              const Maybe& row_scale, const std::string& loss, double scale, double factor,
                              const Array& values, const Array& grad_f, const Maybe& grad_g,
                              const Array& grad_scale) {
        run_gradient(context, f.dtype, [&]<class A>() {
            const auto given = [](const Maybe& a) { return a.value_or(Array{}); };
            relation_loss(
                context, relation_of<A>(f, g, nullptr, nullptr, scale),
                {given(target), given(labels_f), given(labels_g), given(weight), given(row_scale), factor},
                loss_named(loss), values, grad_f, given(grad_g), grad_scale);
        });
    });
    m.def("attention_scores_vjp",
          [](const Context& context, const Array& f, const Array& g, const Maybe& mask, const Limits& band,
             const Maybe& bias, const std::optional<double>& softcap, double scale, const Array& grad,
             const Array& grad_f, const Array& grad_g, const Maybe& grad_bias, const Array& grad_scale) {
              run_gradient(context, f.dtype, [&]<class A>() {
                  attention_scores_vjp(context, relation_of<A>(f, g, nullptr, nullptr, scale),
                                       scored_by(mask, band, bias, softcap), grad, grad_f, grad_g,
                                       grad_bias.value_or(Array{}), grad_scale);
              });
          });
}

}  // namespace rk::cuda
