// What the bindings of the CUDA engine are given, as its operations take it: arithmetics and dtypes by name,
// maps, masks, ragged batches and lists. Mirrors csrc/bindings/conversions.hpp.
#pragma once

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <variant>

#include "base/names.hpp"
#include "operations.hpp"

namespace rk::cuda {

namespace py = pybind11;
using Maybe = std::optional<Array>;  // None: absent

inline Dtype dtype_named(const std::string& name) {
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

inline Segments segments_of(const Ragged& ragged, const Array& rows, const Array& columns) {
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

inline Allowed allowed_by(const Maybe& mask, const Limits& band) {
    const auto clamped = [](long limit) { return std::clamp(limit, -Band::kNoLimit, Band::kNoLimit); };
    return {mask.value_or(Array{}),
            {clamped(band.first.value_or(-Band::kNoLimit)), clamped(band.second.value_or(Band::kNoLimit))}};
}

inline Scoring scored_by(const Maybe& mask, const Limits& band, const Maybe& bias,
                         const std::optional<double>& softcap, const Ragged& ragged = {}) {
    Scoring scoring{allowed_by(mask, band), bias.value_or(Array{}), softcap.value_or(0.0)};
    scoring.allowed.from_last = ragged && std::get<bool>(*ragged);
    return scoring;
}

// Ranges, columns and the number of the first column, as ops/excluded.py makes them.
using Exclusions = std::optional<std::tuple<Array, Array, long>>;

inline Searchable searchable_by(const Maybe& mask, const Exclusions& excluded) {
    Searchable s{allowed_by(mask, {})};
    if (excluded) {
        const auto& [ranges, columns, first] = *excluded;
        s.excluded = {ranges, columns, first};
    }
    return s;
}

// Arguments of relational attention: arrays in the order of the public function.
inline RelationalSides relational_sides(const std::array<Array, 5>& sides, const std::string& activation,
                                        double parameter, double scale, double rel_scale) {
    const auto& [q, k, q_rel, k_rel, v] = sides;
    return {q, k, q_rel, k_rel, v, scale, rel_scale, RelationActivation::named(activation, parameter)};
}
using Result = std::tuple<Array, Array, Maybe>;

inline RelationalResult relational_result(const Result& result) {
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

inline Array make_array(std::uintptr_t pointer, const std::vector<long>& shape,
                        const std::vector<long>& strides, const std::string& dtype) {
    if (shape.size() != strides.size()) throw std::invalid_argument("shape and strides differ in length");
    return {reinterpret_cast<char*>(pointer), shape, strides, dtype_named(dtype)};
}

inline Context make_context(int device, std::uintptr_t stream,
                            const std::function<std::uintptr_t(long)>& allocate) {
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

}  // namespace rk::cuda
