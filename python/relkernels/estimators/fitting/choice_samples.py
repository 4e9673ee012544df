"""`ChoiceSamples`: queries, the sets they choose from, and what was chosen, as a fit reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...base import check
from .problems import Weight, part
from .scaling import Scaling
from .sets import ItemSets


@dataclass(frozen=True)
class ChoiceSamples:
    """Queries, their sets and the targets of `choices`: the `Samples` of a fit.

    A selection shares all arrays and only lists its `queries`, since the sets may be large.

    Attributes
    ----------
    Q : ndarray of shape (b, n_features_in)
    sets : ItemSets
        The last `n_alternatives` columns of the items say which alternative each of them is.
    target : ndarray
        Indices of the chosen items of a shared set; otherwise probabilities, stored as the sets are.
    all_weights, all_groups : ndarray of shape (b,), or None
    queries : ndarray of int
        Those in this selection.
    n_alternatives : int
    """

    Q: np.ndarray
    sets: ItemSets
    target: np.ndarray
    all_weights: Weight
    all_groups: np.ndarray | None
    queries: np.ndarray
    n_alternatives: int

    @property
    def weight(self) -> Weight:
        """The weight of each query, or None."""
        return part(self.all_weights, self.queries)

    @property
    def groups(self) -> np.ndarray | None:
        """The group of each query, or None: each is its own."""
        return None if self.all_groups is None else self.all_groups[self.queries]

    @property
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """The inputs of both maps."""
        return self.Q, self.sets.items

    def __len__(self) -> int:
        return len(self.queries)

    def scalings(self) -> list[Scaling]:
        """Return the scaling of each table; the columns of alternatives stay ones and zeros."""
        sets, n = self.sets, self.sets.items.shape[1] - self.n_alternatives
        per_item = None
        if self.all_weights is not None and not sets.shared:
            per_item = np.repeat(self.all_weights, sets.sizes)
        of_items = Scaling.of(sets.items[:, :n], per_item)
        mean = np.concatenate([of_items.mean, np.zeros(self.n_alternatives)])
        scale = np.concatenate([of_items.scale, np.ones(self.n_alternatives)])
        return [Scaling.of(self.Q, self.all_weights), Scaling(mean, scale)]

    def scaled(self, scalings: Sequence[Scaling]) -> ChoiceSamples:
        """Return these samples with scaled tables."""
        of_queries, of_items = scalings
        return replace(self, Q=of_queries(self.Q), sets=self.sets.with_items(of_items(self.sets.items)))

    def select(self, rows: np.ndarray) -> ChoiceSamples:
        """Return these queries."""
        return replace(self, queries=self.queries[rows])

    def probabilities(self) -> np.ndarray:
        """Return the targets of these queries as probabilities, set by set."""
        if not self.sets.shared:
            return self.target[self.sets.places(self.queries)]
        target = self.target[self.queries]
        if target.ndim == 2:
            return target
        return (target[:, None] == np.arange(len(self.sets.items))).astype(np.float64)


def chosen_items(sets: ItemSets, chosen: Any, Q: np.ndarray) -> np.ndarray:
    """Return the index of the chosen item of each set."""
    if chosen is not None:
        return sets.indices("chosen", chosen)
    if not sets.shared or len(sets.items) != len(Q):
        check.fail(
            "chosen",
            f"an index for each query, unless all share one set of {len(Q)} items, as many as queries",
            f"None for {'one set' if sets.shared else 'sets'} of {int(sets.sizes.max())} items; searches and "
            "cross-validation pass chosen on after sklearn.set_config(enable_metadata_routing=True)",
        )
    return np.arange(len(Q))


def choice_targets(sets: ItemSets, chosen: Any, Q: np.ndarray) -> np.ndarray:
    """Return the targets of `choices`: indices for a shared set, otherwise one number per item."""
    index = chosen_items(sets, chosen, Q)
    if sets.shared:
        return index
    target = np.zeros(len(sets.items), Q.dtype)
    target[sets.starts + index] = 1
    return target
