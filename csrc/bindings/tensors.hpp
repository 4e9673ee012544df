// What calls of operators on tensors (register_tensors.cpp) are made of: reading PyTorch's tensors by its C
// functions, and making those of the results.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <vector>

#include "base/openmp.hpp"
#include "bindings/conversions.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/whole_calls.hpp"
#include "operations/operations.hpp"

namespace rk::bindings {

// PyTorch, once relkernels.torch has introduced it. The references are never dropped.
struct TensorLibrary {
    const dlpack::ExchangeApi* api = nullptr;
    PyTypeObject *tensor = nullptr, *parameter = nullptr;
    PyObject* grad_enabled = nullptr;  // a function
    std::vector<PyObject*> modes;      // functions; each is zero, False or None where its mode is not active
    PyObject* forward_mode = nullptr;  // the module, with the level of forward-mode derivatives, from 0 on
    PyObject* level = nullptr;         // its name
    PyObject *requires_grad = nullptr, *is_neg = nullptr;  // names

    // Whether operations run as they are called.
    bool is_eager() const {
        for (PyObject* mode : modes) {
            const auto state = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(mode));
            if (!state) throw py::error_already_set();
            if (PyObject_IsTrue(state.ptr())) return false;
        }
        const auto depth = py::reinterpret_steal<py::object>(PyObject_GetAttr(forward_mode, level));
        if (!depth) throw py::error_already_set();
        return PyLong_AsLong(depth.ptr()) < 0;
    }
    bool holds(PyObject* a) const { return Py_TYPE(a) == tensor || Py_TYPE(a) == parameter; }
    // False, without an exception, for a tensor that has no memory of its own, such as one of a transform.
    bool describe(PyObject* a, dlpack::Tensor& to) const {
        if (api->describe(a, &to) == 0) return true;
        PyErr_Clear();
        return false;
    }
};
inline TensorLibrary tensor_library;

template <class T>
bool has_dtype(const dlpack::Tensor& a) {
    using Value = std::remove_const_t<T>;
    constexpr bool kIsMask = std::is_same_v<Value, std::uint8_t>;
    return a.dtype.code == (kIsMask ? dlpack::kBool : dlpack::kFloat) && a.dtype.bits == 8 * sizeof(T) &&
           a.dtype.lanes == 1;
}

// The arguments of an operator by their places. What a reading function cannot take makes the call not
// ordinary, and what it returns then is of no use.
template <class T>
class Operands {
   public:
    explicit Operands(PyObject* const* given) : given_(given) {
        const auto enabled =
            py::reinterpret_steal<py::object>(PyObject_CallNoArgs(tensor_library.grad_enabled));
        if (!enabled) throw py::error_already_set();
        grad_enabled_ = enabled.ptr() == Py_True;
    }

    bool ordinary() const { return ordinary_; }
    void require(bool condition) { ordinary_ = ordinary_ && condition; }
    // Whether autograd wants to know of an ordinary call: then it is its autograd function that is called.
    bool needs_grad() const { return needs_grad_; }

    bool absent(int at) const { return given_[at] == Py_None; }
    void require_absent(int at) { require(absent(at)); }
    // A tensor with respect to which nobody differentiates, now or later.
    void require_constant(int at) { require(!asks(given_[at], tensor_library.requires_grad, false)); }

    // On the CPU, of `least` dimensions or more, none empty.
    template <class V = T>
    Array<const V> tensor(int at, int least = 2) {
        dlpack::Tensor a;
        if (!read(at, a) || !has_dtype<V>(a) || a.ndim < least || std::size_t(a.ndim) > Dims::kMost)
            return fail();
        Array<const V> to{static_cast<const V*>(data_of(a)), {}, {}};
        long compact = 1;
        for (int i = 0; i < a.ndim; ++i) {
            to.shape.push_back(long(a.shape[i]));
            to.stride.push_back(0);
        }
        for (int i = a.ndim - 1; i >= 0; --i) {
            const long size = long(a.shape[i]);
            if (size == 0) return fail();
            // Of one element: 0, as in view().
            if (size > 1) to.stride[std::size_t(i)] = a.strides ? long(a.strides[i]) : compact;
            compact *= size;
        }
        require(to.data != nullptr && std::size_t(to.data) % alignof(V) == 0);
        return to;
    }
    template <class V = T>
    Array<const V> tensor_or_none(int at, int least = 2) {
        return absent(at) ? Array<const V>{} : tensor<V>(at, least);
    }

    // A factor that T can hold, which is a float64 tensor of no dimensions.
    double factor(int at) {
        dlpack::Tensor a;
        const bool found = read(at, a) && has_dtype<double>(a) && a.ndim == 0;
        const double value = found ? *static_cast<const double*>(data_of(a)) : 0;
        require(found && std::abs(value) <= double(std::numeric_limits<T>::max()));
        return value;
    }
    bool flag(int at) {
        require(given_[at] == Py_True || given_[at] == Py_False);
        return given_[at] == Py_True;
    }
    long integer(int at) {
        int overflow = 0;
        const bool found = PyLong_CheckExact(given_[at]);
        const long value = found ? PyLong_AsLongAndOverflow(given_[at], &overflow) : 0;
        require(found && overflow == 0);
        return value;
    }
    std::string_view name(int at) {
        Py_ssize_t size = 0;
        const bool found = PyUnicode_CheckExact(given_[at]);
        const char* text = found ? PyUnicode_AsUTF8AndSize(given_[at], &size) : nullptr;
        if (text) return {text, std::size_t(size)};
        PyErr_Clear();
        require(false);
        return {};
    }
    // True for tensors whose dimensions before the last `core` are equal.
    template <class... A>
    bool share_leading(std::size_t core, const Array<const T>& first, const A&... others) {
        const auto same = [&](const auto& a) {
            const std::size_t lead = first.shape.size() - core;
            return a.shape.size() == lead + core &&
                   std::equal(a.shape.begin(), a.shape.begin() + lead, first.shape.begin());
        };
        require(ordinary_ && (same(others) && ...));
        return ordinary_;
    }
    // A mask or a bias repeated to the leading dimensions of `like` and to n x m; absent ones stay absent.
    template <class V>
    Array<const V> of_pairs(Array<const V> a, const Array<const T>& like, long n, long m) {
        if (!ordinary_ || a.empty()) return a;
        Dims shape(like.shape.begin(), like.shape.end() - 2);
        shape.push_back(n);
        shape.push_back(m);
        if (a.shape.size() > shape.size()) return fail();
        const std::size_t missing = shape.size() - a.shape.size();
        Array<const V> to{a.data, shape, shape};
        for (std::size_t i = 0; i < shape.size(); ++i) {
            const long size = i < missing ? 1 : a.shape[i - missing];
            require(size == 1 || size == shape[i]);
            to.stride[i] = size == 1 ? 0 : a.stride[i - missing];
        }
        return to;
    }

    // A new tensor of T; a large one is left to the Python function, which looks whether there is room for
    // it.
    py::object made(const Dims& shape, Array<T>& to) {
        constexpr double kLargest = 64 << 20;
        double bytes = sizeof(T);
        for (const long size : shape) bytes *= double(size);
        require(bytes <= kLargest);
        if (!ordinary_) return {};
        std::int64_t sizes[Dims::kMost];
        std::copy(shape.begin(), shape.end(), sizes);
        dlpack::Tensor like{};
        like.device.type = dlpack::kCpu;
        like.ndim = std::int32_t(shape.size());
        like.dtype = {dlpack::kFloat, 8 * sizeof(T), 1};
        like.shape = sizes;
        dlpack::ManagedVersioned* memory = nullptr;
        void* object = nullptr;
        const auto ignore = [](void*, const char*, const char*) {};
        if (tensor_library.api->allocate(&like, &memory, nullptr, ignore)) return none_made();
        to = {static_cast<T*>(data_of(memory->tensor)), shape, shape};
        if (tensor_library.api->import_managed(memory, &object)) return none_made();
        long compact = 1;
        for (std::size_t i = shape.size(); i-- > 0; compact *= shape[i])
            to.stride[i] = shape[i] > 1 ? compact : 0;
        return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
    }
    py::object made_like(const Array<const T>& a, Array<T>& to) { return made(a.shape, to); }

   private:
    struct None {  // becomes any absent array
        template <class V>
        operator Array<V>() const {
            return {};
        }
    };
    None fail() {
        ordinary_ = false;
        return {};
    }

    // No memory: the Python function says so.
    py::object none_made() {
        PyErr_Clear();
        ordinary_ = false;
        return {};
    }

    bool read(int at, dlpack::Tensor& to) {
        if (!ordinary_) return false;
        PyObject* const a = given_[at];
        require(tensor_library.holds(a) && tensor_library.describe(a, to));
        if (!ordinary_) return false;
        require(to.device.type == dlpack::kCpu && !asks(a, tensor_library.is_neg, true));
        if (grad_enabled_ && !needs_grad_) needs_grad_ = asks(a, tensor_library.requires_grad, false);
        return ordinary_;
    }
    static bool asks(PyObject* a, PyObject* name, bool method) {
        const auto answer = py::reinterpret_steal<py::object>(method ? PyObject_CallMethodNoArgs(a, name)
                                                                     : PyObject_GetAttr(a, name));
        if (!answer) throw py::error_already_set();
        return answer.ptr() == Py_True;
    }
    static void* data_of(const dlpack::Tensor& a) { return static_cast<char*>(a.data) + a.byte_offset; }

    PyObject* const* given_;
    bool ordinary_ = true, grad_enabled_ = false, needs_grad_ = false;
};

// Has the kernels of the current thread run on PyTorch's threads (base/openmp.hpp).
class OnItsThreads {
   public:
    OnItsThreads() : before_(use_openmp(true)) {}
    OnItsThreads(const OnItsThreads&) = delete;
    OnItsThreads& operator=(const OnItsThreads&) = delete;
    ~OnItsThreads() { use_openmp(before_); }

   private:
    bool before_;
};

}  // namespace rk::bindings
