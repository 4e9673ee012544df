"""Gradients: of the feature map, and of a loss over all pairs of 4,096 objects."""

import numpy as np
import relkernels as rk


def test_feature_map_vjp(benchmark, points, phi):
    benchmark.group = "feature map vjp, n = 4096"
    x, grad = points(4096), points(4096)
    benchmark(lambda: rk.feature_map_vjp(x, phi, grad))


def test_relation_loss(benchmark, points, phi):
    benchmark.group = "squared loss over all pairs of 4,096 objects, by labels"
    x, labels = points(4096), np.arange(4096) % 10
    benchmark(lambda: rk.relation_loss(x, None, labels, phi))
