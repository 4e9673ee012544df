"""phi(x) through an MLP 64-256-256-64 with relu."""

import numpy as np
import pytest


def with_numpy(x, phi):
    h = x
    for w, b in zip(phi.weights[:-1], phi.biases[:-1], strict=True):
        h = h @ w
        h += b
        np.maximum(h, 0, out=h)
    return h @ phi.weights[-1] + phi.biases[-1]


@pytest.mark.parametrize("n", [1, 64, 4096, 65536])
@pytest.mark.parametrize("who", ["relkernels", "numpy"])
def test_feature_map(benchmark, points, phi, who, n):
    benchmark.group = f"feature map, n = {n}"
    x = points(n)
    benchmark(phi if who == "relkernels" else lambda x: with_numpy(x, phi), x)
