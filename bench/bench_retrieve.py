"""The k largest inner products with 100,000 keys of 64 features."""

import numpy as np
import pytest
import relkernels as rk


def with_numpy(q, keys, k):
    r = q @ keys.T
    best = np.argpartition(-r, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(r, best, axis=1)
    order = np.argsort(-values, axis=1)
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(best, order, axis=1)


@pytest.mark.parametrize(("n", "k"), [(1, 10), (16, 10), (1000, 1), (1000, 10), (1000, 100)])
@pytest.mark.parametrize("who", ["relkernels", "numpy"])
def test_retrieve(benchmark, points, who, n, k):
    benchmark.group = f"retrieve, {n} queries, k = {k}"
    q, keys = points(n), points(100_000)
    benchmark(rk.retrieve if who == "relkernels" else with_numpy, q, keys, k)
