// Tensors of other libraries, from DLPack capsules: their description and, on the host, NumPy arrays.
//
// NumPy's reader supports neither bfloat16 nor tensors on a device. This one describes every tensor, without
// access to its memory.
#include "bindings/conversions.hpp"
#include "bindings/dlpack.hpp"

namespace rk::bindings {

namespace {

using dlpack::DataType;
using dlpack::Managed;
using dlpack::ManagedVersioned;

// A managed tensor, released when this object is destroyed.
class Taken {
   public:
    explicit Taken(const py::object& capsule) {
        if (PyCapsule_IsValid(capsule.ptr(), ManagedVersioned::kName))
            take<ManagedVersioned>(capsule.ptr());
        else if (PyCapsule_IsValid(capsule.ptr(), Managed::kName))
            take<Managed>(capsule.ptr());
        else
            throw py::type_error("expected a DLPack capsule that nobody has taken yet");
    }
    Taken(const Taken&) = delete;
    Taken& operator=(const Taken&) = delete;
    ~Taken() {
        const py::error_scope kept;  // a deleter may call into Python
        if (release_) release_(managed_);
    }

    const dlpack::Tensor& tensor() const { return tensor_; }
    bool has(std::uint64_t flag) const { return flags_ & flag; }
    char* data() const { return static_cast<char*>(tensor_.data) + tensor_.byte_offset; }
    long shape(int i) const { return long(tensor_.shape[i]); }
    std::vector<py::ssize_t> strides() const {
        std::vector<py::ssize_t> strides(std::size_t(tensor_.ndim));
        py::ssize_t compact = 1;
        for (int i = tensor_.ndim - 1; i >= 0; --i) {
            strides[std::size_t(i)] = tensor_.strides ? py::ssize_t(tensor_.strides[i]) : compact;
            compact *= shape(i);
        }
        return strides;
    }
    bool on_host() const {
        const std::int32_t type = tensor_.device.type;
        return type == dlpack::kCpu || type == dlpack::kCudaHost || type == dlpack::kRocmHost;
    }

   private:
    template <class M>
    void take(PyObject* capsule) {
        M* const managed = static_cast<M*>(PyCapsule_GetPointer(capsule, M::kName));
        if constexpr (std::is_same_v<M, ManagedVersioned>) {
            if (managed->major != dlpack::kMajor)
                throw py::buffer_error("DLPack version " + std::to_string(managed->major) +
                                       " is not known here");
            flags_ = managed->flags;
        }
        tensor_ = managed->tensor;
        if (tensor_.dtype.lanes != 1) throw py::buffer_error("vectors of elements are not read");
        if (PyCapsule_SetName(capsule, M::kUsedName)) throw py::error_already_set();
        managed_ = managed;
        release_ = [](void* taken) {
            M* const mine = static_cast<M*>(taken);
            if (mine->deleter) mine->deleter(mine);
        };
    }

    void* managed_ = nullptr;
    void (*release_)(void*) = nullptr;
    std::uint64_t flags_ = 0;
    dlpack::Tensor tensor_{};
};

std::string dtype_name(const DataType& dtype) {
    const std::string bits = std::to_string(dtype.bits);
    switch (dtype.code) {
        case dlpack::kInt: return "int" + bits;
        case dlpack::kUint: return "uint" + bits;
        case dlpack::kFloat: return "float" + bits;
        case dlpack::kBfloat: return "bfloat" + bits;
        case dlpack::kComplex: return "complex" + bits;
        case dlpack::kBool: return "bool";
        default: return "DLPack type " + std::to_string(dtype.code) + " of " + bits + " bits";
    }
}

// The tensor as an array that keeps it; bfloat16, which NumPy lacks, as its bits.
py::array as_numpy(const py::object& self) {
    const Taken& taken = self.cast<const Taken&>();
    const DataType& dtype = taken.tensor().dtype;
    if (!taken.on_host()) throw py::buffer_error("the tensor is not in the host's memory");
    if (dtype.code == dlpack::kOpaque || dtype.code > dlpack::kBool || dtype.bits % 8)
        throw py::buffer_error("NumPy has no dtype for " + dtype_name(dtype));
    const bool bits = dtype.code == dlpack::kBfloat && dtype.bits == 16;
    const py::dtype elements(bits ? "uint16" : dtype_name(dtype));

    std::vector<py::ssize_t> shape, strides = taken.strides();
    py::ssize_t size = 1;
    for (int i = 0; i < taken.tensor().ndim; ++i) {
        shape.push_back(taken.shape(i));
        strides[std::size_t(i)] *= elements.itemsize();
        size *= taken.shape(i);
    }
    if (size == 0) return py::array(elements, shape);
    if (!taken.tensor().data) throw py::buffer_error("the tensor has elements and no memory");
    py::array array(elements, shape, strides, taken.data(), self);
    if (taken.has(dlpack::kReadOnly)) array.attr("setflags")(py::arg("write") = false);
    return array;
}

template <class F>
py::tuple tuple_of(int n, const F& value) {
    py::tuple all(static_cast<std::size_t>(n));
    for (int i = 0; i < n; ++i) all[std::size_t(i)] = py::int_(value(i));
    return all;
}

}  // namespace

void register_dlpack(py::module_& m) {
    py::class_<Taken>(m, "DlpackTensor", "A tensor taken from a DLPack capsule, kept as long as this object.")
        .def_static(
            "take", [](const py::object& capsule) { return new Taken(capsule); }, py::arg("capsule"))
        .def_property_readonly("pointer",
                               [](const Taken& t) { return reinterpret_cast<std::uintptr_t>(t.data()); })
        .def_property_readonly(
            "shape",
            [](const Taken& t) { return tuple_of(t.tensor().ndim, [&](int i) { return t.shape(i); }); })
        .def_property_readonly("strides",
                               [](const Taken& t) {
                                   const auto strides = t.strides();
                                   return tuple_of(t.tensor().ndim,
                                                   [&](int i) { return strides[std::size_t(i)]; });
                               })
        .def_property_readonly("dtype", [](const Taken& t) { return dtype_name(t.tensor().dtype); })
        .def_property_readonly(
            "device",
            [](const Taken& t) { return py::make_tuple(t.tensor().device.type, t.tensor().device.id); })
        .def_property_readonly("read_only", [](const Taken& t) { return t.has(dlpack::kReadOnly); })
        .def_property_readonly("copied", [](const Taken& t) { return t.has(dlpack::kCopied); })
        .def("numpy", &as_numpy);
}

}  // namespace rk::bindings
