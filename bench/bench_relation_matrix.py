"""Symmetric and asymmetric relation matrices of 64 features, and of many small sets through an MLP."""

import numpy as np
import pytest
import relkernels as rk


@pytest.mark.parametrize("n", [256, 2048, 8192])
@pytest.mark.parametrize("who", ["relkernels", "numpy"])
def test_symmetric(benchmark, points, who, n):
    benchmark.group = f"symmetric relation from features, n = {n}"
    benchmark(rk.relation_matrix if who == "relkernels" else lambda x: x @ x.T, points(n))


@pytest.mark.parametrize("n", [256, 2048, 8192])
@pytest.mark.parametrize("who", ["relkernels", "numpy"])
def test_asymmetric(benchmark, points, who, n):
    benchmark.group = f"asymmetric relation from features, n = {n}"
    benchmark(rk.relation_matrix if who == "relkernels" else lambda x, y: x @ y.T, points(n), points(n))


def test_many_small_sets(benchmark, rng):
    benchmark.group = "256 sets of 32 objects, MLP 32-64-64-16"
    x = rng.standard_normal((256, 32, 32), dtype=np.float32)
    phi = rk.MLP.random([32, 64, 64, 16])
    benchmark(lambda: rk.relation_matrix(x, phi=phi))
