// What is wrong is named: function, argument, what was expected, what came.
#include "plain.hpp"

int main() {
    Random random(1);
    using View = rk::View<float>;
    std::vector<float> memory(1000);
    float* p = memory.data();
    std::vector<std::int64_t> integers(100);
    const rk::View<std::int64_t> labels(integers.data(), {10});
    const View x(p, {10, 3}), y(p, {7, 3}), narrow(p, {7, 2}), out(p, {10, 7});
    const rk::Mlp<float> phi({View(p, {3, 5})}), psi({View(p, {3, 4})});
    rk::RelationOptions relation;
    rk::AttentionOptions attention;

    refused([&] { View(p, {2, -1}); }, "View: expected dimensions >= 0, got -1");
    refused([&] { View(p, {2, 3}, {1}); },
            "View: expected as many strides as the shape has dimensions, 2, got 1");
    refused([&] { View(nullptr, {2, 3}); }, "View: expected a pointer to the elements, got null");
    refused([&] { View(p, {}); }, "View: expected at least one dimension, got none");

    refused([&] { rk::Mlp<float>({}); }, "Mlp: weights: expected at least one layer, got none");
    refused([&] { rk::Mlp<float>({View(p, {3, 5}), View(p, {4, 2})}); },
            "Mlp: weights[1]: expected 5 rows, the width of the layer before, got shape (4, 2)");
    refused([&] { rk::Mlp<float>({View(p, {3, 0})}); },
            "Mlp: weights[0]: expected widths of at least 1, got shape (3, 0)");
    refused([&] { rk::Mlp<float>({View(p, {3, 5})}, {View(p, {4})}); },
            "Mlp: biases[0]: expected shape (5,), the width of the layer, got shape (4,)");
    refused([&] { rk::Mlp<float>({View(p, {3, 5})}, {}, rk::Activation::relu_power); },
            "Mlp: parameter: expected the exponent of relu_power, got none");
    refused([&] { rk::Mlp<float>({View(p, {3, 5})}, {}, rk::Activation::relu_power, -1.0); },
            "Mlp: parameter: expected a finite number > 0, got -1.000000");

    refused(
        [&] { rk::feature_map(narrow, phi, View(p, {7, 5})); },
        "feature_map: x: expected rows of 3 features, the input of mlp (widths (3, 5)), got shape (7, 2)");
    refused([&] { rk::feature_map(x, phi, View(p, {10, 4})); },
            "feature_map: out: expected shape (10, 5), that of the features, got shape (10, 4)");
    refused([&] { rk::feature_map(x, phi, View(p, {10, 5}, {0, 1})); },
            "feature_map: out: expected an array without repeated elements, got strides (0, 1)");
    refused([&] { rk::feature_map({}, phi, out); }, "feature_map: x: expected an array, got none");
    refused([&] { rk::feature_map(View(p, {3}), phi, out); },
            "feature_map: x: expected at least 2 dimensions, got shape (3,)");

    refused([&] { rk::relation_matrix(x, narrow, nullptr, nullptr, out); },
            "relation_matrix: y: expected features as wide as those of x, 3 (from x of shape (10, 3)), got 2 "
            "(from "
            "y of shape (7, 2))");
    refused([&] { rk::relation_matrix(x, y, &phi, &psi, out); },
            "relation_matrix: y: expected features as wide as those of x, 5 (from x of shape (10, 3)), got 4 "
            "(from "
            "y of shape (7, 3))");
    refused([&] { rk::relation_matrix(View(p, {2, 10, 3}), View(p, {3, 7, 3}), nullptr, nullptr, out); },
            "relation_matrix: x: expected leading dimensions that broadcast together, got x of shape (2, 10, "
            "3), y "
            "of shape (3, 7, 3)");
    relation.heads = 2;
    refused([&] { rk::relation_matrix(x, y, nullptr, nullptr, out, relation); },
            "relation_matrix: heads: expected a divisor of the feature width 3, got 2");
    relation = {};
    relation.scale = std::numeric_limits<double>::infinity();
    refused([&] { rk::relation_matrix(x, y, nullptr, nullptr, out, relation); },
            "relation_matrix: scale: expected a finite number, got inf");
    relation.scale = 0x1p128;
    refused([&] { rk::relation_matrix(x, y, nullptr, nullptr, out, relation); },
            "relation_matrix: scale: expected a number that float can hold, got "
            "340282366920938463463374607431768211456.000000");
    std::vector<double> doubles(1000);
    relation = {};
    relation.precision = rk::Precision::bf16;
    const rk::View<double> wide(doubles.data(), {10, 10});
    refused([&] { rk::relation_matrix(wide, {}, nullptr, nullptr, wide, relation); },
            "relation_matrix: precision: expected full for double (bf16 is for float), got bf16");

    refused([&] { rk::attention(x, y, View(p, {6, 2}), nullptr, nullptr, View(p, {10, 2})); },
            "attention: v: expected 7 rows, one for each row of k (7, 3), got shape (6, 2)");
    std::vector<std::uint8_t> bytes(100);
    attention.mask = rk::View<std::uint8_t>(bytes.data(), {9, 7});
    refused([&] { rk::attention_scores(x, y, nullptr, nullptr, out, attention); },
            "attention_scores: mask: expected a shape that broadcasts to (..., 10, 7), got shape (9, 7)");
    refused([&] { rk::attention(x, y, y, nullptr, nullptr, View(p, {10, 3}), View(p, {9})); },
            "attention: lse: expected shape (10,), one for each row of q, got shape (9,)");

    attention = {};
    attention.window.right = -1;
    refused([&] { rk::attention_scores(x, y, nullptr, nullptr, out, attention); },
            "attention_scores: window.right: expected a number >= 0, got -1");

    const rk::View<std::int64_t> indices(integers.data(), {10, 8});
    refused([&] { rk::retrieve(x, y, nullptr, nullptr, View(p, {10, 8}), indices); },
            "retrieve: values: expected 1 to 7 in the last dimension, as keys of shape (7, 3) allow, got "
            "shape (10, 8)");
    refused([&] { rk::retrieve(x, y, nullptr, nullptr, View(p, {10, 2}), indices); },
            "retrieve: indices: expected shape (10, 2), that of values, got shape (10, 8)");
    std::vector<std::int64_t> lists(20, 7);
    rk::RetrieveOptions searched;
    searched.exclude = rk::View<const std::int64_t>(lists.data(), {10, 2});
    const rk::View<std::int64_t> two(integers.data(), {10, 2});
    refused([&] { rk::retrieve(x, y, nullptr, nullptr, View(p, {10, 2}), two, searched); },
            "retrieve: exclude: expected indices from 0 to 6, or -1 for none, got 7");
    searched.exclude = rk::View<const std::int64_t>(lists.data(), {5, 4});
    refused([&] { rk::retrieve(x, y, nullptr, nullptr, View(p, {10, 2}), two, searched); },
            "retrieve: exclude: expected a shape that broadcasts to (10, 4), got (5, 4)");
    rk::Pairs<float> found;
    const float thresholds[] = {0, NAN};
    refused(
        [&] { rk::retrieve_above(x, y, nullptr, nullptr, rk::View<const float>(thresholds, {2}), found); },
        "retrieve_above: thresholds: expected a shape that broadcasts to (10,), got (2,)");
    refused(
        [&] {
            rk::retrieve_above(x, y, nullptr, nullptr, rk::View<const float>(thresholds + 1, {1}), found);
        },
        "retrieve_above: thresholds: expected numbers, got NaN");
    rk::RetrieveAboveOptions limited;
    limited.limit = 0;
    const rk::View<const float> zero(thresholds, {1});
    refused([&] { rk::retrieve_above(x, y, nullptr, nullptr, zero, found, limited); },
            "retrieve_above: limit: expected an integer >= 1, got 0");
    limited.limit = 69;
    refused([&] { rk::retrieve_above(x, y, nullptr, nullptr, zero, found, limited); },
            "retrieve_above: limit: expected at least 70, the number of pairs at or above the threshold, got "
            "69");
    refused(
        [&] { rk::relation_matvec(x, y, View(p, {6}), nullptr, nullptr, View(p, {10})); },
        "relation_matvec: v: expected shape (..., 7), or (..., 7, c) with as many dimensions as y of shape "
        "(7, 3), got shape (6,)");
    rk::MatvecOptions of_distance;
    of_distance.link = rk::Link::gaussian;
    of_distance.scale = -1;
    refused([&] { rk::relation_matvec(x, y, View(p, {7}), nullptr, nullptr, View(p, {10}), of_distance); },
            "relation_matvec: scale: expected a number >= 0 with a link of distances, got -1.000000");

    refused([&] { rk::feature_map_vjp<float>(x, phi, View(p, {10, 4}), {}); },
            "feature_map_vjp: grad: expected shape (10, 5), that of the features, got shape (10, 4)");
    refused([&] { rk::relation_matrix_vjp(x, y, out, nullptr, nullptr, x); },
            "relation_matrix_vjp: grad_y: expected shape (7, 3), that of y, got none");
    refused([&] { rk::attention_vjp(x, y, y, out, nullptr, nullptr, x, y, y); },
            "attention_vjp: grad: expected shape (10, 3), that of the attention, got shape (10, 7)");

    refused([&] { rk::relation_loss<float>(x, y, View(p, {6, 7}), nullptr, nullptr); },
            "relation_loss: target: expected a shape that broadcasts to (10, 7), got shape (6, 7)");
    refused([&] { rk::relation_loss<float>(x, y, labels, {}, nullptr, nullptr); },
            "relation_loss: labels_y: expected labels of y, as x has 10 rows and y 7, got none");
    rk::LossOptions<float> options;
    std::fill(memory.begin(), memory.end(), -1.0f);
    options.sample_weight = View(p, {10});
    refused(
        [&] { rk::relation_loss<float>(x, {}, labels, {}, nullptr, nullptr, options); },
        "relation_loss: sample_weight: expected finite weights >= 0 with a positive sum, got sum -10.000000");
    options = {};
    options.loss = rk::Loss::softmax;
    std::fill(memory.begin(), memory.end(), 0.0f);
    refused([&] { rk::relation_loss<float>(x, y, out, nullptr, nullptr, options); },
            "relation_loss: target: expected a positive sum in every row, got 0.000000 in row 0");

    rk::NngpOptions nngp;
    nngp.depth = -1;
    refused([&] { rk::nngp_kernel(x, y, out, nngp); },
            "nngp_kernel: depth: expected an integer >= 0, got -1");
    nngp = {};
    nngp.activation = rk::NngpActivation::step;
    nngp.ntk = true;
    refused(
        [&] { rk::nngp_kernel(x, y, out, nngp); },
        "nngp_kernel: ntk: expected false with activation step, whose derivative is no function, got true");
    refused([&] { rk::set_num_threads(0); }, "set_num_threads: n: expected 1 to 4096 threads, got 0");
    return finish();
}
