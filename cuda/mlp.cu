#include "mlp.cuh"

#include "activations.cuh"
#include "normalize.cuh"

namespace rk::cuda {

namespace {

// ---- All layers in one launch

template <class A>
struct FusedMlp {
    Layer<A> layers[kMaxLayers];
    int depth;
    Activation activation;
    typename A::Sum parameter;
    Lead lead;
    unsigned rows;  // of an item; 32 bits: GPUs divide 64-bit integers by a function call
    Strided x, out;
    int padded;  // columns of out
    int widest;  // of inputs and hidden layers
};

// Bytes of a row of activations: whole tiles of columns, and 16 bytes that avoid bank conflicts.
template <class A>
RK_HOST_DEVICE long activation_pitch(int widest) {
    return round_up(widest, kTileColumns) * long(sizeof(typename A::Factor)) + 16;
}

template <class A>
RK_HOST_DEVICE long fused_bytes(int block_rows, int widest) {
    return 2 * block_rows * activation_pitch<A>(widest) + 2 * kTileColumns * kStagePitch +
           block_rows * SharedLayout::staged_pitch<A>() * long(sizeof(typename A::Sum));
}

// The next stage of weights to load: layer, tile of outputs, step of the depth.
template <class A>
struct Cursor {
    int layer = 0, tile = 0, step = 0;

    RK_DEVICE bool more(const FusedMlp<A>& net) const { return layer < net.depth; }
    RK_DEVICE void advance(const FusedMlp<A>& net) {
        const Layer<A>& l = net.layers[layer];
        if (++step * kDepthBytes < l.inputs * int(sizeof(typename A::Factor))) return;
        step = 0;
        if (++tile * kTileColumns < l.outputs) return;
        tile = 0;
        ++layer;
    }
};

template <class A>
RK_KERNEL(32 * kMaxWarps)
map_rows(const __grid_constant__ FusedMlp<A> net) {
    using F = typename A::Factor;
    using Sum = typename A::Sum;
    constexpr int kStagedPitch = SharedLayout::staged_pitch<A>();
    constexpr int kStepElements = kDepthBytes / int(sizeof(F));
    const long pitch = activation_pitch<A>(net.widest);
    const int lane = lane_index(), warp_row = 16 * warp_index();
    // A warp accesses the activations of its own rows only.
    char* memory = shared_memory();
    const int block_rows = block_threads() / 2;  // 16 a warp
    char* activations[2] = {memory + warp_row * pitch, memory + (block_rows + warp_row) * pitch};
    char* stages = memory + 2 * block_rows * pitch;
    Sum* staged = reinterpret_cast<Sum*>(stages + 2 * kTileColumns * kStagePitch) + warp_row * kStagedPitch;
    const unsigned first = block_index() * unsigned(block_rows) + unsigned(warp_row),
                   total = unsigned(net.lead.items()) * net.rows;

    const auto issue = [&](const Cursor<A>& at, int count) {
        const Layer<A>& layer = net.layers[at.layer];
        load_depth(stages + count % 2 * kTileColumns * kStagePitch, kStagePitch, layer.weights,
                   layer.weights.data, layer.weights.count, long(at.tile) * kTileColumns, kTileColumns,
                   long(at.step) * kDepthBytes);
        commit_copies();
    };
    Cursor<A> next;
    int count = 0;  // of stages multiplied
    issue(next, 0);
    next.advance(net);

    for (int r = 0; r < 16; ++r) {
        F* to = reinterpret_cast<F*>(activations[0] + r * pitch);
        const bool inside = first + unsigned(r) < total;
        const unsigned at = inside ? first + unsigned(r) : 0;
        const long from = net.x.lead.offset(net.lead, at / net.rows) + long(at % net.rows) * net.x.row;
        const int inputs = net.layers[0].inputs;
        for (int c = lane; c < round_up(inputs, kTileColumns); c += 32)
            narrow(inside && c < inputs ? load_element<Sum>(net.x.data, net.x.dtype, from + c * net.x.column)
                                        : Sum(0),
                   to[c]);
    }
    sync_warp();

    for (int l = 0; l < net.depth; ++l) {
        const Layer<A>& layer = net.layers[l];
        const bool last = l + 1 == net.depth;
        const char* in = activations[l % 2];
        for (int tile = 0; tile * kTileColumns < layer.outputs; ++tile) {
            Sum acc[A::kRows][A::kColumns];
#pragma unroll
            for (int i = 0; i < A::kRows; ++i)
#pragma unroll
                for (int j = 0; j < A::kColumns; ++j) acc[i][j] = 0;
            for (int k = 0; k < layer.inputs; k += kStepElements, ++count) {
                wait_copies<0>();
                sync_block();  // the stage has arrived, and all warps have read the one before
                if (next.more(net)) {
                    issue(next, count + 1);
                    next.advance(net);
                }
                const int depth = min(kStepElements, int(round_up(layer.inputs - k, A::kStep)));
                A::template multiply<1>(
                    acc, reinterpret_cast<const F*>(in) + k, int(pitch / long(sizeof(F))),
                    reinterpret_cast<const F*>(stages + count % 2 * kTileColumns * kStagePitch),
                    kStagePitch / int(sizeof(F)), depth);
            }
            A::template stage_weights<1>(acc, staged);
            for (int r = 0; r < 16; ++r) {
                const bool inside = first + unsigned(r) < total;
                const unsigned at = inside ? first + unsigned(r) : 0;
                const long to =
                    last ? net.out.lead.offset(net.lead, at / net.rows) + long(at % net.rows) * net.out.row
                         : 0;
                for (int e = lane; e < kTileColumns; e += 32) {
                    const int c = tile * kTileColumns + e;
                    Sum z = staged[r * kStagedPitch + e];
                    if (c < layer.outputs && layer.bias) z += layer.bias[c];
                    if (c >= layer.outputs) z = 0;
                    if (last) {
                        if (inside && c < net.padded)
                            store_element(net.out.data, net.out.dtype, to + c * net.out.column, z);
                    } else {
                        z = c < layer.outputs ? activate(net.activation, net.parameter, z) : Sum(0);
                        narrow(z, reinterpret_cast<F*>(activations[(l + 1) % 2] + r * pitch)[c]);
                    }
                }
            }
            sync_warp();
        }
    }
}

// ---- One layer at a time: a product, and a consumer that applies bias and activation

template <class A, int G>
struct EndLayer : Stateless {
    using Sum = typename A::Sum;
    using Factor = typename A::Factor;
    static constexpr int kProducts = 1, kValueTiles = 0;
    static constexpr int kPitch = SharedLayout::staged_pitch<A>();
    struct Parameters {
        const Sum* bias;
        bool hidden;
        Activation activation;
        Sum parameter;
        Lead lead;      // of out; the rows of all items are numbered consecutively
        unsigned rows;  // of an item
        Strided out;
        long padded;  // columns of out
    };
    static long shared_bytes(const Parameters&, int block_rows) {
        return block_rows * kPitch * long(sizeof(Sum));
    }

    const Parameters& q;
    long row0, count, outputs;
    Sum* staged;

    RK_DEVICE EndLayer(const Parameters& parameters, const Pairs<Factor>& p, const Place& place, char* memory)
        : q(parameters),
          row0(place.first_row + 16 * G * warp_index()),
          count(p.rows[0].count),
          outputs(p.columns[0].count),
          staged(reinterpret_cast<Sum*>(memory) + 16 * G * warp_index() * kPitch) {}
    RK_DEVICE Span columns() const { return {0, outputs}; }
    RK_DEVICE void accept(Sum (&acc)[1][A::kRows * G][A::kColumns], long tile, const char*, char*) const {
        A::template stage_weights<G>(acc[0], staged);
        for (int r = 0; r < 16 * G && row0 + r < count; ++r) {
            const unsigned at = unsigned(row0 + r);
            const long to = q.out.lead.offset(q.lead, at / q.rows) + long(at % q.rows) * q.out.row;
            for (int e = lane_index(); e < kTileColumns; e += 32) {
                const long c = tile * kTileColumns + e;
                if (c >= q.padded) break;
                Sum z = c < outputs ? staged[r * kPitch + e] : Sum(0);
                if (c < outputs && q.bias) z += q.bias[c];
                if (c < outputs && q.hidden) z = activate(q.activation, q.parameter, z);
                store_element(q.out.data, q.out.dtype, to + c * q.out.column, z);
            }
        }
    }
};

// The strides of matrices of `elements` elements, one after the other.
LeadStride row_major(const Lead& lead, long elements) {
    LeadStride s;
    for (int i = lead.dims; i-- > 0; elements *= lead.size[i]) s.step[i] = elements;
    return s;
}

}  // namespace

template <class A>
long Mlp<A>::place(const std::vector<long>& widths, char* memory, std::vector<Layer<A>>* layers) {
    using F = typename A::Factor;
    long at = 0;
    for (std::size_t l = 0; l + 1 < widths.size(); ++l) {
        const long pitch = padded_width<F>(widths[l]);
        Layer<A> layer;
        layer.inputs = int(widths[l]);
        layer.outputs = int(widths[l + 1]);
        layer.weights = {reinterpret_cast<F*>(memory + at), widths[l + 1], pitch, int(pitch), {}};
        at += round_up(widths[l + 1] * pitch * long(sizeof(F)), 256);
        layer.bias = reinterpret_cast<typename A::Sum*>(memory + at);
        at += round_up(widths[l + 1] * long(sizeof(typename A::Sum)), 256);
        if (layers) layers->push_back(layer);
    }
    return at;
}

template <class A>
Mlp<A>::Mlp(const Context& context, char* memory, const std::vector<Array>& weights,
            const std::vector<Array>& biases, Activation activation, double parameter, bool normalize)
    : activation_(activation), parameter_(typename A::Sum(parameter)), normalize_(normalize) {
    using F = typename A::Factor;
    std::vector<long> widths = {weights.at(0).dim(2)};
    for (const Array& w : weights) widths.push_back(w.dim(1));
    place(widths, memory, &layers_);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
        Layer<A>& layer = layers_[l];
        const Strided from = {weights[l].data, weights[l].dtype, weights[l].step(1), weights[l].step(2), {}};
        copy_matrices(context, {}, layer.outputs, layer.inputs, layer.weights.pitch, from,
                      {const_cast<F*>(layer.weights.data), DtypeOf<F>::value, layer.weights.pitch, 1, {}});
        if (biases.empty()) {
            layer.bias = nullptr;
            continue;
        }
        copy_matrices(context, {}, 1, layer.outputs, layer.outputs,
                      {biases[l].data, biases[l].dtype, 0, biases[l].step(1), {}},
                      {const_cast<typename A::Sum*>(layer.bias),
                       DtypeOf<typename A::Sum>::value,
                       layer.outputs,
                       1,
                       {}});
    }
}

template <class A>
void Mlp<A>::forward(const Context& context, const Lead& lead, long rows, const Strided& x,
                     const Strided& out, long padded) const {
    if (rows * lead.items() == 0) return;
    if (rows * lead.items() > 0x7fffffffL) throw std::invalid_argument("expected fewer than 2^31 rows");
    if (normalize_) {
        using Sum = typename A::Sum;
        const Strided z = {context.take<Sum>(rows * lead.items() * outputs()), DtypeOf<Sum>::value, outputs(),
                           1, row_major(lead, rows * outputs())};
        forward_layers(context, lead, rows, x, z, outputs());
        normalize_rows(context, lead, rows, outputs(), padded, z, out);
    } else {
        forward_layers(context, lead, rows, x, out, padded);
    }
    check_launch("feature_map");
}

template <class A>
void Mlp<A>::forward_layers(const Context& context, const Lead& lead, long rows, const Strided& x,
                            const Strided& out, long padded) const {
    int widest = 0;
    for (const Layer<A>& layer : layers_) widest = std::max(widest, layer.inputs);
    if (depth() <= kMaxLayers && fused_bytes<A>(16, widest) <= context.shared_bytes)
        forward_fused(context, lead, rows, x, out, padded);
    else
        forward_by_layers(context, lead, rows, x, out, padded);
}

template <class A>
void Mlp<A>::forward_fused(const Context& context, const Lead& lead, long rows, const Strided& x,
                           const Strided& out, long padded) const {
    FusedMlp<A> net;
    net.depth = int(depth());
    net.widest = 0;
    for (std::size_t l = 0; l < layers_.size(); ++l) {
        net.layers[l] = layers_[l];
        net.widest = std::max(net.widest, layers_[l].inputs);
    }
    net.activation = activation_;
    net.parameter = parameter_;
    net.lead = lead;
    net.rows = unsigned(rows);
    net.x = x;
    net.out = out;
    net.padded = int(padded);
    // Each block reads all weights: as many rows per block as fit, unless multiprocessors would be idle.
    const long total = rows * lead.items();
    const auto suits = [&](long warps) {
        return fused_bytes<A>(int(16 * warps), net.widest) <= context.shared_bytes &&
               total > 16 * warps * context.multiprocessors / 2;
    };
    const int warps = suits(kMaxWarps) ? kMaxWarps : suits(2) ? 2 : 1;
    launch(map_rows<A>, ceil_div(total, 16L * warps), 1, 32 * warps, fused_bytes<A>(16 * warps, net.widest),
           context.stream, net);
}

template <class A>
void Mlp<A>::forward_by_layers(const Context& context, const Lead& lead, long rows, const Strided& x,
                               const Strided& out, long padded) const {
    using F = typename A::Factor;
    using Consumer = EndLayer<A, 1>;
    const long total = rows * lead.items();
    long widest = layers_.front().weights.pitch;
    for (const Layer<A>& layer : layers_) widest = std::max(widest, padded_width<F>(layer.outputs));
    F* buffers[2] = {context.take<F>(total * widest), context.take<F>(total * widest)};
    Rows<F> h = {buffers[0], total, layers_.front().weights.pitch, layers_.front().weights.width, {}};
    copy_matrices(context, lead, rows, inputs(), h.pitch, x,
                  {buffers[0], DtypeOf<F>::value, h.pitch, 1, row_major(lead, rows * h.pitch)});
    for (std::size_t l = 0; l < layers_.size(); ++l) {
        const Layer<A>& layer = layers_[l];
        const bool hidden = l + 1 < layers_.size();
        Pairs<F> p;
        p.rows[0] = h;
        p.columns[0] = layer.weights;
        p.row_blocks = unsigned(ceil_div(total, 64));
        typename Consumer::Parameters q = {layer.bias, hidden,         activation_, parameter_,
                                           lead,       unsigned(rows), out,         padded};
        if (hidden) {
            h = {buffers[(l + 1) % 2],
                 total,
                 padded_width<F>(layer.outputs),
                 int(padded_width<F>(layer.outputs)),
                 {}};
            q.lead = {};
            q.rows = unsigned(total);
            q.out = {buffers[(l + 1) % 2], DtypeOf<F>::value, h.pitch, 1, {}};
            q.padded = h.pitch;
        }
        launch_walk<A, 1, Consumer>(context, p,
                                    grid_of_tiles(p.row_blocks, layer.outputs, context.multiprocessors), q);
    }
}

#define RK_INSTANTIATE(A) template class Mlp<A>;
RK_INSTANTIATE(Fma<float>)
RK_INSTANTIATE(Fma<double>)
RK_INSTANTIATE(Tf32)
RK_INSTANTIATE(Half<bfloat16>)
RK_INSTANTIATE(Half<float16>)

}  // namespace rk::cuda
