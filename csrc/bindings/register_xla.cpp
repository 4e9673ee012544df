// One handler for XLA's programs on the CPU: it calls a function of Python with arrays over XLA's memory.
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <atomic>
#include <complex>

#include "bindings/conversions.hpp"
#include "bindings/xla_ffi.hpp"

namespace rk::bindings {

namespace {

// What handle() calls. Never released: compiled programs may run as long as the process.
std::atomic<PyObject*> xla_function = nullptr;
std::atomic<int> xla_minor = 0;  // of the running version

xla::Error* failed(const xla::CallFrame& frame, xla::Code code, const std::string& message) {
    xla::ErrorDescription description{sizeof(xla::ErrorDescription), nullptr, message.c_str(), code};
    return frame.api->create_error(&description);
}

// Reports the version; XLA rejects a handler that reports none.
void describe(xla::Metadata* metadata) {
    if (!metadata || metadata->struct_size < xla::kMetadataSize) return;
    metadata->version.major = xla::kMajor;
    metadata->version.minor = xla_minor;
    metadata->traits = 0;
}

py::dtype dtype_of(int type) {
    switch (type) {
        case xla::kBool: return py::dtype::of<bool>();
        case xla::kInt8: return py::dtype::of<std::int8_t>();
        case xla::kInt16: return py::dtype::of<std::int16_t>();
        case xla::kInt32: return py::dtype::of<std::int32_t>();
        case xla::kInt64: return py::dtype::of<std::int64_t>();
        case xla::kUint8: return py::dtype::of<std::uint8_t>();
        case xla::kUint16: return py::dtype::of<std::uint16_t>();
        case xla::kUint32: return py::dtype::of<std::uint32_t>();
        case xla::kUint64: return py::dtype::of<std::uint64_t>();
        case xla::kFloat16: return py::dtype("e");
        case xla::kFloat32: return py::dtype::of<float>();
        case xla::kFloat64: return py::dtype::of<double>();
        case xla::kComplex64: return py::dtype::of<std::complex<float>>();
        case xla::kComplex128: return py::dtype::of<std::complex<double>>();
        default: throw py::type_error("NumPy has no dtype for XLA's type " + std::to_string(type));
    }
}

// Large results are often in fresh memory, in which a fault for each page of 4 KiB takes longer than a
// product: as NumPy does for its arrays, asks for huge pages, which most systems give only then.
void prefer_huge_pages([[maybe_unused]] const py::array& result) {
#ifdef __linux__
    constexpr py::ssize_t kLarge = 1 << 22;
    if (result.nbytes() < kLarge) return;
    const auto page = std::uintptr_t(sysconf(_SC_PAGESIZE)), start = std::uintptr_t(result.data());
    const auto first = (start + page - 1) / page * page;
    const auto last = (start + std::uintptr_t(result.nbytes())) / page * page;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // only a hint: may fail
#endif
}

// The arrays see XLA's memory, which is valid during the call.
py::tuple arrays_of(const xla::Items& items, bool writable) {
    py::tuple arrays(static_cast<std::size_t>(items.count));
    for (std::int64_t i = 0; i < items.count; ++i) {
        const auto& buffer = *static_cast<const xla::Buffer*>(items.items[i]);
        if (items.types[i] != xla::kBuffer || buffer.struct_size < sizeof(xla::Buffer))
            throw std::runtime_error("an item of XLA's call is not a buffer");
        // An empty buffer may have no address, with which NumPy would allocate.
        static char nowhere;
        void* const data = buffer.data ? buffer.data : &nowhere;
        const std::vector<py::ssize_t> shape(buffer.shape, buffer.shape + buffer.rank);
        py::array array(dtype_of(buffer.dtype), shape, data, py::none());
        if (writable)
            prefer_huge_pages(array);
        else
            py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
        arrays[std::size_t(i)] = std::move(array);
    }
    return arrays;
}

py::str text_of(const xla::Attributes& attributes) {
    if (attributes.count != 1 || attributes.types[0] != xla::kString)
        throw std::runtime_error("expected one attribute, the description of the call");
    const auto& text = *static_cast<const xla::Text*>(attributes.items[0]);
    return py::str(text.data, text.size);
}

// The errors of checks have messages for users; other errors are shown with their traceback.
xla::Error* failed(const xla::CallFrame& frame, const py::error_already_set& error) {
    if (error.matches(PyExc_KeyboardInterrupt)) {
        PyErr_SetInterrupt();  // the main thread raises it again once XLA has returned, before which
        return failed(frame, xla::Code::cancelled, "KeyboardInterrupt");  // no Python may run here
    }
    const bool memory = error.matches(PyExc_MemoryError);
    if (!memory && !error.matches(PyExc_ValueError) && !error.matches(PyExc_TypeError))
        return failed(frame, xla::Code::internal, error.what());
    const auto name = error.type().attr("__name__").cast<std::string>();
    const auto message = py::str(error.value()).cast<std::string>();
    return failed(frame, memory ? xla::Code::resource_exhausted : xla::Code::invalid_argument,
                  name + ": " + message);
}

bool interpreter_runs() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsInitialized() && !Py_IsFinalizing();
#else
    return Py_IsInitialized() && !_Py_IsFinalizing();
#endif
}

// Called by XLA on any of its threads.
xla::Error* handle(xla::CallFrame* call) noexcept {
    const xla::CallFrame& frame = *call;
    for (xla::Extension* e = frame.extensions; e; e = e->next)
        if (e->type == xla::kMetadata) {
            describe(reinterpret_cast<xla::MetadataExtension*>(e)->metadata);
            return nullptr;
        }
    if (frame.struct_size < sizeof(xla::CallFrame) || frame.stage != xla::kExecute)
        return failed(frame, xla::Code::internal, "relkernels: the call of a handler is not as expected");
    // A thread that takes the GIL now would be ended by Python.
    if (!interpreter_runs())
        return failed(frame, xla::Code::cancelled, "relkernels: Python is shutting down");
    const py::gil_scoped_acquire gil;
    try {
        py::handle(xla_function.load())(text_of(frame.attributes), arrays_of(frame.arguments, false),
                                        arrays_of(frame.results, true));
        return nullptr;
    } catch (const py::error_already_set& error) {
        try {
            return failed(frame, error);
        } catch (const std::exception&) {
            return failed(frame, xla::Code::internal, "relkernels: an error without a readable message");
        }
    } catch (const std::exception& error) {
        return failed(frame, xla::Code::internal, std::string("relkernels: ") + error.what());
    }
}

}  // namespace

void register_xla(py::module_& m) {
    m.def(
        "xla_handler",
        [](const py::function& function, int major, int minor) -> py::object {
            if (major != xla::kMajor || minor < xla::kOldestMinor || minor > xla::kNewestMinor)
                return py::none();
            xla_minor = minor;
            xla_function = function.inc_ref().ptr();
            return py::capsule(reinterpret_cast<void*>(&handle));
        },
        py::arg("function"), py::arg("major"), py::arg("minor"),
        "Return a handler of XLA's foreign function interface, None for a version that is not known here.\n\n"
        "It calls ``function(text, arguments, results)`` with the call's only attribute and with arrays "
        "over\n"
        "XLA's memory, those of the results writable.");
}

}  // namespace rk::bindings
