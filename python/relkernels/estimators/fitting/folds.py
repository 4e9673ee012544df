"""Folds of samples for validation; samples of one group, a person's choices say, are in the same fold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def folds(n: int, k: int, groups: np.ndarray | None, rng: np.random.RandomState) -> np.ndarray:
    """Return the fold of each of n samples, a number below k; with fewer groups than k, some are empty."""
    if groups is None:
        return rng.permutation(np.arange(n) % k)
    _, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group)
    # Groups from the largest to the smallest, in random order if equal, each into the emptiest fold.
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled, of_group = np.zeros(k, np.int64), np.zeros(len(sizes), np.int64)
    for i in order:
        of_group[i] = filled.argmin()
        filled[of_group[i]] += sizes[i]
    return of_group[group]


def splits(fold: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return the samples to train on and those held out, for each fold that leaves both."""
    for k in range(int(fold.max()) + 1):
        out = fold == k
        if out.any() and not out.all():
            yield np.flatnonzero(~out), np.flatnonzero(out)
