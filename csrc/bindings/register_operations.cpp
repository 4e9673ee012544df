// The operations on feature maps and relations.
#include "bindings/conversions.hpp"
#include "operations/found_pairs.hpp"
#include "operations/operations.hpp"

namespace rk::bindings {

namespace {

using Maybe = std::optional<py::array>;
using Name = std::optional<std::string>;

void feature_map(const py::array& x, const MlpHandle& mlp, const Name& precision, const py::array& out) {
    with_dtype(x, [&]<class T>() {
        const auto from = input<T>(x);
        const auto to = view<T>(out);
        const Mlp<T>& map = mlp.as<T>();
        const Precision p = precision_named(precision);
        without_gil([&] { rk::feature_map<T>(from, map, p, to); });
    });
}

void sparse_feature_map(const py::array& values, const py::array& columns, const py::array& offsets,
                        const py::array& weights, const MlpHandle& mlp, const Name& precision,
                        const py::array& out) {
    with_dtype(values, [&]<class T>() {
        const auto x = sparse_rows<T>(values, columns, offsets);
        const auto first = view<const T>(weights);
        const auto to = view<T>(out);
        const Mlp<T>& map = mlp.as<T>();
        const Precision p = precision_named(precision);
        without_gil([&] { rk::sparse_feature_map<T>(x, first.data, map, p, to); });
    });
}

void normalize(const py::array& x, const py::array& out) {
    with_dtype(x, [&]<class T>() {
        const auto from = view<const T>(x);
        const auto to = view<T>(out);
        without_gil([&] { rk::normalize<T>(from, to); });
    });
}

// The arguments that every operation on a relation shares; views are taken while the GIL is held.
template <class T>
Relation<T> relation_of(const py::array& rows, const Maybe& columns, const MlpHandle* phi,
                        const MlpHandle* psi, const Name& precision, double scale) {
    return {input<T>(rows),
            columns ? input<T>(*columns) : Array<const T>{},
            map_or_null<T>(phi),
            map_or_null<T>(psi),
            precision_named(precision),
            T(scale)};
}

void relation_matrix(const py::array& x, const Maybe& y, const MlpHandle* phi, const MlpHandle* psi,
                     const Name& precision, const std::string& link, double scale, long heads,
                     const py::array& out) {
    with_dtype(x, [&]<class T>() {
        const auto relation = relation_of<T>(x, y, phi, psi, precision, scale);
        const auto to = view<T>(out);
        const Link kind = link_named(link);
        without_gil([&] { rk::relation_matrix<T>(relation, kind, heads, to); });
    });
}

void attention_scores(const py::array& q, const py::array& k, const MlpHandle* phi, const MlpHandle* psi,
                      const Name& precision, double scale, const Maybe& mask, const Limits& band,
                      const Maybe& bias, std::optional<double> softcap, const py::array& out) {
    with_dtype(q, [&]<class T>() {
        const auto relation = relation_of<T>(q, k, phi, psi, precision, scale);
        const auto scoring = scoring_of<T>(mask, band, bias, softcap);
        const auto to = view<T>(out);
        without_gil([&] { rk::attention_scores<T>(relation, scoring, to); });
    });
}

void attention(const py::array& q, const py::array& k, const py::array& v, const MlpHandle* phi,
               const MlpHandle* psi, const Name& precision, double scale, const Maybe& mask,
               const Limits& band, const Maybe& bias, std::optional<double> softcap, const py::array& out,
               const Maybe& lse, const Ragged& ragged) {
    with_dtype(q, [&]<class T>() {
        auto relation = relation_of<T>(q, k, phi, psi, precision, scale);
        relation.segments = segments_of<T>(ragged, relation.rows, relation.columns);
        const auto values = input<T>(v);
        const auto scoring = scoring_of<T>(mask, band, bias, softcap, ragged);
        const auto to = view<T>(out), log_sum = view_or_none<T>(lse);
        without_gil([&] { rk::attention<T>(relation, values, scoring, to, log_sum); });
    });
}

void relational_attention(const py::array& q, const py::array& k, const py::array& q_rel,
                          const py::array& k_rel, const py::array& v, const std::string& activation,
                          double parameter, double scale, double rel_scale, const Maybe& mask,
                          const Limits& band, const py::array& relations, const py::array& values,
                          const Maybe& lse) {
    with_dtype(q, [&]<class T>() {
        const auto sides =
            relational_sides<T>(q, k, q_rel, k_rel, v, activation, parameter, scale, rel_scale);
        const auto allowed = allowed_of(mask, band);
        const RelationalResult<Array<T>> to{view<T>(relations), view<T>(values), view_or_none<T>(lse)};
        without_gil([&] { rk::relational_attention<T>(sides, allowed, to); });
    });
}

// Codes of at least m keys of d features, as encode_keys writes them.
void check_codes(const py::array& codes, const py::array& terms, long m, long d) {
    const long panels = ceil_div(m, kCodeLanes);
    const auto is = [](const py::array& a, std::initializer_list<long> last) {
        return a.ndim() == long(last.size()) + 1 && (a.flags() & py::array::c_style) &&
               std::equal(last.begin(), last.end(), a.shape() + 1);
    };
    if (!holds<std::int8_t>(codes) || !holds<float>(terms) || !is(codes, {ceil_div(d, 4), kCodeLanes, 4}) ||
        !is(terms, {kCodeTerms, kCodeLanes}) || codes.shape(0) < panels || terms.shape(0) < panels ||
        d > kMostCodedDepth)
        throw std::invalid_argument("codes or terms are not those of the keys");
}

void encode_keys(const py::array& features, long first, const py::array& codes, const py::array& terms) {
    const auto from = view<const float>(features);
    if (from.ndim() != 2 || (from.dim(1) > 1 && from.step(1) != 1))
        throw std::invalid_argument("features: expected rows of unit stride");
    if (first < 0 || first > from.dim(2)) throw std::invalid_argument("first: expected 0 to m");
    check_codes(codes, terms, from.dim(2), from.dim(1));
    std::int8_t* const bytes = view<std::int8_t>(codes).data;
    float* const numbers = view<float>(terms).data;
    without_gil([&] { rk::encode_keys(from, first, bytes, numbers); });
}

template <class T>
KeyCodes codes_of(const Relation<T>& relation, const Maybe& codes, const Maybe& terms) {
    if (!codes || !terms) return {};
    const Array<const T>& k = relation.columns;
    if (!std::is_same_v<T, float> || relation.psi || relation.segments.ragged() || !k.repeats() ||
        (k.dim(1) > 1 && k.step(1) != 1))
        throw std::invalid_argument("codes are for one matrix of float32 features of unit stride");
    check_codes(*codes, *terms, k.dim(2), k.dim(1));
    return {view<const std::int8_t>(*codes).data, view<const float>(*terms).data};
}

// Ranges, columns and the number of the first column, as ops/excluded.py makes them.
using Exclusions = std::optional<std::tuple<py::array, py::array, std::int64_t>>;

Searchable searchable_of(const Maybe& mask, const Exclusions& excluded, const Ragged& ragged = {}) {
    Searchable s{allowed_of(mask, {}, ragged), {}};
    if (!excluded) return s;
    if (ragged) throw std::invalid_argument("a ragged batch has no excluded columns");
    const auto& [ranges, columns, first] = *excluded;
    s.excluded = {view<const std::int64_t>(ranges), contiguous<std::int64_t>(columns), first};
    if (s.excluded.ranges.ndim() < 2 || s.excluded.ranges.dim(1) != 2)
        throw std::invalid_argument("ranges: expected shape (..., n, 2)");
    return s;
}

void retrieve(const py::array& q, const py::array& keys, const MlpHandle* phi, const MlpHandle* psi,
              const Name& precision, const Maybe& mask, const py::array& values, const py::array& indices,
              const Maybe& codes, const Maybe& terms, const Exclusions& excluded, const Ragged& ragged) {
    with_dtype(q, [&]<class T>() {
        auto relation = relation_of<T>(q, keys, phi, psi, precision, 1);
        relation.segments = segments_of<T>(ragged, relation.rows, relation.columns);
        const Searchable searchable = searchable_of(mask, excluded, ragged);
        const auto best = view<T>(values);
        const auto where = view<std::int64_t>(indices);
        const KeyCodes of_keys = codes_of(relation, codes, terms);
        without_gil([&] { rk::retrieve<T>(relation, searchable, best, where, of_keys); });
    });
}

// What retrieve_above found, until it is written to arrays of the right size.
struct FoundPairsHandle {
    std::variant<std::unique_ptr<FoundPairs<float>>, std::unique_ptr<FoundPairs<double>>> found;
    long rows;

    long total() const {
        return std::visit([](const auto& f) { return f->total(); }, found);
    }
    void write(const py::array& offsets, const py::array& indices, const py::array& values) {
        std::visit(
            [&]<class T>(std::unique_ptr<FoundPairs<T>>& f) {
                const auto ends = view<std::int64_t>(offsets), columns = view<std::int64_t>(indices);
                const auto to = view<T>(values);
                const auto is = [](const auto& a, long size) {
                    return a.ndim() == 1 && a.dim(1) == size && (size < 2 || a.step(1) == 1);
                };
                if (!f->complete() || !is(ends, rows + 1) || !is(columns, f->total()) || !is(to, f->total()))
                    throw std::invalid_argument("expected vectors of all pairs that were found");
                without_gil([&] { f->write(ends.data, columns.data, to.data); });
            },
            found);
    }
};

FoundPairsHandle retrieve_above(const py::array& q, const py::array& keys, const MlpHandle* phi,
                                const MlpHandle* psi, const Name& precision, const Maybe& mask,
                                const py::array& thresholds, long limit, const Maybe& codes,
                                const Maybe& terms, const Exclusions& excluded) {
    FoundPairsHandle handle{};
    with_dtype(q, [&]<class T>() {
        const auto relation = relation_of<T>(q, keys, phi, psi, precision, 1);
        const Searchable searchable = searchable_of(mask, excluded);
        const auto bars = view<const T>(thresholds);
        const KeyCodes of_keys = codes_of(relation, codes, terms);
        handle.rows = relation.rows.batch(1);
        auto found = std::make_unique<FoundPairs<T>>(handle.rows, limit);
        without_gil([&] { rk::retrieve_above<T>(relation, searchable, bars, of_keys, *found); });
        handle.found = std::move(found);
    });
    return handle;
}

void relation_matvec(const py::array& x, const py::array& y, const py::array& v, const MlpHandle* phi,
                     const MlpHandle* psi, const Name& precision, const std::string& link, double scale,
                     const py::array& out) {
    with_dtype(x, [&]<class T>() {
        const auto relation = relation_of<T>(x, y, phi, psi, precision, scale);
        const auto values = input<T>(v);
        const auto to = view<T>(out);
        const Link kind = link_named(link);
        without_gil([&] { rk::relation_matvec<T>(relation, values, kind, to); });
    });
}

void narrow(const py::array& from, const py::array& to) {
    const auto storage = storage_of(to);
    const auto halves = unchecked_view<std::uint16_t>(to, Storage::own);
    if (!storage || !to.writeable() || from.shape(0) != to.shape(0) ||
        (halves.dim(1) > 1 && halves.step(1) != 1))
        throw std::invalid_argument("expected vectors of one size, of 16 bits without gaps");
    const float* floats = contiguous<float>(from);
    without_gil([&] { rk::narrow(floats, halves.dim(1), *storage, halves.data); });
}

}  // namespace

void register_operations(py::module_& m) {
    using py::arg;
    m.def("feature_map", &feature_map, arg("x"), arg("mlp"), arg("precision"), arg("out"));
    m.def("sparse_feature_map", &sparse_feature_map, arg("values"), arg("columns"), arg("offsets"),
          arg("weights"), arg("mlp"), arg("precision"), arg("out"));
    m.def("normalize", &normalize, arg("x"), arg("out"));
    m.def("relation_matrix", &relation_matrix, arg("x"), arg("y"), arg("phi").none(true),
          arg("psi").none(true), arg("precision"), arg("link"), arg("scale"), arg("heads"), arg("out"));
    m.def("attention_scores", &attention_scores, arg("q"), arg("k"), arg("phi").none(true),
          arg("psi").none(true), arg("precision"), arg("scale"), arg("mask"), arg("band"), arg("bias"),
          arg("softcap"), arg("out"));
    m.def("attention", &attention, arg("q"), arg("k"), arg("v"), arg("phi").none(true), arg("psi").none(true),
          arg("precision"), arg("scale"), arg("mask"), arg("band"), arg("bias"), arg("softcap"), arg("out"),
          arg("lse"), arg("ragged") = py::none());
    m.def("relational_attention", &relational_attention, arg("q"), arg("k"), arg("q_rel"), arg("k_rel"),
          arg("v"), arg("activation"), arg("parameter"), arg("scale"), arg("rel_scale"), arg("mask"),
          arg("band"), arg("relations"), arg("values"), arg("lse"));
    m.def("encode_keys", &encode_keys, arg("features"), arg("first"), arg("codes"), arg("terms"));
    m.def("retrieve", &retrieve, arg("q"), arg("keys"), arg("phi").none(true), arg("psi").none(true),
          arg("precision"), arg("mask"), arg("values"), arg("indices"), arg("codes") = py::none(),
          arg("terms") = py::none(), arg("excluded") = py::none(), arg("ragged") = py::none());
    py::class_<FoundPairsHandle>(m, "FoundPairs")
        .def_property_readonly("total", &FoundPairsHandle::total)
        .def("write", &FoundPairsHandle::write, arg("offsets"), arg("indices"), arg("values"));
    m.def("retrieve_above", &retrieve_above, arg("q"), arg("keys"), arg("phi").none(true),
          arg("psi").none(true), arg("precision"), arg("mask"), arg("thresholds"), arg("limit"),
          arg("codes") = py::none(), arg("terms") = py::none(), arg("excluded") = py::none());
    m.def("relation_matvec", &relation_matvec, arg("x"), arg("y"), arg("v"), arg("phi").none(true),
          arg("psi").none(true), arg("precision"), arg("link"), arg("scale"), arg("out"));
    m.def("narrow", &narrow, arg("values"), arg("out"));
}

}  // namespace rk::bindings
