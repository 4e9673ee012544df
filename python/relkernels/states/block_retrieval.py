"""Exact retrieval over keys that are read block by block and not kept."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ..arrays.engine import PROCESSOR
from ..arrays.kinds import Array
from ..base import check
from ..maps.mlp import MLP
from .blocks import NpyBlocks
from .consumers import State, TopK
from .searched_blocks import Exclude, Mask, Queries, source_of


def retrieve_blocks(
    q: Array,
    blocks: NpyBlocks | str | os.PathLike[str] | Iterable[Any],
    k: int,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    mask: Any = None,
    exclude: Any = None,
    pad: bool = False,
    precision: str | None = None,
) -> tuple[Array, Array]:
    """Return the result of `retrieve` for keys that are read block by block and not kept.

    Parameters
    ----------
    q : ndarray of shape (n, d_q), or (d_q,) for a single query
        Or an array of another library in host memory, as for `retrieve`.
    blocks : NpyBlocks, path-like, or iterable of ndarray of shape (m_b, d_k) or of Keys
        The keys in order, with the dtype of `q`: from a file, given by a path ending in ``.npy``, or from any
        iterable, including a generator. An array of shape (m, d_k), or a `Keys`, is one block. With `Keys`,
        `psi` is None.
    k : int
        Number to return per row, at least 1; at most the rows of all blocks together unless `pad` is true.
    phi, psi : MLP, optional
        Feature maps of `q` and of the keys; `psi` None means `phi`, `phi` None the identity. To map
        only the queries, because the blocks already contain features, pass ``phi(q)`` and no maps.
    mask : ndarray of bool, optional
        True = may be retrieved; broadcast to (n, rows of all blocks), or to (rows of all blocks,) for a
        single query.
    exclude : ndarray of int of shape (n,) or (n, e), or sparse matrix, optional
        As for `retrieve`: indices of rows of all blocks, as in the result.
    pad : bool, default False
        Accept `k` above the number of rows and pad the results. False raises instead.
    precision : {"bf16"}, optional
        As for `retrieve`.

    Returns
    -------
    values : ndarray of shape (n, k), or (k,) for a single query
        Best first; equal values ordered by index; NaN after every number.
    indices : ndarray of int64 of the same shape
        Rows of the keys, counted over all blocks; in a block of `Keys`, places in `Keys.ids`. If fewer than
        `k` keys exist or are allowed, the remaining values are -inf and the remaining indices -1. Both are
        bit-identical to `retrieve` on all keys at once, whatever the blocks.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    OSError
        If a file cannot be opened.

    Notes
    -----
    Uses the memory of one block plus O(n k). The compiled retrieval processes each block, and its k best are
    merged with those so far (``relkernels.states.TopK``), in float32 if the arrays have 16 bits.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> keys = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    >>> rk.retrieve_blocks(np.array([[1.0, 0.5]]), (keys[:3], keys[3:]), 2)
    (array([[2. , 1.5]]), array([[2, 3]]))
    >>> rk.retrieve_blocks(np.array([1.0, 0.5]), keys, 2, mask=np.array([True, True, False, True]))
    (array([1.5, 1. ]), array([3, 0]))
    """
    queries = Queries(q, phi, psi)
    if queries.dtype == "bfloat16" and precision is None:
        precision = "bf16"
    top = TopK(check.integer("k", k, 1, check.WIDEST), PROCESSOR.precision(precision, queries.rows.dtype))
    pad = check.flag("pad", pad)
    source, total = source_of(blocks, queries)
    rows = None if queries.single else len(queries.rows)
    allowed, lists = Mask(mask, rows), Exclude(exclude, rows)

    def check_total(rows: int) -> None:
        allowed.check(rows)
        lists.check(rows)
        if top.k > rows and not pad:
            wanted = f"at most {rows}, the rows of all blocks (pad=True pads with -inf and -1)"
            check.fail("k", wanted, top.k)

    if total is not None:  # before anything is read
        check_total(total)
    state: State = top.init((len(queries.rows),), queries.rows.dtype)
    end = 0
    for block in source:
        first, end = end, end + len(block)
        part = top.accept(queries.rows, block, first, phi, psi, allowed.part(first, end), lists.part(first))
        state = top.merge(state, part)
    check_total(end)
    values, indices = top.finish(state)
    return queries.result(values), queries.result(indices)
