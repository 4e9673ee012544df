// Conversion of NumPy arrays to the engine's, and the two ways in which a call can end early.
//
// Bindings convert, release the GIL and call. Names, defaults, checks and messages are in Python; checks here
// only keep memory accesses valid.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <variant>

#include "base/arrays.hpp"
#include "base/batches.hpp"
#include "base/names.hpp"
#include "base/threads.hpp"
#include "operations/operations.hpp"
#include "walk/masks.hpp"
#include "walk/mlp.hpp"
#include "walk/scoring.hpp"

namespace rk::bindings {

namespace py = pybind11;

// The Python object that holds packed weights of either dtype.
struct MlpHandle {
    std::variant<std::shared_ptr<Mlp<float>>, std::shared_ptr<Mlp<double>>> mlp;

    template <class T>
    const Mlp<T>& as() const {
        const auto* held = std::get_if<std::shared_ptr<Mlp<T>>>(&mlp);
        if (!held) throw std::invalid_argument("the dtype of an MLP differs from that of the arrays");
        return **held;
    }
};

template <class T>
const Mlp<T>* map_or_null(const MlpHandle* handle) {
    return handle ? &handle->as<T>() : nullptr;
}

// "bf16", or None for the precision of the dtype.
inline Precision precision_named(const std::optional<std::string>& name) {
    if (!name) return Precision::full;
    if (*name == "bf16") return Precision::bf16;
    throw std::invalid_argument("no precision is called '" + *name + "'");
}

// Limits of a band, None for no limit. Integers of any size: those past Band::kNoLimit allow or forbid every
// pair just as kNoLimit does.
using Limits = std::pair<std::optional<py::int_>, std::optional<py::int_>>;

inline Band band_of(const Limits& limits) {
    const auto limit = [](const std::optional<py::int_>& given, long none) {
        if (!given) return none;
        int overflow = 0;
        const long value = PyLong_AsLongAndOverflow(given->ptr(), &overflow);
        if (overflow) return overflow > 0 ? Band::kNoLimit : -Band::kNoLimit;
        return std::clamp(value, -Band::kNoLimit, Band::kNoLimit);
    };
    return {limit(limits.first, -Band::kNoLimit), limit(limits.second, Band::kNoLimit)};
}

template <class T>
bool holds(const py::array& a) {
    return py::isinstance<py::array_t<std::remove_const_t<T>>>(a);
}

// An array's memory, shape and strides, whatever its dtype.
template <class T>
Array<T> unchecked_view(const py::array& a, Storage storage) {
    const long size = storage == Storage::own ? long(sizeof(T)) : 2;
    Array<T> v;
    v.data = static_cast<T*>(const_cast<void*>(a.data()));
    for (py::ssize_t i = 0; i < a.ndim(); ++i) {
        v.shape.push_back(long(a.shape(i)));
        // The stride of a dimension of one element is never used, and may be anything.
        const long step = a.shape(i) > 1 ? long(a.strides(i)) : 0;
        if (step % size) throw std::invalid_argument("a stride cuts an element");
        v.stride.push_back(step / size);
    }
    v.storage = storage;
    return v;
}

template <class T>
Array<T> view(const py::array& a) {
    using Value = std::remove_const_t<T>;
    // A boolean mask is read as bytes.
    const bool boolean = std::is_same_v<Value, std::uint8_t> && a.dtype().kind() == 'b';
    if (!boolean && !holds<T>(a)) throw std::invalid_argument("arrays of one call differ in dtype");
    if constexpr (!std::is_const_v<T>)
        if (!a.writeable()) throw std::invalid_argument("an output array is read-only");
    return unchecked_view<T>(a, Storage::own);
}

// The storage of an array of 16 bits: float16, or uint16 for the bits of bfloat16.
inline std::optional<Storage> storage_of(const py::array& a) {
    if (holds<std::uint16_t>(a)) return Storage::bfloat16;
    const py::dtype type = a.dtype();
    if (type.char_() == 'e' && type.byteorder() == '=') return Storage::float16;
    return std::nullopt;
}

// An input that may be stored in 16 bits, if T is float: for operations that read it as Points.
template <class T>
Array<const T> input(const py::array& a) {
    if constexpr (std::is_same_v<T, float>)
        if (const auto storage = storage_of(a)) return unchecked_view<const T>(a, *storage);
    return view<const T>(a);
}

template <class T>
Array<T> view_or_none(const std::optional<py::array>& a) {
    return a ? view<T>(*a) : Array<T>{};
}

// Offsets of the rows and of the columns of a ragged batch, and whether its band is relative to the diagonal
// that ends at the last row and column of each segment.
using Ragged = std::optional<std::tuple<py::array, py::array, bool>>;

inline Allowed allowed_of(const std::optional<py::array>& mask, const Limits& band = {},
                          const Ragged& ragged = {}) {
    if (mask && ragged) throw std::invalid_argument("a ragged batch has no mask");
    return {view_or_none<const std::uint8_t>(mask), band_of(band), ragged && std::get<2>(*ragged)};
}

// A cap that is absent is 0.
template <class T>
Scoring<T> scoring_of(const std::optional<py::array>& mask, const Limits& band,
                      const std::optional<py::array>& bias, std::optional<double> softcap,
                      const Ragged& ragged = {}) {
    if (bias && ragged) throw std::invalid_argument("a ragged batch has no bias");
    return {allowed_of(mask, band, ragged), T(softcap.value_or(0)),
            bias ? input<T>(*bias) : Array<const T>{}};
}

// Values of type T without gaps between them.
template <class T>
const T* contiguous(const py::array& a) {
    const auto v = view<const T>(a);
    if (v.ndim() != 1 || (v.dim(1) > 1 && v.step(1) != 1))
        throw std::invalid_argument("expected a contiguous vector");
    return v.data;
}

template <class T>
Segments segments_of(const Ragged& ragged, const Array<const T>& rows, const Array<const T>& columns) {
    if (!ragged) return {};
    const auto& [of_rows, of_columns, from_last] = *ragged;
    const Segments s{contiguous<std::int64_t>(of_rows), contiguous<std::int64_t>(of_columns),
                     long(of_rows.size()) - 1};
    const auto covers = [&](const std::int64_t* offsets, long size) {
        return offsets[0] == 0 && offsets[s.count] == size && std::is_sorted(offsets, offsets + s.count + 1);
    };
    if (s.count < 0 || of_columns.size() != of_rows.size() || !covers(s.rows, rows.dim(2)) ||
        !covers(s.columns, columns.dim(2)))
        throw std::invalid_argument("offsets do not cover the rows of a ragged batch");
    return s;
}

// Sparse rows with columns of 32 or 64 bits. That the offsets ascend, and that the columns are those of a
// matrix, is checked in Python (arrays/sparse.py).
template <class T>
SparseRows<T> sparse_rows(const py::array& values, const py::array& columns, const py::array& offsets) {
    const bool narrow = holds<std::int32_t>(columns);
    return {contiguous<T>(values), narrow ? contiguous<std::int32_t>(columns) : nullptr,
            narrow ? nullptr : contiguous<std::int64_t>(columns), contiguous<std::int64_t>(offsets),
            long(offsets.shape(0)) - 1};
}

// Arrays (..., heads or relations, rows, columns); a name is that of a link, else of an activation.
template <class T>
RelationalSides<T> relational_sides(const py::array& q, const py::array& k, const py::array& q_rel,
                                    const py::array& k_rel, const py::array& v, const std::string& activation,
                                    double parameter, double scale, double rel_scale) {
    return {view<const T>(q),     view<const T>(k),
            view<const T>(q_rel), view<const T>(k_rel),
            view<const T>(v),     T(scale),
            T(rel_scale),         RelationActivation::named(activation, parameter)};
}

template <class T>
T* data_or_null(const std::optional<py::array>& a) {
    return a ? view<T>(*a).data : nullptr;
}

// f.template operator()<T>() with the dtype in which a is computed; runs without the GIL. Views must be taken
// before.
template <class F>
void with_dtype(const py::array& a, const F& f) {
    if (holds<float>(a) || storage_of(a))
        f.template operator()<float>();
    else if (holds<double>(a))
        f.template operator()<double>();
    else
        throw std::invalid_argument("expected float32 or float64");
}

template <class F>
void without_gil(const F& f) {
    bool interrupted = false;
    {
        const py::gil_scoped_release release;
        try {
            f();
        } catch (const Interrupted&) {
            interrupted = true;
        }
    }
    if (interrupted) throw py::error_already_set();
}

void register_dlpack(py::module_& m);
void register_mlp(py::module_& m);
void register_names(py::module_& m);
void register_nngp(py::module_& m);
void register_operations(py::module_& m);
void register_ordinary(py::module_& m);
void register_gradients(py::module_& m);
void register_system(py::module_& m);
void register_tensors(py::module_& m);
void register_ceilings(py::module_& m);
void register_xla(py::module_& m);

}  // namespace rk::bindings
