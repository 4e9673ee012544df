"""Lower bounds of the number of units: no network of this form with fewer has the accuracy.

*Rank.* The features of N units and a constant are combinations of N + 1 functions of x, so that the matrix of
<phi(x_i), psi(y_j)> has a rank of at most N + 1. If its errors are at most eps, then for all weights a_i, b_j
with sum a_i^2 = sum b_j^2 = 1 the matrix (a_i b_j r(x_i, y_j)) is within eps of one of that rank in the
Frobenius norm: sum_{k > N + 1} sigma_k^2 <= eps^2 (Eckart and Young). With one map the matrix is positive
semi-definite as well, and the negative eigenvalues of a symmetric r are errors too. This holds for any map
whose last hidden layer has N units.

*Kinks.* On a line x(t), a map of one hidden layer of N relus is linear between at most N kinks, and so is
<phi(x(t)), psi(y)> for every y, with the same kinks. If three points of a line differ from a straight line
by d, one of three errors is at least d / 2. So the points from s to the first t at which some r(x(.), y)
differs by more than 2 eps from a chord cannot be between two kinks; the search goes on from t, and each such
stretch has a kink.

Both use only values of the relation at points, so a lower bound is valid however coarse the grid is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .certificates.relations import RelationOnCells

Box = np.ndarray
# Points of each side for ranks in three and more dimensions, on a line, and of y on the line of x.
_RANK, _LINE, _ACROSS = 400, 800, 100
# Allowance for rounding of relations and spectra.
_SLACK = 1e-9


def _points(box: Box, edges: bool, rng: np.random.Generator) -> np.ndarray:
    """Return points of the box: uniform, or closer at the edges as Chebyshev's are."""
    D = len(box)
    if D == 1:
        u = (np.arange(200) + 0.5)[:, None] / 200
    elif D == 2:
        side = np.arange(20) + 0.5
        u = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2) / 20
    else:
        u = rng.random((_RANK, D))
    if edges:
        u = (1 - np.cos(np.pi * u)) / 2
    found: np.ndarray = box[:, 0] + u * (box[:, 1] - box[:, 0])
    return found


def rank_floor(relation: RelationOnCells, boxes: tuple[Box, Box], eps: float, one_map: bool) -> int:
    """Return the least number of units of the last hidden layer of each map."""
    best = 0
    for edges in (False, True):
        x = _points(boxes[0], edges, np.random.default_rng(0))
        y = x if one_map else _points(boxes[1], edges, np.random.default_rng(1))
        R = relation.at(x, y) / np.sqrt(len(x) * len(y))
        if one_map:
            values = np.linalg.eigvalsh((R + R.T) / 2)
            squares, rest = (
                np.sort(np.maximum(values, 0))[::-1] ** 2,
                float((np.minimum(values, 0) ** 2).sum()),
            )
        else:
            squares, rest = np.linalg.svd(R, compute_uv=False) ** 2, 0.0
        # Tails after 0, 1, ... terms.
        tails = np.append(np.cumsum(squares[::-1])[::-1], 0.0) + rest
        allowed = eps**2 * (1 + _SLACK) + _SLACK * 1e-6 * float(squares.sum())
        best = max(best, int((tails > allowed).sum()) - 1)
    return best


def _lines(box: Box) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return the ends of a diagonal and of lines along the coordinates through the middle."""
    yield box[:, 0], box[:, 1]
    if len(box) > 1:
        middle = box.mean(axis=1)
        for j in range(len(box)):
            low, high = middle.copy(), middle.copy()
            low[j], high[j] = box[j]
            yield low, high


def _bent(values: np.ndarray, first: int, last: int, eps: float) -> bool:
    """Return whether some row between differs by more than 2 eps from the chord of two rows."""
    part = (np.arange(1, last - first) / (last - first))[:, None]
    chord = values[first] + part * (values[last] - values[first])
    return bool(np.abs(values[first + 1 : last] - chord).max(initial=0.0) > 2 * eps)


def _stretches(values: np.ndarray, eps: float) -> int:
    """Return how many stretches of rows of `values` (points, sections) are not within eps of lines."""
    n, first, count = len(values), 0, 0
    while True:
        length = 2
        while first + length < n - 1 and not _bent(values, first, first + length, eps):
            length *= 2
        low, high = first + length // 2, min(first + length, n - 1)
        if not _bent(values, first, high, eps):
            return count
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _bent(values, first, middle, eps) else (middle, high)
        count, first = count + 1, high


def kink_floor(relation: RelationOnCells, boxes: tuple[Box, Box], eps: float) -> tuple[int, int]:
    """Return the least numbers of relus of maps of x and of y with one hidden layer."""
    found: list[int] = []
    for side in (0, 1):
        if side == 1 and relation.symmetric and np.array_equal(*boxes):
            return found[0], found[0]
        best = 0
        for low, high in _lines(boxes[side]):
            line = low + np.linspace(0, 1, _LINE)[:, None] * (high - low)
            other = boxes[1 - side]
            ends = (low, high) if len(other) == len(low) else (other[:, 0], other[:, 1])
            t = np.linspace(0, 1, _ACROSS)[:, None]
            across = np.clip(ends[0] + t * (ends[1] - ends[0]), other[:, 0], other[:, 1])
            values = relation.at(line, across) if side == 0 else relation.at(across, line).T
            slack = _SLACK * float(np.abs(values).max())
            best = max(best, _stretches(np.ascontiguousarray(values), eps + slack))
        found.append(best)
    return found[0], found[1]
