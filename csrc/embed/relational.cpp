// Relational attention and its gradient in the public interface.
#include <algorithm>
#include <cmath>

#include "embed/gradients.hpp"

namespace relkernels {

using detail::array;
using detail::Call;
using detail::Layout;
using detail::Output;
using detail::Owned;

namespace {

// The checked arguments that both share (python/relkernels/ops/relational.py does the same).
template <class T>
struct Related {
    Shape of_heads, of_relations;  // leading dimensions, then h or R
    std::int64_t n, m, values_width;
    rk::RelationalSides<T> sides;
    rk::Allowed allowed;

    Related(const Call& call, const View<const T>& q, const View<const T>& k, const View<const T>& q_rel,
            const View<const T>& k_rel, const View<const T>& v, const RelationalOptions& options) {
        for (const auto& [name, a] :
             {std::pair("q", q), {"k", k}, {"q_rel", q_rel}, {"k_rel", k_rel}, {"v", v}})
            call.array(name, a.shape(), 3);
        for (const auto& [name, a] : {std::pair("q", q), {"k", k}, {"q_rel", q_rel}, {"k_rel", k_rel}})
            call.points(name, a.shape());
        call.widths<T>("q", q.shape(), nullptr, "k", k.shape(), nullptr, true);
        call.widths<T>("q_rel", q_rel.shape(), nullptr, "k_rel", k_rel.shape(), nullptr, true);
        n = rows(q.shape());
        m = rows(k.shape());
        values_width = v.shape().back();
        check_rows(call, "q_rel", q_rel.shape(), "q", q.shape());
        check_rows(call, "k_rel", k_rel.shape(), "k", k.shape());
        check_rows(call, "v", v.shape(), "k", k.shape());
        const Shape& mask = options.mask.shape();
        const std::int64_t heads =
            call.lead({{"q", q.shape(), 2}, {"k", k.shape(), 2}, {"v", v.shape(), 2}}).back();
        const std::int64_t relations =
            call.lead({{"q_rel", q_rel.shape(), 2}, {"k_rel", k_rel.shape(), 2}}).back();
        check_mask(call, mask, {heads, n, m});
        // Heads and relations do not broadcast with each other.
        const Shape lead = call.lead({{"q", q.shape(), 3},
                                      {"k", k.shape(), 3},
                                      {"q_rel", q_rel.shape(), 3},
                                      {"k_rel", k_rel.shape(), 3},
                                      {"v", v.shape(), 3},
                                      {"mask", mask, 3}});
        of_heads = of_relations = lead;
        of_heads.push_back(heads);
        of_relations.push_back(relations);
        sides = {array(q, of_heads, 2),
                 array(k, of_heads, 2),
                 array(q_rel, of_relations, 2),
                 array(k_rel, of_relations, 2),
                 array(v, of_heads, 2),
                 call.scale<T>(options.scale.value_or(1 / std::sqrt(double(q.shape().back())))),
                 call.scale<T>(options.rel_scale.value_or(1 / std::sqrt(double(q_rel.shape().back()))),
                               "rel_scale"),
                 activation(call, options.rel_activation)};
        allowed = {array(options.mask, of_heads, 2, {n, m}),
                   call.band(options.window, options.causal, options.align, n, m),
                   {}};
    }

    static std::int64_t rows(const Shape& shape) { return shape[shape.size() - 2]; }
    Shape of_head(std::initializer_list<std::int64_t> core) const { return joined(of_heads, core); }
    Shape of_relation(std::initializer_list<std::int64_t> core) const { return joined(of_relations, core); }
    // Of the relations, of the values and of the log-sum-exp.
    Shape relations_shape() const { return of_head({n, of_relations.back()}); }
    Shape values_shape() const { return of_head({n, values_width}); }
    Shape lse_shape() const { return of_head({n}); }

   private:
    static Shape joined(Shape lead, std::initializer_list<std::int64_t> core) {
        lead.insert(lead.end(), core);
        return lead;
    }
    static void check_rows(const Call& call, const char* name, const Shape& shape, const char* like_name,
                           const Shape& like) {
        if (rows(shape) != rows(like))
            call.fail(name,
                      std::to_string(rows(like)) + " rows, one for each row of " + like_name + " " +
                          detail::text(like),
                      "shape " + detail::text(shape));
    }
    static void check_mask(const Call& call, const Shape& mask, const Shape& pairs) {
        for (std::size_t from_end = 1; from_end <= std::min(mask.size(), pairs.size()); ++from_end) {
            const std::int64_t got = mask[mask.size() - from_end];
            if (got == 1 || got == pairs[pairs.size() - from_end]) continue;
            call.fail("mask", "a shape that broadcasts to (..., " + detail::text(pairs).substr(1),
                      "shape " + detail::text(mask));
        }
    }
    static rk::RelationActivation activation(const Call& call, const RelationalOptions::Function& function) {
        if (const Link* link = std::get_if<Link>(&function)) {
            if (!rk::is_member(*link) || rk::is_of_distance(*link))
                call.fail("rel_activation", "a link of inner products", std::to_string(int(*link)));
            return {.link = *link};
        }
        const Activation named = std::get<Activation>(function);
        if (!rk::is_member(named) || named == Activation::relu_power)
            call.fail("rel_activation", "an activation without a parameter", std::to_string(int(named)));
        return {.link = {}, .activation = named, .parameter = call.parameter(named, std::nullopt)};
    }
};

}  // namespace

template <class T>
void relational_attention(In<T> q, In<T> k, In<T> q_rel, In<T> k_rel, In<T> v, View<T> relations,
                          Out<T> values, Out<T> lse, const RelationalOptions& options) {
    const Call call("relational_attention");
    const Related<T> r(call, q, k, q_rel, k_rel, v, options);
    call.shape("relations", relations.shape(), r.relations_shape(), "that of the relations");
    call.shape("values", values.shape(), r.values_shape(), "that of the values");
    if (!lse.absent()) call.shape("lse", lse.shape(), r.lse_shape(), "one for each row of each head");
    const Output<T> to_relations(call, "relations", relations, Layout::rows),
        to_values(call, "values", values, Layout::rows), to_lse(call, "lse", lse, Layout::contiguous);
    rk::relational_attention<T>(
        r.sides, r.allowed,
        {to_relations.array(3), to_values.array(3), lse.absent() ? rk::Array<T>{} : to_lse.array(2)});
    to_relations.write_back();
    to_values.write_back();
    to_lse.write_back();
}

template <class T>
RelationalScales relational_attention_vjp(In<T> q, In<T> k, In<T> q_rel, In<T> k_rel, In<T> v,
                                          In<T> grad_relations, In<T> grad_values, View<T> grad_q,
                                          View<T> grad_k, View<T> grad_q_rel, View<T> grad_k_rel,
                                          View<T> grad_v, const RelationalOptions& options, In<T> grad_lse) {
    const Call call("relational_attention_vjp");
    const Related<T> r(call, q, k, q_rel, k_rel, v, options);
    call.shape("grad_relations", grad_relations.shape(), r.relations_shape(), "that of the relations");
    call.shape("grad_values", grad_values.shape(), r.values_shape(), "that of the values");
    if (!grad_lse.absent())
        call.shape("grad_lse", grad_lse.shape(), r.lse_shape(), "one for each row of each head");
    // A gradient is computed with all leading dimensions and then summed.
    struct Side {
        const char* name;
        const View<const T>& given;
        const View<T>& to;
        Owned<T> grad;
    };
    const std::int64_t d = q.shape().back(), d_rel = q_rel.shape().back();
    Side sides[] = {{"grad_q", q, grad_q, Owned<T>(r.of_head({r.n, d}))},
                    {"grad_k", k, grad_k, Owned<T>(r.of_head({r.m, d}))},
                    {"grad_q_rel", q_rel, grad_q_rel, Owned<T>(r.of_relation({r.n, d_rel}))},
                    {"grad_k_rel", k_rel, grad_k_rel, Owned<T>(r.of_relation({r.m, d_rel}))},
                    {"grad_v", v, grad_v, Owned<T>(r.of_head({r.m, r.values_width}))}};
    for (const Side& side : sides) {
        call.shape(side.name, side.to.shape(), side.given.shape(), "that of its argument");
        Output<T>(call, side.name, side.to, Layout::rows);
    }

    const Owned<T> relations(r.relations_shape()), values(r.values_shape()), lse(r.lse_shape());
    const auto results = [](const View<const T>& of_relations, const View<const T>& of_values,
                            const View<const T>& of_lse) {
        const auto whole = [](const View<const T>& a, std::size_t core) {
            return a.absent() ? rk::Array<const T>{} : array(a, core);
        };
        return rk::RelationalResult<rk::Array<const T>>{whole(of_relations, 3), whole(of_values, 3),
                                                        whole(of_lse, 2)};
    };
    rk::relational_attention<T>(r.sides, r.allowed,
                                {array(relations.view(), 3), array(values.view(), 3), array(lse.view(), 2)});
    RelationalScales scales;
    std::vector<double> parts(std::size_t(detail::count(r.of_head({r.n})))),
        rel_parts(std::size_t(detail::count(r.of_relation({r.n}))));
    rk::relational_attention_vjp<T>(
        r.sides, r.allowed, results(relations.view(), values.view(), lse.view()),
        results(grad_relations, grad_values, grad_lse),
        {array(sides[0].grad.view(), 3), array(sides[1].grad.view(), 3), array(sides[2].grad.view(), 3),
         array(sides[3].grad.view(), 3), array(sides[4].grad.view(), 3), parts.data(), rel_parts.data()});
    for (Side& side : sides)
        detail::copy<T>(detail::summed_to(side.grad, side.given.shape()).view(), side.to);
    return {detail::sum(parts), detail::sum(rel_parts)};
}

#define RK_INSTANTIATE(T)                                                                               \
    template void relational_attention(In<T>, In<T>, In<T>, In<T>, In<T>, View<T>, Out<T>, Out<T>,      \
                                       const RelationalOptions&);                                       \
    template RelationalScales relational_attention_vjp(In<T>, In<T>, In<T>, In<T>, In<T>, In<T>, In<T>, \
                                                       View<T>, View<T>, View<T>, View<T>, View<T>,     \
                                                       const RelationalOptions&, In<T>);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace relkernels
