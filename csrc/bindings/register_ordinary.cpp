// Ordinary calls, taken whole: checks, output and kernel in one function, for which a call by way of Python
// takes longer than a few rows do.
//
// A call is ordinary if its arrays are NumPy's own, float32 or float64, without gaps, not empty, of one
// matrix each and at most kLarge bytes of new results, its maps MLPs, and its options plain numbers, names
// and flags. For any other call the functions here return NotImplemented, before anything is written, and the
// Python function of the same name does the work or raises the error. Results are the same to the last bit:
// the kernels are called with the same arguments.
#include "bindings/ordinary.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>

namespace rk::bindings {

namespace {

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
        "x, y=None, phi=None, psi=None, *, link='identity', scale=1.0, heads=1, precision=None, out=None";
    enum { x, y, phi, psi, link, scale, heads, precision, out };

    template <class T>
    static PyObject* run(Arguments<T>& given) {
        given.require_absent(precision);
        given.require(given.integer(heads, 1) == 1);
        const Link kind = given.link(link);
        Relation<T> r = given.relation(x, y, phi, psi, true);
        r.scale = T(given.scale(scale, 1));
        given.require(!is_of_distance(kind) || r.scale >= 0);
        if (!given.ordinary()) return not_ordinary();
        const long n = r.rows.dim(2), m = r.columns.empty() ? n : r.columns.dim(2);
        const py::object result = given.output(out, {x, y}, {n, m});
        if (!given.ordinary()) return not_ordinary();
        const Array<T> to = matrix<T>(result, n, m);
        return computed(r.work(0), result, [&] { rk::relation_matrix<T>(r, kind, 1, to); });
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
        const Link kind = given.link(link);
        Relation<T> r = given.relation(x, y, phi, psi);
        r.scale = T(given.scale(scale, 1));
        given.require(!is_of_distance(kind) || r.scale >= 0);
        Array<const T> values = given.array(v, 1);
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
        return computed(r.work(double(width)), result, [&] { rk::relation_matvec<T>(r, values, kind, to); });
    }
};

// What attention and its scores share: the scale, and how scores are made.
template <class Operation, class T>
Scoring<T> scoring_in(Arguments<T>& given) {
    for (const int option : {Operation::mask, Operation::window, Operation::bias, Operation::softcap})
        given.require_absent(option);
    given.require(given.name(Operation::align, "upper_left") == "upper_left");
    if (!given.flag(Operation::causal, false)) return {};
    return {.allowed = {{}, {-Band::kNoLimit, 0}}};
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
        "bias=None, softcap=None, precision=None, out=None";
    enum { q, k, phi, psi, scale, mask, causal, window, align, bias, softcap, precision, out };

    template <class T>
    static PyObject* run(Arguments<T>& given) {
        given.require_absent(precision);
        const Scoring<T> scoring = scoring_in<AttentionScores>(given);
        Relation<T> r = given.relation(q, k, phi, psi);
        r.scale = attention_scale(given, scale, r);
        if (!given.ordinary()) return not_ordinary();
        const long n = r.rows.dim(2), m = r.columns.dim(2);
        const py::object result = given.output(out, {q, k}, {n, m});
        if (!given.ordinary()) return not_ordinary();
        const Array<T> to = matrix<T>(result, n, m);
        return computed(r.work(kWorkOfExp), result, [&] { rk::attention_scores<T>(r, scoring, to); });
    }
};

struct Attention {
    static constexpr const char* kName = "attention";
    static constexpr const char* kParameters =
        "q, k, v, phi=None, psi=None, *, scale=None, mask=None, causal=False, window=None, "
        "align='upper_left', bias=None, softcap=None, q_offsets=None, k_offsets=None, return_lse=False, "
        "precision=None, out=None";
    enum {
        q,
        k,
        v,
        phi,
        psi,
        scale,
        mask,
        causal,
        window,
        align,
        bias,
        softcap,
        q_offsets,
        k_offsets,
        return_lse,
        precision,
        out
    };

    template <class T>
    static PyObject* run(Arguments<T>& given) {
        given.require_absent(precision);
        given.require_absent(q_offsets);
        given.require_absent(k_offsets);
        given.require(!given.flag(return_lse, false));
        const Scoring<T> scoring = scoring_in<Attention>(given);
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
                        [&] { rk::attention<T>(r, values, scoring, to, {}); });
    }
};

struct Retrieve {
    static constexpr const char* kName = "retrieve";
    static constexpr const char* kParameters =
        "q, keys, k, phi=None, psi=None, *, mask=None, exclude=None, q_offsets=None, k_offsets=None, "
        "pad=False, precision=None, out=None";
    enum { q, keys, k, phi, psi, mask, exclude, q_offsets, k_offsets, pad, precision, out };

    template <class T>
    static PyObject* run(Arguments<T>& given) {
        for (const int option : {mask, exclude, q_offsets, k_offsets, precision, out})
            given.require_absent(option);
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

struct RelationMatrixVjp {
    static constexpr const char* kName = "relation_matrix_vjp";
    static constexpr const char* kParameters =
        "x, y, grad, phi=None, psi=None, *, link='identity', scale=1.0, heads=1, of=None";
    enum { x, y, grad, phi, psi, link, scale, heads, of };

    template <class T>
    static PyObject* run(Arguments<T>& given) {
        given.require_absent(phi);
        given.require_absent(psi);
        given.require(given.link(link) == Link::identity);
        given.require(given.integer(heads, 1) == 1);
        const std::string_view side = given.absent(of) ? "both" : given.name(of, "both");
        const bool of_x = side != "y", of_y = side != "x", alone = given.absent(y);
        given.require(side == "both" || (!alone && (side == "x" || side == "y")));
        Relation<T> r = given.relation(x, y, phi, psi, true);
        if (alone) r.columns = r.rows;
        r.scale = T(given.scale(scale, 1));
        const Array<const T> above = given.array(grad);
        if (!given.ordinary()) return not_ordinary();
        const long n = r.rows.dim(2), m = r.columns.dim(2), width = r.rows.dim(1);
        given.require(above.dim(2) == n && above.dim(1) == m);
        py::object grad_x = py::none(), grad_y = py::none();
        if (of_x) grad_x = given.output(kNew, {}, {n, width});
        if (of_y) grad_y = given.output(kNew, {}, {m, width});
        if (!given.ordinary()) return not_ordinary();
        RelationGradient<T> to;
        if (of_x) to.rows = matrix<T>(grad_x, n, width);
        if (of_y) to.columns = matrix<T>(grad_y, m, width);
        py::object total = py::none();
        const auto compute = [&] { rk::relation_matrix_vjp<T>(r, Link::identity, 1, above, to); };
        if (of_x) {
            py::array_t<double> parts(n);
            to.scale = parts.mutable_data();
            run_kernel(2 * r.work(0), compute);
            total =
                py::float_(parts.attr("sum")().cast<double>());  // in the order that the Python function has
        } else {
            run_kernel(2 * r.work(0), compute);
        }
        if (alone) {  // both parts are of x
            T* sum = to.rows.data;
            for (long i = 0; i < n * width; ++i) sum[i] += to.columns.data[i];
            grad_y = py::none();
        }
        return PyObject_CallFunctionObjArgs(known.relation_gradients, grad_x.ptr(), grad_y.ptr(), Py_None,
                                            Py_None, total.ptr(), nullptr);
    }
};

constexpr int kMostParameters = 20;

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
        return raising_in_python([&] {
            Arguments<T> arguments(placed);
            return Operation::run(arguments);
        });
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
    add<RelationMatrixVjp>(functions);
    m.def(
        "ordinary", [functions](const py::str& name) { return functions.attr("get")(name); }, py::arg("name"),
        "The function that takes ordinary calls of an operation, or None.");
    m.def(
        "set_map_class",
        [](const py::type& map) { known.map = reinterpret_cast<PyTypeObject*>(map.inc_ref().ptr()); },
        py::arg("map"), "The class of maps that ordinary calls take.");
    m.def(
        "set_gradients_class",
        [](const py::type& gradients) { known.relation_gradients = gradients.inc_ref().ptr(); },
        py::arg("gradients"), "The class of what relation_matrix_vjp returns.");
}

}  // namespace rk::bindings
