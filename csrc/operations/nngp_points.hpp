// The points of nngp_kernel: coordinates in double, and the values of each layer that depend on K(l)(x, x).
#pragma once

#include "base/arrays.hpp"
#include "base/threads.hpp"
#include "kernels/table.hpp"
#include "walk/pairs.hpp"

namespace rk {

// What coefficients of Hermite series are made from (dual_series.hpp): a(z) at the nodes times the weights.
// Nodes are those z >= 0 of the trapezoidal rule; the parts of a of one parity are taken at them.
struct NngpSeries {
    Activation activation;
    double parameter;
    std::vector<double> nodes;
    // (nodes, terms), row-major: weight of the node times the orthonormal Hermite polynomial of even and of
    // odd degree.
    std::vector<double> even, odd;
    // Terms for a variance: base + rate * variance.
    double base, rate;
};

// Points of one item of a batch, a block at a time.
class LoadedPoints {
   public:
    // As many as fit in kWorkspace, at least a few hundred; a multiple of the columns of a tile.
    static long most(const NngpSpec& spec);
    static constexpr long kWorkspace = 32L << 20;

    LoadedPoints(const NngpSpec& spec, const NngpSeries* series, long most);

    // Of load() for a point, and of a layer of the recursion for a point or a pair, in multiply-adds
    // (base/threads.hpp).
    static double work(const NngpSpec& spec, const NngpSeries* series);
    static constexpr double kWorkOfLayer = 64;

    template <class T>
    void load(const Team& team, const Points<T>& x, double* tangent = nullptr);

    const NngpPoints& points() const { return points_; }
    long count() const { return count_; }

   private:
    void fill_series(long layer, long first, long count);

    const NngpSpec& spec_;
    const NngpSeries* series_;
    long count_ = 0;
    Buffer<double> x_, fields_, coefficients_;
    NngpPoints points_;
};

}  // namespace rk
