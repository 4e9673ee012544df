"""All relations at or above a threshold, of keys that are read block by block and not kept."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..arrays.engine import PROCESSOR
from ..arrays.kinds import Array, is_array, on_host
from ..maps.mlp import MLP
from ..ops.retrieval_above import Room, row_thresholds
from .blocks import NpyBlocks
from .consumers import Above, State
from .searched_blocks import Exclude, Mask, Queries, source_of


def retrieve_above_blocks(
    q: Array,
    blocks: NpyBlocks | str | os.PathLike[str] | Iterable[Any],
    threshold: Any,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    mask: Any = None,
    exclude: Any = None,
    limit: int | None = None,
    precision: str | None = None,
) -> tuple[Array, Array, Array]:
    """Return the result of `retrieve_above` for keys that are read block by block and not kept.

    Parameters
    ----------
    q : ndarray of shape (n, d_q), or (d_q,) for a single query
        As for `retrieve_blocks`.
    blocks : NpyBlocks, path-like, or iterable of ndarray of shape (m_b, d_k) or of Keys
        As for `retrieve_blocks`.
    threshold : float, or ndarray of shape (n,)
        As for `retrieve_above`.
    phi, psi, mask, exclude, precision
        As for `retrieve_blocks`.
    limit : int, optional
        As for `retrieve_above`, for all blocks together.

    Returns
    -------
    offsets, indices, values : ndarray
        As of `retrieve_above`. Indices are rows of the keys, counted over all blocks; in a block of `Keys`,
        places in `Keys.ids`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or if there are more pairs than `limit`; the message has their number.
    MemoryError
        If the result would not fit in memory.
    OSError
        If a file cannot be opened.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> keys = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    >>> rk.retrieve_above_blocks(np.array([[1.0, 0.5]]), (keys[:3], keys[3:]), 1.0)
    (array([0, 3]), array([0, 2, 3]), array([1. , 2. , 1.5]))
    """
    queries = Queries(q, phi, psi)
    if queries.dtype == "bfloat16" and precision is None:
        precision = "bf16"
    above = Above(PROCESSOR.precision(precision, queries.rows.dtype))
    rows, dtype = len(queries.rows), queries.rows.dtype
    if is_array(threshold):
        threshold = on_host("threshold", threshold).values
    bars = row_thresholds(threshold, () if queries.single else (rows,), dtype)
    bars = np.broadcast_to(bars, (rows,))
    room = Room(limit, None, dtype)
    source, total = source_of(blocks, queries)
    named = None if queries.single else rows
    allowed, lists = Mask(mask, named), Exclude(exclude, named)
    if total is not None:  # before anything is read
        allowed.check(total)
        lists.check(total)
    states: list[State | None] = [above.init(rows, dtype)]
    end = 0
    for block in source:
        first, end = end, end + len(block)
        part = allowed.part(first, end), lists.part(first)
        states.append(above.accept(queries.rows, block, first, bars, phi, psi, *part, room))
        if states[-1] is None:
            states.clear()  # the others are only counted
    allowed.check(end)
    lists.check(end)
    found = room.checked([state for state in states if state is not None])
    offsets, indices, values = above.merge(*found)
    return queries.like(offsets), queries.like(indices), queries.like(values)
