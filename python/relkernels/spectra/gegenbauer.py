"""Gegenbauer polynomials, and quadrature for means over the sphere of functions of <x, y>."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from ..base import check


def polynomials(t: np.ndarray, dimension: int, degrees: int) -> Iterator[np.ndarray]:
    """Yield P_0(t), P_1(t), ... of the sphere in this many dimensions, normalised to P_k(1) = 1."""
    n = dimension
    before, now = np.zeros_like(t), np.ones_like(t)
    for k in range(degrees):
        yield now
        # (k + n - 2) P_(k+1) = (2k + n - 2) t P_k - k P_(k-1)
        before, now = now, t if k == 0 else ((2 * k + n - 2) * t * now - k * before) / (k + n - 2)


@lru_cache(maxsize=16)
def _gauss(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the Gauss-Legendre rule on [-1, 1]."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    x.flags.writeable = w.flags.writeable = False
    return x, w


def quadrature(dimension: int, breaks: Sequence[float], nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return values of t = <x, y> and weights, for means over the sphere with `nodes` nodes a piece."""
    n = dimension
    jumps = sorted(check.numbers("breaks", breaks).ravel().tolist())
    if jumps and not (jumps[0] > -1 and jumps[-1] < 1):
        outside = next(t for t in jumps if not -1 < t < 1)
        check.fail("breaks", "numbers between -1 and 1", outside)
    edges = np.array([0.0, *np.arccos(jumps[::-1]), np.pi])
    x, w = _gauss(nodes)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    angle = (middle[:, None] + half[:, None] * x).ravel()
    # |S^(n-2)| / |S^(n-1)|
    ratio = math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2)) / math.sqrt(math.pi)
    return np.cos(angle), np.sin(angle) ** (n - 2) * (half[:, None] * w).ravel() * ratio
