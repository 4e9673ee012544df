"""Networks of one hidden layer from a quadrature of the spectral measure, in any dimension.

Let k(h) = sum_q p_q cos(w_q.h) up to e_q on the differences of the box, p_q > 0. The features sqrt(p_q)
(cos, sin)(w_q.x) have this sum as their inner product. z = w_q.x is in an interval of length 2 a_q =
sum_j |w_qj| (high_j - low_j), and both functions of z are interpolated at the same knots, n_q intervals of
length s = 2 a_q / n_q: n_q relus of the same direction, which serve both features. The constant (w = 0) needs
no unit, and a direction with n_q = 0 is dropped, with an error of p_q.

*Error of a direction.* As a complex number the interpolant of exp(iz) at tau from the middle of an interval
is exp(iz) g(tau), g = (cos(s/2) + i (2 tau / s) sin(s/2)) exp(-i tau), so that the inner product is
Re exp(i(z - z')) g conj(g'). For s <= pi, Re g increases in |tau| from b = cos(s/2) to 1. Im g is 0 at 0 and
at s / 2, and its second derivative is at most (3 A - b) s / 2, A = sin(s/2) / (s/2), so that |Im g| <=
(3 A - b) (s/2)^3 / 8. Hence |g - m| <= rho with m = (1 + b) / 2 and rho^2 = ((1 - b) / 2)^2 + (Im g)^2.
Features divided by m have

    |inner product - cos(z - z')| <= (2 m rho + rho^2) / m^2 = s^2 / 8 + O(s^3) =: E(s),

half of what interpolation without the division has. In total

    sup |k - <phi, phi>| <= e_q + sum_q p_q E(2 a_q / n_q),

about sum_q p_q a_q^2 / (2 n_q^2): N ~ (sum_q (p_q a_q^2)^(1/3))^(3/2) eps^(-1/2) units for large N. The n_q
minimise sum_q (p_q E + price n_q), at the largest price with which eps is kept.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ...maps.mlp import MLP

# At most this many entries of a table of errors.
_TABLE = 1 << 20


class Directions(NamedTuple):
    """k(h) = sum_q p_q cos(w_q.h) up to `error` for all differences h of the box."""

    weights: np.ndarray  # (M,): p
    frequencies: np.ndarray  # (M, D): w
    error: float


class Ridges(NamedTuple):
    """How many units each direction has, and the error of the network."""

    directions: Directions
    units: np.ndarray  # (M,)
    error: float

    @property
    def total(self) -> int:
        """The number of units."""
        return int(self.units.sum())


def _circle(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return m and E(s) for intervals of length s; E is infinite for s > pi."""
    # Beyond pi the values are not used.
    half = np.minimum(s, 3.2) / 2
    b, a = np.cos(half), np.sinc(half / math.pi)
    across = (3 * a - b) * half**3 / 8
    m, rho = (1 + b) / 2, np.hypot((1 - b) / 2, across)
    return m, np.where(half > math.pi / 2, np.inf, (2 * m * rho + rho * rho) / (m * m))


def spans(frequencies: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the lengths 2 a_q of the intervals of w_q.x."""
    found: np.ndarray = np.abs(frequencies) @ (box[:, 1] - box[:, 0])
    return found


def share(directions: Directions, box: np.ndarray, eps: float) -> Ridges | None:
    """Return the cheapest units with an error of at most eps, or None."""
    left = eps - directions.error
    p, length = directions.weights, spans(directions.frequencies, box)
    if left <= 0:
        return None
    most = _most(p, length, left)
    units, error = (_shared if most * len(p) <= _TABLE else _roughly)(p, length, left, most)
    return None if error > left else Ridges(directions, units, directions.error + error)


def _shared(p: np.ndarray, length: np.ndarray, left: float, most: int) -> tuple[np.ndarray, float]:
    """Return the units of least total, each direction with at most `most`, and the error."""
    n, rows = np.arange(most + 1), np.arange(len(p))
    table = p[:, None] * _errors(length[:, None], n[None])

    def at(price: float) -> np.ndarray:
        found: np.ndarray = (table + price * n).argmin(axis=1)
        return found

    low, high, units = 0.0, float(p.max()), at(0.0)
    if table[rows, units].sum() > left:
        return units, math.inf
    for _ in range(40):
        price = math.sqrt(max(low, 1e-12 * high) * high)
        tried = at(price)
        if table[rows, tried].sum() <= left:
            low, units = price, tried
        else:
            high = price
    # Directions of equal weight and length are left: remove single units while the error allows.
    total = float(table[rows, units].sum())
    while True:
        loss = np.where(units > 0, table[rows, np.maximum(units - 1, 0)] - table[rows, units], np.inf)
        q = int(loss.argmin())
        if total + loss[q] > left * (1 - 1e-12):
            return units, float(table[rows, units].sum())
        units[q] -= 1
        total += loss[q]


def _roughly(p: np.ndarray, length: np.ndarray, left: float, most: int) -> tuple[np.ndarray, float]:
    """Return units near those of the continuous optimum, and the error."""
    roots = np.cbrt(p * length**2)
    low, high, units = 0.0, float(most), np.zeros(len(p), np.int64)
    found = math.inf
    for _ in range(40):
        factor = (low + high) / 2
        tried = np.ceil(factor * roots / max(float(roots.max()), 1e-300)).astype(np.int64)
        tried[_errors(length, tried) >= 1] = 0
        error = float(p @ _errors(length, tried))
        if error <= left:
            high, units, found = factor, tried, error
        else:
            low = factor
    return units, found


def _errors(length: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return E of n intervals of a direction; 1 for n = 0, and 0 for constants."""
    found = np.where(n > 0, _circle(length / np.maximum(n, 1))[1], 1.0)
    return np.where(length == 0, 0.0, found)


def _most(p: np.ndarray, length: np.ndarray, left: float) -> int:
    """Return a number of units that no direction exceeds: twice the share of the continuous optimum."""
    roots = np.cbrt(p * length**2)
    share = np.sqrt(roots.sum() / left) * np.divide(length, np.sqrt(roots), where=roots > 0, out=roots * 0)
    share *= np.sqrt(p)
    return int(min(max(2 * share.max(initial=0.0), length.max(initial=0.0) / 2) + 8, 1e6))


def network(ridges: Ridges, box: np.ndarray) -> MLP:
    """Return the map of these ridges on the box."""
    (p, w, _), units = ridges.directions, ridges.units
    middle, length = box.mean(axis=1), spans(w, box)
    constant = float(p[length == 0].sum())
    kept = np.flatnonzero(units)
    first, shift = np.zeros((w.shape[1], max(ridges.total, 1))), np.zeros(max(ridges.total, 1))
    width = 2 * len(kept) + (constant > 0)
    last, bias = np.zeros((len(shift), max(width, 1))), np.zeros(max(width, 1))
    at = 0
    for i, q in enumerate(kept):
        n = int(units[q])
        z = np.linspace(-length[q] / 2, length[q] / 2, n + 1)
        m = float(_circle(length[q : q + 1] / n)[0][0])
        values = math.sqrt(p[q]) / m * np.stack([np.cos(z), np.sin(z)], axis=1)
        slopes = np.diff(values, axis=0) / np.diff(z)[:, None]
        first[:, at : at + n] = w[q][:, None]
        shift[at : at + n] = -z[:-1] - float(w[q] @ middle)
        last[at : at + n, 2 * i : 2 * i + 2] = np.diff(slopes, axis=0, prepend=np.zeros((1, 2)))
        bias[2 * i : 2 * i + 2] = values[0]
        at += n
    if constant > 0:
        bias[-1] = math.sqrt(constant)
    return MLP([first, last], [shift, bias])
