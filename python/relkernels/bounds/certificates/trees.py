"""A box cut in halves, coordinate by coordinate, and a feature map on the cells of each depth.

The cells of depth t are numbered 0 .. 2^t - 1 and have equal sizes; the halves of cell i are 2 i and 2 i + 1.
The next cut is across the longest side, after each coordinate is scaled by the map's slope along it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .maps import MapOnCells

# Bytes of one depth's cells that are kept; cells of finer depths are computed when they are needed.
_KEPT = 1 << 26


class Factors(NamedTuple):
    """What the bound of a pair of cells needs of one of them; arrays of n rows.

    Attributes
    ----------
    centre : ndarray of shape (n, D)
    terms : ndarray of shape (n, 1 + D + T, d)
        Features at the centre, then slopes; with parabolas also `Cells.bends`.
    kinks : ndarray of shape (n, K)
        Their products with those of the other side bound everything else.
    """

    centre: np.ndarray
    terms: np.ndarray
    kinks: np.ndarray


class CellTree:
    """The cells of one side, with the factors of its map.

    `other` is the last layer of the other side's map. Of the two sides, the one that is not `first` includes
    the product of both maps' errors.
    """

    def __init__(
        self,
        low: np.ndarray,
        high: np.ndarray,
        mapped: MapOnCells,
        other: np.ndarray,
        first: bool,
        curved: bool,
    ) -> None:
        self.low, self.high, self.mapped, self.first, self.curved = low, high, mapped, first, curved
        self.other = other.T
        self.cross = np.abs(mapped.last @ other.T)
        self.order: list[int] = []
        half = (high - low) / 2
        slopes = np.linalg.norm(mapped(((low + high) / 2)[None], half).slopes[0], axis=1)
        self.length = half * np.maximum(slopes, 1e-3 * slopes.max(initial=0.0) or 1.0)
        self.kept: dict[int, tuple[np.ndarray, Factors]] = {}

    def half(self, depth: int) -> np.ndarray:
        """Return the half-widths of the cells of this depth."""
        while len(self.order) < depth:
            cuts = np.bincount(np.array(self.order, int), minlength=len(self.low))
            self.order.append(int(np.argmax(self.length / 2.0**cuts)))
        cuts = np.bincount(np.array(self.order[:depth], int), minlength=len(self.low))
        return (self.high - self.low) / 2 / 2.0**cuts

    def covering(self, depth: int) -> np.ndarray:
        """Return half-widths that cover the cells around rounded centres."""
        rounded = 1e-15 * np.maximum(np.abs(self.low), np.abs(self.high))
        return self.half(depth) * (1 + 1e-12) + rounded

    def centres(self, ids: np.ndarray, depth: int) -> np.ndarray:
        """Return the centres of cells."""
        half = self.half(depth)
        index = np.zeros((len(ids), len(self.low)))
        for k, i in enumerate(self.order[:depth]):
            index[:, i] = 2 * index[:, i] + ((ids >> (depth - 1 - k)) & 1)
        return self.low + (2 * index + 1) * half

    def factors(self, parents: np.ndarray, cuts: int, depth: int) -> Factors:
        """Return the factors of the 2^cuts parts of cells: arrays (n, 2^cuts, ...), cells of this depth."""
        s = 1 << cuts
        size = sum(a.nbytes for a in self._empty(1))
        if size << depth > _KEPT:
            blocks, at = np.unique(parents, return_inverse=True)
            found = self._computed(blocks, cuts, depth)
            return Factors(*(a.reshape(-1, s, *a.shape[1:])[at] for a in found))
        if depth not in self.kept:
            self.kept[depth] = (np.zeros(1 << depth - cuts, bool), self._empty(1 << depth))
        known, kept = self.kept[depth]
        wanted = np.zeros(len(known), bool)
        wanted[parents] = True
        blocks = np.flatnonzero(wanted & ~known)
        if len(blocks):
            for to, a in zip(kept, self._computed(blocks, cuts, depth), strict=True):
                to.reshape(-1, s, *a.shape[1:])[blocks] = a.reshape(-1, s, *a.shape[1:])
            known[blocks] = True
        return Factors(*(a.reshape(-1, s, *a.shape[1:])[parents] for a in kept))

    def _empty(self, n: int) -> Factors:
        D, d, N = len(self.low), self.mapped.width, sum(self.cross.shape)
        T, K = (D * (D + 1) // 2, 2 * N) if self.curved else (0, N + 1)
        return Factors(np.empty((n, D)), np.empty((n, 1 + D + T, d)), np.empty((n, K)))

    def _computed(self, parents: np.ndarray, cuts: int, depth: int) -> Factors:
        ids = (parents[:, None] << cuts | np.arange(1 << cuts)).ravel()
        half = self.covering(depth)
        out = self._empty(len(ids))
        for begin in range(0, len(ids), 1024):
            rows = slice(begin, begin + 1024)
            cells = self.mapped(self.centres(ids[rows], depth), half, self.curved)
            out.centre[rows] = cells.centre
            np.concatenate([cells.features[:, None], cells.slopes, cells.bends], axis=1, out=out.terms[rows])
            # |<phi, A_u>| for each unit u of the other side: at the centre, and how far it moves.
            centre = np.abs(cells.features @ self.other)
            moved = np.einsum("i,niu->nu", half, np.abs(cells.slopes @ self.other))
            if not self.first:
                moved += (cells.errors + cells.quads) @ self.cross
            if self.curved:
                own, through = [cells.errors, cells.errors + cells.quads], [centre, moved]
                rest = []
            else:
                own, through = [cells.errors], [centre + moved]
                rest = [(np.linalg.norm(cells.slopes, axis=2) @ half)[:, None]]
            parts = [*own, *through] if self.first else [*through, *own]
            np.concatenate([*parts, *rest], axis=1, out=out.kinks[rows])
        return out
