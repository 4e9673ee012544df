// Gradients of relkernels.hpp against central differences of the forward operations, in double: along random
// directions of every input and of all weights and biases together.
#include "slopes.hpp"

// A slope of f along a direction of all parameters of a map at once.
static void expect_slope(Random& random, PlainMlp<T>& map, const rk::MlpGradient<T>& grad,
                         const std::function<double()>& f, const std::string& what) {
    expect(grad.weights.size() == map.weights.size() && grad.biases.size() == map.biases.size(),
           what + ": a gradient for each layer");
    std::vector<Tensor<T>> directions;
    std::vector<Tensor<T>*> parameters;
    double told = 0;
    for (auto* of : {&map.weights, &map.biases})
        for (std::size_t l = 0; l < of->size(); ++l) {
            Tensor<T>& p = (*of)[l];
            parameters.push_back(&p);
            directions.push_back(normal<T>(random, p.view.shape()));
            const std::vector<T>& g = of == &map.weights ? grad.weights[l] : grad.biases[l];
            std::size_t at = 0;
            for_each_index(p.view.shape(), [&](const Shape& i) { told += g[at++] * directions.back()(i); });
        }
    const auto move = [&](double by) {
        for (std::size_t p = 0; p < parameters.size(); ++p)
            for_each_index(parameters[p]->view.shape(),
                           [&](const Shape& i) { (*parameters[p])(i) += by * directions[p](i); });
    };
    move(kStep);
    const double above = f();
    move(-2 * kStep);
    const double below = f();
    move(kStep);
    const double slope = (above - below) / (2 * kStep);
    expect(std::abs(slope - told) <= 1e-6 * (1 + std::abs(slope)),
           what + ": slope " + std::to_string(slope) + ", gradient says " + std::to_string(told));
}

struct Problem {
    Random& random;
    Int n, m;
    Shape lead;
    PlainMlp<T> phi, psi;
    Tensor<T> x, y;

    Problem(Random& random, const Shape& lead_x, const Shape& lead_y, const Shape& lead)
        : random(random),
          n(pick(random, {1, 5, 40})),
          m(pick(random, {2, 7, 300})),
          lead(lead),
          phi(random, {4, 6, 8}, true, coin(random)),
          psi(random, {4, 5, 7, 8}, true, coin(random)),
          x(normal<T>(random, join(lead_x, {n, 4}))),
          y(normal<T>(random, join(lead_y, {m, 4}))) {}
    static Shape join(Shape a, const Shape& b) {
        a.insert(a.end(), b.begin(), b.end());
        return a;
    }
};

// Two maps, one map for both, or none; two inputs or one.
enum class Maps { two, one, none };

static void test_relation_matrix(Problem p, Maps maps, bool one_input, Int heads) {
    rk::RelationOptions options;
    options.scale = double(pick(p.random, {-7, 0, 7})) / 10;
    options.heads = maps == Maps::none ? 1 : heads;
    const Int columns = one_input ? p.n : p.m;
    Shape core = {p.n, columns};
    if (options.heads > 1) core.insert(core.begin(), options.heads);
    const Shape lead = one_input ? Shape(p.x.view.shape().begin(), p.x.view.shape().end() - 2) : p.lead;
    Tensor<T> out(p.random, Problem::join(lead, core)), grad = normal<T>(p.random, Problem::join(lead, core));
    const rk::View<T> y = one_input ? rk::View<T>() : p.y.view;
    const auto with_maps = [&](const auto& f) {
        const rk::Mlp<T> phi = p.phi.mlp(), psi = p.psi.mlp();
        return f(maps == Maps::none ? nullptr : &phi, maps == Maps::two ? &psi : nullptr);
    };
    const auto value = [&] {
        with_maps(
            [&](auto* phi, auto* psi) { rk::relation_matrix(p.x.view, y, phi, psi, out.view, options); });
        return weighted(grad, out);
    };
    Tensor<T> grad_x(p.random, p.x.view.shape()), grad_y(p.random, p.y.view.shape());
    const auto g = with_maps([&](auto* phi, auto* psi) {
        return rk::relation_matrix_vjp(p.x.view, y, grad.view, phi, psi, grad_x.view,
                                       one_input ? rk::View<T>() : grad_y.view, options);
    });
    expect_slope(p.random, p.x, grad_x, value, "relation_matrix_vjp: x");
    expect_slope(options.scale, g.scale, value, "relation_matrix_vjp: scale");
    if (!one_input) expect_slope(p.random, p.y, grad_y, value, "relation_matrix_vjp: y");
    if (maps == Maps::none)
        return expect(g.phi.weights.empty() && g.psi.weights.empty(), "no map, no gradient");
    expect_slope(p.random, p.phi, g.phi, value, "relation_matrix_vjp: phi");
    if (maps == Maps::two) expect_slope(p.random, p.psi, g.psi, value, "relation_matrix_vjp: psi");
    if (maps == Maps::one) expect(g.psi.weights.empty(), "one map, one gradient");
}

static void test_relation_matvec(Problem p, Maps maps, rk::Link link, bool single) {
    rk::MatvecOptions options;
    options.link = link;
    options.scale = 0.3;
    const Shape ones(p.y.view.ndim() - 2, 1);
    Tensor<T> v = normal<T>(p.random, single ? Shape{p.m} : Problem::join(ones, {p.m, 3}));
    const Shape shape = single ? Problem::join(p.lead, {p.n}) : Problem::join(p.lead, {p.n, 3});
    Tensor<T> out(p.random, shape), grad = normal<T>(p.random, shape);
    const auto with_maps = [&](const auto& f) {
        const rk::Mlp<T> phi = p.phi.mlp(), psi = p.psi.mlp();
        return f(maps == Maps::none ? nullptr : &phi, maps == Maps::two ? &psi : nullptr);
    };
    const auto value = [&] {
        with_maps([&](auto* phi, auto* psi) {
            rk::relation_matvec(p.x.view, p.y.view, v.view, phi, psi, out.view, options);
        });
        return weighted(grad, out);
    };
    Tensor<T> grad_x(p.random, p.x.view.shape()), grad_y(p.random, p.y.view.shape());
    Tensor<T> grad_v(p.random, v.view.shape());
    const auto g = with_maps([&](auto* phi, auto* psi) {
        return rk::relation_matvec_vjp(p.x.view, p.y.view, v.view, grad.view, phi, psi, grad_x.view,
                                       grad_y.view, grad_v.view, options);
    });
    expect_slope(p.random, p.x, grad_x, value, "relation_matvec_vjp: x");
    expect_slope(options.scale, g.scale, value, "relation_matvec_vjp: scale");
    expect_slope(p.random, p.y, grad_y, value, "relation_matvec_vjp: y");
    expect_slope(p.random, v, grad_v, value, "relation_matvec_vjp: v");
    if (maps != Maps::none) expect_slope(p.random, p.phi, g.phi, value, "relation_matvec_vjp: phi");
    if (maps == Maps::two) expect_slope(p.random, p.psi, g.psi, value, "relation_matvec_vjp: psi");
}

static void test_attention(Problem p, Maps maps, bool causal) {
    rk::AttentionOptions options;
    options.causal = causal;
    const bool own_scale = coin(p.random);
    if (own_scale) options.scale = double(pick(p.random, {-7, 0, 30})) / 10;
    Tensor<std::uint8_t> mask(p.random, {p.n, p.m});
    for_each_index(mask.view.shape(), [&](const Shape& i) { mask(i) = p.random() % 4 > 0; });
    if (coin(p.random)) options.mask = mask.view;
    Tensor<T> v = normal<T>(p.random, {p.m, 3});
    const Shape shape = Problem::join(p.lead, {p.n, 3});
    Tensor<T> out(p.random, shape), grad = normal<T>(p.random, shape);
    const Shape rows = Problem::join(p.lead, {p.n});
    Tensor<T> lse(p.random, rows), grad_lse = normal<T>(p.random, rows);
    Tensor<T> bias = normal<T>(p.random, {coin(p.random) ? p.n : 1, p.m}),
              grad_bias(p.random, bias.view.shape());
    if (coin(p.random)) options.softcap = 1.5;
    const auto with_maps = [&](const auto& f) {
        const rk::Mlp<T> phi = p.phi.mlp(), psi = p.psi.mlp();
        return f(maps == Maps::none ? nullptr : &phi, maps == Maps::two ? &psi : nullptr);
    };
    const auto value = [&] {
        with_maps([&](auto* phi, auto* psi) {
            rk::attention(p.x.view, p.y.view, v.view, phi, psi, out.view, lse.view, options, bias.view);
        });
        T with_lse = weighted(grad, out);
        for_each_index(rows, [&](const Shape& i) {
            if (std::isfinite(lse(i))) with_lse += grad_lse(i) * lse(i);
        });
        return with_lse;
    };
    Tensor<T> grad_q(p.random, p.x.view.shape()), grad_k(p.random, p.y.view.shape());
    Tensor<T> grad_v(p.random, v.view.shape());
    const auto g = with_maps([&](auto* phi, auto* psi) {
        return rk::attention_vjp(p.x.view, p.y.view, v.view, grad.view, phi, psi, grad_q.view, grad_k.view,
                                 grad_v.view, options, bias.view, grad_bias.view, grad_lse.view);
    });
    if (own_scale) expect_slope(*options.scale, g.scale, value, "attention_vjp: scale");
    expect_slope(p.random, p.x, grad_q, value, "attention_vjp: q");
    expect_slope(p.random, p.y, grad_k, value, "attention_vjp: k");
    expect_slope(p.random, v, grad_v, value, "attention_vjp: v");
    expect_slope(p.random, bias, grad_bias, value, "attention_vjp: bias");
    if (maps != Maps::none) expect_slope(p.random, p.phi, g.phi, value, "attention_vjp: phi");
    if (maps == Maps::two) expect_slope(p.random, p.psi, g.psi, value, "attention_vjp: psi");
}

static void test_feature_map(Problem p) {
    const Shape shape = Problem::join(p.lead, {p.n, 8});
    Tensor<T> x = normal<T>(p.random, Problem::join(p.lead, {p.n, 4}));
    Tensor<T> out(p.random, shape), grad = normal<T>(p.random, shape), grad_x(p.random, x.view.shape());
    const auto value = [&] {
        rk::feature_map(x.view, p.phi.mlp(), out.view);
        return weighted(grad, out);
    };
    const auto g = rk::feature_map_vjp(x.view, p.phi.mlp(), grad.view, grad_x.view);
    const auto again = rk::feature_map_vjp(x.view, p.phi.mlp(), grad.view, {});
    expect(again.weights == g.weights && again.biases == g.biases, "grad_x may be left out");
    expect_slope(p.random, x, grad_x, value, "feature_map_vjp: x");
    expect_slope(p.random, p.phi, g, value, "feature_map_vjp: mlp");
}

static void test_normalize(Problem p) {
    const Shape shape = Problem::join(p.lead, {p.n, 4});
    Tensor<T> x = normal<T>(p.random, shape), out(p.random, shape), grad = normal<T>(p.random, shape);
    Tensor<T> grad_x(p.random, shape);
    const auto value = [&] {
        rk::normalize(x.view, out.view);
        return weighted(grad, out);
    };
    rk::normalize_vjp(x.view, grad.view, grad_x.view);
    expect_slope(p.random, x, grad_x, value, "normalize_vjp");
}

static double loss_by_definition(rk::Loss loss, const std::vector<std::vector<double>>& r,
                                 const std::function<double(Int, Int)>& target,
                                 const std::function<double(Int, Int)>& weight) {
    double sum = 0, total = 0;
    for (std::size_t i = 0; i < r.size(); ++i) {
        double exponentials = 0, chosen = 0, mass = 0;
        for (std::size_t j = 0; j < r[i].size(); ++j) {
            const double z = r[i][j], t = target(Int(i), Int(j)), w = weight(Int(i), Int(j));
            exponentials += std::exp(z);
            chosen += t * z;
            mass += t;
            if (loss == rk::Loss::softmax) continue;
            total += w;
            sum += w * (loss == rk::Loss::squared    ? (z - t) * (z - t)
                        : loss == rk::Loss::logistic ? std::log1p(std::exp(z)) - t * z
                                                     : std::max(0.0, 1 - (2 * t - 1) * z));
        }
        if (loss != rk::Loss::softmax) continue;
        total += weight(Int(i), 0);
        sum += weight(Int(i), 0) * (std::log(exponentials) - chosen / mass);
    }
    return sum / total;
}

static void test_relation_loss(Problem p, rk::Loss loss, Maps maps, bool one_input, int weighting) {
    const Int columns = one_input ? p.n : p.m;
    Tensor<T> target(p.random, {p.n, columns}), weights(p.random, {p.n, columns}),
        row_weights(p.random, {p.n});
    for_each_index(target.view.shape(), [&](const Shape& i) {
        target(i) = double(p.random() % 1000 + 1) / 1000;
        weights(i) = double(p.random() % 1000) / 1000;
    });
    for (Int i = 0; i < p.n; ++i) row_weights({i}) = double(p.random() % 1000 + 1) / 1000;
    Tensor<std::int64_t> labels_x(p.random, {p.n}), labels_y(p.random, {columns});
    for (Int i = 0; i < p.n; ++i) labels_x({i}) = Int(p.random() % 2);
    for (Int j = 0; j < columns; ++j) labels_y({j}) = j < 2 ? j : Int(p.random() % 2);
    const bool labelled = coin(p.random) && columns > 1, same = one_input && coin(p.random);
    rk::LossOptions<T> options;
    options.loss = loss;
    options.scale = double(pick(p.random, {-7, 0, 10, 20})) / 10;
    if (weighting == 1) options.sample_weight = row_weights.view;
    if (weighting == 2 && loss != rk::Loss::softmax) options.sample_weight = weights.view;

    const rk::View<T> y = one_input ? rk::View<T>() : p.y.view;
    const auto run = [&] {
        const rk::Mlp<T> phi = p.phi.mlp(), psi = p.psi.mlp();
        const rk::Mlp<T>*f = maps == Maps::none ? nullptr : &phi, *g = maps == Maps::two ? &psi : nullptr;
        if (!labelled) return rk::relation_loss<T>(p.x.view, y, target.view, f, g, options);
        const rk::View<const std::int64_t> of_y =
            same ? rk::View<const std::int64_t>() : rk::View<const std::int64_t>(labels_y.view);
        return rk::relation_loss<T>(p.x.view, y, labels_x.view, of_y, f, g, options);
    };
    const auto got = run();
    std::vector<std::vector<double>> r, sides;
    const PlainMlp<T>* of_x = maps == Maps::none ? nullptr : &p.phi;
    const PlainMlp<T>* of_y = maps == Maps::two ? &p.psi : of_x;
    for (Int i = 0; i < p.n; ++i) {
        r.emplace_back();
        const auto f = features(p.x, {}, i, of_x);
        for (Int j = 0; j < columns; ++j)
            r.back().push_back(options.scale *
                               dot(f, features(one_input ? p.x : p.y, {}, j, of_y), 0, f.size()));
    }
    const double wanted = loss_by_definition(
        loss, r,
        [&](Int i, Int j) -> double {
            return labelled ? labels_x({i}) == (same ? labels_x({j}) : labels_y({j})) : target({i, j});
        },
        [&](Int i, Int j) -> double {
            const bool pairs = weighting == 2 && loss != rk::Loss::softmax;
            return pairs ? weights({i, j}) : weighting == 1 ? row_weights({i}) : 1.0;
        });
    expect_close<T>(got.value, wanted, 10 * std::abs(wanted), "relation_loss");
    const auto value = [&] { return run().value; };
    // The hinge has kinks, which differences may straddle.
    if (loss == rk::Loss::hinge) return;
    expect_slope(options.scale, got.scale, value, "relation_loss: scale");
    const auto as_tensor = [&](const std::vector<T>& values, const Shape& shape) {
        Tensor<T> t(p.random, shape);
        std::size_t at = 0;
        for_each_index(shape, [&](const Shape& i) { t(i) = values[at++]; });
        expect(at == values.size(), "a gradient of the shape of the input");
        return t;
    };
    expect_slope(p.random, p.x, as_tensor(got.x, p.x.view.shape()), value, "relation_loss: x");
    if (one_input)
        expect(got.y.empty(), "one input, one gradient");
    else
        expect_slope(p.random, p.y, as_tensor(got.y, p.y.view.shape()), value, "relation_loss: y");
    if (maps == Maps::none) return;
    expect_slope(p.random, p.phi, got.phi, value, "relation_loss: phi");
    if (maps == Maps::two) expect_slope(p.random, p.psi, got.psi, value, "relation_loss: psi");
}

int main() {
    Random random(42);
    for (const Maps maps : {Maps::two, Maps::one, Maps::none})
        for (int round = 0; round < 4; ++round) {
            const std::vector<std::vector<Shape>> leads = {
                {{}, {}, {}}, {{3}, {3}, {3}}, {{3}, {}, {3}}, {{1, 2}, {3, 1}, {3, 2}}};
            const auto& lead = leads[std::size_t(round)];
            const auto problem = [&] { return Problem(random, lead[0], lead[1], lead[2]); };
            test_relation_matrix(problem(), maps, false, 1);
            test_relation_matrix(problem(), maps, false, 4);
            test_relation_matrix(problem(), maps, true, 2);
            for (const rk::Link link :
                 {rk::Link::identity, rk::Link::exp, rk::Link::gaussian, rk::Link::matern52})
                test_relation_matvec(problem(), maps, link, coin(random));
            test_attention(problem(), maps, coin(random));
            test_feature_map(problem());
            test_normalize(problem());
        }
    for (const auto loss : {rk::Loss::squared, rk::Loss::logistic, rk::Loss::hinge, rk::Loss::softmax})
        for (const Maps maps : {Maps::two, Maps::one, Maps::none})
            for (int round = 0; round < 6; ++round)
                test_relation_loss(Problem(random, {}, {}, {}), loss, maps, round % 2, round / 2);
    return finish();
}
