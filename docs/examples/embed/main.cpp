// A recommender in small: 500 users and 20,000 items through two feature maps, and what is asked of the
// relation between them. Every answer is compared with plain loops in double; the program fails where one
// differs.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <relkernels.hpp>
#include <vector>

namespace rk = relkernels;

using Floats = std::vector<float>;

constexpr std::int64_t kUsers = 500, kItems = 20'000, kUserFields = 24, kItemFields = 40, kHidden = 64;
constexpr std::int64_t kFeatures = 16, kBest = 10, kChecked = 20;

static bool all_right = true;

static void report(const char* what, double error, double allowed) {
    const bool right = error <= allowed;
    all_right = all_right && right;
    std::printf("%-44s error %.1e  %s\n", what, error, right ? "right" : "WRONG");
}

static Floats normal(std::mt19937& random, std::int64_t n, double deviation) {
    std::normal_distribution<float> draw(0.0f, float(deviation));
    Floats values(static_cast<std::size_t>(n));
    for (float& value : values) value = draw(random);
    return values;
}

// A map of two layers: its weights, for the plain loops, beside the packed one.
struct Tower {
    std::int64_t inputs;
    Floats w0, b0, w1, b1;
    rk::Mlp<float> mlp;

    Tower(std::mt19937& random, std::int64_t inputs)
        : inputs(inputs),
          w0(normal(random, inputs * kHidden, std::sqrt(2.0 / double(inputs)))),
          b0(normal(random, kHidden, 0.1)),
          w1(normal(random, kHidden * kFeatures, std::sqrt(1.0 / double(kHidden)))),
          b1(normal(random, kFeatures, 0.1)),
          mlp({{w0.data(), {inputs, kHidden}}, {w1.data(), {kHidden, kFeatures}}},
              {{b0.data(), {kHidden}}, {b1.data(), {kFeatures}}}, rk::Activation::gelu) {}

    // phi of one row, by its definition.
    std::vector<double> plain(const float* x) const {
        std::vector<double> features(b1.begin(), b1.end());
        for (std::int64_t h = 0; h < kHidden; ++h) {
            double z = b0[std::size_t(h)];
            for (std::int64_t i = 0; i < inputs; ++i) z += double(x[i]) * w0[std::size_t(i * kHidden + h)];
            const double a = z * 0.5 * std::erfc(-z / std::sqrt(2.0));
            for (std::int64_t k = 0; k < kFeatures; ++k)
                features[std::size_t(k)] += a * w1[std::size_t(h * kFeatures + k)];
        }
        return features;
    }
};

static double dot(const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

int main() {
    std::printf("relkernels %s, %s, %d threads\n", rk::version().c_str(), rk::instruction_set().c_str(),
                rk::num_threads());
    std::mt19937 random(7);
    const Tower user(random, kUserFields), item(random, kItemFields);
    Floats users = normal(random, kUsers * kUserFields, 1), items = normal(random, kItems * kItemFields, 1);
    // Views are pointers with shapes: nothing is copied, here or below.
    const rk::View<float> x(users.data(), {kUsers, kUserFields}), y(items.data(), {kItems, kItemFields});

    // Every item's features, once: a catalogue. Callers who have no use for them pass the map instead.
    Floats catalogue(kItems * kFeatures);
    const rk::View<float> g(catalogue.data(), {kItems, kFeatures});
    rk::feature_map(y, item.mlp, g);

    std::vector<std::vector<double>> plain_items;
    for (std::int64_t j = 0; j < kItems; ++j)
        plain_items.push_back(item.plain(&items[std::size_t(j * kItemFields)]));
    double error = 0;
    for (std::int64_t j = 0; j < kItems; ++j)
        for (std::int64_t k = 0; k < kFeatures; ++k)
            error = std::max(error, std::abs(catalogue[std::size_t(j * kFeatures + k)] -
                                             plain_items[std::size_t(j)][std::size_t(k)]));
    report("features of all items", error, 1e-4);

    // The relation itself, of the first few users with all items.
    Floats relation(kChecked * kItems);
    const rk::View<float> few(users.data(), {kChecked, kUserFields});
    rk::relation_matrix(few, y, &user.mlp, &item.mlp, rk::View<float>(relation.data(), {kChecked, kItems}));

    // The ten best items of every user: exact, and the 10,000,000 products are never stored.
    Floats best(kUsers * kBest);
    std::vector<std::int64_t> where(kUsers * kBest);
    const auto begin = std::chrono::steady_clock::now();
    rk::retrieve(x, y, &user.mlp, &item.mlp, rk::View<float>(best.data(), {kUsers, kBest}),
                 rk::View<std::int64_t>(where.data(), {kUsers, kBest}));
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;

    // What each user's items look like on average: attention over the catalogue, to the items' own fields.
    Floats profile(kUsers * kItemFields), log_sums(kUsers);
    rk::attention(x, y, y, &user.mlp, &item.mlp, rk::View<float>(profile.data(), {kUsers, kItemFields}),
                  rk::View<float>(log_sums.data(), {kUsers}));

    double relation_error = 0, best_error = 0, profile_error = 0, log_sum_error = 0;
    for (std::int64_t i = 0; i < kChecked; ++i) {
        const std::vector<double> f = user.plain(&users[std::size_t(i * kUserFields)]);
        std::vector<double> r;
        for (const std::vector<double>& features : plain_items) r.push_back(dot(f, features));
        double sum = 0;
        std::vector<double> mean(kItemFields);
        for (std::int64_t j = 0; j < kItems; ++j) {
            const double value = r[std::size_t(j)], weight = std::exp(value / std::sqrt(double(kFeatures)));
            relation_error =
                std::max(relation_error, std::abs(relation[std::size_t(i * kItems + j)] - value));
            sum += weight;
            for (std::int64_t c = 0; c < kItemFields; ++c)
                mean[std::size_t(c)] += weight * items[std::size_t(j * kItemFields + c)];
        }
        for (std::int64_t c = 0; c < kItemFields; ++c)
            profile_error = std::max(profile_error, std::abs(profile[std::size_t(i * kItemFields + c)] -
                                                             mean[std::size_t(c)] / sum));
        log_sum_error = std::max(log_sum_error, std::abs(log_sums[std::size_t(i)] - std::log(sum)));
        std::vector<double> sorted = r;
        std::partial_sort(sorted.begin(), sorted.begin() + kBest, sorted.end(), std::greater<>());
        for (std::int64_t k = 0; k < kBest; ++k) {
            const std::size_t at = std::size_t(i * kBest + k);
            // The value of its rank, and of the item that is named.
            best_error = std::max({best_error, std::abs(best[at] - sorted[std::size_t(k)]),
                                   std::abs(best[at] - r[std::size_t(where[at])])});
        }
    }
    report("relation of 20 users with all items", relation_error, 1e-3);
    report("ten best items of each user", best_error, 1e-3);
    report("attention of users to items", profile_error, 1e-4);
    report("its log-sum-exp", log_sum_error, 1e-4);
    std::printf("retrieval: %.0f pairs in %.1f ms\n", double(kUsers) * double(kItems), took.count());

    // A mistake is an exception that says which argument is wrong, and how.
    try {
        rk::relation_matrix(x, y, &user.mlp, &user.mlp, rk::View<float>(relation.data(), {kUsers, kItems}));
        all_right = false;
    } catch (const std::invalid_argument& mistake) {
        std::printf("as it should: %s\n", mistake.what());
    }
    return all_right ? 0 : 1;
}
