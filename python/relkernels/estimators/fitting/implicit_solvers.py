"""The least-squares problems of one side of an implicit relation, the features of the other side fixed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

# Numbers in a block of features that are gathered at once.
_GATHERED = 1 << 22
# Rows solved together are padded to the longest, which has at most this fraction more pairs than the others.
_PADDING = 0.15
# Steps of conjugate gradients in each turn of a side; the next turn continues from there.
_STEPS = 3


@dataclass(frozen=True)
class Fixed:
    """The features H of the other side's rows, how often each counts, and the weight of all pairs.

    `pairs` is a CSR array of the confidences of stored pairs, with a row for each row that is solved for.
    """

    pairs: Any
    features: np.ndarray
    weight: np.ndarray
    unobserved: float

    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the eigenvalues and eigenvectors of the part of all pairs."""
        H = self.features.astype(np.float64)
        values, vectors = np.linalg.eigh(self.unobserved * (H.T * self.weight) @ H)
        return np.maximum(values, 0), vectors


def solve_rows(fixed: Fixed, ridge: np.ndarray) -> np.ndarray:
    """Return the best features of rows that are free of each other, exactly.

    In the eigenvectors of the Gram matrix, the problem of a row is a diagonal matrix D plus ``g.T @ g``;
    g has a row for each of s stored pairs. A row with s < d is solved by the s x s matrix of Woodbury's
    identity, ``f = D^-1 g.T (g D^-1 g.T + 1)^-1 t``, others by the d x d matrix itself.
    """
    values, vectors = fixed.spectrum()
    H, pairs = fixed.features @ vectors.astype(fixed.features.dtype), fixed.pairs
    d, sizes = H.shape[1], np.diff(pairs.indptr)
    solved = np.zeros((pairs.shape[0], d), H.dtype)
    for rows in _of_like_size(sizes, d):
        size = sizes[rows].max()
        there = np.arange(size) < sizes[rows][:, None]
        at = np.where(there, pairs.indptr[rows][:, None] + np.arange(size), 0)
        root = np.sqrt(pairs.data[at] * fixed.weight[pairs.indices[at]]) * there
        g = H[pairs.indices[at]] * root[:, :, None]
        diagonal = (values + ridge[rows][:, None]).astype(H.dtype)
        if size < d:
            scaled = g / diagonal[:, None, :]
            inner = scaled @ g.transpose(0, 2, 1)
            inner[:, np.arange(size), np.arange(size)] += 1
            solved[rows] = (np.linalg.solve(inner, root[:, :, None]).transpose(0, 2, 1) @ scaled)[:, 0]
        else:
            inner = g.transpose(0, 2, 1) @ g
            inner[:, np.arange(d), np.arange(d)] += diagonal
            solved[rows] = np.linalg.solve(inner, g.transpose(0, 2, 1) @ root[:, :, None])[:, :, 0]
    return solved @ vectors.T.astype(H.dtype)


def _of_like_size(sizes: np.ndarray, d: int) -> Iterator[np.ndarray]:
    """Yield the rows that have pairs, in groups of about the same number of pairs."""
    order = np.argsort(sizes, kind="stable")
    begin = int(np.searchsorted(sizes[order], 1))
    while begin < len(order):
        size = int(sizes[order[begin]])
        longest = size + int(_PADDING * size) + 2
        alike = int(np.searchsorted(sizes[order], longest, side="right"))
        end: int = min(alike, begin + max(1, _GATHERED // (longest * d)))
        yield order[begin:end]
        begin = end


def solve_table(
    fixed: Fixed, table: Any, weight: np.ndarray, ridge: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Return better weights W of the map of a table, by conjugate gradients from `start`.

    The gradient passes through the features ``table @ W`` of the rows, whose stored pairs are visited in
    blocks. The preconditioner ignores that columns share rows, and takes each row's pairs for average ones.
    """
    H, pairs = fixed.features, fixed.pairs
    dtype = H.dtype
    H64 = H.astype(np.float64)
    gram = fixed.unobserved * (H64.T * fixed.weight) @ H64
    count = np.asarray(pairs.sum(axis=0)).ravel() * fixed.weight
    typical = gram + (H64.T * count) @ H64 / len(weight)
    values, vectors = np.linalg.eigh(typical)
    vectors = vectors.astype(dtype)
    squares = table.multiply(table).T @ weight
    scale = (squares[:, None] * np.maximum(values, 0) + ridge[:, None]).astype(dtype)
    across, gram = table.T.tocsr(), gram.astype(dtype)

    def product(W: np.ndarray) -> np.ndarray:
        F = table @ W
        back = F @ gram
        for rows, part in blocks_of(pairs, F.shape[1]):
            c = part.data * fixed.weight[part.indices]
            lines = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
            part.data = c * np.einsum("nd,nd->n", F[rows][lines], H[part.indices])
            back[rows] += part @ H
        return across @ (back * weight[:, None]) + ridge[:, None] * W

    W = start
    residual = across @ ((pairs @ (H * fixed.weight[:, None])) * weight[:, None]) - product(W)
    direction, before = np.zeros_like(W), 1.0
    for _ in range(_STEPS):
        better = ((residual @ vectors) / scale) @ vectors.T
        now = float(np.einsum("cd,cd->", residual, better, dtype=np.float64))
        if now <= 0:
            break
        direction = better + dtype.type(now / before) * direction
        image = product(direction)
        step = dtype.type(now / float(np.einsum("cd,cd->", direction, image, dtype=np.float64)))
        W, residual, before = W + step * direction, residual - step * image, now
    return W


def blocks_of(pairs: Any, d: int) -> Iterator[tuple[slice, Any]]:
    """Yield slices of rows and their pairs, as many as can be gathered at once."""
    n, begin = pairs.shape[0], 0
    most = max(1, _GATHERED // d)
    while begin < n:
        end = int(np.searchsorted(pairs.indptr, pairs.indptr[begin] + most, side="right")) - 1
        end = min(max(end, begin + 1), n)
        yield slice(begin, end), pairs[begin:end]
        begin = end
