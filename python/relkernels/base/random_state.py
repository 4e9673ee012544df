"""The meaning of `random_state`, the same for maps and estimators."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from . import check
from .describe import described

# An int, a generator of either kind, or None.
RandomStateLike: TypeAlias = int | np.random.Generator | np.random.RandomState | None


def generator(random_state: RandomStateLike, name: str = "random_state") -> np.random.Generator:
    """Return the generator to draw from: seeded by an int, by a draw of a `RandomState`, or by the system."""
    if random_state is None:
        return np.random.default_rng()
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(int(random_state.randint(2**31)))
    return np.random.default_rng(_seed(name, random_state))


def legacy_generator(random_state: RandomStateLike) -> np.random.RandomState:
    """Return the generator that scikit-learn's estimators draw from.

    None is NumPy's global one, as `sklearn.utils.check_random_state` has it; a `Generator` lends its bits.
    """
    if isinstance(random_state, np.random.Generator):
        return np.random.RandomState(random_state.bit_generator)
    if random_state is None or isinstance(random_state, np.random.RandomState):
        from sklearn.utils import check_random_state

        return check_random_state(random_state)
    return np.random.RandomState(_seed("random_state", random_state, 2**32 - 1))


def _seed(name: str, value: object, high: int | None = None) -> int:
    try:
        return check.integer(name, value, 0, high)
    except TypeError:
        raise TypeError(
            f"{name}: expected an integer >= 0, a Generator, a RandomState or None, got {described(value)}"
        ) from None
