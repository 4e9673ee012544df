"""Networks that interpolate a relation of numbers between knots: one hidden layer of relus, any relation.

Let s_0 < ... < s_n be equal steps of the interval of x, t_0 < ... < t_m of that of y, and R = (r(s_i, t_j)) =
A B' for any factors. The piecewise linear maps with phi(s_i) = A_i and psi(t_j) = B_j have

    <phi(x), psi(y)> = sum_ij u_i(x) v_j(y) r(s_i, t_j),    u_i, v_j the hat functions,

the interpolant of r in x and y. Interpolation is an average, so the errors along x and y add:

    sup |r - <phi, psi>| <= h^2 / 8 sup |r_xx| + k^2 / 8 sup |r_yy|,   h, k the steps, or
    sup |r - <phi, psi>| <= L_x h / 2 + L_y k / 2                      for slopes of at most L_x, L_y.

With equal knots and R positive semi-definite, A = B is a root of R and one map is enough. Rounding moves the
values at the knots, and the interpolant by at most the largest of these moves, which is added.

A piecewise linear map with n intervals has n units: phi(s_0) + sum_{i<n} (slope_i - slope_{i-1})
relu(x - s_i).

Interpolants of convex functions are too large by up to h^2 / 8 r_xx. Values lowered at the knots by h^2 / 16
r_xx, from second differences, have errors of both signs and half the size up to higher orders. There is no
proof for these networks but a certificate.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ...maps.mlp import MLP
from ..certificates.relations import Function, Periodic, Polynomial, Radial, RelationOnCells

Box = np.ndarray
# Networks with more weights are counted but not built.
MOST_WEIGHTS = 1 << 24


class Interval(NamedTuple):
    """Error of n intervals: factor / n^power."""

    factor: float
    power: int

    def error(self, n: int) -> float:
        """Return the error of n intervals."""
        return self.factor / n**self.power

    def count(self, error: float) -> int:
        """Return the number of intervals with at most this error, as a number that may be huge."""
        return max(math.ceil((self.factor / error) ** (1 / self.power) * (1 - 1e-12)), 1)


def intervals(relation: RelationOnCells, x: Box, y: Box) -> tuple[Interval, Interval]:
    """Return the errors along x and along y on the boxes (1, 2)."""
    widths = [float(b[0, 1] - b[0, 0]) for b in (x, y)]
    if isinstance(relation, Function):
        if relation.slopes is not None:
            first, second = (Interval(L * w / 2, 1) for L, w in zip(relation.slopes, widths, strict=True))
            return first, second
        assert relation.bend is not None
        bends = [relation.bend] * 2
    elif isinstance(relation, Polynomial):
        bends = []
        p, far = relation.degree, [float(np.abs(b).max()) for b in (x, y)]
        for other in far[::-1]:
            steep = (relation.offset + far[0] * far[1]) ** max(p - 2, 0)
            bends.append(p * (p - 1) * other**2 * steep)
    elif isinstance(relation, Radial) and relation.name == "laplace":
        first, second = (Interval(w / relation.length / 2, 1) for w in widths)
        return first, second
    else:
        # |r''| is largest at 0: r is an average of cosines, r'' of -w^2 cos.
        assert isinstance(relation, (Radial, Periodic))
        bend = 1 / relation.length**2
        if isinstance(relation, Periodic):
            bend *= (2 * math.pi / relation.period) ** 2
        elif relation.name == "matern32":
            bend *= 3
        bends = [bend, bend]
    first, second = (Interval(K * w * w / 8, 2) for K, w in zip(bends, widths, strict=True))
    return first, second


def cheapest(x: Interval, y: Interval, eps: float, twins: bool) -> tuple[int, int]:
    """Return the least numbers of intervals with an error of at most eps, equal ones for twins."""
    if twins:
        n = Interval(x.factor + y.factor, x.power).count(eps)
        return n, n
    # f / n^p + g / m^p with the least n + m: both near (f^q + g^q)^(1/p) f^(1/(p + 1)), q = 1 / (p + 1).
    p = x.power
    total = (x.factor ** (1 / (p + 1)) + y.factor ** (1 / (p + 1))) / eps
    n = max(int(total ** (1 / p) * x.factor ** (1 / (p + 1))), 1)
    best = (math.inf, 1, 1)
    for each in range(max(n - 20, 1), n + 21):
        left = eps - x.error(each)
        if left > 0:
            other = y.count(left)
            best = min(best, (each + other, each, other))
    return int(best[1]), int(best[2])


def piecewise_linear(knots: np.ndarray, values: np.ndarray) -> MLP:
    """Return the map of one hidden layer that is linear between knots and has these values (n + 1, d)."""
    slopes = np.diff(values, axis=0) / np.diff(knots)[:, None]
    last = np.diff(slopes, axis=0, prepend=np.zeros((1, values.shape[1])))
    return MLP([np.ones((1, len(last))), last], [-knots[:-1], values[0].copy()])


def lowered(values: np.ndarray) -> np.ndarray:
    """Return values lowered by a sixteenth of their second differences, along the first axis."""
    if len(values) < 3:
        return values
    bends = np.diff(values, 2, axis=0)
    found: np.ndarray = values - np.concatenate([bends[:1], bends, bends[-1:]]) / 16
    return found


def interpolant(
    relation: RelationOnCells, x: Box, y: Box, n: int, m: int, one_map: bool, lower: bool
) -> tuple[MLP, MLP, float]:
    """Return the maps with n and m intervals, and the largest error of their values at the knots.

    With `one_map`, negative eigenvalues of R count as errors.
    """
    s, t = (np.linspace(b[0, 0], b[0, 1], k + 1) for b, k in ((x, n), (y, m)))
    R = relation.at(s[:, None], t[:, None])
    return through(s, t, lowered(lowered(R).T).T if lower else R, one_map)


def through(
    s: np.ndarray, t: np.ndarray, R: np.ndarray, one_map: bool, n_features: int | None = None
) -> tuple[MLP, MLP, float]:
    """Return the maps with knots s and t whose inner products there are R, and their largest error there.

    `n_features` leaves out the smallest terms of the factorisation of R.
    """
    if one_map:
        values, vectors = np.linalg.eigh((R + R.T) / 2)
        kept = values > 1e-15 * values[-1]
        if n_features is not None:
            kept[:-n_features] = False
        A = B = vectors[:, kept] * np.sqrt(values[kept])
    else:
        left, values, right = np.linalg.svd(R, full_matrices=False)
        kept = values > 1e-15 * values[0]
        if n_features is not None:
            kept[n_features:] = False
        A, B = left[:, kept] * np.sqrt(values[kept]), right[kept].T * np.sqrt(values[kept])
    if not kept.any():
        A, B = np.zeros((len(s), 1)), np.zeros((len(t), 1))
    phi = piecewise_linear(s, A)
    psi = phi if one_map else piecewise_linear(t, B)
    return phi, psi, float(np.abs(R - A @ B.T).max())
