"""Attention with 64 features and values."""

import numpy as np
import pytest
import relkernels as rk


def with_numpy(q, k, v, causal):
    r = q @ k.T * np.float32(1 / 8)
    if causal:
        r[np.triu_indices(len(q), 1)] = -np.inf
    r -= r.max(axis=1, keepdims=True)
    np.exp(r, out=r)
    return r @ v / r.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [512, 4096])
@pytest.mark.parametrize("who", ["relkernels", "numpy"])
def test_attention(benchmark, points, who, n, causal):
    benchmark.group = f"attention, n = {n}, causal = {causal}"
    q, k, v = points(n), points(n), points(n)
    if who == "relkernels":
        benchmark(lambda: rk.attention(q, k, v, causal=causal))
    else:
        benchmark(lambda: with_numpy(q, k, v, causal))


def test_one_query(benchmark, points):
    benchmark.group = "attention of one query over 65,536 keys"
    q, k, v = points(1), points(65536), points(65536)
    benchmark(lambda: rk.attention(q, k, v))
