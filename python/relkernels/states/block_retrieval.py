"""Exact retrieval over keys that are read block by block and not kept."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..arrays.engine import PROCESSOR
from ..arrays.kinds import Array, check_returnable, is_array, on_host
from ..base import check
from ..base.describe import described
from ..maps.mlp import MLP, check_mlp, mapped_width
from ..ops.keys import Keys
from .blocks import NpyBlocks
from .consumers import State, TopK


def retrieve_blocks(
    q: Array,
    blocks: NpyBlocks | str | os.PathLike[str] | Iterable[Any],
    k: int,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    mask: Any = None,
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
    queries = _Queries(q, phi, psi)
    if queries.dtype == "bfloat16" and precision is None:
        precision = "bf16"
    top = TopK(check.integer("k", k, 1, check.WIDEST), PROCESSOR.precision(precision, queries.rows.dtype))
    pad = check.flag("pad", pad)
    source, total = _source(blocks, queries)
    allowed = _Mask(mask, None if queries.single else len(queries.rows))

    def check_total(rows: int) -> None:
        allowed.check(rows)
        if top.k > rows and not pad:
            wanted = f"at most {rows}, the rows of all blocks (pad=True pads with -inf and -1)"
            check.fail("k", wanted, top.k)

    if total is not None:  # before anything is read
        check_total(total)
    state: State = top.init((len(queries.rows),), queries.rows.dtype)
    end = 0
    for block in source:
        first, end = end, end + len(block)
        part = top.accept(queries.rows, block, first, phi, psi, allowed.part(first, end))
        state = top.merge(state, part)
    check_total(end)
    values, indices = top.finish(state)
    return queries.result(values), queries.result(indices)


class _Queries:
    """The queries as rows for the kernels, and the requirements on a block of keys."""

    def __init__(self, q: Any, phi: MLP | None, psi: MLP | None) -> None:
        self._given = given = on_host("q", q)
        check_returnable("q", given.kind)
        points = check.features("q", given.values, 1)
        if points.ndim > 2:
            check.fail("q", "shape (n, features) or (features,)", points.shape)
        phi, psi = check_mlp("phi", phi), check_mlp("psi", psi)
        check.same_dtype(("q", points), ("phi", phi), ("psi", psi))
        self._has_psi = psi is not None
        self._points, self._width = points, mapped_width("q", points, "phi", phi)
        self._psi_name, self._psi = ("phi", phi) if psi is None else ("psi", psi)
        self.dtype, self.single = given.dtype, points.ndim == 1
        self.rows = points[None] if self.single else points

    def keys(self, name: str, a: Any) -> np.ndarray | Keys:
        """Return a checked block of keys in the form that `retrieve` takes; `Keys` as they are now."""
        if isinstance(a, Keys):
            return self._kept(name, copy.copy(a))
        given = on_host(name, a)
        keys = check.features(name, given.values)
        if keys.ndim > 2:
            check.fail(name, "shape (rows, features)", keys.shape)
        if given.dtype != self.dtype:
            raise TypeError(
                f"{name}: expected {self.dtype}, the dtype of q, got {given.dtype}: convert q, or each "
                "block, with astype"
            )
        width = mapped_width(name, keys, self._psi_name, self._psi)
        check.same_width("q", self._points, self._width, name, keys, width)
        return keys

    def _kept(self, name: str, keys: Keys) -> Keys:
        if self._has_psi:
            raise TypeError(f"psi: expected None, because {name} is {described(keys)}, got an MLP")
        wanted = "float64" if keys.dtype == "float64" else "float32"
        if self.rows.dtype != wanted:
            check.different_dtype("q", name, wanted, self.dtype, None)
        rows = np.broadcast_to(self.rows.dtype.type(0), keys.shape)
        check.same_width("q", self._points, self._width, name, rows, keys.dim)
        return keys

    def result(self, a: np.ndarray) -> Any:
        """Return a result in the queries' shape, dtype and library."""
        return self._given.like(a[0] if self.single else a)


def _source(blocks: Any, queries: _Queries) -> tuple[Iterator[np.ndarray | Keys], int | None]:
    """Return the checked blocks, and their total number of rows if known."""
    if isinstance(blocks, (str, os.PathLike)):
        if not os.fspath(blocks).endswith(".npy"):
            check.fail("blocks", "arrays, or the path of a .npy file", repr(blocks))
        blocks = NpyBlocks(blocks)
    if isinstance(blocks, NpyBlocks):
        queries.keys("blocks", blocks.block(0, 0))
        named: Iterator[tuple[str, Any]] = (("blocks", block) for block in blocks.blocks())
        total: int | None = len(blocks)
    elif is_array(blocks) or isinstance(blocks, Keys):
        keys = queries.keys("blocks", blocks)
        return iter((keys,)), len(keys)
    elif isinstance(blocks, Iterable):
        named = ((f"blocks[{i}]", block) for i, block in enumerate(blocks))
        total = None
    else:
        raise TypeError(f"blocks: expected arrays, or the path of a .npy file, got {type(blocks).__name__}")
    return (queries.keys(name, block) for name, block in named), total


class _Mask:
    """The mask of retrievable keys, for blocks whose total number of rows may be unknown in advance."""

    def __init__(self, value: Any, rows: int | None) -> None:
        self._mask = self._given = None
        if value is None:
            return
        given = on_host("mask", value).view
        self._given = given.shape
        self._wanted = "({})" if rows is None else f"({rows}, {{}})"
        columns = given.shape[-1] if given.ndim else 1
        if given.ndim > (1 if rows is None else 2):
            check.fail("mask", f"a shape that broadcasts to {self._wanted.format('m')}", given.shape)
        self._mask = check.mask(given, rows, columns)

    def check(self, total: int, exact: bool = True) -> None:
        """Reject a mask that does not broadcast to the rows of all blocks, or of those read so far."""
        if self._mask is None:
            return
        columns = self._mask.shape[-1]
        if columns != 1 and (columns != total if exact else columns < total):
            many = f"{total} or more" if not exact else str(total)
            check.fail("mask", f"a shape that broadcasts to {self._wanted.format(many)}", self._given)

    def part(self, first: int, end: int) -> np.ndarray | None:
        """Return the mask of rows first .. end - 1."""
        if self._mask is None:
            return None
        self.check(end, exact=False)
        return self._mask if self._mask.shape[-1] == 1 else self._mask[:, first:end]
