"""States of ranges of columns, and merges of the states of two ranges.

These are the stateful consumers of the walk over pairs, one level up: as ``csrc/walk/pairs.hpp`` merges tiles
in a thread, `relkernels.retrieve_blocks` merges blocks of a file and `relkernels.dask` blocks of a
cluster's arrays. The names are those of the compiled consumers:

* ``init``, if needed, returns the state of no columns;
* ``accept`` computes the state of a block of columns by the compiled operation;
* ``merge`` merges the states of two ranges of columns;
* ``finish`` returns the result of a state.

States are tuples of arrays whose rows correspond to the rows of the operation's first argument.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arrays.allocate import empty
from ..maps.mlp import MLP
from ..ops.allowed import Allowed, Window
from ..ops.attended import attend
from ..ops.excluded import Excluded
from ..ops.keys import Keys
from ..ops.relations import relation_matvec
from ..ops.retrieval import retrieve
from ..ops.retrieval_above import Room, found_above
from ..ops.scoring import Scoring
from ..ops.search import Search
from ..ops.sides import Attended

State = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class TopK:
    """The `k` best (value, index) of each row: ``TopK`` of csrc/operations/top_k.hpp.

    The order is total (larger values first, NaN after every number, then the lower index; padding last), so
    merges are exact in any order. A state of fewer than `k` columns holds all of them; `finish` pads it.
    """

    k: int
    precision: str | None = None

    def init(self, rows: tuple[int, ...], dtype: np.dtype) -> State:
        """Return the state of no columns."""
        return np.empty((*rows, 0), dtype), np.empty((*rows, 0), np.int64)

    def accept(
        self,
        q: np.ndarray,
        keys: np.ndarray | Keys,
        first: int,
        phi: MLP | None,
        psi: MLP | None,
        mask: np.ndarray | None = None,
        exclude: Excluded | None = None,
    ) -> State:
        """Return the state of a block of keys; `first` is the index of its first key among all keys.

        `Keys` must not be changed during the call; their ids are replaced by places in `Keys.ids`, to which
        `mask` and `exclude` also refer.
        """
        k = min(self.k, keys.shape[-2])
        if k == 0:
            return self.init((*np.broadcast_shapes(q.shape[:-2], keys.shape[:-2]), q.shape[-2]), q.dtype)
        values, indices = retrieve(q, keys, k, phi, psi, mask=mask, exclude=exclude, precision=self.precision)
        found = indices >= 0
        if isinstance(keys, Keys):
            indices[found] = np.searchsorted(keys.ids, indices[found])
        indices[found] += first
        return values, indices

    def merge(self, a: State, b: State) -> State:
        """Return the state of both ranges."""
        values, indices = (np.concatenate(both, axis=-1) for both in zip(a, b, strict=True))
        # lexsort's last key is the primary one: found or padding; then value, NaN last; then index.
        best = np.lexsort((indices, -values, indices < 0), axis=-1)[..., : self.k]
        return np.take_along_axis(values, best, axis=-1), np.take_along_axis(indices, best, axis=-1)

    def finish(self, state: State) -> State:
        """Return (values, indices) of `k` columns; those without a key are -inf and -1."""
        values, indices = state
        found = values.shape[-1]
        if found == self.k:
            return state
        shape = (*values.shape[:-1], self.k)
        all_values = empty("retrieve", shape, values.dtype)
        all_indices = empty("retrieve", shape, indices.dtype)
        all_values[..., :found], all_values[..., found:] = values, -np.inf
        all_indices[..., :found], all_indices[..., found:] = indices, -1
        return all_values, all_indices


@dataclass(frozen=True)
class Above:
    """All pairs at or above a threshold: ``Above`` of csrc/operations/above.hpp.

    A state is (offsets, indices, values), the arrays of a sparse matrix whose rows are those of q, (n, d_q).
    """

    precision: str | None = None

    def init(self, rows: int, dtype: np.dtype) -> State:
        """Return the state of no columns."""
        return np.zeros(rows + 1, np.int64), np.empty(0, np.int64), np.empty(0, dtype)

    def accept(
        self,
        q: np.ndarray,
        keys: np.ndarray | Keys,
        first: int,
        threshold: float | np.ndarray,
        phi: MLP | None,
        psi: MLP | None,
        mask: np.ndarray | None = None,
        exclude: Excluded | None = None,
        room: Room | None = None,
    ) -> State | None:
        """Return the state of a block of keys, as `TopK.accept` does; None if it exceeds the room."""
        a = Search(q, keys, phi, psi, Allowed(mask), exclude, self.precision)
        room = Room(None, None, a.dtype) if room is None else room
        state = found_above(a, threshold, room)
        if state is None:
            return None
        offsets, indices, values = state
        if isinstance(keys, Keys):
            indices = np.searchsorted(keys.ids, indices)
        return offsets, indices + first if first else indices, values

    def merge(self, *states: State) -> State:
        """Return the state of all ranges, which are given in order."""
        if len(states) == 1:
            return states[0]
        counts = [np.diff(offsets) for offsets, _, _ in states]
        offsets = np.concatenate([[0], np.cumsum(sum(counts))])
        indices = empty("retrieve_above", (int(offsets[-1]),), np.dtype(np.int64))
        values = empty("retrieve_above", (int(offsets[-1]),), states[0][2].dtype)
        begin = offsets[:-1].copy()
        for (own, some_indices, some_values), count in zip(states, counts, strict=True):
            at = np.repeat(begin - own[:-1], count) + np.arange(len(some_indices))
            indices[at], values[at] = some_indices, some_values
            begin += count
        return offsets, indices, values

    def finish(self, state: State) -> State:
        """Return (offsets, indices, values)."""
        return state


@dataclass(frozen=True)
class SoftmaxAccumulate:
    """(max, sum, weighted sum) of each row's scores: the consumer in csrc/operations/softmax_consumer.hpp.

    The compiled operation returns a block's result finished: its maximum is the block's log-sum-exp
    and its sum 1, or -inf and 0 for a row that may attend to nothing. A log-sum-exp of +inf stays +inf.
    """

    scale: float | None = None
    precision: str | None = None
    softcap: float | None = None

    def accept(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        phi: MLP | None,
        psi: MLP | None,
        mask: np.ndarray | None = None,
        causal: bool = False,
        window: Window = None,
        offset: int = 0,
        bias: np.ndarray | None = None,
    ) -> State:
        """Return the state of a block of keys and values.

        `causal` and `window` apply to positions in the whole: `offset` is the position of the first query
        minus that of the first key.
        """
        scoring = Scoring(Allowed(mask, causal, window, offset=offset), bias, self.softcap)
        a = Attended(q, k, v, phi, psi, self.scale, scoring, self.precision, has_values=True)
        out, lse = attend(a, True)
        return lse, (lse != -np.inf).astype(lse.dtype), out

    def merge(self, a: State, b: State) -> State:
        """Return the state of both ranges (``softmax_merge`` of csrc/kernels/softmax.hpp)."""
        (max_a, sum_a, acc_a), (max_b, sum_b, acc_b) = a, b
        top = np.where(max_b > max_a, max_b, max_a)
        origin = np.where(top == -np.inf, 0, top)
        with np.errstate(invalid="ignore"):
            of_a, of_b = (np.where(top_of == np.inf, 1, np.exp(top_of - origin)) for top_of in (max_a, max_b))
            return (
                top,
                sum_a * of_a + sum_b * of_b,
                acc_a * of_a[..., None] + acc_b * of_b[..., None],
            )

    def finish(self, state: State) -> State:
        """Return (out, lse)."""
        top, total, acc = state
        with np.errstate(divide="ignore", invalid="ignore"):
            lse = np.where(top == -np.inf, 0, top) + np.log(total)
            out = np.where(total[..., None] == 0, 0, acc / total[..., None])
        return out, lse


@dataclass(frozen=True)
class LinkedSum:
    """Partial sums of link(R_ij) v_j: ``LinkedSum`` of csrc/operations/relation_matvec.cpp."""

    link: str = "identity"
    scale: float = 1.0
    precision: str | None = None

    def accept(self, x: np.ndarray, y: np.ndarray, v: np.ndarray, phi: MLP | None, psi: MLP | None) -> State:
        """Return the state of a block of rows of y and of v, (..., m, c)."""
        out = relation_matvec(x, y, v, phi, psi, link=self.link, scale=self.scale, precision=self.precision)
        return (out,)

    def merge(self, a: State, b: State) -> State:
        """Return the state of both ranges."""
        return (a[0] + b[0],)

    def finish(self, state: State) -> State:
        """Return (sums,)."""
        return state
