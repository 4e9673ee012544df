// Multi-layer perceptrons on a device: weights packed for one arithmetic, and the forward pass. Mirrors
// csrc/walk/mlp.hpp.
//
// A block takes 16 rows a warp through all layers. Their activations stay in shared memory, in two
// alternating buffers, while weights are streamed in tiles of 64 outputs and 128 bytes of depth. Nets whose
// activations do not fit, or of more than kMaxLayers layers, are computed layer by layer through global
// memory (mlp.cu).
//
// With `normalize`, phi(x) is divided by its length, in a second launch; the features before that are in the
// workspace, in the dtype of the sums. Zero stays zero.
#pragma once

#include "base/names.hpp"
#include "factors.cuh"

namespace rk::cuda {

inline constexpr int kMaxLayers = 16;

template <class A>
struct Layer {
    using Factor = typename A::Factor;
    Rows<Factor> weights;  // (outputs, inputs): W transposed, depth-contiguous
    const typename A::Sum* bias = nullptr;
    int inputs = 0, outputs = 0;
};

template <class A>
class Mlp {
   public:
    // The size in bytes of packed weights and biases of these widths.
    static long bytes(const std::vector<long>& widths) { return place(widths, nullptr, nullptr); }

    // Packs weights (in, out) and biases of any dtype into `memory`, which must outlive the map.
    Mlp(const Context& context, char* memory, const std::vector<Array>& weights,
        const std::vector<Array>& biases, Activation activation, double parameter, bool normalize);

    long inputs() const { return layers_.front().inputs; }
    long outputs() const { return layers_.back().outputs; }
    long depth() const { return long(layers_.size()); }
    bool has_bias() const { return layers_.front().bias != nullptr; }
    const std::vector<Layer<A>>& layers() const { return layers_; }
    bool normalizes() const { return normalize_; }
    Activation activation() const { return activation_; }
    typename A::Sum parameter() const { return parameter_; }

    // For every item, out(r, c) <- phi(x)(r, c) for c < outputs() and zero for outputs() <= c < padded.
    void forward(const Context& context, const Lead& lead, long rows, const Strided& x, const Strided& out,
                 long padded) const;

   private:
    void forward_layers(const Context& context, const Lead& lead, long rows, const Strided& x,
                        const Strided& out, long padded) const;
    static long place(const std::vector<long>& widths, char* memory, std::vector<Layer<A>>* layers);
    void forward_fused(const Context& context, const Lead& lead, long rows, const Strided& x,
                       const Strided& out, long padded) const;
    void forward_by_layers(const Context& context, const Lead& lead, long rows, const Strided& x,
                           const Strided& out, long padded) const;

    std::vector<Layer<A>> layers_;
    Activation activation_;
    typename A::Sum parameter_;
    bool normalize_;
};

// The features of an array's rows, or the rows themselves without a map, as factors of A.
template <class A, class M>
Factors<typename A::Factor> features(const Context& context, const Array& x, const Mlp<M>* map) {
    using F = typename A::Factor;
    if (!map) return factors<F>(context, x);
    Factors<F> out;
    const Distinct items(x);
    const long rows = x.dim(2), pitch = padded_width<F>(map->outputs());
    F* data = context.take<F>(items.items * rows * pitch);
    out.lead = items.packed(rows * pitch);
    std::vector<LeadStride> steps;
    const Lead lead = collapse(items.shape, {items.stride, out.lead}, steps);
    Strided from = strided(x);
    from.lead = steps[0];
    map->forward(context, lead, rows, from, {data, DtypeOf<F>::value, pitch, 1, steps[1]}, pitch);
    out.rows = {data, rows, pitch, int(pitch), {}};
    return out;
}

}  // namespace rk::cuda
