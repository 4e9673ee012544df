"""Recall, precision, discounted gain and reciprocal rank of the items that scores put first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base import check
from .pairs import as_pairs
from .scores import Scores, as_scores

# Pairs in a block of rows: its mask takes as many bytes, its scores 4 or 8 times as many.
_PAIRS = 1 << 22


@dataclass(frozen=True)
class _Block:
    """Some rows that have relevant items, excluded ones left out.

    `relevant` is a CSR array of their gains, `allowed` a mask of the items that are ranked (None: all).
    """

    scores: Scores
    rows: slice
    kept: np.ndarray
    relevant: Any
    allowed: np.ndarray | None

    def n_ranked(self, k: int) -> np.ndarray:
        """Return how many items each row has among its best k."""
        m = self.scores.shape[1]
        ranked = np.full(len(self.kept), m) if self.allowed is None else self.allowed[self.kept].sum(axis=1)
        return np.minimum(ranked, min(k, m))

    def gains(self, k: int) -> np.ndarray:
        """Return the gains of the k best items of each row, best first."""
        m = self.scores.shape[1]
        best = self.scores.best(self.rows, min(k, m), self.allowed)[self.kept]
        gains, lines = self.relevant, np.arange(len(best))
        stored = np.repeat(lines, np.diff(gains.indptr)) * m + gains.indices
        wanted = np.where(best < 0, -1, lines[:, None] * m + best)
        at = np.minimum(np.searchsorted(stored, wanted), len(stored) - 1)
        return np.where(stored[at] == wanted, gains.data[at], 0.0)

    def first_ranks(self) -> np.ndarray:
        """Return the rank of the best relevant item of each row, from 1."""
        scores = self.scores.block(self.rows)[self.kept]
        lines = np.repeat(np.arange(len(scores)), np.diff(self.relevant.indptr))
        relevant = np.zeros(scores.shape, bool)
        relevant[lines, self.relevant.indices] = True
        best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
        first = (relevant & (scores == best)).argmax(axis=1)[:, None]
        before = (scores > best) | ((scores == best) & (np.arange(scores.shape[1]) < first))
        if self.allowed is not None:
            before &= self.allowed[self.kept]
        return 1 + before.sum(axis=1)


def _blocks(relevant: Any, scores: Any, exclude: Any) -> Iterator[_Block]:
    by = as_scores(scores, relevant)
    pairs = as_pairs("relevant", relevant, by.shape)
    left_out = None if exclude is None else as_pairs("exclude", exclude, by.shape)
    n, m = by.shape
    size = max(1, _PAIRS // max(1, m))
    for begin in range(0, n, size):
        rows = slice(begin, min(begin + size, n))
        gains, allowed = pairs.block(rows), None
        if left_out is not None:
            excluded = left_out.block(rows)
            allowed = np.ones(gains.shape, bool)
            allowed[np.repeat(np.arange(len(allowed)), np.diff(excluded.indptr)), excluded.indices] = False
            gains.data[~allowed[np.repeat(np.arange(len(allowed)), np.diff(gains.indptr)), gains.indices]] = 0
            gains.eliminate_zeros()
        kept = np.flatnonzero(np.diff(gains.indptr))
        if len(kept):
            yield _Block(by, rows, kept, gains[kept], allowed)


def _mean(relevant: Any, scores: Any, exclude: Any, measure: Callable[[_Block], np.ndarray]) -> float:
    """Return the mean of a measure over the rows that have relevant items."""
    each = [measure(block) for block in _blocks(relevant, scores, exclude)]
    if not each:
        check.fail("relevant", "at least one row with a relevant item that is not excluded", "none")
    return float(np.concatenate(each).mean())


def recall_at_k(
    relevant: Any, scores: Any, k: int = 10, *, exclude: Any = None, truncated: bool = False
) -> float:
    """Return the fraction of the relevant items that are among the k best, averaged over rows.

    Parameters
    ----------
    relevant : sparse matrix or array of shape (n, m), or sequence of length n
        Items relevant to each row: those with a value > 0; or for each row the index of its one item, or a
        list of indices.
    scores : pair of arrays, array of shape (n, m), or callable
        What items are ranked by, best first, equal scores by the lower index: the inner products of features
        of the rows (n, d) and of the items (m, d), as the `transform` of an estimator returns them; or the
        scores; or a function that returns those of a slice of rows.
    k : int, default 10
        How many items of each row count; more than there are stands for all.
    exclude : as `relevant`, optional
        Items that are not ranked for a row, such as those it was trained on.
    truncated : bool, default False
        Divide by k for rows with more than k relevant items, of which no ranking could show all. Papers on
        implicit feedback often report this variant.

    Returns
    -------
    float
        Mean over the rows that have a relevant item; others say nothing about a ranking. An item that is both
        relevant and excluded counts as neither, so a row with every item excluded is left out.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, a score is NaN, or no row has a relevant item.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.metrics import recall_at_k
    >>> scores = np.array([[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.4, 0.6]])
    >>> recall_at_k([[0, 3], [1]], scores, k=2)  # finds items 0 and 2, then 1 and 3
    0.75
    >>> recall_at_k([[0, 3], [1]], scores, k=2, exclude=[[2], []])
    1.0
    """
    count, most = check.integer("k", k, 1), check.flag("truncated", truncated)

    def recall(block: _Block) -> np.ndarray:
        sizes = np.diff(block.relevant.indptr)
        found = (block.gains(count) > 0).sum(axis=1)
        return found / (np.minimum(sizes, min(count, block.scores.shape[1])) if most else sizes)

    return _mean(relevant, scores, exclude, recall)


def precision_at_k(relevant: Any, scores: Any, k: int = 10, *, exclude: Any = None) -> float:
    """Return the fraction of the k best items that are relevant, averaged over rows.

    Parameters
    ----------
    relevant, scores, k, exclude
        As in `recall_at_k`. A row with fewer than k items that are not excluded is judged by those it has.

    Returns
    -------
    float
        Mean over the rows that have a relevant item.

    Raises
    ------
    TypeError, ValueError
        As in `recall_at_k`.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.metrics import precision_at_k
    >>> scores = np.array([[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.4, 0.6]])
    >>> precision_at_k([[0, 2], [1]], scores, k=2)
    0.75
    """
    count = check.integer("k", k, 1)

    def precision(block: _Block) -> np.ndarray:
        return (block.gains(count) > 0).sum(axis=1) / block.n_ranked(count)

    return _mean(relevant, scores, exclude, precision)


def ndcg_at_k(relevant: Any, scores: Any, k: int = 10, *, exclude: Any = None) -> float:
    """Return the normalized discounted cumulative gain of the k best items, averaged over rows.

    An item at rank i gains its value in `relevant`, divided by log2(1 + i); the sum is divided by that of the
    best ranking.

    Parameters
    ----------
    relevant, scores, k, exclude
        As in `recall_at_k`; the values of `relevant` are gains, those of lists 1.

    Returns
    -------
    float
        Mean over the rows that have a relevant item.

    Raises
    ------
    TypeError, ValueError
        As in `recall_at_k`.

    See Also
    --------
    sklearn.metrics.ndcg_score : On dense matrices; it also averages over rows without relevant items, as 0.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.metrics import ndcg_at_k
    >>> scores = np.array([[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.4, 0.6]])
    >>> round(ndcg_at_k([[0, 2], [3]], scores, k=2), 3)
    0.815
    """
    count = check.integer("k", k, 1)

    def ndcg(block: _Block) -> np.ndarray:
        found = block.gains(count)
        gain = found @ _discounts(np.arange(found.shape[1]))
        sizes = np.diff(block.relevant.indptr)
        lines = np.repeat(np.arange(len(sizes)), sizes)
        values = block.relevant.data[np.lexsort((-block.relevant.data, lines))]
        rank = np.arange(len(values)) - np.repeat(block.relevant.indptr[:-1], sizes)
        ideal = np.where(rank < count, values * _discounts(rank), 0.0)
        return gain / np.bincount(lines, ideal)

    return _mean(relevant, scores, exclude, ndcg)


def _discounts(rank: np.ndarray) -> np.ndarray:
    return 1.0 / np.log2(rank + 2)


def mean_reciprocal_rank(relevant: Any, scores: Any, k: int | None = None, *, exclude: Any = None) -> float:
    """Return the mean of one over the rank of the first relevant item of each row.

    Parameters
    ----------
    relevant, scores, exclude
        As in `recall_at_k`.
    k : int, optional
        Count 0 for rows with no relevant item among the k best. None looks through all items.

    Returns
    -------
    float
        Mean over the rows that have a relevant item.

    Raises
    ------
    TypeError, ValueError
        As in `recall_at_k`.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.metrics import mean_reciprocal_rank
    >>> scores = np.array([[0.9, 0.1, 0.5, 0.3], [0.2, 0.8, 0.4, 0.6]])
    >>> mean_reciprocal_rank([0, 2], scores)  # ranks 1 and 3
    0.6666666666666666
    """
    if k is None:
        return _mean(relevant, scores, exclude, lambda block: 1.0 / block.first_ranks())
    count = check.integer("k", k, 1)

    def reciprocal(block: _Block) -> np.ndarray:
        found = block.gains(count) > 0
        return np.where(found.any(axis=1), 1.0 / (1 + found.argmax(axis=1)), 0.0)

    return _mean(relevant, scores, exclude, reciprocal)
