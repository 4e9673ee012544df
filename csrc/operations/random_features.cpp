// Features of a random network whose weights are generated when they are used and never stored:
//
//   h_1 = weight x W_1 / sqrt(D) + bias b_1,   h_(l+1) = weight a(h_l) W_(l+1) / sqrt(N_l) + bias b_(l+1),
//   out = weight a(h_L) / sqrt(N_L)
//
// with W and b standard normal, from the counters of kernels/philox.hpp. Threads share out the columns of a
// layer: each makes the panels of a few columns in its cache and multiplies all rows of the super-block with
// them. Hidden activations use at most kHidden bytes per layer; more rows are processed in turn, and the
// weights generated again, which costs about as much as the products of 250 rows.
#include <algorithm>
#include <cmath>

#include "base/threads.hpp"
#include "operations/operations.hpp"

namespace rk {

namespace {

constexpr long kHidden = 64L << 20;
constexpr long kPanelBytes = 256L << 10;   // of weights that a thread holds, in L2
constexpr double kWorkOfWeight = 250;      // in multiply-adds (base/threads.hpp), to generate one
constexpr long kWeights = 0, kBiases = 1;  // streams of random numbers

template <class T>
void activate(const RandomNetwork& net, T* z, long row, long rows, long cols) {
    if (!net.step) return kernels<T>().activate(net.activation, T(net.parameter), z, row, rows, cols);
    for (long i = 0; i < rows; ++i)
        for (long j = 0; j < cols; ++j) {
            const T v = z[i * row + j];
            z[i * row + j] = v == v ? T(v > 0) : v;
        }
}

// out <- a(weight in W / sqrt(depth) + bias b) of one layer, times factor.
template <class T>
void layer(const Team& team, const RandomNetwork& net, long l, const T* in, long in_row, long in_col,
           long rows, long depth, long width, T* out, long out_row, T factor) {
    const Kernels<T>& k = kernels<T>();
    const long group = k.nr * std::max(1L, kPanelBytes / (k.nr * depth * long(sizeof(T))));
    const T scale = T(net.weight_std / std::sqrt(double(depth)));
    team.for_each(ceil_div(width, group), [&](long g) {
        poll();
        Arena::Scope scratch;
        const long j0 = g * group, cols = std::min(group, width - j0), padded = round_up(cols, k.nr);
        T* panels = scratch.take<T>(padded * depth);
        k.random_panels(net.key, l, kWeights, depth, j0, cols, panels, k.nr * depth);
        T* biases = nullptr;
        if (net.bias_std > 0) {
            biases = scratch.take<T>(padded);
            k.random_panels(net.key, l, kBiases, 1, j0, cols, biases, k.nr);
            for (long j = 0; j < cols; ++j) biases[j] *= T(net.bias_std);
        }
        for (long i = 0; i < rows; i += kRowBlock) {
            const long n = std::min(kRowBlock, rows - i);
            T* to = out + i * out_row + j0;
            k.product(in + i * in_row, in_row, in_col, panels, k.nr * depth, n, cols, depth, to, out_row,
                      {.scale = scale, .bias = biases});
            activate(net, to, out_row, n, cols);
            if (factor == T(1)) continue;
            for (long r = 0; r < n; ++r)
                for (long j = 0; j < cols; ++j) to[r * out_row + j] *= factor;
        }
    });
}

}  // namespace

template <class T>
void random_features(const Array<const T>& x, const RandomNetwork& net, const Array<T>& out) {
    const long rows = x.dim(2), last = long(net.widths.size()) - 1;
    const long widest = *std::max_element(net.widths.begin(), net.widths.end());
    double work = 0;
    for (std::size_t l = 0; l < net.widths.size(); ++l)
        work +=
            (double(rows) + kWorkOfWeight) * double(l ? net.widths[l - 1] : x.dim(1)) * double(net.widths[l]);
    const Team team = team_for(work);
    const long most = last == 0 ? std::max(rows, 1L)
                                : round_up(std::max(kHidden / (widest * long(sizeof(T))), 1L), kRowBlock);
    const Buffer<T> even(last > 0 ? std::min(rows, most) * widest : 0);
    const Buffer<T> odd(last > 1 ? std::min(rows, most) * widest : 0);
    for (long i = 0; i < rows; i += most) {
        const long n = std::min(most, rows - i);
        const T* in = x.data + i * x.step(2);
        long in_row = x.step(2), in_col = x.step(1), depth = x.dim(1);
        for (long l = 0; l <= last; ++l) {
            const long width = net.widths[std::size_t(l)];
            T* to = l == last ? out.data + i * out.step(2) : (l % 2 ? odd : even).get();
            const long to_row = l == last ? out.step(2) : width;
            const T factor = l == last ? T(net.weight_std / std::sqrt(double(width))) : T(1);
            layer(team, net, l, in, in_row, in_col, n, depth, width, to, to_row, factor);
            in = to;
            in_row = width;
            in_col = 1;
            depth = width;
        }
    }
}

template void random_features(const Array<const float>&, const RandomNetwork&, const Array<float>&);
template void random_features(const Array<const double>&, const RandomNetwork&, const Array<double>&);

}  // namespace rk
