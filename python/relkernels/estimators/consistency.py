"""Checks of what theory assumes of a learned preference: that it is a preorder, continuous in the query."""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import numpy as np

from ..maps.activations import lipschitz
from ..maps.mlp import MLP
from ..ops import feature_map, relation_matrix
from .fitting.sets import ItemSets


class Transitivity(NamedTuple):
    """Result of `PreferenceRetriever.check_transitivity`.

    Attributes
    ----------
    n_triples : int
        Number of triples of items examined, each for one query.
    n_violations : int
        Triples with a preferred or equal to b and b to c, but not a to c.
    n_incomparable : int
        Triples with two items neither of which is preferred or equal to the other (NaN).
    """

    n_triples: int
    n_violations: int
    n_incomparable: int


class Continuity(NamedTuple):
    """Result of `PreferenceRetriever.check_continuity`.

    Attributes
    ----------
    radius : float
        Distance that queries were moved.
    largest_change : float
        Largest change of a utility.
    slope : float
        Largest change of a utility, divided by the radius.
    slope_bound : float
        Upper bound of every slope: the product of the spectral norms of phi's weights, of the slopes of its
        activations and of the largest norm of the features of the items. If phi normalizes, it is divided by
        a lower bound of the length of its features before that. Infinite for relu_power(r) with r other than
        1, or if that length may be 0; `note` then gives the reason.
    changed : float
        Fraction of the moved queries whose most preferred item changed.
    secured : float
        Fraction of the moved queries whose margin was more than twice the change of any utility, so that
        their most preferred item cannot change.
    note : str
        Why `slope_bound` is infinite; empty if it is finite.
    """

    radius: float
    largest_change: float
    slope: float
    slope_bound: float
    changed: float
    secured: float
    note: str = ""


def transitivity(
    q: np.ndarray, sets: ItemSets, phi: MLP, psi: MLP, n_triples: int, rng: np.random.RandomState
) -> Transitivity:
    """Compare the items of random triples in pairs, each pair on its own."""
    enough = np.flatnonzero(sets.sizes >= 3)
    if len(enough) == 0:
        return Transitivity(0, 0, 0)
    owner = enough[rng.randint(len(enough), size=n_triples)]
    # Three distinct positions per set, without random keys for all of its items.
    sizes = sets.sizes[owner]
    first = rng.randint(sizes)
    second = (first + 1 + rng.randint(sizes - 1)) % sizes
    low, high = np.minimum(first, second), np.maximum(first, second)
    third = rng.randint(sizes - 2)
    third += third >= low
    third += third >= high
    triple = sets.items[sets.starts[owner][:, None] + np.column_stack([first, second, third])]
    pairs = [(a, b) for a in range(3) for b in range(a + 1, 3)]
    at_least = np.zeros((n_triples, 3, 3), bool)
    for a, b in pairs:
        u = relation_matrix(q[owner][:, None, :], np.ascontiguousarray(triple[:, [a, b]]), phi, psi)[:, 0]
        at_least[:, a, b], at_least[:, b, a] = u[:, 0] >= u[:, 1], u[:, 1] >= u[:, 0]
    incomparable = np.zeros(n_triples, bool)
    for a, b in pairs:
        incomparable |= ~(at_least[:, a, b] | at_least[:, b, a])
    violated = np.zeros(n_triples, bool)
    for a, b, c in permutations(range(3)):
        violated |= at_least[:, a, b] & at_least[:, b, c] & ~at_least[:, a, c]
    return Transitivity(n_triples, int(violated.sum()), int(incomparable.sum()))


def slope_bound(phi: MLP, psi: MLP, q: np.ndarray, items: np.ndarray, radius: float) -> float:
    """Return the largest slope that utilities of these items can have near the queries, within the radius.

    Features f of phi before they are normalized change by at most L per distance. Normalized, they change by
    at most L / |f|, and |f| is at least that at the query minus L times the radius.
    """
    slope = lipschitz(phi.activation)
    norms = [float(np.linalg.norm(w.astype(np.float64), 2)) for w in phi.weights]
    hidden = slope ** (len(norms) - 1) if len(norms) > 1 else 1.0
    of_phi = float(np.prod(norms)) * hidden
    if phi.normalize:
        lengths = np.linalg.norm(MLP(phi.weights, phi.biases, phi.activation)(q), axis=1)
        shortest = float(lengths.min()) - of_phi * radius
        of_phi = of_phi / shortest if shortest > 0 else np.inf
    return of_phi * float(np.linalg.norm(feature_map(items, psi), axis=1).max())


def continuity(
    q: np.ndarray,
    sets: ItemSets,
    phi: MLP,
    psi: MLP,
    radius: float,
    n_directions: int,
    rng: np.random.RandomState,
) -> Continuity:
    """Move each query in random directions and compare its utilities."""
    items, mask = sets.padded()
    there = np.ones((len(q), 1), bool) if mask is None else mask[:, 0]

    lowest = np.finfo(q.dtype).min  # for positions without an item: never the most preferred, and finite

    def utilities(queries: np.ndarray) -> np.ndarray:
        if sets.shared:
            return relation_matrix(queries, items, phi, psi)
        u = relation_matrix(queries[:, None, :], items, phi, psi)[:, 0]
        return np.where(there, u, lowest)

    before = utilities(q)
    order = np.sort(before, axis=1)
    margin = order[:, -1] - order[:, -2] if order.shape[1] > 1 else np.full(len(q), np.inf)
    largest, changed, secured = 0.0, 0, 0
    for _ in range(n_directions):
        step = rng.standard_normal(q.shape)
        step *= radius / np.linalg.norm(step, axis=1, keepdims=True)
        after = utilities((q + step).astype(q.dtype))
        change = np.abs(after - before).max(axis=1)
        largest = max(largest, float(change.max()))
        changed += int((after.argmax(axis=1) != before.argmax(axis=1)).sum())
        secured += int((margin > 2 * change).sum())
    total = n_directions * len(q)
    bound = slope_bound(phi, psi, q, sets.items, radius)
    note = ""
    if np.isinf(bound) and not np.isfinite(lipschitz(phi.activation)):
        note = (
            f"relu_power({phi.activation.parameter:g}) has no Lipschitz constant on the whole line: its "
            "slope is unbounded, so the weights guarantee no bound"
        )
    elif np.isinf(bound) and phi.normalize:
        note = "features of moved queries may have length 0 before they are normalized: lower radius"
    return Continuity(radius, largest, largest / radius, bound, changed / total, secured / total, note)
