"""Features of unit length: the relations that they can represent, and the temperature of their loss.

Relation values are then cosines: at most 1, and 1 between an object and itself. Losses that compare
probabilities need larger numbers, so they are of the cosines divided by a temperature, which is learned
(Radford et al. 2021).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from ...base import check
from ..targets import values_of

# Losses of probabilities. The others compare relation values themselves.
_OF_PROBABILITIES = ("logistic", "softmax")
# The temperature at the start, unless it is given or fitted.
START = 0.1
# By how much given values may differ from those of cosines.
_TOLERANCE = 1e-3
# Objects of which a kernel is evaluated to see whether r(x, x) = 1.
_OBJECTS = 64


def needs_temperature(loss: str) -> bool:
    """Return whether the loss is of cosines divided by a temperature."""
    return loss in _OF_PROBABILITIES


def check_values(name: str, values: Any) -> None:
    """Refuse relation values that are no cosines."""
    stored = values.data if sparse.issparse(values) else values
    largest = float(np.abs(stored).max(initial=0.0))
    if largest > 1 + _TOLERANCE:
        check.fail(name, "values from -1 to 1, since with normalize=True they are cosines", f"{largest:.4g}")


def check_cosines(name: str, y: Any, X: Any) -> None:
    """Refuse values of a symmetric relation without r(x, x) = 1: `y` is as in `ObjectSamples`."""
    if sparse.issparse(y):
        check_values(name, y)
        return
    if callable(y):
        rows = np.unique(np.linspace(0, X.shape[0] - 1, _OBJECTS).astype(int))
        diagonal = np.diagonal(values_of(y, X[rows], X[rows]))
    elif y.ndim == 2:
        diagonal = np.diagonal(y)
    else:
        return
    farthest = diagonal[np.argmax(np.abs(diagonal - 1))]
    if not abs(farthest - 1) <= _TOLERANCE:
        check.fail(
            name, "r(x, x) = 1 for all x, since with normalize=True values are cosines", f"{farthest:.4g}"
        )
