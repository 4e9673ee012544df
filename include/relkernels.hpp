// relkernels: inner products of neural feature maps, r(x, y) = <phi(x), psi(y)>, and what is built on them:
// relation matrices, attention, exact retrieval, matrix-free products, losses over all pairs, gradients.
//
// This is the whole C++ interface. It needs C++17 and the static library librelkernels_core.a (CMake target
// relkernels::core). Memory is the caller's: a View is a pointer, a shape and strides, and nothing is copied
// on the way in. docs/cpp.md is the guide, docs/examples/embed an example.
//
// Conventions
//   - T is float or double; all arrays and maps of a call share it, except where a type is written out.
//   - Arrays are (..., rows, features). Leading dimensions are a batch and broadcast, as in NumPy. Strides
//     are free: transposed, sliced, reversed and broadcast inputs are read in place.
//   - An output has the full shape of the result, is overwritten and may not overlap an input. Any strides
//     are written; those with unit stride in the last dimension are written without a temporary array.
//   - `phi` null is the identity map; `psi` null stands for `phi`.
//   - A default View ({}) is an optional argument left out.
//   - The order of sums depends on the data's dimensions alone: results are the same to the last bit whatever
//     the number of threads or the batch. NaN and infinities reach what depends on them alone.
//   - Errors: std::invalid_argument names the function, the argument, what was expected and what was given;
//     std::bad_alloc if working memory cannot be allocated. Outputs are then unspecified.
//   - All functions may be called from several threads at once; an Mlp may be shared by them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace relkernels {

using Shape = std::vector<std::int64_t>;

// An array that the caller owns: pointer, shape, and strides counted in elements (not bytes). View<const T>
// is read only; View<T> converts to it.
template <class T>
class View {
   public:
    View() = default;

    // Contiguous, the last dimension fastest.
    View(T* data, Shape shape) : data_(data), shape_(std::move(shape)), strides_(shape_.size()) {
        std::int64_t step = 1;
        for (std::size_t i = shape_.size(); i-- > 0; step *= shape_[i]) strides_[i] = step;
        check();
    }
    View(T* data, Shape shape, Shape strides)
        : data_(data), shape_(std::move(shape)), strides_(std::move(strides)) {
        check();
    }
    template <class U, class = std::enable_if_t<std::is_same_v<const U, T>>>
    View(const View<U>& other) : data_(other.data()), shape_(other.shape()), strides_(other.strides()) {}

    T* data() const { return data_; }
    const Shape& shape() const { return shape_; }
    const Shape& strides() const { return strides_; }
    std::size_t ndim() const { return shape_.size(); }
    // Without dimensions: a default View, no array.
    bool absent() const { return shape_.empty(); }

   private:
    void check() const {
        if (shape_.empty()) throw std::invalid_argument("View: expected at least one dimension, got none");
        if (shape_.size() != strides_.size())
            throw std::invalid_argument("View: expected as many strides as the shape has dimensions, " +
                                        std::to_string(shape_.size()) + ", got " +
                                        std::to_string(strides_.size()));
        bool empty = false;
        for (const std::int64_t n : shape_) {
            if (n < 0)
                throw std::invalid_argument("View: expected dimensions >= 0, got " + std::to_string(n));
            empty = empty || n == 0;
        }
        if (!data_ && !empty)
            throw std::invalid_argument("View: expected a pointer to the elements, got null");
    }

    T* data_ = nullptr;
    Shape shape_, strides_;
};

template <class T>
class Mlp;

namespace detail {
template <class T>
struct Same {
    using type = T;
};
struct Access;
}  // namespace detail

// Arguments from which T is not deduced (it is, from maps and outputs): so that View<T> converts to them, and
// {} and nullptr may stand for what is left out.
template <class T>
using In = typename detail::Same<View<const T>>::type;
template <class T>
using Out = typename detail::Same<View<T>>::type;
template <class T>
using Map = typename detail::Same<const Mlp<T>*>::type;

// True (nonzero) = the pair may be seen; broadcast to (..., n, m).
using Mask = View<const std::uint8_t>;

// bf16: factors of float products are rounded to bfloat16 and summed in float. For T = float.
enum class Precision { full, bf16 };

// ---- feature maps -------------------------------------------------------------------------------

enum class Activation {
    identity,
    relu,
    leaky_relu,  // parameter: the slope below 0, by default 0.01
    relu_power,  // max(z, 0)^parameter, parameter > 0
    gelu,
    gelu_tanh,
    silu,
    tanh,
    sigmoid,
    softplus,
    erf,
    sin,
    cos,
    gaussian,  // exp(-z^2 / 2)
    sigma_1    // relu(z) - relu(z - 1)
};

// A multi-layer perceptron: h_0 = x, h_l = activation(h_{l-1} W_l + b_l) for the hidden layers, and
// phi(x) = h_{L-1} W_L + b_L, divided by its length if `normalize` is true (zero stays zero). Weights are
// copied and packed once; an Mlp does not change, and copies share it.
template <class T>
class Mlp {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "T is float or double");

   public:
    // weights[l]: (d_in, d_out); biases[l]: (d_out), or no biases at all. `parameter`: of leaky_relu and
    // relu_power.
    explicit Mlp(const std::vector<View<const T>>& weights, const std::vector<View<const T>>& biases = {},
                 Activation activation = Activation::relu, std::optional<double> parameter = std::nullopt,
                 bool normalize = false);

    // Width of the input, of each hidden layer, and of the output.
    const Shape& widths() const;
    bool has_bias() const;
    bool normalizes() const;

   private:
    friend struct detail::Access;
    struct Impl;
    std::shared_ptr<const Impl> impl_;
};

// out <- phi(x).  x (..., n, d_x), out (..., n, d)
template <class T>
void feature_map(In<T> x, const Mlp<T>& mlp, View<T> out, Precision precision = Precision::full);

// out <- x / |x|, row by row, 0 where a row is 0.  x and out (..., n, d)
template <class T>
void normalize(In<T> x, View<T> out);

// ---- relations ----------------------------------------------------------------------------------

// The last four are functions of t = scale |phi(x) - psi(y)|^2, scale >= 0, and r = sqrt(t):
//   gaussian exp(-t / 2), matern12 exp(-r), matern32 (1 + sqrt(3) r) exp(-sqrt(3) r),
//   matern52 (1 + sqrt(5) r + 5 t / 3) exp(-sqrt(5) r)
enum class Link { identity, exp, relu, square, gaussian, matern12, matern32, matern52 };

struct RelationOptions {
    double scale = 1.0;      // any finite number
    std::int64_t heads = 1;  // the features are split into this many groups, each with its own relation
    Precision precision = Precision::full;
    Link link = Link::identity;
};

// out <- link(scale <phi(x_i), psi(y_j)>).  x (..., n, d_x), y (..., m, d_y), out (..., n, m), or (...,
// heads, n, m) with more than one head. y left out stands for x: where psi is null too, half is computed and
// the result equals its transpose to the last bit.
template <class T>
void relation_matrix(In<T> x, In<T> y, Map<T> phi, Map<T> psi, View<T> out,
                     const RelationOptions& options = {});

// Row i may attend to columns i + o - left <= j <= i + o + right. Limits are >= 0; an absent one is no limit.
struct Window {
    std::optional<std::int64_t> left, right;
};

// The diagonal of the causal rule and of a window: o = 0, or o = m - n, which aligns the last row with the
// last column.
enum class Align { upper_left, lower_right };

// A ragged batch: the rows of b segments are packed one after the other, and segment s has the rows
// offsets[s] to offsets[s + 1] - 1. There are b + 1 offsets, from 0 to the number of rows. Give both arrays
// or neither.
struct Ragged {
    View<const std::int64_t> q_offsets, k_offsets;
};

struct AttentionOptions {
    std::optional<double> scale;  // by default 1 / sqrt(width of the features)
    Mask mask;
    bool causal = false;  // row i may attend to columns j <= i + o
    Window window;
    Align align = Align::upper_left;
    Precision precision = Precision::full;
    std::optional<double> softcap;  // c > 0: scores s become c tanh(s / c)
    // For attention and its gradient: queries attend to the keys of their segment, with the diagonal of the
    // segment. Mask and bias must be absent.
    Ragged ragged;
};

// Scores are s_ij = cap(scale <phi(q_i), psi(k_j)> + bias_ij). bias broadcasts to (..., n, m) or is left out;
// a pair whose bias is -inf may not attend.

// out <- softmax_j(s), (..., n, m); a row with nothing to attend to is zero.
template <class T>
void attention_scores(In<T> q, In<T> k, Map<T> phi, Map<T> psi, View<T> out,
                      const AttentionOptions& options = {}, In<T> bias = {});

// out <- softmax_j(s) v, in memory O((n + m) d).  v (..., m, d_v), out (..., n, d_v). lse (..., n), if given,
// receives the log-sum-exp of each row's scores. A row with nothing to attend to gives zeros and -inf, one
// with a score of +inf NaN and +inf.
template <class T>
void attention(In<T> q, In<T> k, In<T> v, Map<T> phi, Map<T> psi, View<T> out, Out<T> lse = {},
               const AttentionOptions& options = {}, In<T> bias = {});

// Functions on the relations of relational attention: an activation other than relu_power, or a link of inner
// products.
struct RelationalOptions {
    using Function = std::variant<Activation, Link>;

    std::optional<double> scale, rel_scale;  // by default 1 / sqrt(width) of q and of q_rel
    Function rel_activation = Activation::identity;
    Mask mask;  // broadcasts to (..., h, n, m)
    bool causal = false;
    Window window;
    Align align = Align::upper_left;
};

// relations_il <- sum_j a_ij f(rel_scale <q_rel_il, k_rel_jl>) and values_i <- sum_j a_ij v_j, with the
// weights a_ij = softmax_j(scale <q_i, k_j>) of each of h heads, and R relations that all heads share; in
// memory O((n + m) (h d + R d_r)).  q (..., h, n, d), k (..., h, m, d), q_rel (..., R, n, d_r), k_rel (...,
// R, m, d_r), v (..., h, m, d_v), relations (..., h, n, R), values (..., h, n, d_v), lse
// (..., h, n) or left out. A row with nothing to attend to is zero, its lse -inf.
template <class T>
void relational_attention(In<T> q, In<T> k, In<T> q_rel, In<T> k_rel, In<T> v, View<T> relations,
                          Out<T> values, Out<T> lse = {}, const RelationalOptions& options = {});

struct RetrieveOptions {
    Mask mask;
    Precision precision = Precision::full;
    // Columns that a row may not return, -1 for none: broadcast to (..., n, e).
    View<const std::int64_t> exclude = {};
    // Queries search the keys of their segment, and indices count from its first key. Mask and exclude must
    // be absent.
    Ragged ragged = {};
};

// values, indices <- the k largest <phi(q_i), psi(keys_j)> of each row and their j, best first, equal ones by
// the lower index, NaN after every number: exact maximum inner products.  values and indices (..., n, k),
// 1 <= k <= m. If mask, exclude or the segment leave fewer than k, the rest is -inf and -1.
template <class T>
void retrieve(In<T> q, In<T> keys, Map<T> phi, Map<T> psi, View<T> values, View<std::int64_t> indices,
              const RetrieveOptions& options = {});

// Pairs as the rows of a sparse matrix: row i has the elements offsets[i] up to offsets[i + 1] of indices,
// which ascend, and of values.
template <class T>
struct Pairs {
    std::vector<std::int64_t> offsets, indices;
    std::vector<T> values;
};

struct RetrieveAboveOptions {
    Mask mask;
    Precision precision = Precision::full;
    View<const std::int64_t> exclude = {};  // as in RetrieveOptions
    // If there are more pairs, they are counted but not stored, and the error's message has the number of
    // all.
    std::int64_t limit = INT64_MAX;
};

// found <- all pairs with <phi(q_i), psi(keys_j)> >= thresholds_i. thresholds broadcast to (..., n), none
// NaN; rows of a batch are numbered consecutively. NaN is not above any threshold.
template <class T>
void retrieve_above(In<T> q, In<T> keys, Map<T> phi, Map<T> psi, In<T> thresholds, Pairs<T>& found,
                    const RetrieveAboveOptions& options = {});

struct MatvecOptions {
    Link link = Link::identity;
    double scale = 1.0;
    Precision precision = Precision::full;
};

// out_i <- sum_j link(scale <phi(x_i), psi(y_j)>) v_j, the relation never stored.  v (..., m, c) and
// out (..., n, c); or, if v has fewer dimensions than y, v (..., m) and out (..., n).
template <class T>
void relation_matvec(In<T> x, In<T> y, In<T> v, Map<T> phi, Map<T> psi, View<T> out,
                     const MatvecOptions& options = {});

// ---- gradients ----------------------------------------------------------------------------------

// Gradient with respect to the parameters of an Mlp, layer by layer, each row-major; empty for a map that is
// null, and biases empty for a map without them.
template <class T>
struct MlpGradient {
    std::vector<std::vector<T>> weights, biases;
};

// Gradients of the maps and of the scale. If psi is null or the same map as phi, its part is in phi and psi
// is empty.
template <class T>
struct MapGradients {
    MlpGradient<T> phi, psi;
    double scale = 0;
};

// Gradients of sum(grad * feature_map(x)); that of x is written to grad_x, unless it is left out. grad has
// the shape of the features.
template <class T>
MlpGradient<T> feature_map_vjp(In<T> x, const Mlp<T>& mlp, In<T> grad, Out<T> grad_x);

// grad_x <- the gradient of sum(grad * normalize(x)).  All (..., n, d)
template <class T>
void normalize_vjp(In<T> x, In<T> grad, View<T> grad_x);

// Gradients of sum(grad * relation_matrix(x, y, phi, psi)); grad has the shape of the relation, grad_x and
// grad_y (left out where y is: its part is then in grad_x) those of x and y.
template <class T>
MapGradients<T> relation_matrix_vjp(In<T> x, In<T> y, In<T> grad, Map<T> phi, Map<T> psi, View<T> grad_x,
                                    Out<T> grad_y = {}, const RelationOptions& options = {});

// Gradients of sum(grad * relation_matvec(x, y, v, phi, psi)); the relation is formed again tile by tile.
// grad has the shape of the product, grad_x, grad_y and grad_v those of x, y and v. Slopes at kinks are 0: of
// relu at 0, and of matern12 between equal points.
template <class T>
MapGradients<T> relation_matvec_vjp(In<T> x, In<T> y, In<T> v, In<T> grad, Map<T> phi, Map<T> psi,
                                    View<T> grad_x, View<T> grad_y, View<T> grad_v,
                                    const MatvecOptions& options = {});

// Gradients of sum(grad * attention(q, k, v, phi, psi)) + sum(grad_lse * lse); scores are recomputed tile by
// tile. grad_lse (..., n) may be left out. grad_bias, of the shape of bias, is a sum over the dimensions that
// are broadcast; it may be left out.
template <class T>
MapGradients<T> attention_vjp(In<T> q, In<T> k, In<T> v, In<T> grad, Map<T> phi, Map<T> psi, View<T> grad_q,
                              View<T> grad_k, View<T> grad_v, const AttentionOptions& options = {},
                              In<T> bias = {}, Out<T> grad_bias = {}, In<T> grad_lse = {});

// Gradients of sum(grad * attention_scores(q, k, phi, psi)), in memory O((n + m) d); grad (..., n, m).
template <class T>
MapGradients<T> attention_scores_vjp(In<T> q, In<T> k, In<T> grad, Map<T> phi, Map<T> psi, View<T> grad_q,
                                     View<T> grad_k, const AttentionOptions& options = {}, In<T> bias = {},
                                     Out<T> grad_bias = {});

// Derivatives with respect to both scales.
struct RelationalScales {
    double scale = 0, rel_scale = 0;
};

// Gradients of sum(grad_relations * relations) + sum(grad_values * values) + sum(grad_lse * lse), what
// relational_attention returns; scores and relations are computed again tile by tile. Each grad_q,
// ... has the shape of its argument. grad_lse may be left out.
template <class T>
RelationalScales relational_attention_vjp(In<T> q, In<T> k, In<T> q_rel, In<T> k_rel, In<T> v,
                                          In<T> grad_relations, In<T> grad_values, View<T> grad_q,
                                          View<T> grad_k, View<T> grad_q_rel, View<T> grad_k_rel,
                                          View<T> grad_v, const RelationalOptions& options = {},
                                          In<T> grad_lse = {});

enum class Loss { squared, logistic, hinge, softmax };

template <class T>
struct LossOptions {
    Loss loss = Loss::squared;
    View<const T> sample_weight;  // (n), or (n, m) but for softmax; >= 0, with a positive sum
    double scale = 1.0;           // any finite number
};

template <class T>
struct LossResult {
    double value = 0;
    MlpGradient<T> phi, psi;  // as in MapGradients
    std::vector<T> x, y;      // gradients of x and y, row-major; y left out: its part is in x, and y is empty
    double scale = 0;         // derivative with respect to the scale
};

// A loss over all pairs of R = scale <phi(x_i), psi(y_j)> with its gradients, streaming: memory O((n + m) d).
// With targets T and weights w it is sum(w l) / sum(w), where l is
//   squared    (R - T)^2
//   logistic   log(1 + exp(R)) - T R, T in [0, 1]
//   hinge      max(0, 1 - (2 T - 1) R), T in [0, 1]
//   softmax    (InfoNCE) one term a row: logsumexp_j R_ij - sum_j T_ij R_ij / sum_j T_ij
// x (n, d_x), y (m, d_y) or left out for x; target broadcasts to (n, m). T is named:
// relation_loss<float>(...).
template <class T>
LossResult<T> relation_loss(In<T> x, In<T> y, In<T> target, Map<T> phi, Map<T> psi,
                            const LossOptions<T>& options = {});

// The same with T_ij = 1 where the labels are equal, else 0.  labels_x (n), labels_y (m) or left out for
// labels_x, where n = m.
template <class T>
LossResult<T> relation_loss(In<T> x, In<T> y, View<const std::int64_t> labels_x,
                            View<const std::int64_t> labels_y, Map<T> phi, Map<T> psi,
                            const LossOptions<T>& options = {});

// ---- wide random networks -----------------------------------------------------------------------

// Activations whose dual E[a(u) a(v)] has a closed form, and sigma_1; leaky_relu has a slope.
enum class NngpActivation {
    step,
    identity,
    relu,
    relu_squared,
    leaky_relu,
    erf,
    gelu,
    sin,
    cos,
    gaussian,
    sigma_1
};

struct NngpOptions {
    std::int64_t depth = 1;  // hidden layers, >= 0
    NngpActivation activation = NngpActivation::relu;
    double slope = 0.01;                     // of leaky_relu
    double weight_std = 1.4142135623730951;  // finite, > 0
    double bias_std = 0.0;                   // finite, >= 0
    bool ntk = false;                        // the neural tangent kernel instead of the NNGP kernel
};

// out <- the kernel of an infinitely wide random network (Lee et al. 2018; Jacot et al. 2018) between the
// rows of x (..., n, D) and y (..., m, D), or of x with itself, in double throughout: K(0) = bias_std^2 +
// weight_std^2 <x, y> / D, K(l+1) = bias_std^2 + weight_std^2 E[a(u) a(v)] with (u, v) of covariance K(l).
template <class T>
void nngp_kernel(In<T> x, In<T> y, View<T> out, const NngpOptions& options = {});

// ---- threads and processor ----------------------------------------------------------------------

// Threads that calls use: RELKERNELS_NUM_THREADS, then the first number of OMP_NUM_THREADS, else the
// processors this process may run on. They are a pool of the library's own, started when first needed; a
// forked child starts another. A RELKERNELS_NUM_THREADS that is no integer from 1 to 4096, and a
// RELKERNELS_ISA that this processor cannot run, make every operation throw std::invalid_argument.
int num_threads();
void set_num_threads(int n);

// The instruction set in use, chosen at the first call (RELKERNELS_ISA names another), and those that this
// processor can run, best first.
std::string instruction_set();
std::vector<std::string> instruction_sets();

std::string version();

}  // namespace relkernels
