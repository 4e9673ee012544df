"""The cheapest truncation rank, and the cheapest split of the accuracy among the retained functions.

Approximating functions i = 1..d to within delta_i costs n_i(delta_i) ~ (K_i / delta_i)^p neurons and uses
sum_i (S_i delta_i + delta_i^2) of the error left after truncation, eps - tail(d). Lagrange:

    delta_i^(p+1) (S_i / 2 + delta_i) = K_i^p / mu,

one equation for each i (Newton, from above: the left side is convex) and one for mu (Brent).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Stop after this many consecutive ranks without improvement.
_PATIENCE = 6


class Split(NamedTuple):
    """The cheapest split: neurons per function and in total, at this rank."""

    rank: int
    deltas: np.ndarray
    neurons: np.ndarray
    total: float


def deltas_for(budget: float, slopes: np.ndarray, costs: np.ndarray, power: float) -> np.ndarray:
    """Return the cheapest deltas with sum(slopes * deltas + deltas^2) = budget."""
    from scipy.optimize import brentq

    costs = costs / costs.max()
    half = slopes / 2

    def solve(log_mu: float) -> np.ndarray:
        c = np.exp(power * np.log(costs) - log_mu)
        with np.errstate(divide="ignore"):
            d = np.minimum(
                c ** (1 / (power + 2)), np.where(half > 0, (c / half) ** (1 / (power + 1)), np.inf)
            )
        for _ in range(30):
            step = (d ** (power + 1) * (half + d) - c) / (
                (power + 1) * d**power * half + (power + 2) * d ** (power + 1)
            )
            d = d - step
            if (step <= 1e-14 * d).all():
                break
        return d

    def used(log_mu: float) -> float:
        d = solve(log_mu)
        return float((slopes * d + d * d).sum())

    low, high = -1.0, 1.0
    while used(low) < budget:
        low *= 2
    while used(high) > budget:
        high *= 2
    root = brentq(lambda log_mu: np.log(used(log_mu) / budget), low, high, xtol=1e-13)
    # Step to the side of the root where the budget is not exceeded, not even by rounding.
    step = 1e-13
    while used(root) > budget:
        root, step = root + step, 2 * step
    return solve(root)


def cheapest(
    eps: float,
    tails: np.ndarray,
    slopes: np.ndarray,
    costs: np.ndarray,
    power: float,
    neurons: Callable[[np.ndarray, int], np.ndarray],
) -> Split | None:
    """Return the cheapest split over all ranks, or None if no tail is below eps.

    `tails[d]` is the error with d functions retained; `neurons(deltas, d)` returns their integer neuron
    counts. A function of zero cost (norm 0) is exact: its delta is 0.
    """
    ranks = np.flatnonzero(tails < eps)
    best: Split | None = None
    stale = 0
    for d in ranks:
        if d == 0:
            return Split(0, np.zeros(0), np.zeros(0), 0.0)
        deltas = np.zeros(d)
        costly = costs[:d] > 0
        if costly.any() and np.isfinite(costs[:d]).all():
            deltas[costly] = deltas_for(eps - tails[d], slopes[:d][costly], costs[:d][costly], power)
        counts = np.full(d, np.inf) if not np.isfinite(costs[:d]).all() else neurons(deltas, int(d))
        total = float(counts.sum())
        if best is None or total < best.total:
            best, stale = Split(int(d), deltas, counts, total), 0
        else:
            stale += 1
            if stale == _PATIENCE:
                break
    return best
