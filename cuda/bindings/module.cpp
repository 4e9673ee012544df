// The extension relkernels._cuda: passes descriptions of arrays on a device to the operations.
//
// Names, defaults, checks and messages belong to Python (python/relkernels/cuda/). Calls put work on a stream
// and return. They hold the GIL because they allocate memory through Python; they never wait for the device.
#include <iterator>
#include <sstream>

#include "bindings/conversions.hpp"

#ifdef RK_CUDA_EMULATED
#define RK_CUDA_MODULE _cuda_emulated  // for tests (tests/cuda_emulation)
#else
#define RK_CUDA_MODULE _cuda
#endif

namespace rk::cuda {

namespace {

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
