"""The problems that estimators of relations minimize: a loss and the batches of an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import losses
from .losses import PairBatch, asymmetric_loss, contrastive_loss, pair_loss, preference_loss, symmetric_loss
from .parameters import Parameters
from .sampling import PairSampler, block_batches, object_batches, pair_batches
from .sets import ItemSets
from .training import Evaluated, Problem

# Weights of samples, or None: all are 1.
Weight = np.ndarray | None


def part(values: Any, rows: np.ndarray) -> Any:
    """Return these rows; None stays None."""
    return None if values is None else values[rows]


def _evaluated(parameters: Parameters, found: losses.Evaluated, pairs: int) -> Evaluated:
    """Return a loss with its gradients as one vector."""
    return Evaluated(found.value, parameters.join(found.of_maps, found.of_numbers), pairs)


def all_pairs(
    parameters: Parameters,
    X: np.ndarray,
    targets: Callable[[np.ndarray], np.ndarray],
    weight: Weight,
    loss: str,
    size: int,
) -> Problem:
    """All pairs of batches of objects; `targets` returns the targets among the objects of a batch."""

    def evaluate(flat: np.ndarray, batch: tuple[np.ndarray, Any]) -> Evaluated:
        rows, target = batch
        (phi,), numbers = parameters.split(flat)
        found = symmetric_loss(X[rows], target, phi, loss, part(weight, rows), numbers)
        return _evaluated(parameters, found, len(rows) ** 2)

    def epoch(rng: np.random.RandomState) -> Iterator[tuple[Any, float]]:
        for rows, share in object_batches(X.shape[0], size, rng):
            yield (rows, targets(rows)), share if weight is None else float(weight[rows].sum())

    everything = np.arange(X.shape[0])
    n_batches = -(-X.shape[0] // size)
    return Problem(parameters, evaluate, epoch, n_batches, lambda rng: (everything, targets(everything)))


def matched_rows(parameters: Parameters, X: np.ndarray, Y: np.ndarray, weight: Weight, size: int) -> Problem:
    """InfoNCE over batches of matched rows."""

    def evaluate(flat: np.ndarray, rows: np.ndarray) -> Evaluated:
        (phi, psi), numbers = parameters.split(flat)
        found = contrastive_loss(X[rows], Y[rows], phi, psi, float(numbers[0]), part(weight, rows))
        return _evaluated(parameters, found, len(rows) ** 2)

    def epoch(rng: np.random.RandomState) -> Iterator[tuple[np.ndarray, float]]:
        for rows, share in object_batches(X.shape[0], size, rng):
            yield rows, share if weight is None else float(weight[rows].sum())

    n_batches = -(-X.shape[0] // size)
    return Problem(parameters, evaluate, epoch, n_batches, lambda rng: np.arange(X.shape[0]))


def blocks_of_pairs(
    parameters: Parameters, X: np.ndarray, Y: np.ndarray, R: np.ndarray, weight: Weight, loss: str, size: int
) -> Problem:
    """All pairs of blocks of rows and columns, with their values as targets."""

    def evaluate(flat: np.ndarray, block: tuple[np.ndarray, np.ndarray]) -> Evaluated:
        rows, columns = block
        (phi, psi), numbers = parameters.split(flat)
        found = asymmetric_loss(
            X[rows], Y[columns], R[np.ix_(rows, columns)], phi, psi, loss, part(weight, rows), numbers
        )
        return _evaluated(parameters, found, len(rows) * len(columns))

    def epoch(rng: np.random.RandomState) -> Iterator[tuple[Any, float]]:
        for rows, columns in block_batches(X.shape[0], Y.shape[0], size, rng):
            if loss == "softmax":  # a row with no mass in these columns carries no information
                rows = rows[R[np.ix_(rows, columns)].sum(axis=1) > 0]
            if len(rows):
                mass = len(rows) if weight is None else float(weight[rows].sum())
                yield (rows, columns), mass * len(columns)

    n_batches = -(-max(R.shape) // size)
    everything = np.arange(X.shape[0]), np.arange(Y.shape[0])
    return Problem(parameters, evaluate, epoch, n_batches, lambda rng: everything)


def drawn_pairs(
    parameters: Parameters,
    X: np.ndarray,
    Y: np.ndarray | None,
    sampler: PairSampler,
    n_negatives: int,
    weight: Weight,
    loss: str,
    size: int,
) -> Problem:
    """Pairs drawn by the sampler; without Y, both are rows of X."""

    def evaluate(flat: np.ndarray, pairs: PairBatch) -> Evaluated:
        (phi, *others), numbers = parameters.split(flat)
        psi, weight_y = (others[0], None) if others else (None, weight)
        found = pair_loss(X, Y, pairs, phi, psi, loss, weight, weight_y, numbers)
        return _evaluated(parameters, found, len(pairs.partners))

    return Problem(
        parameters,
        evaluate,
        lambda rng: pair_batches(sampler, size, n_negatives, rng),
        math.ceil(sampler.n_anchors / max(1, size // (1 + n_negatives))),
        lambda rng: sampler.pairs(np.arange(sampler.n_anchors), rng),
    )


def choices(
    parameters: Parameters,
    Q: np.ndarray,
    sets: ItemSets,
    target: np.ndarray,
    weight: Weight,
    queries: np.ndarray,
    size: int,
    n_negatives: int | None,
) -> Problem:
    """Cross-entropy of softmax over the sets of these queries.

    For a shared set, `target` is the index of each query's choice, or a matrix of probabilities. With
    choices, a batch uses the items chosen in it and `n_negatives` random ones, or all items if that is None.
    """

    def own(flat: np.ndarray, batch: tuple[np.ndarray, None]) -> Evaluated:
        rows, _ = batch
        (phi, psi), numbers = parameters.split(flat)
        places = sets.places(rows)
        items, sizes = sets.items[places], sets.sizes[rows]
        found = preference_loss(Q[rows], items, sizes, target[places], phi, psi, part(weight, rows), numbers)
        return _evaluated(parameters, found, len(places))

    def of_shared(flat: np.ndarray, batch: tuple[np.ndarray, np.ndarray]) -> Evaluated:
        rows, columns = batch
        (phi, psi), numbers = parameters.split(flat)
        wanted = (target[rows], columns) if target.ndim == 1 else target[rows]
        found = asymmetric_loss(
            Q[rows], sets.items[columns], wanted, phi, psi, "softmax", part(weight, rows), numbers
        )
        return _evaluated(parameters, found, len(rows) * len(columns))

    everything = np.arange(len(sets.items))

    def columns_of(rows: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        if n_negatives is None or target.ndim == 2:
            return everything
        return np.union1d(target[rows], rng.randint(len(everything), size=n_negatives))

    def epoch(rng: np.random.RandomState) -> Iterator[tuple[Any, float]]:
        for batch, share in object_batches(len(queries), size, rng):
            rows = queries[batch]
            columns = columns_of(rows, rng) if sets.shared else None
            yield (rows, columns), share if weight is None else float(weight[rows].sum())

    evaluate: Callable[[np.ndarray, Any], Evaluated] = of_shared if sets.shared else own
    n_batches = -(-len(queries) // size)
    return Problem(parameters, evaluate, epoch, n_batches, lambda rng: (queries, everything))
