"""Margins of sets of items: how far the other items are below the best ones.

The profile of a set has its gaps D_j = u_* - u_j in increasing order. A set of a million items would need a
million numbers. Gaps are therefore grouped, the first 32 one by one, then in groups that grow by an eighth,
and a group is stored as its smallest gap. This can only increase the weight that a bound gives to the other
items, so the bound stays valid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base import check
from ..base.describe import described
from .bound import non_negative, positive

# Gaps that are kept one by one.
_SINGLE = 32


@dataclass(frozen=True)
class Margin:
    """Margins measured on sets of items; accepted as a number (the smallest margin).

    ``margin[i]`` is the margin of set i, or of several sets.

    Attributes
    ----------
    value : float
        The least of `per_set`.
    per_set : ndarray of shape (b,)
        Margin of each set; infinite if all its items are best.
    n_best : ndarray of shape (b,)
        Number of best items in each set.
    sizes : ndarray of shape (b,)
        Items in each set.
    profile : ndarray of shape (b, g) or None
        Gaps below the largest utility in increasing order, the first of each group; 0 beyond the last group.
    tie : float
        Utilities within this distance of the largest count as largest.
    """

    value: float
    per_set: np.ndarray
    n_best: np.ndarray
    sizes: np.ndarray
    profile: np.ndarray | None = None
    tie: float = 0.0

    def __float__(self) -> float:
        return self.value

    def __len__(self) -> int:
        return len(self.per_set)

    def __getitem__(self, at: Any) -> Margin:
        with check.naming("margin"):
            rows = np.atleast_1d(np.arange(len(self))[at])
        return joined([self], rows)

    def above(self, margin: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return an interval for the probability that a set has a larger margin.

        Parameters
        ----------
        margin : float
            Chosen without looking at these sets, >= 0.
        confidence : float, default 0.95
            Probability, over draws of the sets, that the interval has the true value (Clopper & Pearson
            1934).

        Returns
        -------
        tuple of float
            Lower and upper end. They hold if the sets are independent draws from one distribution.

        Examples
        --------
        >>> from relkernels import bounds
        >>> margin = bounds.margin_of([[0.0, 1.0], [0.0, 0.5], [0.0, 0.25], [0.5, 0.0]])
        >>> low, high = margin.above(0.3)  # three of four sets
        >>> round(low, 3), round(high, 3)
        (0.194, 0.994)
        """
        least = non_negative("margin", margin)
        level = confidence_level("confidence", confidence)
        count = int((self.per_set > least).sum())
        side = (1 + level) / 2
        return lower_limit(count, len(self), side), 1 - lower_limit(len(self) - count, len(self), side)


def confidence_level(name: str, value: Any) -> float:
    """Return a probability between 0 and 1."""
    level = positive(name, value)
    if level >= 1:
        check.fail(name, "a probability between 0 and 1", level)
    return level


def lower_limit(successes: int, trials: int, confidence: float) -> float:
    """Return the one-sided lower limit of Clopper & Pearson for a probability."""
    from scipy.special import betaincinv

    return float(betaincinv(successes, trials - successes + 1, 1 - confidence)) if successes else 0.0


def order_for(trials: int, coverage: float, confidence: float) -> int | None:
    """Return the least k for which the k-th smallest of n draws covers a fraction, with this confidence.

    The fraction of the distribution below the k-th of n independent draws has a Beta(k, n - k + 1) law, whose
    quantile is the limit of Clopper & Pearson for k successes. None if no k suffices.
    """
    low, high = 0, trials
    if lower_limit(trials, trials, confidence) < coverage:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if lower_limit(middle, trials, confidence) >= coverage else (middle, high)
    return high


def joined(margins: Sequence[Margin], rows: np.ndarray | None = None) -> Margin:
    """Return the margins of all sets together, or of some of their rows."""
    per_set, best, sizes = (
        np.concatenate([getattr(m, name) for m in margins]) for name in ("per_set", "n_best", "sizes")
    )
    profile = None
    if all(m.profile is not None for m in margins):
        width = max(m.profile.shape[1] for m in margins if m.profile is not None)
        profile = np.concatenate(
            [
                np.pad(m.profile, ((0, 0), (0, width - m.profile.shape[1])))
                for m in margins
                if m.profile is not None
            ]
        )
    if rows is not None:
        if not len(rows):
            check.fail("margin", "at least one set", "none")
        per_set, best, sizes = per_set[rows], best[rows], sizes[rows]
        profile = None if profile is None else profile[rows]
    return Margin(float(per_set.min()), per_set, best, sizes, profile, max(m.tie for m in margins))


def group_starts(n: int) -> np.ndarray:
    """Return the places in a sorted set at which groups begin, for up to n items, and n."""
    starts = list(range(min(n, _SINGLE)))
    at = _SINGLE
    while at < n:
        starts.append(at)
        at += at // 8
    return np.array([*starts, n])


def others_of(margin: Margin) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return gaps and numbers (b, g) of the items that are not best, and the least weight of the best.

    The weight is in units of exp(beta u_*): each of k best items has weight 1, but if they are best only
    within `tie`, only one of them is certain to have it.
    """
    sizes, best = margin.sizes[:, None], margin.n_best[:, None]
    if margin.profile is None:
        counts = (sizes - best).astype(np.float64)
        gaps = np.where(counts > 0, margin.per_set[:, None], 0.0)
    else:
        starts = group_starts(int(margin.sizes.max()))
        ends = np.minimum(starts[1:], sizes)
        counts = np.maximum(ends - np.maximum(starts[:-1], best), 0).astype(np.float64)
        gaps = np.where(
            counts > 0, np.maximum(margin.profile[:, : len(starts) - 1], margin.per_set[:, None]), 0.0
        )
    weight = margin.n_best.astype(np.float64) if margin.tie == 0 else np.ones(len(margin))
    return gaps, counts, weight


def margin_of(
    utility: Callable[..., Any] | Sequence[Any] | np.ndarray,
    sets: Sequence[Any] | np.ndarray | None = None,
    queries: Sequence[Any] | np.ndarray | None = None,
    *,
    tie: float = 0.0,
) -> Margin:
    """Return the margin between the best and the other items, measured on sets of items.

    Parameters
    ----------
    utility : callable or array-like
        ``utility(items)``, or ``utility(query, items)`` if `queries` are given, returns the utilities
        of the items of one set, shape (n,). Or the utilities themselves: an array of shape (b, n), or b
        sequences of any lengths.
    sets : array-like of shape (b, n, d), or b arrays of shape (n_i, d), optional
        The sets; required if `utility` is callable.
    queries : array-like of b queries, optional
    tie : float, default 0.0
        Utilities within this distance of the largest count as largest. The bounds then use only that one item
        has the largest utility.

    Returns
    -------
    Margin
        Its `value` is the least margin over all sets, infinite if all items of every set are best.

    Raises
    ------
    TypeError, ValueError
        If there are no sets, a set is empty, or utilities are not finite or not one per item.

    Examples
    --------
    >>> from relkernels import bounds
    >>> margin = bounds.margin_of([[0.0, 1.0, 0.25], [2.0, 2.0]])
    >>> margin.value, margin.per_set, margin.n_best
    (0.75, array([0.75,  inf]), array([1, 2]))
    """
    width = non_negative("tie", tie)
    for name, given in (("utility", utility), ("sets", sets), ("queries", queries)):
        if given is not None and not (name == "utility" and callable(given)):
            check.sequence(name, given)
    if utility is None:
        raise TypeError("utility: expected a callable or the utilities of each set, got None")
    if callable(utility):
        if sets is None:
            check.fail("sets", "the sets of items that utility is asked about", None)
        if queries is not None and len(queries) != len(sets):
            check.fail("queries", f"{len(sets)} queries, one for each set", len(queries))
        function = utility
        rows: Sequence[Any] | np.ndarray = [
            function(items) if queries is None else function(queries[i], items)
            for i, items in enumerate(sets)
        ]
        expected: list[int] | None = [len(items) for items in sets]
    else:
        rows = utility
        expected = (
            None if sets is None else [len(check.sequence(f"sets[{i}]", s)) for i, s in enumerate(sets)]
        )
        if queries is not None:
            check.fail("queries", "None where utility is not a callable", described(queries))
    if len(rows) == 0:
        check.fail("sets", "at least one set", "none")
    if expected is not None and len(expected) != len(rows):
        check.fail("sets", f"{len(rows)} sets, one for each row of utility", len(expected))
    margins, best, sizes, gaps = [], [], [], []
    for i, row in enumerate(rows):
        u = check.numbers(f"utility of set {i}", row)
        if u.ndim != 1 or len(u) == 0 or (expected is not None and len(u) != expected[i]):
            wanted = "(n,), n >= 1" if expected is None else f"({expected[i]},), one utility an item"
            check.fail(f"utility of set {i}", f"shape {wanted}", u.shape)
        if not np.isfinite(u).all():
            check.fail(f"utility of set {i}", "finite values", u[~np.isfinite(u)][0])
        top = u.max()
        others = u[u < top - width]
        margins.append(top - others.max() if len(others) else math.inf)
        best.append(len(u) - len(others))
        sizes.append(len(u))
        gaps.append(np.sort(top - u)[group_starts(len(u))[:-1]])
    per_set = np.array(margins)
    profile = np.zeros((len(gaps), max(map(len, gaps))))
    for row, found in zip(profile, gaps, strict=True):
        row[: len(found)] = found
    return Margin(float(per_set.min()), per_set, np.array(best), np.array(sizes), profile, width)
