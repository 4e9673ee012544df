"""The matrix-free product sum_j exp(R_ij) v_j."""

import numpy as np
import pytest
import relkernels as rk


def with_numpy(x, v, block=2000):
    return np.concatenate([np.exp(x[i : i + block] @ x.T) @ v for i in range(0, len(x), block)])


@pytest.mark.parametrize("who", ["relkernels", "numpy"])
def test_exp_link(benchmark, points, rng, who):
    benchmark.group = "exp link, 20,000 x 20,000"
    x, v = points(20_000) / 5, rng.standard_normal(20_000, dtype=np.float32)
    if who == "relkernels":
        benchmark(lambda: rk.relation_matvec(x, x, v, link="exp"))
    else:
        benchmark(lambda: with_numpy(x, v))
