// Points of nngp_kernel: conversion to double, variances layer by layer, Hermite coefficients.
#include "operations/nngp_points.hpp"

#include <algorithm>
#include <cmath>

namespace rk {

namespace {
constexpr long kPointBlock = 96;  // a multiple of every vector's lanes
}

long LoadedPoints::most(const NngpSpec& spec) {
    const long fields = (spec.depth + 1) * NngpPoints::kFields;
    const long bytes = long(sizeof(double)) * (spec.dim + fields + spec.depth * spec.sets() * spec.terms);
    return round_up(std::max(kWorkspace / bytes, 1L), kTileColumns);
}

double LoadedPoints::work(const NngpSpec& spec, const NngpSeries* series) {
    const double nodes = series ? double(spec.sets()) * double(series->nodes.size()) : 0;
    const double layer = kWorkOfLayer + nodes * (double(spec.terms) + 2 * kWorkOfExp);
    return double(spec.dim) + double(spec.depth) * layer;
}

LoadedPoints::LoadedPoints(const NngpSpec& spec, const NngpSeries* series, long most)
    : spec_(spec),
      series_(series),
      x_(most * spec.dim),
      fields_((spec.depth + 1) * NngpPoints::kFields * round_up(most, kPointBlock)),
      coefficients_(spec.depth * spec.sets() * spec.terms * round_up(most, kPointBlock)) {
    points_.x = x_.get();
    points_.fields = fields_.get();
    points_.series = coefficients_.get();
    points_.stride = round_up(most, kPointBlock);
}

template <class T>
void LoadedPoints::load(const Team& team, const Points<T>& x, double* tangent) {
    count_ = x.count;
    team.for_each(ceil_div(count_, kPointBlock), [&](long b) {
        poll();
        const long first = b * kPointBlock, n = std::min(kPointBlock, count_ - first);
        for (long i = first; i < first + n; ++i)
            for (long k = 0; k < x.dim; ++k) x_.get()[i * x.dim + k] = double(x.at(i)[k * x.col]);
        const Kernels<double>& kernel = kernels<double>();
        kernel.nngp_variances(spec_, points_, first, n);
        for (long l = 0; l <= spec_.depth; ++l) {
            if (series_ && l < spec_.depth) fill_series(l, first, n);
            kernel.nngp_layer(spec_, points_, l, first, n, tangent);
        }
    });
}

// Coefficients of points [first, first + count) of a layer: the part of a (and of a') of one parity at
// sqrt(variance) times the nodes, times the weighted polynomials.
void LoadedPoints::fill_series(long layer, long first, long count) {
    const Kernels<double>& kernel = kernels<double>();
    const NngpSeries& s = *series_;
    const long nodes = long(s.nodes.size()), terms = spec_.terms;
    Arena::Scope scratch;
    double* at = scratch.take<double>(count * nodes);
    double* plus = scratch.take<double>(count * nodes);
    double* minus = scratch.take<double>(count * nodes);
    double* packed = scratch.take<double>(round_up(terms, kernel.nr) * nodes);
    double* result = scratch.take<double>(count * terms);
    const double* variance = points_.at(layer, NngpPoints::variance) + first;
    for (long i = 0; i < count; ++i) {
        const double root = std::sqrt(variance[i]);
        for (long k = 0; k < nodes; ++k) at[i * nodes + k] = root * s.nodes[std::size_t(k)];
        const double wanted = s.base + s.rate * variance[i];
        double& count = points_.at(layer, NngpPoints::count)[first + i];
        count = variance[i] > spec_.reach ? 0 : std::min(wanted, double(terms));  // NaN stays
    }
    for (long set = 0; set < spec_.sets(); ++set) {
        const bool odd = set == 0 ? spec_.odd : !spec_.odd;
        const auto values = [&](double sign, double* to) {
            for (long k = 0; k < count * nodes; ++k) to[k] = sign * at[k];
            if (set == 0) {
                kernel.activate(s.activation, s.parameter, to, nodes, count, nodes);
            } else {
                const double* z = to;
                Arena::Scope more;
                double* argument = more.take<double>(count * nodes);
                std::copy_n(z, count * nodes, argument);
                std::fill_n(to, count * nodes, 1.0);
                kernel.activate_vjp(s.activation, s.parameter, argument, nodes, to, nodes, count, nodes);
            }
        };
        values(1, plus);
        values(-1, minus);
        for (long k = 0; k < count * nodes; ++k)
            plus[k] = (odd ? plus[k] - minus[k] : plus[k] + minus[k]) / 2;
        const std::vector<double>& polynomials = odd ? s.odd : s.even;
        const long all = long(polynomials.size()) / nodes;
        kernel.pack(polynomials.data(), all, 1, nodes, terms, packed, kernel.nr * nodes);
        kernel.product(plus, nodes, 1, packed, kernel.nr * nodes, count, terms, nodes, result, terms, {});
        double* to = const_cast<double*>(points_.coefficients(spec_, layer, set)) + first;
        kernel.transpose(result, terms, count, terms, to, points_.stride, false);
    }
}

template void LoadedPoints::load(const Team&, const Points<float>&, double*);
template void LoadedPoints::load(const Team&, const Points<double>&, double*);

}  // namespace rk
