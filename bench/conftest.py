"""Data of the benchmarks: random, the same for every contestant of a workload."""

import numpy as np
import pytest
import relkernels as rk


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def points(rng):
    """points(n): n rows of 64 float32 features."""
    return lambda n: rng.standard_normal((n, 64), dtype=np.float32)


@pytest.fixture
def phi():
    return rk.MLP.random([64, 256, 256, 64])
