// Ordinary calls, taken whole: checks, output and kernel in one function, for which a call by way of Python
// takes longer than a few rows do.
//
// A call is ordinary if its arrays are NumPy's own, float32 or float64, without gaps, not empty, of one
// matrix each and at most kLargest bytes of result, its maps MLPs, and its options plain numbers, names and
// flags. For any other call the functions here return NotImplemented, before anything is written, and the
// Python function of the same name does the work or raises the error. Results are the same to the last bit:
// the kernels are called with the same arguments.
#include <cmath>
#include <limits>
#include <string_view>

#include "bindings/conversions.hpp"
#include "operations/operations.hpp"

namespace rk::bindings {

namespace {

using NumpyArray = py::detail::PyArray_Proxy;

// Where a larger result lies in memory, and whether there is room for it, is arrays/allocate.py's affair.
constexpr long kLargest = 1L << 20;
// Multiply-adds, some 10 microseconds, up to which it is not worth releasing the GIL.
constexpr double kHoldsGil = 250e3;
constexpr int kMostParameters = 14;

// What calls compare with, looked up once. The references are never dropped.
struct Known {
    py::detail::npy_api* numpy = nullptr;
    PyObject* int64 = nullptr;    // the dtype
    PyTypeObject* map = nullptr;  // the class MLP of Python
    PyObject* handle = nullptr;   // the name of its attribute
};
Known known;

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

    // The caller's `out`, if it suits and is apart from the arrays at the places `inputs`; otherwise a new
    // array.
    template <class V = T>
    py::object output(int at, std::initializer_list<int> inputs, std::initializer_list<long> shape) {
        long bytes = sizeof(V);
        for (const long size : shape) bytes *= std::min(size, kLargest);
        require(bytes <= kLargest);
        if (!ordinary_) return {};
        if (absent(at)) {
            Py_intptr_t sizes[2] = {};
            std::copy(shape.begin(), shape.end(), sizes);
            PyObject* first = reinterpret_cast<const NumpyArray*>(given_[0])->descr;
            PyObject* type = std::is_same_v<V, T> ? first : known.int64;
            Py_INCREF(type);  // which the call steals
            auto made = py::reinterpret_steal<py::object>(known.numpy->PyArray_NewFromDescr_(
                known.numpy->PyArray_Type_, type, int(shape.size()), sizes, nullptr, nullptr, 0, nullptr));
            if (made) return made;
            PyErr_Clear();  // no memory: the Python function says so
            require(false);
            return {};
        }
        const NumpyArray* a = numpy_array(at);
        require(ordinary_ && a->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_);
        require(ordinary_ && std::equal(a->dimensions, a->dimensions + a->nd, shape.begin(), shape.end()));
        if (!ordinary_) return {};
        const auto apart = [&](int input) {
            if (absent(input)) return true;
            const NumpyArray* b = numpy_array(input);
            return a->data + bytes <= b->data || b->data + bytes_of(b) <= a->data;
        };
        for (const int input : inputs) require(ordinary_ && apart(input));
        return py::reinterpret_borrow<py::object>(given_[at]);
    }

   private:
    Array<const T> fail() {
        ordinary_ = false;
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

PyObject* not_ordinary() { return Py_NewRef(Py_NotImplemented); }

// The result once f has run; null, with the exception set, if it did not end.
template <class F>
PyObject* computed(double work, py::object result, const F& f) {
    try {
        if (work > kHoldsGil)
            without_gil(f);
        else
            f();
        return result.release().ptr();
    } catch (const Interrupted&) {  // the signal's exception is set
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const std::bad_alloc& error) {
        PyErr_SetString(PyExc_MemoryError, error.what());
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

struct FeatureMap {
    static constexpr const char* kName = "feature_map";
    static constexpr const char* kParameters = "x, mlp, *, precision=None, out=None";
    enum { x, mlp, precision, out };

    template <class T>
    static PyObject* run(Arguments<T>& given) {
        given.require(!given.absent(mlp));
        given.require_absent(precision);
        const Mlp<T>* map = given.map(mlp);
        Array<const T> points = given.array(x, 1);
        if (!given.ordinary()) return not_ordinary();
        const bool single = points.ndim() == 1;
        const long width = given.mapped_width(points, map);
        if (single) points = {points.data, {1, points.dim(1)}, {0, points.step(1)}};
        const long n = points.dim(2);
        const py::object result =
            single ? given.output(out, {x}, {width}) : given.output(out, {x}, {n, width});
        if (!given.ordinary()) return not_ordinary();
        const Array<T> to = matrix<T>(result, n, width);
        return computed(double(n) * map->work(), result,
                        [&] { rk::feature_map<T>(points, *map, Precision::full, to); });
    }
};

struct RelationMatrix {
    static constexpr const char* kName = "relation_matrix";
    static constexpr const char* kParameters =
        "x, y=None, phi=None, psi=None, *, scale=1.0, heads=1, precision=None, out=None";
    enum { x, y, phi, psi, scale, heads, precision, out };

    template <class T>
    static PyObject* run(Arguments<T>& given) {
        given.require_absent(precision);
        given.require(given.integer(heads, 1) == 1);
        Relation<T> r = given.relation(x, y, phi, psi, true);
        r.scale = T(given.scale(scale, 1));
        if (!given.ordinary()) return not_ordinary();
        const long n = r.rows.dim(2), m = r.columns.empty() ? n : r.columns.dim(2);
        const py::object result = given.output(out, {x, y}, {n, m});
        if (!given.ordinary()) return not_ordinary();
        const Array<T> to = matrix<T>(result, n, m);
        return computed(r.work(0), result, [&] { rk::relation_matrix<T>(r, 1, to); });
    }
};

struct RelationMatvec {
    static constexpr const char* kName = "relation_matvec";
    static constexpr const char* kParameters =
        "x, y, v, phi=None, psi=None, *, link='identity', scale=1.0, precision=None, out=None";
    enum { x, y, v, phi, psi, link, scale, precision, out };

    template <class T>
    static PyObject* run(Arguments<T>& given) {
        given.require_absent(precision);
        const std::string_view link_name = given.name(link, "identity");
        Relation<T> r = given.relation(x, y, phi, psi);
        r.scale = T(given.scale(scale, 1));
        Array<const T> values = given.array(v, 1);
        const auto* named = std::find_if(std::begin(kLinks), std::end(kLinks),
                                         [&](const Named<Link>& row) { return row.name == link_name; });
        given.require(named != std::end(kLinks));
        if (!given.ordinary()) return not_ordinary();
        const bool single = values.ndim() == 1;
        if (single) values = {values.data, {values.dim(1), 1}, {values.step(1), 0}};
        const long n = r.rows.dim(2), m = r.columns.dim(2), width = values.dim(1);
        given.require(values.dim(2) == m);
        const std::initializer_list<int> inputs = {x, y, v};
        const py::object result =
            single ? given.output(out, inputs, {n}) : given.output(out, inputs, {n, width});
        if (!given.ordinary()) return not_ordinary();
        const Array<T> to = matrix<T>(result, n, width);
        return computed(r.work(double(width)), result,
                        [&] { rk::relation_matvec<T>(r, values, named->value, to); });
    }
};

// What attention and its scores share: scale and which pairs may attend.
template <class T>
Allowed allowed_in(Arguments<T>& given, int mask, int causal, int window, int align) {
    given.require_absent(mask);
    given.require_absent(window);
    given.require(given.name(align, "upper_left") == "upper_left");
    return given.flag(causal, false) ? Allowed{{}, {-Band::kNoLimit, 0}} : Allowed{};
}

template <class T>
T attention_scale(Arguments<T>& given, int scale, const Relation<T>& r) {
    if (!given.ordinary()) return 1;
    const double standard = 1 / std::sqrt(double(given.mapped_width(r.rows, r.phi)));
    return T(given.absent(scale) ? standard : given.scale(scale, 1));
}

struct AttentionScores {
    static constexpr const char* kName = "attention_scores";
    static constexpr const char* kParameters =
        "q, k, phi=None, psi=None, *, scale=None, mask=None, causal=False, window=None, align='upper_left', "
        "precision=None, out=None";
    enum { q, k, phi, psi, scale, mask, causal, window, align, precision, out };

    template <class T>
    static PyObject* run(Arguments<T>& given) {
        given.require_absent(precision);
        const Allowed allowed = allowed_in(given, mask, causal, window, align);
        Relation<T> r = given.relation(q, k, phi, psi);
        r.scale = attention_scale(given, scale, r);
        if (!given.ordinary()) return not_ordinary();
        const long n = r.rows.dim(2), m = r.columns.dim(2);
        const py::object result = given.output(out, {q, k}, {n, m});
        if (!given.ordinary()) return not_ordinary();
        const Array<T> to = matrix<T>(result, n, m);
        return computed(r.work(kWorkOfExp), result, [&] { rk::attention_scores<T>(r, allowed, to); });
    }
};

struct Attention {
    static constexpr const char* kName = "attention";
    static constexpr const char* kParameters =
        "q, k, v, phi=None, psi=None, *, scale=None, mask=None, causal=False, window=None, "
        "align='upper_left', "
        "return_lse=False, precision=None, out=None";
    enum { q, k, v, phi, psi, scale, mask, causal, window, align, return_lse, precision, out };

    template <class T>
    static PyObject* run(Arguments<T>& given) {
        given.require_absent(precision);
        given.require(!given.flag(return_lse, false));
        const Allowed allowed = allowed_in(given, mask, causal, window, align);
        Relation<T> r = given.relation(q, k, phi, psi);
        r.scale = attention_scale(given, scale, r);
        const Array<const T> values = given.array(v);
        if (!given.ordinary()) return not_ordinary();
        const long n = r.rows.dim(2), width = values.dim(1);
        given.require(values.dim(2) == r.columns.dim(2));
        const py::object result = given.output(out, {q, k, v}, {n, width});
        if (!given.ordinary()) return not_ordinary();
        const Array<T> to = matrix<T>(result, n, width);
        return computed(r.work(double(width) + kWorkOfExp), result,
                        [&] { rk::attention<T>(r, values, allowed, to, {}); });
    }
};

struct Retrieve {
    static constexpr const char* kName = "retrieve";
    static constexpr const char* kParameters =
        "q, keys, k, phi=None, psi=None, *, mask=None, pad=False, precision=None, out=None";
    enum { q, keys, k, phi, psi, mask, pad, precision, out };

    template <class T>
    static PyObject* run(Arguments<T>& given) {
        given.require_absent(mask);
        given.require_absent(precision);
        given.require_absent(out);
        given.flag(pad, false);
        const long count = given.integer(k, 0);
        Relation<T> r = given.relation(q, keys, phi, psi, false, 1);
        if (!given.ordinary()) return not_ordinary();
        given.require(count >= 1 && count <= r.columns.dim(2));
        const bool single = r.rows.ndim() == 1;
        if (single) r.rows = {r.rows.data, {1, r.rows.dim(1)}, {0, r.rows.step(1)}};
        const long n = r.rows.dim(2);
        const auto made = [&]<class V>() {
            return single ? given.template output<V>(out, {}, {count})
                          : given.template output<V>(out, {}, {n, count});
        };
        const py::object values = made.template operator()<T>();
        const py::object indices = made.template operator()<std::int64_t>();
        if (!given.ordinary()) return not_ordinary();
        PyObject* both = PyTuple_Pack(2, values.ptr(), indices.ptr());
        if (!both) return nullptr;
        const Array<T> best = matrix<T>(values, n, count);
        const Array<std::int64_t> at = matrix<std::int64_t>(indices, n, count);
        return computed(r.work(0), py::reinterpret_steal<py::object>(both),
                        [&] { rk::retrieve<T>(r, {}, best, at); });
    }
};

// The parameters of a function, by their interned names.
struct Parameters {
    PyObject* names[kMostParameters];
    int count = 0, positional = 0;

    explicit Parameters(std::string_view list) {
        while (!list.empty()) {
            const std::size_t comma = std::min(list.find(", "), list.size());
            const std::string_view one = list.substr(0, comma);
            list.remove_prefix(std::min(comma + 2, list.size()));
            if (one == "*")
                positional = count;
            else
                names[count++] = PyUnicode_InternFromString(
                    std::string(one.substr(0, std::min(one.find('='), one.size()))).c_str());
        }
    }

    // Puts arguments in the places of their parameters; false if that is not possible.
    bool place(PyObject* const* args, Py_ssize_t given, PyObject* keywords, PyObject** to) const {
        if (given > positional) return false;
        std::fill_n(to, count, nullptr);
        std::copy_n(args, given, to);
        const Py_ssize_t more = keywords ? PyTuple_GET_SIZE(keywords) : 0;
        for (Py_ssize_t i = 0; i < more; ++i) {
            const auto* found = std::find(names, names + count, PyTuple_GET_ITEM(keywords, i));
            if (found == names + count || to[found - names]) return false;
            to[found - names] = args[given + i];
        }
        return true;
    }
};

template <class Operation>
PyObject* ordinary(PyObject*, PyObject* const* args, Py_ssize_t given, PyObject* keywords) {
    static const Parameters parameters(Operation::kParameters);
    PyObject* placed[kMostParameters];
    if (!parameters.place(args, given, keywords, placed)) return not_ordinary();
    if (!placed[0] || Py_TYPE(placed[0]) != known.numpy->PyArray_Type_) return not_ordinary();
    const auto* first = reinterpret_cast<const NumpyArray*>(placed[0]);
    const auto run = [&]<class T>() {
        Arguments<T> arguments(placed);
        return Operation::run(arguments);
    };
    if (has_dtype<float>(first)) return run.template operator()<float>();
    if (has_dtype<double>(first)) return run.template operator()<double>();
    return not_ordinary();
}

template <class Operation>
void add(py::dict& to) {
    static const std::string doc = std::string(Operation::kName) + "(" + Operation::kParameters + ")\n--\n\n";
    static PyMethodDef method = {
        Operation::kName, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&ordinary<Operation>)),
        METH_FASTCALL | METH_KEYWORDS, doc.c_str()};
    to[Operation::kName] = py::reinterpret_steal<py::object>(PyCFunction_New(&method, nullptr));
}

}  // namespace

void register_ordinary(py::module_& m) {
    known.numpy = &py::detail::npy_api::get();
    known.int64 = py::dtype::of<std::int64_t>().release().ptr();
    known.handle = PyUnicode_InternFromString("_handle");

    py::dict functions;
    add<FeatureMap>(functions);
    add<RelationMatrix>(functions);
    add<RelationMatvec>(functions);
    add<AttentionScores>(functions);
    add<Attention>(functions);
    add<Retrieve>(functions);
    m.def(
        "ordinary", [functions](const py::str& name) { return functions.attr("get")(name); }, py::arg("name"),
        "The function that takes ordinary calls of an operation, or None.");
    m.def(
        "set_map_class",
        [](const py::type& map) { known.map = reinterpret_cast<PyTypeObject*>(map.inc_ref().ptr()); },
        py::arg("map"), "The class of maps that ordinary calls take.");
}

}  // namespace rk::bindings
