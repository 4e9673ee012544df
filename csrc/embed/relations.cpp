// Operations on relations in the public interface: checks, then the engine's functions of the same names.
#include "operations/operations.hpp"

#include "embed/call.hpp"

namespace relkernels {

using detail::array;
using detail::Attended;
using detail::Call;
using detail::Layout;
using detail::Multiplied;
using detail::Output;
using detail::packed;

template <class T>
void relation_matrix(In<T> x, In<T> y, Map<T> phi, Map<T> psi, View<T> out, const RelationOptions& options) {
    const Call call("relation_matrix");
    call.points("x", x.shape());
    const bool one_map = !psi || psi == phi;
    const bool symmetric = y.absent() && one_map;
    const char* y_name = y.absent() ? "x" : "y";
    const View<const T>& other = y.absent() ? x : y;
    call.points(y_name, other.shape());
    if (!psi) psi = phi;
    const std::int64_t width = call.widths("x", x.shape(), phi, y_name, other.shape(), psi, one_map);
    const T scale = call.scale_of<T>(options.link, options.scale, options.precision);
    const std::int64_t heads = options.heads;
    if (heads < 1 || width % heads)
        call.fail("heads", "a divisor of the feature width " + std::to_string(width), std::to_string(heads));
    const Shape lead = call.lead({{"x", x.shape(), 2}, {y_name, other.shape(), 2}});
    Shape shape = lead;
    if (heads > 1) shape.push_back(heads);
    shape.push_back(x.shape()[x.ndim() - 2]);
    shape.push_back(other.shape()[other.ndim() - 2]);
    call.shape("out", out.shape(), shape, "that of the relation");
    const Output<T> to(call, "out", out, Layout::rows);
    rk::relation_matrix<T>({array(x, lead, 2), symmetric ? rk::Array<const T>{} : array(other, lead, 2),
                            packed(phi), packed(psi), call.precision<T>(options.precision), scale},
                           options.link, long(heads), to.array(heads > 1 ? 3 : 2));
    to.write_back();
}

template <class T>
void attention_scores(In<T> q, In<T> k, Map<T> phi, Map<T> psi, View<T> out, const AttentionOptions& options,
                      In<T> bias) {
    const Call call("attention_scores");
    if (!options.ragged.q_offsets.absent()) call.fail("q_offsets", "none for scores", "offsets");
    if (!options.ragged.k_offsets.absent()) call.fail("k_offsets", "none for scores", "offsets");
    const Attended<T> a(call, q, k, "k", {}, phi, psi, options.mask, bias);
    const T scale = a.scale(call, options.scale);
    call.shape("out", out.shape(), a.shape({a.n, a.m}), "that of the scores");
    const Output<T> to(call, "out", out, Layout::rows);
    rk::attention_scores<T>(a.relation(call.precision<T>(options.precision), scale), a.scoring(call, options),
                            to.array(2));
    to.write_back();
}

template <class T>
void attention(In<T> q, In<T> k, In<T> v, Map<T> phi, Map<T> psi, View<T> out, Out<T> lse,
               const AttentionOptions& options, In<T> bias) {
    const Call call("attention");
    call.array("v", v.shape(), 2);
    const Attended<T> a(call, q, k, "k", v, phi, psi, options.mask, bias, options.ragged);
    const T scale = a.scale(call, options.scale);
    call.shape("out", out.shape(), a.shape({a.n, v.shape().back()}), "that of the attention");
    if (!lse.absent()) call.shape("lse", lse.shape(), a.shape({a.n}), "one for each row of q");
    const Output<T> to(call, "out", out, Layout::rows), to_lse(call, "lse", lse, Layout::contiguous);
    rk::attention<T>(a.relation(call.precision<T>(options.precision), scale), array(v, a.lead, 2),
                     a.scoring(call, options), to.array(2), lse.absent() ? rk::Array<T>{} : to_lse.array(1));
    to.write_back();
    to_lse.write_back();
}

template <class T>
void relation_matvec(In<T> x, In<T> y, In<T> v, Map<T> phi, Map<T> psi, View<T> out,
                     const MatvecOptions& options) {
    const Call call("relation_matvec");
    const Multiplied<T> a(call, x, y, v, phi, psi, options);
    call.shape("out", out.shape(), a.product(), "that of the product");
    if (a.columns.shape().back() == 0) return;
    const Output<T> to(call, "out", a.single ? detail::as_column(out) : out, Layout::rows);
    rk::relation_matvec<T>({array(x, a.lead, 2), array(y, a.lead, 2), packed(phi), packed(a.psi),
                            call.precision<T>(options.precision), a.scale},
                           array(a.columns, a.lead, 2), options.link, to.array(2));
    to.write_back();
}

#define RK_INSTANTIATE(T)                                                                                  \
    template void relation_matrix(In<T>, In<T>, Map<T>, Map<T>, View<T>, const RelationOptions&);          \
    template void attention_scores(In<T>, In<T>, Map<T>, Map<T>, View<T>, const AttentionOptions&, In<T>); \
    template void attention(In<T>, In<T>, In<T>, Map<T>, Map<T>, View<T>, Out<T>, const AttentionOptions&, \
                            In<T>);                                                                        \
    template void relation_matvec(In<T>, In<T>, In<T>, Map<T>, Map<T>, View<T>, const MatvecOptions&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace relkernels
