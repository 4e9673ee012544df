"""The batches of an epoch: mini-batches of objects, and pairs with random negatives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from .losses import PairBatch

# Draws after which an anchor keeps fewer negatives than requested, because nearly all objects are
# related to it.
_DRAWS = 20


def object_batches(n: int, batch_size: int, rng: np.random.RandomState) -> Iterator[tuple[np.ndarray, float]]:
    """Yield the indices of n objects in random order, in batches, each with its size."""
    order = rng.permutation(n)
    for begin in range(0, n, batch_size):
        batch = order[begin : begin + batch_size]
        yield batch, len(batch)


def block_batches(
    n: int, m: int, batch_size: int, rng: np.random.RandomState
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of rows and columns that cover every row and column at least once."""
    rows = [batch for batch, _ in object_batches(n, batch_size, rng)]
    columns = [batch for batch, _ in object_batches(m, batch_size, rng)]
    for i in range(max(len(rows), len(columns))):
        yield rows[i % len(rows)], columns[i % len(columns)]


class PairSampler(Protocol):
    """Draws the partners of anchors."""

    n_anchors: int

    def pairs(self, anchors: np.ndarray, rng: np.random.RandomState) -> PairBatch:
        """Return the pairs of these anchors."""


def pair_batches(
    sampler: PairSampler, batch_size: int, n_negatives: int, rng: np.random.RandomState
) -> Iterator[tuple[PairBatch, float]]:
    """Yield batches of about `batch_size` pairs that cover every anchor once, each with its size."""
    for anchors, _ in object_batches(sampler.n_anchors, max(1, batch_size // (1 + n_negatives)), rng):
        batch = sampler.pairs(anchors, rng)
        if len(batch.partners):
            yield batch, len(batch.partners)


def _negatives(
    draw: Any, related: Any, k: int, n_negatives: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Return (k, n_negatives) partners, and a mask of those that are unrelated."""
    found = draw(rng, (k, n_negatives))
    wrong = related(found)
    for _ in range(_DRAWS):
        if not wrong.any():
            break
        found[wrong] = draw(rng, int(wrong.sum()))
        wrong = related(found)
    return found, ~wrong


def _flat(anchors: np.ndarray, partners: np.ndarray, targets: np.ndarray, there: np.ndarray) -> PairBatch:
    """Return the pairs for which `there` is True, without anchors that have none."""
    sizes = there.sum(axis=1)
    return PairBatch(anchors[sizes > 0], sizes[sizes > 0], partners[there], targets[there])


class LabelPairs:
    """Each object with another one of its label (target 1) and `n_negatives` of other labels (target 0)."""

    def __init__(self, codes: np.ndarray, n_negatives: int, dtype: np.dtype, softmax: bool) -> None:
        self.n_anchors = len(codes)
        self._codes = codes
        self._n_negatives = n_negatives
        self._dtype = dtype
        self._softmax = softmax  # which requires a related partner in every set
        self._order = np.argsort(codes, kind="stable")
        self._place = np.empty(len(codes), np.int64)
        self._place[self._order] = np.arange(len(codes))
        self._count = np.bincount(codes)
        self._start = np.cumsum(self._count) - self._count

    def pairs(self, anchors: np.ndarray, rng: np.random.RandomState) -> PairBatch:
        """Return the pairs of these anchors."""
        code = self._codes[anchors]
        others = self._count[code] - 1
        step = 1 + (rng.random_sample(len(anchors)) * others).astype(np.int64)
        place = self._place[anchors] - self._start[code]
        related = self._order[self._start[code] + (place + step) % self._count[code]]
        found, right = _negatives(
            lambda rng, shape: rng.randint(self.n_anchors, size=shape),
            lambda found: self._codes[found] == code[:, None],
            len(anchors),
            self._n_negatives,
            rng,
        )
        there = np.column_stack([others > 0, right])
        if self._softmax:
            there[others == 0] = False
        targets = np.zeros(there.shape, self._dtype)
        targets[:, 0] = 1
        return _flat(anchors, np.column_stack([related, found]), targets, there)


class ValuePairs:
    """Each object with 1 + `n_negatives` random objects, and their values in the matrix as targets."""

    def __init__(self, values: np.ndarray, n_negatives: int) -> None:
        self.n_anchors = len(values)
        self._values = values
        self._n_partners = 1 + n_negatives

    def pairs(self, anchors: np.ndarray, rng: np.random.RandomState) -> PairBatch:
        """Return the pairs of these anchors."""
        partners = rng.randint(self.n_anchors, size=(len(anchors), self._n_partners))
        targets = self._values[anchors[:, None], partners]
        return _flat(anchors, partners, targets, np.ones(partners.shape, bool))


class ObservedPairs:
    """Each stored entry of a sparse matrix with `n_negatives` entries of its row that are not stored."""

    def __init__(self, observed: Any, n_negatives: int) -> None:
        self.n_anchors = observed.nnz
        self._columns = observed.indices.astype(np.int64)
        self._n_columns = observed.shape[1]
        self._values = observed.data
        self._rows = np.repeat(np.arange(observed.shape[0]), np.diff(observed.indptr))
        self._keys = self._rows * self._n_columns + self._columns  # ascending: indices are sorted
        self._n_negatives = n_negatives

    def _stored(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        keys = rows * self._n_columns + columns
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return self._keys[at] == keys

    def pairs(self, anchors: np.ndarray, rng: np.random.RandomState) -> PairBatch:
        """Return the pairs of these entries."""
        rows = self._rows[anchors]
        found, right = _negatives(
            lambda rng, shape: rng.randint(self._n_columns, size=shape),
            lambda found: self._stored(rows[:, None], found),
            len(anchors),
            self._n_negatives,
            rng,
        )
        partners = np.column_stack([self._columns[anchors], found])
        targets = np.zeros(partners.shape, self._values.dtype)
        targets[:, 0] = self._values[anchors]
        return _flat(rows, partners, targets, np.column_stack([np.ones(len(anchors), bool), right]))
