// Every operation of relkernels.hpp against its definition in double, over random shapes and layouts.
#include "plain.hpp"

template <class T>
struct Case {
    Random& random;
    bool two_inputs, mapped;
    Int n, m, dx, dy, d;
    Shape lead, lead_x, lead_y;
    PlainMlp<T> plain_phi, plain_psi;
    rk::Mlp<T> packed_phi, packed_psi;
    Tensor<T> x, y;

    // Leading dimensions of an argument: all, none, or stretched from 1.
    Shape part(const Shape& all) {
        Shape some = all;
        for (Int& size : some)
            if (coin(random)) size = 1;
        return coin(random) ? some : Shape{};
    }
    static Shape joined(const Shape& a, const Shape& b) {
        Shape all = a.size() > b.size() ? a : b;
        for (std::size_t i = 0; i < all.size(); ++i)
            all[i] = std::max(i < a.size() ? a[i] : 1, i < b.size() ? b[i] : 1);
        return all;
    }
    static Shape with(Shape lead, std::initializer_list<Int> core) {
        lead.insert(lead.end(), core);
        return lead;
    }

    explicit Case(Random& random)
        : random(random),
          two_inputs(coin(random)),
          mapped(coin(random)),
          n(pick(random, {0, 1, 2, 7, 13, 101})),
          m(pick(random, {1, 3, 17, 64, 300})),
          dx(pick(random, {1, 5, 16})),
          dy(mapped && two_inputs ? pick(random, {2, 9}) : dx),
          d(mapped ? pick(random, {4, 12}) : dx),
          lead_x(part({3})),
          lead_y(part({3})),
          plain_phi(random, {dx, 11, d}, coin(random), coin(random)),
          plain_psi(random, {dy, 7, 5, d}, coin(random), coin(random)),
          packed_phi(plain_phi.mlp()),
          packed_psi(plain_psi.mlp()),
          x(normal<T>(random, with(lead_x, {n, dx}))),
          y(normal<T>(random, with(lead_y, {m, dy}))) {
        lead = joined(lead_x, lead_y);
    }
    const PlainMlp<T>* plain_of_x() const { return mapped ? &plain_phi : nullptr; }
    const PlainMlp<T>* plain_of_y() const {
        return mapped ? (two_inputs ? &plain_psi : &plain_phi) : nullptr;
    }
    const rk::Mlp<T>* phi() const { return mapped ? &packed_phi : nullptr; }
    const rk::Mlp<T>* psi() const { return mapped && two_inputs ? &packed_psi : nullptr; }

    // R of one item of the batch, without scale.
    std::vector<std::vector<double>> relation(const Shape& at, Int heads = 1, Int head = 0) const {
        std::vector<std::vector<double>> columns, r;
        for (Int j = 0; j < m; ++j) columns.push_back(features(y, at, j, plain_of_y()));
        const std::size_t each = std::size_t(d / heads);
        for (Int i = 0; i < n; ++i) {
            const std::vector<double> f = features(x, at, i, plain_of_x());
            r.emplace_back();
            for (const auto& g : columns) r.back().push_back(dot(f, g, std::size_t(head) * each, each));
        }
        return r;
    }
    // Squared distances of the features.
    std::vector<std::vector<double>> distances(const Shape& at) const {
        std::vector<std::vector<double>> columns, r;
        for (Int j = 0; j < m; ++j) columns.push_back(features(y, at, j, plain_of_y()));
        for (Int i = 0; i < n; ++i) {
            const std::vector<double> f = features(x, at, i, plain_of_x());
            r.emplace_back();
            for (const auto& g : columns) {
                double sum = 0;
                for (std::size_t k = 0; k < f.size(); ++k) sum += (f[k] - g[k]) * (f[k] - g[k]);
                r.back().push_back(sum);
            }
        }
        return r;
    }
};

template <class T>
void test_feature_map(Case<T>& c) {
    Tensor<T> out(c.random, c.with(c.lead_x, {c.n, c.d}));
    if (!c.mapped) return;
    rk::feature_map(c.x.view, c.packed_phi, out.view);
    for_each_index(c.lead_x, [&](const Shape& at) {
        for (Int i = 0; i < c.n; ++i) {
            const auto f = features(c.x, at, i, &c.plain_phi);
            for (Int k = 0; k < c.d; ++k)
                expect_close<T>(out.in(at, {i, k}), f[std::size_t(k)], 3, "feature_map");
        }
    });
}

template <class T>
void test_normalize(Case<T>& c) {
    Tensor<T> out(c.random, c.x.view.shape());
    rk::normalize(c.x.view, out.view);
    for_each_index(c.lead_x, [&](const Shape& at) {
        for (Int i = 0; i < c.n; ++i) {
            const auto f = of_unit_length(features<T>(c.x, at, i, nullptr));
            for (Int k = 0; k < c.dx; ++k)
                expect_close<T>(out.in(at, {i, k}), f[std::size_t(k)], 1, "normalize");
        }
    });
}

template <class T>
void test_relation_matrix(Case<T>& c) {
    const Int heads = c.d % 2 == 0 ? pick(c.random, {1, 2}) : 1;
    rk::RelationOptions options;
    options.scale = 0.5;
    options.heads = heads;
    Tensor<T> out(c.random, heads > 1 ? c.with(c.lead, {heads, c.n, c.m}) : c.with(c.lead, {c.n, c.m}));
    rk::relation_matrix(c.x.view, c.y.view, c.phi(), c.psi(), out.view, options);
    for_each_index(c.lead, [&](const Shape& at) {
        for (Int h = 0; h < heads; ++h) {
            const auto r = c.relation(at, heads, h);
            for (Int i = 0; i < c.n; ++i)
                for (Int j = 0; j < c.m; ++j) {
                    const Shape core = heads > 1 ? Shape{h, i, j} : Shape{i, j};
                    expect_close<T>(out.in(at, core), 0.5 * r[std::size_t(i)][std::size_t(j)], 20,
                                    "relation_matrix");
                }
        }
    });
}

template <class T>
void test_symmetric_relation(Case<T>& c) {
    Tensor<T> out(c.random, c.with(c.lead_y, {c.m, c.m}));
    const rk::Mlp<T>* map = c.mapped ? (c.two_inputs ? &c.packed_psi : &c.packed_phi) : nullptr;
    rk::relation_matrix(c.y.view, {}, map, nullptr, out.view);
    for_each_index(c.lead_y, [&](const Shape& at) {
        std::vector<std::vector<double>> rows;
        for (Int i = 0; i < c.m; ++i) {
            rows.push_back(features(c.y, at, i, c.plain_of_y()));
            const auto& f = rows.back();
            for (Int j = 0; j <= i; ++j) {
                expect_close<T>(out.in(at, {i, j}), dot(f, rows[std::size_t(j)], 0, f.size()), 20,
                                "symmetric relation");
                expect(out.in(at, {i, j}) == out.in(at, {j, i}), "symmetric relation equals its transpose");
            }
        }
    });
}

// One of none, a random mask (with a row that may see nothing), the causal rule, a window.
template <class T>
struct Rule {
    Tensor<std::uint8_t> bytes;
    rk::AttentionOptions options;
    bool masked;
    Int ahead = 0;  // of the diagonal

    explicit Rule(Case<T>& c, bool of_attention = true) : bytes(c.random, {std::max<Int>(c.n, 1), c.m}) {
        masked = coin(c.random);
        for_each_index(bytes.view.shape(),
                       [&](const Shape& i) { bytes(i) = i[0] != 1 && c.random() % 3 > 0; });
        if (masked && c.n > 0) options.mask = bytes.view;
        masked = masked && c.n > 0;
        if (!of_attention) return;
        options.causal = coin(c.random);
        if (coin(c.random)) options.window.left = pick(c.random, {0, 3, 100});
        if (coin(c.random)) options.window.right = pick(c.random, {0, 2, 50});
        if (coin(c.random)) {
            options.align = rk::Align::lower_right;
            ahead = c.m - c.n;
        }
    }
    bool allows(Int i, Int j) const {
        const Int at = j - i - ahead;
        return (!masked || bytes({i, j})) && (!options.causal || at <= 0) &&
               (!options.window.left || at >= -*options.window.left) &&
               (!options.window.right || at <= *options.window.right);
    }
};

template <class T>
void test_attention(Case<T>& c) {
    const Rule<T> rule(c);
    const Int width = pick(c.random, {1, 3, 20});
    const Tensor<T> v = normal<T>(c.random, c.with(c.lead_y, {c.m, width}));
    Tensor<T> out(c.random, c.with(c.lead, {c.n, width})), lse(c.random, c.with(c.lead, {c.n}));
    Tensor<T> scores(c.random, c.with(c.lead, {c.n, c.m}));
    rk::attention(c.x.view, c.y.view, v.view, c.phi(), c.psi(), out.view, lse.view, rule.options);
    rk::attention_scores(c.x.view, c.y.view, c.phi(), c.psi(), scores.view, rule.options);
    for_each_index(c.lead, [&](const Shape& at) {
        const auto r = c.relation(at);
        for (Int i = 0; i < c.n; ++i) {
            double sum = 0;
            std::vector<double> weight, mean(std::size_t(width), 0.0);
            for (Int j = 0; j < c.m; ++j) {
                const double score = r[std::size_t(i)][std::size_t(j)] / std::sqrt(double(c.d));
                weight.push_back(rule.allows(i, j) ? std::exp(score) : 0.0);
                sum += weight.back();
            }
            for (Int j = 0; j < c.m; ++j) {
                const double share = sum > 0 ? weight[std::size_t(j)] / sum : 0;
                expect_close<T>(scores.in(at, {i, j}), share, 1, "attention_scores");
                for (Int k = 0; k < width; ++k) mean[std::size_t(k)] += share * double(v.in(at, {j, k}));
            }
            for (Int k = 0; k < width; ++k)
                expect_close<T>(out.in(at, {i, k}), mean[std::size_t(k)], 2, "attention");
            expect_close<T>(lse.in(at, {i}), std::log(sum), 10, "log-sum-exp");
        }
    });
}

template <class T>
void test_retrieve(Case<T>& c) {
    const Rule<T> rule(c, false);
    const Int k = std::min<Int>(c.m, pick(c.random, {1, 2, 10}));
    Tensor<T> values(c.random, c.with(c.lead, {c.n, k}));
    Tensor<std::int64_t> indices(c.random, c.with(c.lead, {c.n, k}));
    rk::RetrieveOptions options;
    options.mask = rule.options.mask;
    rk::retrieve(c.x.view, c.y.view, c.phi(), c.psi(), values.view, indices.view, options);
    for_each_index(c.lead, [&](const Shape& at) {
        const auto r = c.relation(at);
        for (Int i = 0; i < c.n; ++i) {
            std::vector<double> sorted;
            for (Int j = 0; j < c.m; ++j)
                if (rule.allows(i, j)) sorted.push_back(r[std::size_t(i)][std::size_t(j)]);
            std::sort(sorted.begin(), sorted.end(), std::greater<>());
            for (Int rank = 0; rank < k; ++rank) {
                const Int at_key = indices.in(at, {i, rank});
                if (rank >= Int(sorted.size())) {
                    expect(at_key == -1 && values.in(at, {i, rank}) == -INFINITY, "retrieve pads");
                    continue;
                }
                expect(at_key >= 0 && at_key < c.m && rule.allows(i, at_key), "retrieve respects the mask");
                expect_close<T>(values.in(at, {i, rank}), sorted[std::size_t(rank)], 20, "retrieve: values");
                expect_close<T>(values.in(at, {i, rank}), r[std::size_t(i)][std::size_t(at_key)], 20,
                                "retrieve: indices");
            }
        }
    });
}

// A link of an inner product, or of a squared distance.
static double linked(rk::Link link, double z) {
    const double r = std::sqrt(std::max(z, 0.0));
    switch (link) {
        case rk::Link::exp: return std::exp(z);
        case rk::Link::relu: return std::max(z, 0.0);
        case rk::Link::square: return z * z;
        case rk::Link::gaussian: return std::exp(-z / 2);
        case rk::Link::matern12: return std::exp(-r);
        case rk::Link::matern32: return (1 + std::sqrt(3.0) * r) * std::exp(-std::sqrt(3.0) * r);
        case rk::Link::matern52: return (1 + std::sqrt(5.0) * r + 5 * z / 3) * std::exp(-std::sqrt(5.0) * r);
        default: return z;
    }
}

static const std::vector<rk::Link> kLinks = {rk::Link::identity, rk::Link::exp,      rk::Link::relu,
                                             rk::Link::square,   rk::Link::gaussian, rk::Link::matern12,
                                             rk::Link::matern32, rk::Link::matern52};

template <class T>
void test_searches(Case<T>& c) {
    const Rule<T> rule(c, false);
    const Int e = pick(c.random, {0, 1, 3});
    std::vector<std::int64_t> lists(std::size_t(c.n * e));
    for (auto& column : lists) column = Int(c.random() % std::uint64_t(c.m + 1)) - 1;
    const auto allows = [&](Int i, Int j) {
        const auto row = lists.begin() + i * e;
        return rule.allows(i, j) && std::find(row, row + e, j) == row + e;
    };
    const rk::View<const std::int64_t> exclude(lists.data(), {c.n, e});
    rk::RetrieveOptions options;
    options.mask = rule.options.mask;
    options.exclude = exclude;
    Tensor<T> values(c.random, c.with(c.lead, {c.n, 1}));
    Tensor<std::int64_t> indices(c.random, c.with(c.lead, {c.n, 1}));
    rk::retrieve(c.x.view, c.y.view, c.phi(), c.psi(), values.view, indices.view, options);
    rk::RetrieveAboveOptions above;
    above.mask = rule.options.mask;
    above.exclude = exclude;
    const T threshold = T(0.3);
    rk::Pairs<T> found;
    rk::retrieve_above(c.x.view, c.y.view, c.phi(), c.psi(), rk::View<const T>(&threshold, {1}), found,
                       above);
    std::size_t row = 0;
    for_each_index(c.lead, [&](const Shape& at) {
        const auto r = c.relation(at);
        for (Int i = 0; i < c.n; ++i, ++row) {
            double best = -INFINITY;
            auto next = std::size_t(found.offsets[row]);
            const auto end = std::size_t(found.offsets[row + 1]);
            for (Int j = 0; j < c.m; ++j) {
                const double value = r[std::size_t(i)][std::size_t(j)];
                if (!allows(i, j)) continue;
                best = std::max(best, value);
                const bool is_found = next < end && found.indices[next] == j;
                if (std::abs(value - 0.3) > 1e-3 * (1 + std::abs(value)))
                    expect(is_found == (value > 0.3), "retrieve_above: pairs");
                if (is_found)
                    expect_close<T>(double(found.values[next++]), value, 20, "retrieve_above: values");
            }
            expect(next == end, "retrieve_above: no other pairs");
            if (best == -INFINITY)
                expect(indices.in(at, {i, 0}) == -1, "retrieve pads");
            else
                expect_close<T>(values.in(at, {i, 0}), best, 20, "retrieve: the best that is not excluded");
        }
    });
    expect(row + 1 == found.offsets.size(), "retrieve_above: rows");
}

template <class T>
void test_links(Case<T>& c) {
    const rk::Link link = kLinks[c.random() % kLinks.size()];
    const bool of_distance = link >= rk::Link::gaussian;
    // Vectors, or matrices of at least as many dimensions as y.
    const Int width = pick(c.random, {0, 1, 4});
    const Shape ones(c.lead_y.size(), 1);
    const Tensor<T> v = normal<T>(c.random, width ? c.with(ones, {c.m, width}) : Shape{c.m});
    Tensor<T> product(c.random, width ? c.with(c.lead, {c.n, width}) : c.with(c.lead, {c.n}));
    Tensor<T> matrix(c.random, c.with(c.lead, {c.n, c.m}));
    rk::MatvecOptions options;
    options.scale = 0.1;
    options.link = link;
    rk::relation_matvec(c.x.view, c.y.view, v.view, c.phi(), c.psi(), product.view, options);
    rk::RelationOptions of_matrix;
    of_matrix.scale = 0.1;
    of_matrix.link = link;
    rk::relation_matrix(c.x.view, c.y.view, c.phi(), c.psi(), matrix.view, of_matrix);
    // The slope of matern12 between equal features is infinite.
    const double slack = link == rk::Link::matern12 ? 1e3 : 1;
    for_each_index(c.lead, [&](const Shape& at) {
        const auto r = of_distance ? c.distances(at) : c.relation(at);
        for (Int i = 0; i < c.n; ++i) {
            for (Int j = 0; j < c.m; ++j)
                expect_close<T>(matrix.in(at, {i, j}), linked(link, 0.1 * r[std::size_t(i)][std::size_t(j)]),
                                10 * slack + std::abs(linked(link, 0.1 * r[std::size_t(i)][std::size_t(j)])),
                                "link of relation_matrix");
            for (Int k = 0; k < std::max<Int>(width, 1); ++k) {
                double sum = 0, size = 0;
                for (Int j = 0; j < c.m; ++j) {
                    const double value = linked(link, 0.1 * r[std::size_t(i)][std::size_t(j)]);
                    sum += value * double(width ? v.in(at, {j, k}) : v({j}));
                    size += std::abs(value);
                }
                expect_close<T>(width ? product.in(at, {i, k}) : product.in(at, {i}), sum,
                                (10 + size) * slack, "relation_matvec");
            }
        }
    });
}

template <class T>
void test_bf16(Case<T>& c) {
    if constexpr (std::is_same_v<T, float>) {
        Tensor<T> full(c.random, c.with(c.lead, {c.n, c.m})), rounded(c.random, c.with(c.lead, {c.n, c.m}));
        rk::RelationOptions options;
        rk::relation_matrix(c.x.view, c.y.view, c.phi(), c.psi(), full.view, options);
        options.precision = rk::Precision::bf16;
        rk::relation_matrix(c.x.view, c.y.view, c.phi(), c.psi(), rounded.view, options);
        double error = 0, size = 0, differ = 0;
        for_each_index(full.view.shape(), [&](const Shape& i) {
            error += std::pow(double(full(i)) - double(rounded(i)), 2);
            size += std::pow(double(full(i)), 2);
            differ += full(i) != rounded(i);
        });
        expect(std::sqrt(error) <= 2e-2 * std::sqrt(size), "bf16 is close");
        expect(full.view.shape().back() * c.n < 50 || differ > 0, "bf16 rounds");
    }
}

// The arc-cosine kernel of order 1 (Cho & Saul 2009), the dual of relu, layer by layer.
template <class T>
void test_nngp(Case<T>& c) {
    if (c.dx != c.dy) return;
    rk::NngpOptions options;
    options.depth = 3;
    options.bias_std = 0.3;
    Tensor<T> out(c.random, c.with(c.lead, {c.n, c.m}));
    rk::nngp_kernel(c.x.view, c.y.view, out.view, options);
    const double bias = 0.09, weight = options.weight_std * options.weight_std, pi = std::acos(-1.0);
    for_each_index(c.lead, [&](const Shape& at) {
        for (Int i = 0; i < c.n; ++i)
            for (Int j = 0; j < c.m; ++j) {
                const PlainMlp<T>* none = nullptr;
                const auto a = features(c.x, at, i, none), b = features(c.y, at, j, none);
                const double dim = double(c.dx);
                double ab = bias + weight * dot(a, b, 0, a.size()) / dim;
                double aa = bias + weight * dot(a, a, 0, a.size()) / dim;
                double bb = bias + weight * dot(b, b, 0, b.size()) / dim;
                for (int l = 0; l < 3; ++l) {
                    const double root = std::sqrt(aa * bb),
                                 angle = std::acos(std::clamp(ab / root, -1.0, 1.0));
                    ab = bias + weight * root * (std::sin(angle) + (pi - angle) * std::cos(angle)) / (2 * pi);
                    aa = bias + weight * aa / 2;
                    bb = bias + weight * bb / 2;
                }
                // acos near 1 costs this reference half of its digits.
                expect_close<float>(out.in(at, {i, j}), ab, 10, "nngp_kernel");
            }
    });
}

template <class T>
void test_all(Random& random) {
    for (int round = 0; round < 40; ++round) {
        Case<T> c(random);
        test_feature_map(c);
        test_normalize(c);
        test_relation_matrix(c);
        test_symmetric_relation(c);
        test_attention(c);
        test_retrieve(c);
        test_searches(c);
        test_links(c);
        test_bf16(c);
        test_nngp(c);
    }
}

int main() {
    Random random(20240213);
    test_all<float>(random);
    test_all<double>(random);

    // Results do not depend on the number of threads, to the last bit.
    Tensor<float> x = normal<float>(random, {500, 9});
    Tensor<float> one(random, {500, 9}, true), many(random, {500, 9}, true);
    rk::set_num_threads(1);
    rk::attention(x.view, x.view, x.view, nullptr, nullptr, one.view);
    rk::set_num_threads(5);
    expect(rk::num_threads() == 5, "set_num_threads");
    rk::attention(x.view, x.view, x.view, nullptr, nullptr, many.view);
    for_each_index({500, 9}, [&](const Shape& i) { expect(one(i) == many(i), "the same on five threads"); });

    // Empty arrays may have no memory.
    const rk::View<float> nothing(nullptr, {0, 9}), none(nullptr, {500, 0});
    rk::relation_matrix(x.view, nothing, nullptr, nullptr, none);
    rk::attention(x.view, nothing, nothing, nullptr, nullptr, many.view);
    for_each_index({500, 9}, [&](const Shape& i) { expect(many(i) == 0, "attention to nothing is zero"); });

    const auto sets = rk::instruction_sets();
    expect(sets.back() == "portable", "every processor has the portable set");
    expect(std::count(sets.begin(), sets.end(), rk::instruction_set()) == 1, "the set in use is one of them");
    expect(!rk::version().empty(), "version");
    return finish();
}
