"""Tails of the weights of the Hilbert cube's coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..base import check
from ..base.describe import described
from ._symmetric import tails_of


def tail_of_weights(weights: Any, label: str = "weights") -> tuple[Callable[[int], float], int, str]:
    """Return N -> (sum_{k>N} w_k^2)^(1/2), the number of weights (0: infinitely many) and a description."""
    if isinstance(weights, str):
        name = check.choice(label, weights, ("geometric", "harmonic"))
        if name == "geometric":
            return lambda n: math.sqrt(4.0**-n / 3), 0, "2^-k"
        from scipy.special import polygamma

        return lambda n: math.sqrt(float(polygamma(1, n + 1))), 0, "1/k"
    w = check.numbers(label, weights)
    if w.ndim != 1 or len(w) == 0 or not np.isfinite(w).all() or w.min() < 0:
        check.fail(label, "'geometric', 'harmonic' or finite numbers >= 0 of shape (k,)", described(weights))
    tails = np.sqrt(tails_of(w**2, 0.0))
    return lambda n: float(tails[n]), len(w), f"{len(w)} given"
