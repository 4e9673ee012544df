"""Spectral measures of kernels as sums of few cosines, with a bound of the error.

Gaussian kernel: m nodes of Gauss and Hermite per coordinate. The error e_j in one coordinate is a function of
a number h whose second derivative is at most (sum_q p_q w_q^2 + 1 / l^2), so that its largest value on a grid
of step g, plus g^2 / 8 times that, bounds it. The product of D factors, each at most 1 in size, is off by at
most prod_j (1 + e_j) - 1.

Periodic kernel: its Fourier series, exp(-1/l^2) I_k(1/l^2) at 2 pi k / p; the error is the mass left out.

w and -w have the same cosine: only one of them is kept, with both weights.

Random directions (Gaussian, Matern 3/2, any dimension): M independent draws of w with p = 1 / M. At one h the
mean of M cosines is off by more than t with a probability of at most 2 exp(-M t^2 / (1 + 4 t / 3))
(Bernstein: |cos - k| <= 2, and its variance (1 + k(2h)) / 2 - k(h)^2 is at most 1/2 since k(2h) <= 2 k(h)^2).
With G points per coordinate, every h is within (1/G) of a point in units of the half-widths, and error and
kernel have slopes of at most the mean of |w| over the draws, S, and over the law, S_0:

    sup_h |...| <= t + 2 (S + S_0) / G     with probability 1 - G^D exp(-M t^2 / (1 + 4 t / 3)),

where -h need not be tested separately, and |w| = sum_j |w_j| (high_j - low_j) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from ..certificates.relations import Periodic, Radial
from .ridges import Directions, spans

_GRID = 4001
# At most this many directions.
_MOST = 1 << 17
# Probability with which random directions fail.
FAILURE = 0.01


def _halved(p: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep one of w and -w, with both weights: the one whose first coordinate that is not 0 is positive."""
    first = (w != 0).argmax(axis=1)
    sign = np.sign(w[np.arange(len(w)), first])
    kept = sign >= 0
    return np.where(sign > 0, 2 * p, p)[kept], w[kept]


def _products(rules: list[tuple[np.ndarray, np.ndarray]], least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the products of rules (p, w) per coordinate, without those of weight below `least`."""
    p, w = np.ones(1), np.zeros((1, 0))
    for weights, nodes in rules:
        product = p[:, None] * weights
        i, j = np.nonzero(product > least)
        if len(i) > _MOST:
            return np.zeros(0), np.zeros((0, len(rules)))
        p, w = product[i, j], np.concatenate([w[i], nodes[j, None]], axis=1)
    return p, w


def _dropped(p: np.ndarray) -> float:
    """Return the mass that is left out, of measures of mass 1."""
    return max(1.0 - float(p.sum()), 0.0)


@lru_cache(maxsize=1024)
def _rule(m: int, length: float, width: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Return weights and nodes of Gauss and Hermite, and the error for |h| <= width."""
    nodes, p = np.polynomial.hermite_e.hermegauss(m)
    p, nodes = p / p.sum(), np.where(np.abs(nodes) < 1e-12, 0.0, nodes) / length
    bend = float(p @ nodes**2) + 1 / length**2
    h = np.linspace(0, width, _GRID)
    off = np.abs(np.cos(np.outer(h, nodes)) @ p - np.exp(h * h / (-2 * length**2))).max()
    return p, nodes, float(off) + bend * (width / (_GRID - 1)) ** 2 / 8 + 1e-14


def gauss_hermite(kernel: Radial, box: np.ndarray, eps: float) -> Iterator[Directions]:
    """Return products of rules with more and more nodes, while they have an error below eps."""
    D, width = len(box), box[:, 1] - box[:, 0]
    for m in range(1, 65):
        rules = [_rule(m, kernel.length, float(w)) for w in width]
        error = math.prod(1 + each[2] for each in rules) - 1
        if error >= eps:
            continue
        weights, directions = _products([each[:2] for each in rules], 1e-4 * eps / m**D)
        if not len(weights):
            return
        error += _dropped(weights)
        if error < eps:
            yield Directions(*_halved(weights, directions), error)
        if error < eps / 50:
            return


def fourier(kernel: Periodic, box: np.ndarray, eps: float) -> Iterator[Directions]:
    """Return the product of the Fourier series."""
    from scipy.special import ive

    top = 8 + int(12 / kernel.length + 4 / kernel.length**2)
    k = np.arange(-top, top + 1)
    p = ive(np.abs(k), 1 / kernel.length**2)
    for cut in (0.1, 0.02):
        weights, directions = _products(
            [(p, 2 * math.pi * k / kernel.period)] * len(box), cut * eps / (4 * top) ** len(box)
        )
        if len(weights):
            yield Directions(*_halved(weights, directions), _dropped(weights) + 1e-13)


def random_directions(
    kernel: Radial, box: np.ndarray, eps: float, rng: np.random.Generator
) -> Iterator[Directions]:
    """Return draws of different sizes; each error holds with probability 1 - FAILURE over the draws."""
    D, half = len(box), (box[:, 1] - box[:, 0]) / 2
    scale = 1 / kernel.length
    mean = math.sqrt(2 / math.pi) * scale * float(half.sum())
    if kernel.name == "matern32":
        mean *= math.sqrt(6 / math.pi)  # E (3 / chi^2_3)^(1/2)
    shares = (0.25, 0.35, 0.45, 0.55, 0.65)
    for share in shares:
        t, net = share * eps, 0.05 * eps
        G = math.ceil(2 * 2.1 * mean / net)
        log = D * math.log(G) + math.log(len(shares) / FAILURE)
        M = math.ceil((1 + 4 * t / 3) * log / t**2)
        if M > _MOST:
            continue
        w = rng.standard_normal((M, D)) * scale
        if kernel.name == "matern32":
            w /= np.sqrt(rng.chisquare(3, M) / 3)[:, None]
        slope = float(spans(w, box).mean()) / 2
        yield Directions(np.full(M, 1 / M), w, t + 2 * (slope + mean) / G)
