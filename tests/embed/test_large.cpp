// Larger relations than the random cases have, against plain products in double: depths beyond one chain of
// multiply-adds (256), columns beyond one chunk (2,048), and every activation, over its whole range and in a
// map. Also the promise of equal bits for any number of threads and any other rows.
#include <numeric>

#include "plain.hpp"

// Row-major, in double, and exactly representable in the type under test.
struct Matrix {
    Int rows, cols;
    std::vector<double> values;

    Matrix(Int rows, Int cols) : rows(rows), cols(cols), values(std::size_t(rows * cols)) {}
    double* operator[](Int i) { return values.data() + i * cols; }
    const double* operator[](Int i) const { return values.data() + i * cols; }
};

template <class T>
Matrix normal_matrix(Random& random, Int rows, Int cols, double deviation = 1) {
    std::normal_distribution<double> draw(0, deviation);
    Matrix m(rows, cols);
    for (double& x : m.values) x = double(T(draw(random)));
    return m;
}

template <class F>
Matrix mapped(Matrix m, const F& f) {
    for (double& x : m.values) x = f(x);
    return m;
}

static Matrix transposed(const Matrix& a) {
    Matrix t(a.cols, a.rows);
    for (Int i = 0; i < a.rows; ++i)
        for (Int j = 0; j < a.cols; ++j) t[j][i] = a[i][j];
    return t;
}

// a b
static Matrix times(const Matrix& a, const Matrix& b) {
    Matrix c(a.rows, b.cols);
    for (Int i = 0; i < a.rows; ++i)
        for (Int k = 0; k < a.cols; ++k)
            for (Int j = 0; j < b.cols; ++j) c[i][j] += a[i][k] * b[k][j];
    return c;
}

// What an operation reads or writes.
template <class T>
struct Array {
    std::vector<T> values;
    Shape shape;

    explicit Array(const Matrix& m) : values(m.values.begin(), m.values.end()), shape{m.rows, m.cols} {}
    explicit Array(const Shape& shape) : values(std::size_t(product(shape)), T(NAN)), shape(shape) {}
    rk::View<T> view() { return rk::View<T>(values.data(), shape); }
};

template <class T>
double tolerance() {
    return std::is_same_v<T, float> ? 2e-6 : 2e-14;
}

// Errors relative to the largest element: those of the products are, whose elements are sums of like terms.
template <class T>
void expect_matrix(const std::vector<T>& got, const Matrix& wanted, const std::string& what,
                   double factor = 1) {
    double largest = 0, error = 0;
    for (std::size_t i = 0; i < wanted.values.size(); ++i) {
        largest = std::max(largest, std::abs(wanted.values[i]));
        const double off = std::abs(double(got[i]) - wanted.values[i]);
        error = off <= error ? error : off;  // NaN stays
    }
    expect(got.size() == wanted.values.size() && error <= factor * tolerance<T>() * largest,
           what + ": error " + std::to_string(error / largest / tolerance<T>()) + " tolerances");
}

// ---- activations ---------------------------------------------------------------------------------

static const std::vector<std::pair<rk::Activation, const char*>> activations = {
    {rk::Activation::identity, "identity"},
    {rk::Activation::relu, "relu"},
    {rk::Activation::leaky_relu, "leaky_relu"},
    {rk::Activation::relu_power, "relu_power"},
    {rk::Activation::gelu, "gelu"},
    {rk::Activation::gelu_tanh, "gelu_tanh"},
    {rk::Activation::silu, "silu"},
    {rk::Activation::tanh, "tanh"},
    {rk::Activation::sigmoid, "sigmoid"},
    {rk::Activation::softplus, "softplus"},
    {rk::Activation::erf, "erf"},
    {rk::Activation::sin, "sin"},
    {rk::Activation::cos, "cos"},
    {rk::Activation::gaussian, "gaussian"},
    {rk::Activation::sigma_1, "sigma_1"}};
static constexpr double kSlope = 0.125, kPower = 2.5;

static std::optional<double> parameter(rk::Activation a) {
    if (a == rk::Activation::leaky_relu) return kSlope;
    if (a == rk::Activation::relu_power) return kPower;
    return std::nullopt;
}

static double activation(rk::Activation a, double z) {
    switch (a) {
        case rk::Activation::identity: return z;
        case rk::Activation::relu: return z < 0 ? 0 : z;
        case rk::Activation::leaky_relu: return z < 0 ? kSlope * z : z;
        case rk::Activation::relu_power: return z < 0 ? 0 : std::pow(z, kPower);
        case rk::Activation::gelu: return z == -INFINITY ? 0 : z * std::erfc(-z / std::sqrt(2.0)) / 2;
        case rk::Activation::gelu_tanh:
            return z == -INFINITY ? 0 : z / (1 + std::exp(-std::sqrt(8 / M_PI) * (z + 0.044715 * z * z * z)));
        case rk::Activation::silu: return z == -INFINITY ? 0 : z / (1 + std::exp(-z));
        case rk::Activation::tanh: return std::tanh(z);
        case rk::Activation::sigmoid: return 1 / (1 + std::exp(-z));
        case rk::Activation::softplus: return z > 0 ? z + std::log1p(std::exp(-z)) : std::log1p(std::exp(z));
        case rk::Activation::erf: return std::erf(z);
        case rk::Activation::sin: return std::sin(z);
        case rk::Activation::cos: return std::cos(z);
        case rk::Activation::gaussian: return std::exp(-z * z / 2);
        case rk::Activation::sigma_1: return z < 0 ? 0 : z > 1 ? 1 : z;
    }
    return NAN;
}

static double slope(rk::Activation a, double z) {
    const bool kink = a == rk::Activation::relu || a == rk::Activation::leaky_relu;
    const double step = kink ? std::abs(z) / 2 : 1e-5;
    return (activation(a, z + step) - activation(a, z - step)) / (2 * step);
}

template <class T>
rk::Mlp<T> make_mlp(const std::vector<Matrix>& weights, const std::vector<Matrix>& biases, rk::Activation a) {
    std::vector<Array<T>> memory;
    memory.reserve(weights.size() + biases.size());
    std::vector<rk::View<const T>> w, b;
    for (const Matrix& m : weights) w.push_back(memory.emplace_back(m).view());
    for (const Matrix& m : biases) {
        memory.emplace_back(m).shape = {m.cols};
        b.push_back(memory.back().view());
    }
    return rk::Mlp<T>(w, b, a, parameter(a));
}

// Values of one hidden layer, whose weights are the identity, one by one.
template <class T>
void test_range(rk::Activation a, const std::string& name) {
    constexpr Int kWidth = 37, kRows = 101;
    Matrix identity(kWidth, kWidth), x(kRows, kWidth);
    for (Int i = 0; i < kWidth; ++i) identity[i][i] = 1;
    for (Int i = 0; i < kRows * kWidth; ++i)
        x.values[std::size_t(i)] = double(T(24 * (double(i) / double(kRows * kWidth) - 0.5)));
    const rk::Mlp<T> phi = make_mlp<T>({identity, identity}, {}, a);
    Array<T> in(x), out(Shape{kRows, kWidth});
    rk::feature_map<T>(in.view(), phi, out.view());
    const double eps = std::numeric_limits<T>::epsilon();
    const auto compare = [&](double z, double got) {
        const double wanted = activation(a, z);
        const bool right = std::isnan(wanted) ? std::isnan(got)
                           : std::isinf(wanted)
                               ? got == wanted
                               : std::abs(got - wanted) <= 64 * eps * std::abs(wanted) + eps * eps;
        expect(right, name + ": value at " + std::to_string(z) + " is " + std::to_string(got));
    };
    for (std::size_t i = 0; i < out.values.size(); ++i) compare(x.values[i], double(out.values[i]));

    Matrix one(1, 1);
    one[0][0] = 1;
    const rk::Mlp<T> single = make_mlp<T>({one, one}, {}, a);
    for (const double z : {0.0, -0.0, double(INFINITY), -double(INFINITY), double(NAN), -1e3, 80.0}) {
        if (std::isinf(z) && (a == rk::Activation::sin || a == rk::Activation::cos)) continue;
        T from = T(z), to = T(-77);
        rk::feature_map<T>(rk::View<T>(&from, {1, 1}), single, rk::View<T>(&to, {1, 1}));
        compare(z, double(to));
    }
}

// A map of two hidden layers, forwards and backwards.
template <class T>
void test_map(Random& random, rk::Activation a, const std::string& name) {
    const Int n = 53, widths[] = {301, 70, 33, 41};
    std::vector<Matrix> weights, biases;
    for (int l = 0; l < 3; ++l) {
        weights.push_back(
            normal_matrix<T>(random, widths[l], widths[l + 1], 1 / std::sqrt(double(widths[l]))));
        biases.push_back(normal_matrix<T>(random, 1, widths[l + 1], 0.3));
    }
    const Matrix x = normal_matrix<T>(random, n, widths[0]), grad = normal_matrix<T>(random, n, widths[3]);
    std::vector<Matrix> z, h = {x};
    for (std::size_t l = 0; l < 3; ++l) {
        z.push_back(times(h.back(), weights[l]));
        for (Int i = 0; i < n; ++i)
            for (Int j = 0; j < z[l].cols; ++j) z[l][i][j] += biases[l][0][j];
        h.push_back(l == 2 ? z[l] : mapped(z[l], [&](double v) { return activation(a, v); }));
    }
    const rk::Mlp<T> phi = make_mlp<T>(weights, biases, a);
    Array<T> in(x), out(Shape{n, widths[3]}), grad_in(grad), grad_x(Shape{n, widths[0]});
    rk::feature_map<T>(in.view(), phi, out.view());
    expect_matrix(out.values, h.back(), name + ": features", 4);

    const rk::MlpGradient<T> g = rk::feature_map_vjp<T>(in.view(), phi, grad_in.view(), grad_x.view());
    // Differences of the definition have an error of their own.
    const double factor = std::is_same_v<T, float> ? 8 : 1e5;
    Matrix delta = grad;
    for (std::size_t l = 3; l-- > 0;) {
        const std::string layer = name + ": gradient of layer " + std::to_string(l);
        Matrix sums(1, delta.cols);
        for (Int i = 0; i < n; ++i)
            for (Int j = 0; j < delta.cols; ++j) sums[0][j] += delta[i][j];
        expect_matrix(g.weights[l], times(transposed(h[l]), delta), layer, factor);
        expect_matrix(g.biases[l], sums, layer + ", bias", factor);
        delta = times(delta, transposed(weights[l]));
        if (l == 0) break;
        for (std::size_t i = 0; i < delta.values.size(); ++i) delta.values[i] *= slope(a, z[l - 1].values[i]);
    }
    expect_matrix(grad_x.values, delta, name + ": gradient of x", factor);
}

// ---- relations -----------------------------------------------------------------------------------

template <class T>
struct Problem {
    Int n, m, d;
    double scale;
    Matrix x, y, r;  // r without scale
    Array<T> rows, columns;

    Problem(Random& random, Int n, Int m, Int d)
        : n(n),
          m(m),
          d(d),
          scale(1 / std::sqrt(double(d))),
          x(normal_matrix<T>(random, n, d)),
          y(normal_matrix<T>(random, m, d)),
          r(times(x, transposed(y))),
          rows(x),
          columns(y) {}
    double scaled(Int i, Int j) const { return scale * r[i][j]; }
};

template <class T>
void test_relation(Random& random, Problem<T>& p) {
    Array<T> out(Shape{p.n, p.m});
    rk::RelationOptions options;
    options.scale = p.scale;
    const Matrix wanted = mapped(p.r, [&](double r) { return p.scale * r; });
    rk::relation_matrix<T>(p.rows.view(), p.columns.view(), nullptr, nullptr, out.view(), options);
    expect_matrix(out.values, wanted, "relation_matrix");

    // The columns' features as columns of memory.
    Array<T> turned(transposed(p.y)), again(Shape{p.n, p.m});
    const rk::View<T> view(turned.values.data(), {p.m, p.d}, {1, p.m});
    rk::relation_matrix<T>(p.rows.view(), view, nullptr, nullptr, again.view(), options);
    expect(again.values == out.values, "relation_matrix: the same bits from transposed columns");

    Array<T> symmetric(Shape{p.n, p.n});
    rk::relation_matrix<T>(p.rows.view(), {}, nullptr, nullptr, symmetric.view());
    expect_matrix(symmetric.values, times(p.x, transposed(p.x)), "symmetric relation");

    const Matrix grad = normal_matrix<T>(random, p.n, p.m);
    Array<T> grad_in(grad), grad_x(Shape{p.n, p.d}), grad_y(Shape{p.m, p.d});
    const auto g = rk::relation_matrix_vjp<T>(p.rows.view(), p.columns.view(), grad_in.view(), nullptr,
                                              nullptr, grad_x.view(), grad_y.view(), options);
    const Matrix scaled = mapped(grad, [&](double v) { return p.scale * v; });
    expect_matrix(grad_x.values, times(scaled, p.y), "relation_matrix_vjp: x");
    expect_matrix(grad_y.values, times(transposed(scaled), p.x), "relation_matrix_vjp: y");
    const double slope = std::inner_product(grad.values.begin(), grad.values.end(), p.r.values.begin(), 0.0);
    expect_close<T>(g.scale, slope, 1e3, "relation_matrix_vjp: scale");

    // Rounded to bfloat16, to nearest and ties to even; products are exact in float.
    if constexpr (std::is_same_v<T, float>) {
        const auto round = [](double v) {
            const double unit = std::ldexp(1.0, std::ilogb(v) - 7);
            return std::nearbyint(v / unit) * unit;
        };
        options.precision = rk::Precision::bf16;
        rk::relation_matrix<T>(p.rows.view(), p.columns.view(), nullptr, nullptr, out.view(), options);
        const Matrix rounded = times(mapped(p.x, round), transposed(mapped(p.y, round)));
        expect_matrix(out.values, mapped(rounded, [&](double v) { return p.scale * v; }), "bf16");
    }
}

template <class T>
void test_attention(Random& random, Problem<T>& p, bool causal) {
    const Int width = 37, ahead = p.m - p.n;
    const Matrix v = normal_matrix<T>(random, p.m, width), grad = normal_matrix<T>(random, p.n, width);
    rk::AttentionOptions options;
    options.causal = causal;
    options.align = rk::Align::lower_right;
    Matrix weights(p.n, p.m), lse(p.n, 1);
    for (Int i = 0; i < p.n; ++i) {
        double sum = 0;
        for (Int j = 0; j < p.m; ++j)
            sum += weights[i][j] = causal && j - i > ahead ? 0 : std::exp(p.scaled(i, j));
        for (Int j = 0; j < p.m; ++j) weights[i][j] /= sum;
        lse[i][0] = std::log(sum);
    }
    Array<T> values(v), out(Shape{p.n, width}), lse_out(Shape{p.n}), scores(Shape{p.n, p.m});
    rk::attention<T>(p.rows.view(), p.columns.view(), values.view(), nullptr, nullptr, out.view(),
                     lse_out.view(), options);
    expect_matrix(out.values, times(weights, v), "attention", 4);
    expect_matrix(lse_out.values, lse, "attention: log-sum-exp");
    rk::attention_scores<T>(p.rows.view(), p.columns.view(), nullptr, nullptr, scores.view(), options);
    expect_matrix(scores.values, weights, "attention_scores", 4);

    // Gradient of the scaled scores: weights (grad v' - the rows' mean of it).
    Matrix d = times(grad, transposed(v));
    for (Int i = 0; i < p.n; ++i) {
        const double mean = std::inner_product(d[i], d[i] + p.m, weights[i], 0.0);
        for (Int j = 0; j < p.m; ++j) d[i][j] = p.scale * weights[i][j] * (d[i][j] - mean);
    }
    Array<T> grad_in(grad), grad_q(Shape{p.n, p.d}), grad_k(Shape{p.m, p.d}), grad_v(Shape{p.m, width});
    rk::attention_vjp<T>(p.rows.view(), p.columns.view(), values.view(), grad_in.view(), nullptr, nullptr,
                         grad_q.view(), grad_k.view(), grad_v.view(), options);
    expect_matrix(grad_q.values, times(d, p.y), "attention_vjp: q", 4);
    expect_matrix(grad_k.values, times(transposed(d), p.x), "attention_vjp: k", 4);
    expect_matrix(grad_v.values, times(transposed(weights), grad), "attention_vjp: v", 4);
}

template <class T>
void test_retrieve(Problem<T>& p, Int k) {
    Array<T> values(Shape{p.n, k});
    std::vector<Int> indices(std::size_t(p.n * k), -77);
    rk::retrieve<T>(p.rows.view(), p.columns.view(), nullptr, nullptr, values.view(),
                    rk::View<Int>(indices.data(), {p.n, k}));
    Matrix best(p.n, k), chosen(p.n, k);
    for (Int i = 0; i < p.n; ++i) {
        std::vector<double> row(p.r[i], p.r[i] + p.m);
        std::partial_sort(row.begin(), row.begin() + k, row.end(), std::greater<>());
        std::copy_n(row.begin(), k, best[i]);
        const auto first = indices.begin() + i * k;
        for (Int j = 0; j < k; ++j) {
            expect(first[j] >= 0 && first[j] < p.m, "retrieve: an index of a key");
            chosen[i][j] = p.r[i][std::clamp<Int>(first[j], 0, p.m - 1)];
        }
        std::sort(first, first + k);
        expect(std::adjacent_find(first, first + k) == first + k, "retrieve: no key twice");
    }
    expect_matrix(values.values, best, "retrieve: values");
    expect_matrix(values.values, chosen, "retrieve: indices");
}

template <class T>
void test_matvec(Random& random, Problem<T>& p) {
    const Matrix v = normal_matrix<T>(random, p.m, 3);
    Array<T> values(v), out(Shape{p.n, 3});
    rk::MatvecOptions options;
    options.scale = p.scale;
    for (const auto& [link, f] : std::vector<std::pair<rk::Link, double (*)(double)>>{
             {rk::Link::identity, [](double z) { return z; }},
             {rk::Link::exp, [](double z) { return std::exp(z); }},
             {rk::Link::relu, [](double z) { return std::max(z, 0.0); }},
             {rk::Link::square, [](double z) { return z * z; }}}) {
        options.link = link;
        rk::relation_matvec<T>(p.rows.view(), p.columns.view(), values.view(), nullptr, nullptr, out.view(),
                               options);
        const Matrix linked = mapped(p.r, [&, f = f](double z) { return f(p.scale * z); });
        expect_matrix(out.values, times(linked, v), "relation_matvec", 4);
    }
}

template <class T>
void test_loss(Random& random, Problem<T>& p, rk::Loss loss) {
    const bool softmax = loss == rk::Loss::softmax;
    Matrix target(p.n, p.m), d(p.n, p.m);
    for (double& t : target.values) t = double(random() % 2);
    const double share = 1 / double(softmax ? p.n : p.n * p.m);
    double value = 0;
    for (Int i = 0; i < p.n; ++i) {
        double sum = 0, mass = 0;
        for (Int j = 0; j < p.m; ++j) sum += std::exp(p.scaled(i, j)), mass += target[i][j];
        if (softmax) value += share * std::log(sum);
        for (Int j = 0; j < p.m; ++j) {
            const double r = p.scaled(i, j), t = target[i][j], margin = 1 - (2 * t - 1) * r;
            switch (loss) {
                case rk::Loss::squared: value += share * (r - t) * (r - t), d[i][j] = 2 * (r - t); break;
                case rk::Loss::logistic:
                    value += share * (std::log1p(std::exp(r)) - t * r), d[i][j] = 1 / (1 + std::exp(-r)) - t;
                    break;
                case rk::Loss::hinge:
                    value += share * std::max(0.0, margin), d[i][j] = margin > 0 ? 1 - 2 * t : 0;
                    break;
                case rk::Loss::softmax:
                    value -= share * t * r / mass, d[i][j] = std::exp(r) / sum - t / mass;
                    break;
            }
            d[i][j] *= share * p.scale;
        }
    }
    Array<T> targets(target);
    rk::LossOptions<T> options;
    options.loss = loss;
    options.scale = p.scale;
    const auto got =
        rk::relation_loss<T>(p.rows.view(), p.columns.view(), targets.view(), nullptr, nullptr, options);
    expect_close<T>(got.value, value, 1, "relation_loss");
    expect_matrix(got.x, times(d, p.y), "relation_loss: x", 4);
    expect_matrix(got.y, times(transposed(d), p.x), "relation_loss: y", 4);
}

// ---- equal bits ----------------------------------------------------------------------------------

template <class T>
void test_bits(Problem<T>& p) {
    const Int width = p.d, k = 20;
    const auto everything = [&](Int from, Int rows) {
        Array<T> r(Shape{rows, p.m}), a(Shape{rows, width}), best(Shape{rows, k});
        std::vector<Int> indices(std::size_t(rows * k));
        const rk::View<T> x(p.rows.values.data() + from * p.d, {rows, p.d}), y = p.columns.view();
        rk::relation_matrix<T>(x, y, nullptr, nullptr, r.view());
        rk::attention<T>(x, y, y, nullptr, nullptr, a.view());
        rk::retrieve<T>(x, y, nullptr, nullptr, best.view(), rk::View<Int>(indices.data(), {rows, k}));
        return std::vector<std::vector<T>>{r.values, a.values, best.values, {indices.begin(), indices.end()}};
    };
    rk::set_num_threads(1);
    const auto all = everything(0, p.n);
    rk::set_num_threads(3);
    expect(everything(0, p.n) == all, "equal bits on three threads");
    for (const Int rows : {Int(1), Int(3), Int(14)}) {
        const Int from = p.n / 2;
        const auto some = everything(from, rows);
        for (std::size_t i = 0; i < all.size(); ++i) {
            const Int each = Int(all[i].size()) / p.n;
            expect(std::equal(some[i].begin(), some[i].end(), all[i].begin() + from * each),
                   "equal bits for " + std::to_string(rows) + " of the rows");
        }
    }
}

template <class T>
void test_all(Random& random) {
    for (const auto& [a, name] : activations) {
        test_range<T>(a, name);
        test_map<T>(random, a, name);
    }
    for (const Shape& shape : {Shape{37, 2309, 41}, Shape{43, 301, 333}}) {
        Problem<T> p(random, shape[0], shape[1], shape[2]);
        test_relation(random, p);
        test_attention(random, p, false);
        test_attention(random, p, true);
        test_retrieve(p, 10);
        test_retrieve(p, 100);
        test_matvec(random, p);
        for (const auto loss : {rk::Loss::squared, rk::Loss::logistic, rk::Loss::hinge, rk::Loss::softmax})
            test_loss(random, p, loss);
        test_bits(p);
    }
}

int main() {
    Random random(20250131);
    test_all<float>(random);
    test_all<double>(random);
    return finish();
}
