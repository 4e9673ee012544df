// The operations, as bindings call them: one source file each. The caller has checked the arguments; leading
// dimensions are equal (broadcast ones have stride 0). Outputs are overwritten, never accumulated into.
// Definitions: the Python functions of the same names.
#pragma once

#include <optional>

#include "base/arrays.hpp"
#include "base/batches.hpp"
#include "kernels/table.hpp"
#include "walk/arithmetic.hpp"
#include "walk/masks.hpp"
#include "walk/mlp.hpp"
#include "walk/scoring.hpp"

namespace rk {

// Both sides of a relation, R_ij = scale <phi(rows_i), psi(columns_j)>. A null map is the identity.
template <class T>
struct Relation {
    Array<const T> rows, columns;
    const Mlp<T>* phi = nullptr;
    const Mlp<T>* psi = nullptr;
    Precision precision = Precision::full;
    T scale = T(1);
    Segments segments{};  // of attention and retrieval

    // Of an item, in multiply-adds (base/threads.hpp): the maps, reading and packing the features, the
    // products, and `per_pair` for what happens to each R_ij.
    double work(double per_pair) const {
        const bool symmetric = columns.empty();
        return work(double(rows.dim(2)), symmetric ? 0 : double(columns.dim(2)), symmetric, per_pair);
    }
    // Of a group of items (base/batches.hpp).
    double work_of(const Groups& groups, long group, double per_pair) const {
        const auto [n, m] = groups.sizes(rows, columns, group);
        return work(double(n), double(m), false, per_pair);
    }

   private:
    double work(double n, double m, bool symmetric, double per_pair) const {
        const double width = double(phi ? phi->outputs() : rows.dim(1));
        const double maps = (phi ? n * phi->work() : 0) + (psi ? m * psi->work() : 0);
        return maps + 4 * (n + (symmetric ? n : m)) * width +
               (symmetric ? n * n / 2 : n * m) * (width + per_pair);
    }
};

// Distances are sums of squares of differences, which bfloat16 products do not form.
inline Precision precision_of(Link link, Precision precision) {
    return is_of_distance(link) ? Precision::full : precision;
}

// ---- operations

template <class T>
void feature_map(const Array<const T>& x, const Mlp<T>& map, Precision precision, const Array<T>& out);

// Of sparse rows through a map, in multiply-adds (base/threads.hpp).
template <class T>
double work_of(const SparseRows<T>& x, const Mlp<T>& map) {
    const double entries = double(x.offsets[x.count] - x.offsets[0]), width = double(map.outputs(0));
    return entries * width + double(x.count) * (map.work() - double(map.inputs(0)) * width);
}

// The same for sparse rows. weights: those of the map's first layer, row-major.
template <class T>
void sparse_feature_map(const SparseRows<T>& x, const T* weights, const Mlp<T>& map, Precision precision,
                        const Array<T>& out);

// out <- x / |x|, row by row, as the last step of a map that normalizes.
template <class T>
void normalize(const Array<const T>& x, const Array<T>& out);

// link(R). Without columns: the symmetric relation of the rows with themselves through phi. out has three
// core dimensions (heads, n, m) if heads > 1.
template <class T>
void relation_matrix(const Relation<T>& relation, Link link, long heads, const Array<T>& out);

template <class T>
void attention_scores(const Relation<T>& relation, const Scoring<T>& scoring, const Array<T>& out);

// lse (contiguous) may be absent.
template <class T>
void attention(const Relation<T>& relation, const Array<const T>& values, const Scoring<T>& scoring,
               const Array<T>& out, const Array<T>& lse);

// The function on the relations of relational attention: a link of inner products, else an activation.
struct RelationActivation {
    std::optional<Link> link;
    Activation activation = Activation::identity;
    double parameter = 0;

    static RelationActivation named(const std::string& name, double parameter) {
        for (const Named<Link>& row : kLinks)
            if (name == row.name && !is_of_distance(row.value)) return {.link = row.value};
        return {.link = {}, .activation = activation_named(name), .parameter = parameter};
    }
    bool is_identity() const { return link ? *link == Link::identity : activation == Activation::identity; }
};

// Arrays of equal leading dimensions: q and k (..., h, n or m, d), v (..., h, m, d_v), and q_rel and k_rel
// (..., R, n or m, d_r), read in place.
template <class T>
struct RelationalSides {
    Array<const T> q, k, q_rel, k_rel, v;
    T scale = T(1), rel_scale = T(1);
    RelationActivation activation = {};

    long heads() const { return q.dim(3); }
    long relations() const { return q_rel.dim(3); }
    // Of an item, in multiply-adds (base/threads.hpp).
    double work() const {
        const double h = double(heads()), count = double(relations());
        const double of_relation = double(q_rel.dim(1)) + h + (activation.is_identity() ? 0 : kWorkOfExp);
        return double(q.dim(2)) * double(k.dim(2)) *
               (h * (double(q.dim(1) + v.dim(1)) + kWorkOfExp) + count * of_relation);
    }
};

// (..., h, n, R), (..., h, n, d_v) and (..., h, n). lse is contiguous and may be absent.
template <class Values>
struct RelationalResult {
    Values relations, values, lse;
};

template <class T>
void relational_attention(const RelationalSides<T>& sides, const Allowed& allowed,
                          const RelationalResult<Array<T>>& out);

// Codes of float32 features of keys (kernels/table.hpp), in memory of the caller: codes (panels, groups,
// kCodeLanes, 4) and terms (panels, kCodeTerms, kCodeLanes) for at least as many keys.
struct KeyCodes {
    const std::int8_t* codes = nullptr;
    const float* terms = nullptr;
};
// Writes the panels from that of row `first` on. features: (m, d), rows of unit stride.
void encode_keys(const Array<const float>& features, long first, std::int8_t* codes, float* terms);

// values and indices are contiguous. With codes, every item has the same keys, of unit stride and without
// psi.
template <class T>
void retrieve(const Relation<T>& relation, const Searchable& searchable, const Array<T>& values,
              const Array<std::int64_t>& indices, const KeyCodes& codes = {});

template <class T>
class FoundPairs;  // found_pairs.hpp

// thresholds: (..., n), none NaN. The rows of `found` are those of all items.
template <class T>
void retrieve_above(const Relation<T>& relation, const Searchable& searchable,
                    const Array<const T>& thresholds, const KeyCodes& codes, FoundPairs<T>& found);

template <class T>
void relation_matvec(const Relation<T>& relation, const Array<const T>& values, Link link,
                     const Array<T>& out);

struct NngpSeries;  // nngp_points.hpp

// Kernel of a wide random network between the rows of x and of y (absent: x, symmetric).
template <class T>
void nngp_kernel(const Array<const T>& x, const Array<const T>& y, const NngpSpec& spec,
                 const NngpSeries* series, const Array<T>& out);

// nngp_kernel of each row of x with itself.
template <class T>
void nngp_diagonal(const Array<const T>& x, const NngpSpec& spec, const NngpSeries* series,
                   const Array<T>& out);

// A random network, determined by its key; step: the activation is 1 for z > 0 and 0 otherwise.
struct RandomNetwork {
    std::uint64_t key;
    std::vector<long> widths;
    bool step;
    Activation activation;
    double parameter, weight_std, bias_std;
};

// Activations of the last layer over sqrt(its width) and times weight_std, of the rows of x.
template <class T>
void random_features(const Array<const T>& x, const RandomNetwork& net, const Array<T>& out);

// ---- gradients
//
// A Relation here has features as rows and columns: no maps, precision full.

// Gradients of a feature map, each overwritten. Those of the parameters are row-major, one for each layer;
// biases is empty for a map without biases.
template <class T>
struct MapGradient {
    Array<T> x;
    std::vector<T*> weights, biases;
};

// Gradients with respect to both sides of a relation and to its scale, each overwritten. Absent ones are not
// computed; `scale` is null if `rows` is absent.
//
// scale: each row's part of the derivative, (items, n) contiguous. For R it is <f_i, H_i> with
// H_i = sum_j dR_ij g_j, so that the gradient of f_i is scale H_i. For link(R) it is sum_j dR_ij r_ij with R
// = scale r, computed without a division by the scale.
template <class T>
struct RelationGradient {
    Array<T> rows, columns;
    double* scale = nullptr;
};

// What attention returned, or the gradients with respect to it; that of lse may be absent. A returned lse is
// contiguous.
template <class T>
struct AttentionResult {
    Array<const T> out, lse;
};

template <class T>
void feature_map_vjp(const Array<const T>& x, const Mlp<T>& map, const Array<const T>& grad,
                     const MapGradient<T>& to);

template <class T>
void normalize_vjp(const Array<const T>& x, const Array<const T>& grad, const Array<T>& grad_x);

// The layers of a map as they are in the caller's memory, for a training step. Biases, contiguous, may be
// missing.
template <class T>
struct Layers {
    std::vector<Array<const T>> weights, biases;
    Activation activation;
    T parameter;
    bool normalize;

    long depth() const { return long(weights.size()); }
    long inputs(long layer) const { return weights[std::size_t(layer)].dim(2); }
    long outputs(long layer) const { return weights[std::size_t(layer)].dim(1); }
};

// feature_map of a matrix with the same bits, and its gradients. `hidden`, of hidden_size values, receives
// the hidden layers for feature_map_backward (and, if the map normalizes, the output before it is divided by
// its length); null: they are not kept. Gradients that are null or empty are not computed.
template <class T>
long hidden_size(const Layers<T>& map, long rows);

template <class T>
void feature_map_forward(const Array<const T>& x, const Layers<T>& map, T* hidden, const Array<T>& out);

template <class T>
void feature_map_backward(const Array<const T>& x, const Layers<T>& map, const T* hidden,
                          const Array<const T>& grad, const MapGradient<T>& to);

// Without the gradient of x: it is dense.
template <class T>
void sparse_feature_map_vjp(const SparseRows<T>& x, const T* weights, const Mlp<T>& map,
                            const Array<const T>& grad, const MapGradient<T>& to);

template <class T>
void relation_matrix_vjp(const Relation<T>& features, Link link, long heads, const Array<const T>& grad,
                         const RelationGradient<T>& to);

// to_values is computed with the gradient of the columns, and may be absent.
template <class T>
void relation_matvec_vjp(const Relation<T>& features, const Array<const T>& values,
                         const Array<const T>& grad, Link link, const RelationGradient<T>& to,
                         const Array<T>& to_values);

// The gradients are contiguous; only the scale's and the bias's may be absent. The gradient of the bias has
// the bias's shape: along dimensions of 1 it is a sum, in the order of the items and of the tiles.
template <class T>
void attention_vjp(const Relation<T>& features, const Array<const T>& values, const Scoring<T>& scoring,
                   const AttentionResult<T>& result, const AttentionResult<T>& grad,
                   const RelationGradient<T>& to, const Array<T>& to_values, const Array<T>& to_bias);

// Gradients with respect to each of the arrays, of their full shapes and without gaps, and each row's part of
// the derivatives with respect to both scales, (items, h, n) and (items, R, n).
template <class T>
struct RelationalGradient {
    Array<T> q, k, q_rel, k_rel, v;
    double *scale, *rel_scale;
};

// Of `grad`, gradients with respect to `result`, which relational_attention returned.
template <class T>
void relational_attention_vjp(const RelationalSides<T>& sides, const Allowed& allowed,
                              const RelationalResult<Array<const T>>& result,
                              const RelationalResult<Array<const T>>& grad, const RelationalGradient<T>& to);

// As for attention_vjp. grad: of the shape of the scores.
template <class T>
void attention_scores_vjp(const Relation<T>& features, const Scoring<T>& scoring, const Array<const T>& grad,
                          const RelationGradient<T>& to, const Array<T>& to_bias);

// A loss over all pairs of two matrices of features: the (weighted) value of each row, and the gradients,
// which are contiguous. The gradient of the rows is always computed.
template <class T>
void relation_loss(const Relation<T>& features, const PairTargets<T>& targets, Loss loss, double* values,
                   const RelationGradient<T>& to);

// Rounds floats to float16 or bfloat16, to nearest, ties to even.
void narrow(const float* from, long count, Storage storage, std::uint16_t* to);

}  // namespace rk
