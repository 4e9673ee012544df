// Operators on PyTorch's tensors, taken whole: by way of Python a call takes some 15 microseconds more, and
// its gradient 30.
//
// A call is ordinary if its tensors are plain ones on the CPU, of one dtype, float32 or float64, none empty,
// and of equal leading dimensions (masks and biases are repeated), and its options those that a kernel takes
// as they are. For any other call the functions here return NotImplemented, before anything is written; where
// autograd wants to know of an ordinary call they return True. Their parameters are those of the operators
// (python/relkernels/torch/_ops.py), all given by position. Results are the same to the last bit as by way of
// Python: the kernels are called with the same arguments.
#include "bindings/tensors.hpp"

#include <algorithm>
#include <string>
#include <string_view>

namespace rk::bindings {

namespace on_tensors {

namespace {

PyObject* tuple_of(std::initializer_list<py::object> results) {
    py::tuple all(results.size());
    std::size_t i = 0;
    for (const py::object& result : results) all[i++] = result ? result : py::none();
    return all.release().ptr();
}

// The leading dimensions of a, followed by others.
template <class T>
Dims shape_from(const Array<T>& a, int core, std::initializer_list<long> others) {
    Dims shape(a.shape.begin(), a.shape.end() - core);
    for (const long size : others) shape.push_back(size);
    return shape;
}

template <class T>
bool is_gapless(const Array<const T>& a) {
    long expected = 1;
    for (std::size_t i = a.shape.size(); i-- > 0; expected *= a.shape[i])
        if (a.shape[i] > 1 && a.stride[i] != expected) return false;
    return true;
}

// A link by its name, if its relations may have this scale.
template <class T>
Link link_in(Operands<T>& given, int link, double scale) {
    const std::string_view name = given.name(link);
    const auto* row = std::find_if(std::begin(kLinks), std::end(kLinks),
                                   [&](const Named<Link>& named) { return named.name == name; });
    given.require(row != std::end(kLinks));
    if (!given.ordinary()) return Link::identity;
    given.require(!is_of_distance(row->value) || scale >= 0);
    return row->value;
}

// Both sides of a relation; without g, columns are absent.
template <class T>
Relation<T> relation_in(Operands<T>& given, int f, int g, int scale) {
    Relation<T> r{given.tensor(f), given.tensor_or_none(g)};
    r.scale = T(given.factor(scale));
    if (given.ordinary() && !r.columns.empty() && given.share_leading(2, r.rows, r.columns))
        given.require(r.columns.dim(1) == r.rows.dim(1));
    return r;
}

struct RelationMatrix {
    static constexpr const char* kName = "relation_matrix";
    enum { f, g, scale, heads, link, count };

    template <class T>
    static PyObject* run(Operands<T>& given) {
        const Relation<T> r = relation_in(given, f, g, scale);
        const Link kind = link_in(given, link, double(r.scale));
        given.require(given.integer(heads) == 1);
        if (!given.ordinary()) return not_ordinary();
        if (given.needs_grad()) return Py_NewRef(Py_True);
        const long n = r.rows.dim(2), m = r.columns.empty() ? n : r.columns.dim(2);
        Array<T> to;
        py::object result = given.made(shape_from(r.rows, 2, {n, m}), to);
        if (!given.ordinary()) return not_ordinary();
        run_kernel(double(r.rows.batch(2)) * r.work(0), [&] { rk::relation_matrix<T>(r, kind, 1, to); });
        return result.release().ptr();
    }
};

struct RelationMatrixVjp {
    static constexpr const char* kName = "relation_matrix_vjp";
    enum { f, g, scale, heads, grad, of_f, of_g, of_scale, link, count };

    template <class T>
    static PyObject* run(Operands<T>& given) {
        Relation<T> r = relation_in(given, f, g, scale);
        const Link kind = link_in(given, link, double(r.scale));
        given.require(given.integer(heads) == 1 && !given.flag(of_scale));
        const bool alone = given.absent(g), of_rows = given.flag(of_f), of_columns = given.flag(of_g);
        const Array<const T> above = given.tensor(grad);
        if (!given.ordinary()) return not_ordinary();
        if (alone) r.columns = r.rows;
        const long n = r.rows.dim(2), m = r.columns.dim(2);
        given.share_leading(2, r.rows, above);
        given.require(above.dim(2) == n && above.dim(1) == m && (!alone || of_rows));
        if (!given.ordinary()) return not_ordinary();
        if (given.needs_grad()) return Py_NewRef(Py_True);
        RelationGradient<T> to;
        py::object rows, columns;
        if (of_rows) rows = given.made_like(r.rows, to.rows);
        if (of_columns || alone) columns = given.made_like(r.columns, to.columns);
        if (!given.ordinary()) return not_ordinary();
        run_kernel(2 * double(r.rows.batch(2)) * r.work(0), [&] {
            rk::relation_matrix_vjp<T>(r, kind, 1, above, to);
            if (!alone) return;  // otherwise both parts are of f
            const long values = r.rows.batch(2) * n * r.rows.dim(1);
            for (long i = 0; i < values; ++i) to.rows.data[i] += to.columns.data[i];
        });
        return tuple_of({rows, alone ? py::object() : columns, py::object()});
    }
};

// The parameters of attention from its mask on, of which a window and an alignment are left to Python.
template <class Operation, class T>
Band band_in(Operands<T>& given) {
    given.require_absent(Operation::left);
    given.require_absent(Operation::right);
    given.require(given.name(Operation::align) == "upper_left");
    if (!given.flag(Operation::causal)) return {};
    return {-Band::kNoLimit, 0};
}

// Gradients of attention take five products where attention takes two.
constexpr double kVjpWork = 2.5;

// Where the parameters of attention are, with which those of its gradient begin.
struct AttentionPlaces {
    enum { f, g, v, mask, causal, left, right, align, scale, bias, softcap, q_offsets, k_offsets, count };
};

template <class T>
struct AttentionIn : private AttentionPlaces {
    Relation<T> relation;
    Array<const T> values;
    Scoring<T> scoring;
    long n = 0, m = 0;

    explicit AttentionIn(Operands<T>& given)
        : relation(relation_in(given, f, g, scale)), values(given.tensor(v)) {
        for (const int at : {softcap, q_offsets, k_offsets}) given.require_absent(at);
        given.require(!given.absent(g));
        const Band band = band_in<AttentionPlaces>(given);
        const auto allowed = given.template tensor_or_none<std::uint8_t>(mask);
        const auto terms = given.tensor_or_none(bias);
        if (!given.ordinary() || !given.share_leading(2, relation.rows, values)) return;
        n = relation.rows.dim(2), m = relation.columns.dim(2);
        given.require(values.dim(2) == m);
        scoring = {.allowed = {given.of_pairs(allowed, relation.rows, n, m), band},
                   .bias = given.of_pairs(terms, relation.rows, n, m)};
    }
    double work() const {
        return double(relation.rows.batch(2)) * relation.work(double(values.dim(1)) + scoring.work());
    }
};

struct Attention : AttentionPlaces {
    static constexpr const char* kName = "attention";

    template <class T>
    static PyObject* run(Operands<T>& given) {
        const AttentionIn<T> in(given);
        if (!given.ordinary()) return not_ordinary();
        if (given.needs_grad()) return Py_NewRef(Py_True);
        Array<T> out, lse;
        const Array<const T>& rows = in.relation.rows;
        const py::object result = given.made(shape_from(rows, 2, {in.n, in.values.dim(1)}), out);
        const py::object sums = given.made(shape_from(rows, 2, {in.n}), lse);
        if (!given.ordinary()) return not_ordinary();
        run_kernel(in.work(), [&] { rk::attention<T>(in.relation, in.values, in.scoring, out, lse); });
        return tuple_of({result, sums});
    }
};

struct AttentionVjp : AttentionPlaces {
    static constexpr const char* kName = "attention_vjp";
    enum { out = AttentionPlaces::count, lse, grad, grad_lse, of_bias, count };

    template <class T>
    static PyObject* run(Operands<T>& given) {
        const AttentionIn<T> in(given);
        given.require(!given.flag(of_bias));
        if (given.ordinary()) given.require_constant(scale);  // its gradient is left to Python
        const AttentionResult<T> found{given.tensor(out), given.tensor(lse, 1)};
        const AttentionResult<T> above{given.tensor(grad), given.tensor_or_none(grad_lse, 1)};
        if (!given.ordinary()) return not_ordinary();
        const Array<const T>& rows = in.relation.rows;
        const Dims of_result = shape_from(rows, 2, {in.n, in.values.dim(1)});
        const Dims of_sums = shape_from(rows, 2, {in.n});
        given.require(found.out.shape == of_result && above.out.shape == of_result);
        given.require(found.lse.shape == of_sums && is_gapless(found.lse));
        given.require(above.lse.empty() || above.lse.shape == of_sums);
        if (!given.ordinary()) return not_ordinary();
        if (given.needs_grad()) return Py_NewRef(Py_True);
        RelationGradient<T> to;
        Array<T> to_values;
        const py::object of_rows = given.made_like(rows, to.rows);
        const py::object of_columns = given.made_like(in.relation.columns, to.columns);
        const py::object of_values = given.made_like(in.values, to_values);
        if (!given.ordinary()) return not_ordinary();
        run_kernel(kVjpWork * in.work(), [&] {
            rk::attention_vjp<T>(in.relation, in.values, in.scoring, found, above, to, to_values, {});
        });
        return tuple_of({of_rows, of_columns, of_values, py::object(), py::object()});
    }
};

// The same of relational attention.
struct RelationalPlaces {
    enum { q, k, q_rel, k_rel, v, mask, causal, left, right, align, scale, rel_scale, rel_activation, count };
};

// Its parameters, without a mask.
template <class T>
struct RelationalIn {
    using At = RelationalPlaces;
    RelationalSides<T> sides;
    Allowed allowed;

    explicit RelationalIn(Operands<T>& given)
        : sides{given.tensor(At::q, 3),        given.tensor(At::k, 3), given.tensor(At::q_rel, 3),
                given.tensor(At::k_rel, 3),    given.tensor(At::v, 3), T(given.factor(At::scale)),
                T(given.factor(At::rel_scale))} {
        given.require_absent(At::mask);
        allowed.band = band_in<At>(given);
        const std::string name(given.name(At::rel_activation));
        given.require(is_without_parameter(name));
        const auto& [q, k, q_rel, k_rel, v, scale, rel_scale, activation] = sides;
        if (!given.ordinary() || !given.share_leading(2, q, k, v) || !given.share_leading(2, q_rel, k_rel) ||
            !given.share_leading(3, q, q_rel))
            return;
        sides.activation = RelationActivation::named(name, 0);
        const long n = q.dim(2), m = k.dim(2);
        given.require(q_rel.dim(2) == n && k_rel.dim(2) == m && v.dim(2) == m);
        given.require(k.dim(1) == q.dim(1) && k_rel.dim(1) == q_rel.dim(1));
    }
    double work() const { return double(sides.q.batch(3)) * sides.work(); }

    // Parameters of activations are known to Python.
    static bool is_without_parameter(const std::string& name) {
        const auto is_named = [&](const auto& row) { return name == row.name; };
        const auto is_product = [&](const auto& row) { return is_named(row) && !is_of_distance(row.value); };
        return name != "leaky_relu" && name != "relu_power" &&
               (std::any_of(std::begin(kLinks), std::end(kLinks), is_product) ||
                std::any_of(std::begin(kActivations), std::end(kActivations), is_named));
    }
};

struct RelationalAttention : RelationalPlaces {
    static constexpr const char* kName = "relational_attention";

    template <class T>
    static PyObject* run(Operands<T>& given) {
        const RelationalIn<T> in(given);
        if (!given.ordinary()) return not_ordinary();
        if (given.needs_grad()) return Py_NewRef(Py_True);
        const Array<const T>& rows = in.sides.q;
        const long n = rows.dim(2);
        RelationalResult<Array<T>> to;
        const py::object relations = given.made(shape_from(rows, 2, {n, in.sides.relations()}), to.relations);
        const py::object values = given.made(shape_from(rows, 2, {n, in.sides.v.dim(1)}), to.values);
        const py::object lse = given.made(shape_from(rows, 2, {n}), to.lse);
        if (!given.ordinary()) return not_ordinary();
        run_kernel(in.work(), [&] { rk::relational_attention<T>(in.sides, in.allowed, to); });
        return tuple_of({relations, values, lse});
    }
};

struct RelationalAttentionVjp : RelationalPlaces {
    static constexpr const char* kName = "relational_attention_vjp";
    enum { relations = RelationalPlaces::count, values, lse, grad_relations, grad_values, grad_lse, count };

    template <class T>
    static PyObject* run(Operands<T>& given) {
        const RelationalIn<T> in(given);
        if (given.ordinary()) given.require_constant(scale), given.require_constant(rel_scale);
        const RelationalResult<Array<const T>> found{given.tensor(relations), given.tensor(values),
                                                     given.tensor(lse, 1)};
        const RelationalResult<Array<const T>> above{given.tensor(grad_relations), given.tensor(grad_values),
                                                     given.tensor_or_none(grad_lse, 1)};
        if (!given.ordinary()) return not_ordinary();
        const auto& sides = in.sides;
        const long n = sides.q.dim(2);
        const Dims of_relations = shape_from(sides.q, 2, {n, sides.relations()});
        const Dims of_values = shape_from(sides.q, 2, {n, sides.v.dim(1)});
        const Dims of_sums = shape_from(sides.q, 2, {n});
        for (const auto* r : {&found, &above})
            given.require(r->relations.shape == of_relations && r->values.shape == of_values &&
                          (r->lse.empty() || r->lse.shape == of_sums));
        given.require(is_gapless(found.lse));
        if (!given.ordinary()) return not_ordinary();
        if (given.needs_grad()) return Py_NewRef(Py_True);
        RelationalGradient<T> to;
        const py::object grad_q = given.made_like(sides.q, to.q), grad_k = given.made_like(sides.k, to.k);
        const py::object grad_q_rel = given.made_like(sides.q_rel, to.q_rel);
        const py::object grad_k_rel = given.made_like(sides.k_rel, to.k_rel);
        const py::object grad_v = given.made_like(sides.v, to.v);
        if (!given.ordinary()) return not_ordinary();
        const Buffer<double> parts(sides.q.batch(2) * n), rel_parts(sides.q_rel.batch(2) * n);
        to.scale = parts.get(), to.rel_scale = rel_parts.get();
        run_kernel(kVjpWork * in.work(),
                   [&] { rk::relational_attention_vjp<T>(sides, in.allowed, found, above, to); });
        return tuple_of({grad_q, grad_k, grad_q_rel, grad_k_rel, grad_v, py::object(), py::object()});
    }
};

template <class Operation>
PyObject* whole(PyObject*, PyObject* const* given, Py_ssize_t count) {
    dlpack::Tensor first;
    if (!tensor_library.api || count != Operation::count || !tensor_library.holds(given[0]) ||
        !tensor_library.describe(given[0], first))
        return not_ordinary();
    const auto run = [&]<class T>() {
        return raising_in_python([&] {
            if (!tensor_library.is_eager()) return not_ordinary();
            Operands<T> operands(given);
            const OnItsThreads on_its_threads;
            return Operation::run(operands);
        });
    };
    if (has_dtype<float>(first)) return run.template operator()<float>();
    if (has_dtype<double>(first)) return run.template operator()<double>();
    return not_ordinary();
}

template <class Operation>
void add(py::dict& to) {
    static PyMethodDef method = {
        Operation::kName, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&whole<Operation>)),
        METH_FASTCALL, nullptr};
    to[Operation::kName] = py::reinterpret_steal<py::object>(PyCFunction_New(&method, nullptr));
}

// False if PyTorch has no table of functions that is known here, or if it is a stand-in for PyTorch with
// which the documentation is built.
bool read_tensors(const py::object& tensor, const py::object& parameter, const py::object& grad_enabled,
                  const py::tuple& modes, const py::object& forward_mode) {
    TensorLibrary& library = tensor_library;
    if (!PyType_Check(tensor.ptr()) || !PyType_Check(parameter.ptr())) return false;
    const py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_IsValid(capsule.ptr(), dlpack::ExchangeApi::kName)) return false;
    const auto* api = static_cast<const dlpack::ExchangeApi*>(
        PyCapsule_GetPointer(capsule.ptr(), dlpack::ExchangeApi::kName));
    while (api && api->major != dlpack::kMajor) api = api->previous;
    if (!api || !api->describe || !api->allocate || !api->import_managed) return false;
    if (library.api) return true;  // introduced before
    library.tensor = reinterpret_cast<PyTypeObject*>(tensor.inc_ref().ptr());
    library.parameter = reinterpret_cast<PyTypeObject*>(parameter.inc_ref().ptr());
    library.grad_enabled = grad_enabled.inc_ref().ptr();
    for (const py::handle mode : modes) library.modes.push_back(mode.inc_ref().ptr());
    library.forward_mode = forward_mode.inc_ref().ptr();
    library.level = PyUnicode_InternFromString("_current_level");
    library.requires_grad = PyUnicode_InternFromString("requires_grad");
    library.is_neg = PyUnicode_InternFromString("is_neg");
    library.api = api;
    return true;
}

}  // namespace

}  // namespace on_tensors

void register_tensors(py::module_& m) {
    py::dict functions;
    on_tensors::add<on_tensors::RelationMatrix>(functions);
    on_tensors::add<on_tensors::RelationMatrixVjp>(functions);
    on_tensors::add<on_tensors::Attention>(functions);
    on_tensors::add<on_tensors::AttentionVjp>(functions);
    on_tensors::add<on_tensors::RelationalAttention>(functions);
    on_tensors::add<on_tensors::RelationalAttentionVjp>(functions);
    using py::arg;
    m.def("read_tensors", &on_tensors::read_tensors, arg("tensor"), arg("parameter"), arg("grad_enabled"),
          arg("modes"), arg("forward_mode"),
          "Introduce PyTorch; False if its tensors cannot be read by C functions.");
    m.def(
        "whole_operator", [functions](const py::str& name) { return functions.attr("get")(name); },
        py::arg("name"), "The function that takes ordinary calls of an operator on tensors, or None.");
}

}  // namespace rk::bindings
