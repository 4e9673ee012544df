// Relational attention of relkernels.hpp against its definition, its gradient against central differences.
#include "slopes.hpp"

struct Case {
    Int h, relations, n, m, d, d_rel, width;
    Shape lead;
    Tensor<T> q, k, q_rel, k_rel, v;
    Tensor<std::uint8_t> bytes;
    rk::RelationalOptions options;
    double scale = 0.7, rel_scale = -0.4;

    // Some arrays lack the batch dimension, or have one head for all.
    explicit Case(Random& random)
        : h(pick(random, {1, 3})),
          relations(pick(random, {0, 1, 4})),
          n(pick(random, {1, 5, 40})),
          m(pick(random, {1, 7, 150})),
          d(pick(random, {1, 8})),
          d_rel(pick(random, {1, 5})),
          width(pick(random, {0, 1, 9})),
          lead(coin(random) ? Shape{2} : Shape{}),
          q(normal<T>(random, with({h, n, d}))),
          k(normal<T>(random, {coin(random) ? h : 1, m, d})),
          q_rel(normal<T>(random, {relations, n, d_rel})),
          k_rel(normal<T>(random, with({relations, m, d_rel}))),
          v(normal<T>(random, with({h, m, width}))),
          bytes(random, {h, n, m}) {
        const rk::RelationalOptions::Function functions[] = {rk::Activation::identity, rk::Activation::tanh,
                                                             rk::Activation::gelu, rk::Link::exp,
                                                             rk::Link::square};
        options.rel_activation = functions[pick(random, {0, 1, 2, 3, 4})];
        for_each_index(bytes.view.shape(), [&](const Shape& i) { bytes(i) = i[1] != 1 && random() % 3 > 0; });
        if (coin(random)) options.mask = bytes.view;
        options.causal = coin(random);
        if (coin(random)) options.window.left = pick(random, {0, 3, 100});
        if (coin(random)) options.align = rk::Align::lower_right;
    }
    Shape with(const Shape& core) const {
        Shape all = lead;
        all.insert(all.end(), core.begin(), core.end());
        return all;
    }
    bool allows(Int a, Int i, Int j) const {
        const Int at = j - i - (options.align == rk::Align::lower_right ? m - n : 0);
        return (options.mask.absent() || bytes({a, i, j})) && (!options.causal || at <= 0) &&
               (!options.window.left || at >= -*options.window.left);
    }
    double activated(double z) const {
        if (const auto* link = std::get_if<rk::Link>(&options.rel_activation))
            return *link == rk::Link::exp ? std::exp(z) : z * z;
        switch (std::get<rk::Activation>(options.rel_activation)) {
            case rk::Activation::tanh: return std::tanh(z);
            case rk::Activation::gelu: return z * std::erfc(-z / std::sqrt(2.0)) / 2;
            default: return z;
        }
    }
    double product(const Tensor<T>& a, const Tensor<T>& b, const Shape& at, Int i, Int j) const {
        double sum = 0;
        for (Int c = 0; c < a.view.shape().back(); ++c) sum += a.in(at, {i, c}) * b.in(at, {j, c});
        return sum;
    }
};

struct Results {
    Tensor<T> relations, values, lse;

    Results(Random& random, const Case& c)
        : relations(random, c.with({c.h, c.n, c.relations})),
          values(random, c.with({c.h, c.n, c.width})),
          lse(random, c.with({c.h, c.n})) {}
    void compute(Case& c) {
        c.options.scale = c.scale;
        c.options.rel_scale = c.rel_scale;
        rk::relational_attention(c.q.view, c.k.view, c.q_rel.view, c.k_rel.view, c.v.view, relations.view,
                                 values.view, lse.view, c.options);
    }
};

static void test_definition(Case& c, Results& got) {
    got.compute(c);
    for_each_index(c.with({c.h, c.n}), [&](const Shape& row) {
        const Int i = row.back(), a = row[row.size() - 2];
        const Shape at(row.begin(), row.end() - 1), batch(row.begin(), row.end() - 2);
        double sum = 0;
        std::vector<double> weights;
        for (Int j = 0; j < c.m; ++j) {
            weights.push_back(c.allows(a, i, j) ? std::exp(c.scale * c.product(c.q, c.k, at, i, j)) : 0);
            sum += weights.back();
        }
        for (double& w : weights) w /= sum > 0 ? sum : 1;
        for (Int l = 0; l < c.relations; ++l) {
            Shape of_relation = batch;
            of_relation.push_back(l);
            double wanted = 0;
            for (Int j = 0; j < c.m; ++j)
                wanted += weights[std::size_t(j)] *
                          c.activated(c.rel_scale * c.product(c.q_rel, c.k_rel, of_relation, i, j));
            expect_close<T>(got.relations.in(at, {i, l}), wanted, 10, "relations");
        }
        for (Int w = 0; w < c.width; ++w) {
            double wanted = 0;
            for (Int j = 0; j < c.m; ++j) wanted += weights[std::size_t(j)] * c.v.in(at, {j, w});
            expect_close<T>(got.values.in(at, {i, w}), wanted, 2, "values");
        }
        expect_close<T>(got.lse.in(at, {i}), std::log(sum), 10, "log-sum-exp");
    });
}

static void test_gradient(Random& random, Case& c, Results& results) {
    const Tensor<T> of_relations = normal<T>(random, results.relations.view.shape()),
                    of_values = normal<T>(random, results.values.view.shape()),
                    of_lse = normal<T>(random, results.lse.view.shape());
    const auto value = [&] {
        results.compute(c);
        double sum = weighted(of_relations, results.relations) + weighted(of_values, results.values);
        for_each_index(results.lse.view.shape(), [&](const Shape& i) {
            if (std::isfinite(results.lse(i))) sum += of_lse(i) * results.lse(i);
        });
        return sum;
    };
    Tensor<T> grad_q(random, c.q.view.shape()), grad_k(random, c.k.view.shape()),
        grad_q_rel(random, c.q_rel.view.shape()), grad_k_rel(random, c.k_rel.view.shape()),
        grad_v(random, c.v.view.shape());
    const rk::RelationalScales scales = rk::relational_attention_vjp(
        c.q.view, c.k.view, c.q_rel.view, c.k_rel.view, c.v.view, of_relations.view, of_values.view,
        grad_q.view, grad_k.view, grad_q_rel.view, grad_k_rel.view, grad_v.view, c.options, of_lse.view);
    expect_slope(random, c.q, grad_q, value, "q");
    expect_slope(random, c.k, grad_k, value, "k");
    expect_slope(random, c.q_rel, grad_q_rel, value, "q_rel");
    expect_slope(random, c.k_rel, grad_k_rel, value, "k_rel");
    expect_slope(random, c.v, grad_v, value, "v");
    expect_slope(c.scale, scales.scale, value, "scale");
    expect_slope(c.rel_scale, scales.rel_scale, value, "rel_scale");
}

static void test_bad_input() {
    std::vector<T> memory(1000);
    T* p = memory.data();
    using View = rk::View<T>;
    const View q(p, {2, 4, 3}), k(p, {2, 5, 3}), q_rel(p, {3, 4, 6}), k_rel(p, {3, 5, 6});
    const View relations(p + 500, {2, 4, 3}), values(p + 600, {2, 4, 3});
    rk::RelationalOptions options;
    const auto call = [&](const View& q_rel, const View& values) {
        rk::relational_attention(q, k, q_rel, k_rel, k, relations, values, {}, options);
    };
    refused(
        [&] { call(View(p, {3, 5, 6}), values); },
        "relational_attention: q_rel: expected 4 rows, one for each row of q (2, 4, 3), got shape (3, 5, 6)");
    refused([&] { call(View(p, {2, 4, 6}), values); },
            "relational_attention: q_rel: expected leading dimensions that broadcast together, got q_rel of "
            "shape (2, 4, 6), k_rel of shape (3, 5, 6)");
    refused(
        [&] { call(q_rel, View(p + 600, {2, 4, 2})); },
        "relational_attention: values: expected shape (2, 4, 3), that of the values, got shape (2, 4, 2)");
    options.rel_activation = rk::Activation::relu_power;
    refused([&] { call(q_rel, values); },
            "relational_attention: rel_activation: expected an activation without a parameter, got 3");
    options.rel_activation = rk::Link::gaussian;
    refused([&] { call(q_rel, values); },
            "relational_attention: rel_activation: expected a link of inner products, got 4");
    options.rel_activation = rk::Link::relu;
    const std::vector<std::uint8_t> bytes(100);
    options.mask = rk::Mask(bytes.data(), {3, 4, 5});
    refused([&] { call(q_rel, values); },
            "relational_attention: mask: expected a shape that broadcasts to (..., 2, 4, 5), got shape "
            "(3, 4, 5)");
}

int main() {
    Random random(1);
    for (int i = 0; i < 60; ++i) {
        Case c(random);
        Results results(random, c);
        test_definition(c, results);
        test_gradient(random, c, results);
    }
    test_bad_input();
    return finish();
}
