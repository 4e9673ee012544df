"""Branch and bound of |r - <phi, psi>| over pairs of cells; `_certify` has the bound of one pair.

The queue holds chunks of pairs of one depth, the chunk with the largest bound first. A step cuts each pair of
a chunk into 16 x 16: three relation matrices per block and a few operations per pair give the bounds. Pairs
whose bound is at most the goal need no more cuts and are dropped; the largest bound of a dropped pair is
remembered, so that `upper` is valid after every step.
"""

from __future__ import annotations

import heapq
from itertools import combinations_with_replacement

import numpy as np

from ...ops import relation_matrix
from .relations import RelationOnCells
from .trees import CellTree

# Each cell of a pair is cut into 2^CUTS.
CUTS = 4
# Pairs that are cut at a time: blocks of 256 of them stay in cache.
_CHUNK = 128
# Pairs waiting to be cut (24 bytes each). Beyond, those with the least bounds are dropped.
_WAITING = 1 << 22
# Cells are not cut more often: their numbers are 64-bit integers.
_DEEPEST = 60
# Pairs at which errors are computed before the first cut, and the local searches from the largest of them.
_SAMPLE, _CLIMBS = 4096, 16


class PairsOfCells:
    """The pairs that are left, and the largest error found so far.

    With `twins`, <phi, phi> and a symmetric relation on one box, pairs of cells i <= j are enough.
    """

    def __init__(self, relation: RelationOnCells, x: CellTree, y: CellTree, twins: bool) -> None:
        self.relation, self.x, self.y, self.twins = relation, x, y, twins
        self.low, self.high = np.concatenate([x.low, y.low]), np.concatenate([x.high, y.high])
        root = np.zeros(1, np.int64)
        # Minus the largest bound, a number that breaks ties, depth, cells of x, cells of y.
        self.queue = [(-np.inf, 0, 0, root, root)]
        self.waiting, self.n_chunks, self.n_pairs = 1, 1, 0
        self.dropped = 0.0
        self.found, self.at = -1.0, (x.low, y.low)
        self._sample()

    @property
    def upper(self) -> float:
        """The largest bound of the pairs that were not cut."""
        return max(self.dropped, -self.queue[0][0] if self.queue else 0.0)

    def step(self, goal: float) -> None:
        """Cut the chunk of pairs with the largest bound."""
        negative, _, depth, i, j = heapq.heappop(self.queue)
        self.waiting -= len(i)
        if depth + CUTS > _DEEPEST:
            self.dropped = max(self.dropped, -negative)
            return
        depth += CUTS
        bound = self._bounds(i, j, depth)
        parts = np.arange(1 << CUTS)
        i, j = i[:, None] << CUTS | parts, j[:, None] << CUTS | parts
        if self.twins:
            bound[i[:, :, None] > j[:, None, :]] = 0.0
        left = bound > goal
        self.dropped = max(self.dropped, float(bound.max(where=~left, initial=0.0)))
        block, row, column = np.nonzero(left)
        bound = bound[left]
        order = np.argsort(-bound)
        i, j, bound = i[block, row][order], j[block, column][order], bound[order]
        for first in range(0, len(order), _CHUNK):
            chunk = slice(first, first + _CHUNK)
            self.n_chunks += 1
            heapq.heappush(self.queue, (-float(bound[first]), self.n_chunks, depth, i[chunk], j[chunk]))
        self.waiting += len(order)
        if self.waiting > _WAITING:
            self._drop()

    def _drop(self) -> None:
        """Drop the half of the queue with the least bounds."""
        self.queue.sort()
        kept = len(self.queue) // 2
        self.dropped = max(self.dropped, -self.queue[kept][0])
        del self.queue[kept:]
        self.waiting = sum(len(chunk[3]) for chunk in self.queue)

    def _bounds(self, i: np.ndarray, j: np.ndarray, depth: int) -> np.ndarray:
        """Return the bounds of the parts of pairs of cells: blocks (p, s, s)."""
        p, s = len(i), 1 << CUTS
        X, Y = self.x.factors(i, CUTS, depth), self.y.factors(j, CUTS, depth)
        h, k = self.x.covering(depth), self.y.covering(depth)
        here = self.relation.on_cells(X.centre, Y.centre, h, k, self.x.curved)
        D, d = len(h), X.terms.shape[-1]
        along_x = relation_matrix(X.terms.reshape(p, -1, d), np.ascontiguousarray(Y.terms[:, :, 0]))
        along_x = along_x.reshape(p, s, -1, s)
        along_y = relation_matrix(np.ascontiguousarray(X.terms[:, :, 0]), Y.terms[:, :, 1:].reshape(p, -1, d))
        along_y = along_y.reshape(p, s, s, -1)
        product = along_x[:, :, 0]
        bound = relation_matrix(X.kinks, Y.kinks)
        bound += here.rest
        bound += np.abs(here.value - product)
        for a, half in enumerate(h):
            slope = along_x[:, :, 1 + a]
            bound += half * np.abs(here.slopes_x[a] - slope if here.slopes_x else slope)
        for a, half in enumerate(k):
            slope = along_y[..., a]
            bound += half * np.abs(here.slopes_y[a] - slope if here.slopes_y else slope)
        if self.x.curved:
            mixed = relation_matrix(
                X.terms[:, :, 1 : 1 + D].reshape(p, -1, d), Y.terms[:, :, 1 : 1 + D].reshape(p, -1, d)
            ).reshape(p, s, D, s, D)
            for n, (a, b) in enumerate(combinations_with_replacement(range(D), 2)):
                bend, weight = here.bends[n], 0.5 if a == b else 1.0
                bound += weight * h[a] * h[b] * np.abs(bend - along_x[:, :, 1 + D + n])
                bound += weight * k[a] * k[b] * np.abs(bend - along_y[..., D + n])
                bound += h[a] * k[b] * np.abs(bend + mixed[:, :, a, :, b])
                if a != b:
                    bound += h[b] * k[a] * np.abs(bend + mixed[:, :, b, :, a])
        self.n_pairs += bound.size
        # The affine maps differ from phi and psi at the centres, but show where the error is large.
        at = np.arange(p)
        worst = np.abs(here.exact - product).reshape(p, -1).argmax(axis=1)
        x, y = X.centre[at, worst // s], Y.centre[at, worst % s]
        errors = self.error(x, y)
        best = int(errors.argmax())
        if errors[best] > self.found:
            self._climb(x[best], y[best])
        return np.nan_to_num(bound, copy=False, nan=np.inf, posinf=np.inf)

    def error(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return |r - <phi, psi>| at the pairs of the rows of x and y."""
        product = np.einsum("ni,ni->n", self.x.mapped.values(x), self.y.mapped.values(y))
        return np.abs(self.relation.at(x[:, None], y[:, None])[:, 0, 0] - product)

    def _sample(self) -> None:
        """Climb from the largest errors of a sample that includes faces, corners and equal points."""
        D, rng = len(self.x.low), np.random.default_rng(0)
        middle, width = (self.low + self.high) / 2, self.high - self.low
        z = middle + width * rng.uniform(-0.7, 0.7, (_SAMPLE, len(width)))
        if len(width) == 2 * D:
            z[::2, D:] = z[::2, :D]
        z = np.clip(z, self.low, self.high)
        for i in np.argsort(-self.error(z[:, :D], z[:, D:]))[:_CLIMBS]:
            self._climb(z[i, :D], z[i, D:])

    def _climb(self, x: np.ndarray, y: np.ndarray) -> None:
        """Search for a larger error from a pair, along coordinates: kinks do not stop it."""
        D, z, found = len(x), np.concatenate([x, y]), float(self.error(x[None], y[None])[0])
        step = (self.high - self.low) / 8
        for _ in range(40):
            moves = np.concatenate([np.diag(step), -np.diag(step)])
            points = np.clip(z + moves, self.low, self.high)
            errors = self.error(points[:, :D], points[:, D:])
            best = int(errors.argmax())
            if errors[best] > found:
                found, z = float(errors[best]), points[best]
            else:
                step /= 2
        if found > self.found:
            self.found, self.at = found, (z[:D].copy(), z[D:].copy())
