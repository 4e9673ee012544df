"""Kernels of wide networks, and the random features whose inner products approximate them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...maps.mlp import MLP
from ...ops.nngp import nngp_kernel
from ..workload import FLOAT32, OURS, Entry, Workload, points

D = 64
# Of the layer of random features.
INPUTS, NEURONS = 1024, 8192
# Of the peer for tanh, which has no closed form: an error of 2e-3, compared with 1e-14 for ours.
NODES = 24


class Data(NamedTuple):
    """Points, and the kernel."""

    x: np.ndarray
    depth: int
    activation: str
    kind: str


class FeaturesData(NamedTuple):
    """Rows, the estimator, and its weights in memory, scaled so that the features are relu(x W)."""

    x: np.ndarray
    features: Any
    weights: np.ndarray


def with_relkernels(data: Data) -> Entry:
    """Ours."""
    x, depth, activation, kind = data
    return Entry(lambda: nngp_kernel(x, depth=depth, activation=activation, kind=kind))


def with_numpy(data: Data) -> Entry:
    """Follow the recursion in the precision of x, with weight_std² = 2 and no biases."""
    x, depth, activation, kind = data
    if activation == "relu":
        return Entry(lambda: _relu(x, depth, kind == "ntk"))
    layer = {"erf": _erf, "gelu": _gelu, "tanh": _tanh}[activation]

    def call() -> np.ndarray:
        p, k = _first_layer(x)
        for _ in range(depth):
            k = layer(p, k)
            p = np.diag(k).copy()
        return k

    return Entry(call)


def _first_layer(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the diagonal of 2 x x' / D, and the matrix."""
    x = 2**0.5 * x
    return (x * x).mean(axis=1), x @ x.T / x.shape[1]


def _relu(x: np.ndarray, depth: int, tangent: bool) -> np.ndarray:
    p, k = _first_layer(x)  # relu with weight_std² = 2 keeps the diagonal
    t = k
    for _ in range(depth):
        m = np.sqrt(np.outer(p, p))
        angle = np.arccos(np.clip(k / m, -1, 1))
        k = m / np.pi * (np.sin(angle) + (np.pi - angle) * np.cos(angle))
        if tangent:
            t = k + t * (1 - angle / np.pi)
    return t if tangent else k


def _erf(p: np.ndarray, k: np.ndarray) -> np.ndarray:
    return 4 / np.pi * np.arcsin(2 * k / np.sqrt((1 + 2 * p)[:, None] * (1 + 2 * p)))


def _gelu(p: np.ndarray, k: np.ndarray) -> np.ndarray:
    outer = (1 + p)[:, None] * (1 + p)
    side = np.sqrt(outer - k * k)
    bent = p[:, None] * p - k * k + k * k * (1 / (1 + p)[:, None] + 1 / (1 + p))
    return 2 * (k / 4 + k / (2 * np.pi) * np.arcsin(k / np.sqrt(outer)) + bent / (2 * np.pi * side))


def _tanh(p: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Gauss-Hermite quadrature in both dimensions."""
    z, w = np.polynomial.hermite_e.hermegauss(NODES)
    w = w / w.sum()
    root = np.sqrt(p)
    cos = np.clip(k / np.outer(root, root), -1, 1)
    sin = np.sqrt(1 - cos * cos)
    left = np.tanh(root[:, None] * z)
    out = np.zeros_like(k)
    for a in range(NODES):
        inner = np.zeros_like(k)
        for b in range(NODES):
            inner += w[b] * np.tanh(root * (cos * z[a] + sin * z[b]))
        out += 2 * w[a] * left[:, a, None] * inner
    return out


def features_with_relkernels(data: FeaturesData) -> Entry:
    """Ours, which generates the weights as they are multiplied."""
    return Entry(lambda: data.features.transform(data.x))


def _relu_of(product: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> Entry:
    def call() -> np.ndarray:
        f = product(x)
        return np.maximum(f, 0, out=f)

    return Entry(call)


def features_with_stored_weights(data: FeaturesData) -> Entry:
    """Our product with weights in memory."""
    return _relu_of(MLP([data.weights]), data.x)


def features_with_numpy(data: FeaturesData) -> Entry:
    """BLAS with weights in memory."""
    return _relu_of(lambda x: x @ data.weights, data.x)


def _kernel(activation: str, kind: str, dtype: str, size: int, depth: int, tolerance: float) -> Workload:
    width = np.dtype(dtype).itemsize
    return Workload(
        family="nngp_kernel",
        series=f"{kind}_{activation}_{dtype}",
        size=size,
        title=f"{kind} kernel of {activation}, depth {depth}, n = {{size}}, {dtype}",
        flops=1.0 * D * size * size,
        read=1.0 * width * size * D,
        written=1.0 * width * size * size,
        limit=f"fma_{dtype}",
        data=lambda: Data(points(size).astype(dtype), depth, activation, kind),
        contestants={OURS: with_relkernels, "numpy": with_numpy},
        tolerance=tolerance,
        quick=size == 64,
    )


def _features_data(n: int) -> FeaturesData:
    from ...estimators.random_features import MultiLayerRandomFeatures

    x = points(n, INPUTS)
    features = MultiLayerRandomFeatures((NEURONS,), random_state=0).fit(x)
    # The layer computes sqrt(2 / NEURONS) relu(sqrt(2 / INPUTS) x W).
    weights = features.weights(0)[0] * (2 / (INPUTS * NEURONS) ** 0.5)
    return FeaturesData(x, features, weights.astype(np.float32))


def _features(n: int) -> Workload:
    return Workload(
        family="nngp_kernel",
        series="random_features",
        size=n,
        title=f"random features, {INPUTS:,} inputs, {NEURONS:,} neurons, n = {{size}}",
        flops=2.0 * n * INPUTS * NEURONS,
        read=4.0 * n * INPUTS,
        written=4.0 * n * NEURONS,
        limit="fma_float32",
        data=partial(_features_data, n),
        contestants={
            OURS: features_with_relkernels,
            "stored weights": features_with_stored_weights,
            "numpy": features_with_numpy,
        },
        quick=n == 1,
    )


# Arccosines of rounded cosines near 1, on the diagonal, keep half of the digits; the tangent kernel shows it.
_TANGENT = {"float32": 2e-4, "float64": 1e-6}

WORKLOADS = [
    *(_kernel("relu", "nngp", "float32", n, 3, FLOAT32) for n in (64, 2000)),
    *(_kernel("relu", "nngp", "float64", n, 3, 1e-6) for n in (64, 2000)),
    *(_kernel("relu", "ntk", dtype, n, 3, _TANGENT[dtype]) for dtype in _TANGENT for n in (64, 2000)),
    *(_kernel(name, "nngp", "float64", n, 3, 1e-12) for name in ("erf", "gelu") for n in (64, 2000)),
    *(_kernel("tanh", "nngp", "float64", n, 2, 5e-3) for n in (64, 400)),
    *(_features(n) for n in (1, 250, 2000)),
]
