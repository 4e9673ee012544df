// What ordinary calls (register_ordinary.cpp) are made of: reading arguments, making the result, running the
// kernel.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <new>
#include <string_view>

#include "bindings/conversions.hpp"
#include "bindings/whole_calls.hpp"
#include "operations/operations.hpp"

namespace rk::bindings {

using NumpyArray = py::detail::PyArray_Proxy;

// As in arrays/allocate.py: larger new results begin on a cache line, and whether there is room for still
// larger ones is looked at there.
inline constexpr long kMedium = 1L << 20, kLarge = 64L << 20;
inline constexpr int kNew = -1;  // the place of an output that the caller cannot pass

// What calls compare with, looked up once. The references are never dropped.
struct Known {
    py::detail::npy_api* numpy = nullptr;
    PyObject* int64 = nullptr;               // the dtype
    PyTypeObject* map = nullptr;             // the class MLP of Python
    PyObject* handle = nullptr;              // the name of its attribute
    PyObject* relation_gradients = nullptr;  // the class of results
};
inline Known known;

// True for T in the machine's byte order.
template <class T>
bool has_dtype(const NumpyArray* a) {
    using Api = py::detail::npy_api;
    constexpr int kType = std::is_same_v<T, float> ? Api::NPY_FLOAT_ : Api::NPY_DOUBLE_;
    const auto* dtype = py::detail::array_descriptor_proxy(a->descr);
    return dtype->type_num == kType && dtype->byteorder == '=';
}

// The arguments of a call by the places of their parameters; null if absent. What a reading function cannot
// take makes the call not ordinary, and what it returns then is of no use.
template <class T>
class Arguments {
   public:
    explicit Arguments(PyObject* const* given) : given_(given) {}

    bool ordinary() const { return ordinary_; }
    void require(bool condition) { ordinary_ = ordinary_ && condition; }

    bool absent(int at) const { return !given_[at] || given_[at] == Py_None; }
    void require_absent(int at) { require(absent(at)); }

    // An input of `least` to 2 dimensions.
    Array<const T> array(int at, int least = 2) {
        const NumpyArray* a = numpy_array(at);
        if (!ordinary_ || a->nd < least || a->nd > 2) return fail();
        Array<const T> read{reinterpret_cast<const T*>(a->data), {}, {}};
        for (int i = 0; i < a->nd; ++i) {
            const long size = long(a->dimensions[i]);
            if (size == 0) return fail();
            read.shape.push_back(size);
            // Of one element: 0, as in view().
            read.stride.push_back(size > 1 ? long(a->strides[i]) / long(sizeof(T)) : 0);
        }
        return read;
    }

    const Mlp<T>* map(int at) {
        if (absent(at)) return nullptr;
        require(Py_TYPE(given_[at]) == known.map);
        if (!ordinary_) return nullptr;
        const auto handle = py::reinterpret_steal<py::object>(PyObject_GetAttr(given_[at], known.handle));
        py::detail::make_caster<MlpHandle> read;
        if (!handle || !read.load(handle, false)) {
            PyErr_Clear();
            require(false);
            return nullptr;
        }
        const auto* held = std::get_if<std::shared_ptr<Mlp<T>>>(&static_cast<MlpHandle&>(read).mlp);
        require(held != nullptr);
        return held ? held->get() : nullptr;  // which the caller's MLP keeps
    }

    bool flag(int at, bool otherwise) {
        if (!given_[at]) return otherwise;
        require(given_[at] == Py_True || given_[at] == Py_False);
        return given_[at] == Py_True;
    }

    long integer(int at, long otherwise) {
        if (!given_[at]) return otherwise;
        require(PyLong_CheckExact(given_[at]));
        int overflow = 0;
        const long value = ordinary_ ? PyLong_AsLongAndOverflow(given_[at], &overflow) : 0;
        require(overflow == 0);
        return value;
    }

    // A factor that T can hold.
    double scale(int at, double otherwise) {
        if (!given_[at]) return otherwise;
        require(PyFloat_CheckExact(given_[at]));
        const double value = ordinary_ ? PyFloat_AS_DOUBLE(given_[at]) : 0;
        require(std::abs(value) <= double(std::numeric_limits<T>::max()));
        return value;
    }

    std::string_view name(int at, std::string_view otherwise) {
        if (!given_[at]) return otherwise;
        require(PyUnicode_CheckExact(given_[at]));
        Py_ssize_t size = 0;
        const char* text = ordinary_ ? PyUnicode_AsUTF8AndSize(given_[at], &size) : nullptr;
        if (text) return {text, std::size_t(size)};
        PyErr_Clear();
        require(false);
        return otherwise;
    }

    Link link(int at) {
        const std::string_view given = name(at, "identity");
        const auto* named = std::find_if(std::begin(kLinks), std::end(kLinks),
                                         [&](const Named<Link>& row) { return row.name == given; });
        require(named != std::end(kLinks));
        return named == std::end(kLinks) ? Link::identity : named->value;
    }

    // Both sides of a relation. Without y, of one map, the columns are absent if `symmetric`.
    Relation<T> relation(int x, int y, int phi, int psi, bool symmetric = false, int least = 2) {
        Relation<T> r{array(x, least), {}, map(phi), nullptr};
        const bool same = absent(psi) || given_[psi] == given_[phi];
        r.psi = same ? r.phi : map(psi);
        const bool alone = symmetric && absent(y);
        if (!ordinary_) return r;
        if (!alone)
            r.columns = array(y);
        else if (!same)
            r.columns = r.rows;
        if (!ordinary_) return r;
        const long width = mapped_width(r.rows, r.phi);
        require(r.columns.empty() || mapped_width(r.columns, r.psi) == width);
        return r;
    }

    // Of features, the width that both sides share.
    long mapped_width(const Array<const T>& a, const Mlp<T>* map) {
        require(!map || map->inputs() == a.dim(1));
        return map ? map->outputs() : a.dim(1);
    }

    // The caller's `out`, if it suits and is apart from the arrays at the places `inputs`; otherwise, or at
    // kNew, a new array.
    template <class V = T>
    py::object output(int at, std::initializer_list<int> inputs, std::initializer_list<long> shape) {
        if (!ordinary_) return {};
        if (at == kNew || absent(at)) return made<V>(shape);
        const NumpyArray* a = numpy_array(at);
        require(ordinary_ && a->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_);
        require(ordinary_ && std::equal(a->dimensions, a->dimensions + a->nd, shape.begin(), shape.end()));
        if (!ordinary_) return {};
        const auto apart = [&](int input) {
            if (absent(input)) return true;
            const NumpyArray* b = numpy_array(input);
            return a->data + bytes_of(a) <= b->data || b->data + bytes_of(b) <= a->data;
        };
        for (const int input : inputs) require(ordinary_ && apart(input));
        return py::reinterpret_borrow<py::object>(given_[at]);
    }

   private:
    Array<const T> fail() {
        ordinary_ = false;
        return {};
    }

    template <class V>
    py::object made(std::initializer_list<long> shape) {
        long bytes = sizeof(V);
        Py_intptr_t sizes[2] = {};
        std::copy(shape.begin(), shape.end(), sizes);
        for (const long size : shape) bytes *= std::min(size, kLarge);
        require(bytes <= kLarge);
        if (!ordinary_) return {};
        void* memory = nullptr;
        py::object owner;
        if (bytes > kMedium) {
            memory = std::aligned_alloc(64, std::size_t(round_up(bytes, 64)));
            if (memory) owner = py::capsule(memory, std::free);
        }
        PyObject* first = reinterpret_cast<const NumpyArray*>(given_[0])->descr;
        PyObject* type = std::is_same_v<V, T> ? first : known.int64;
        Py_INCREF(type);  // which the call steals
        auto result = py::reinterpret_steal<py::object>(known.numpy->PyArray_NewFromDescr_(
            known.numpy->PyArray_Type_, type, int(shape.size()), sizes, nullptr, memory,
            memory ? py::detail::npy_api::NPY_ARRAY_WRITEABLE_ : 0, nullptr));
        if (result && owner) known.numpy->PyArray_SetBaseObject_(result.ptr(), owner.release().ptr());
        if (result) return result;
        PyErr_Clear();  // no memory: the Python function says so
        require(false);
        return {};
    }

    // An array of T without gaps, aligned.
    const NumpyArray* numpy_array(int at) {
        using Api = py::detail::npy_api;
        constexpr int kFlags = Api::NPY_ARRAY_C_CONTIGUOUS_ | Api::NPY_ARRAY_ALIGNED_;
        PyObject* given = given_[at];
        require(given && Py_TYPE(given) == known.numpy->PyArray_Type_);
        if (!ordinary_) return nullptr;
        const auto* a = reinterpret_cast<const NumpyArray*>(given);
        require(has_dtype<T>(a) && (a->flags & kFlags) == kFlags);
        return a;
    }

    static long bytes_of(const NumpyArray* a) {
        long bytes = sizeof(T);
        for (int i = 0; i < a->nd; ++i) bytes *= long(a->dimensions[i]);
        return bytes;
    }

    PyObject* const* given_;
    bool ordinary_ = true;
};

// A result as the kernels take it: rows without gaps, also where Python sees a vector.
template <class T>
Array<T> matrix(const py::object& a, long rows, long cols) {
    auto* data = reinterpret_cast<const NumpyArray*>(a.ptr())->data;
    return {reinterpret_cast<T*>(data), {rows, cols}, {rows > 1 ? cols : 0, cols > 1 ? 1 : 0}};
}

// The result once f has run.
template <class F>
PyObject* computed(double work, py::object result, const F& f) {
    run_kernel(work, f);
    return result.release().ptr();
}

}  // namespace rk::bindings
