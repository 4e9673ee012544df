"""The arguments of a search over keys that are read block by block."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..arrays.kinds import check_returnable, is_array, on_host
from ..arrays.sparse import is_sparse
from ..base import check
from ..base.describe import described
from ..maps.mlp import MLP, check_mlp, mapped_width
from ..ops.excluded import Excluded, excluded
from ..ops.keys import Keys
from .blocks import NpyBlocks


class Queries:
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
        """Return a result with a row for each query in the queries' shape, dtype and library."""
        return self.like(a[0] if self.single else a)

    def like(self, a: np.ndarray) -> Any:
        """Return a result of any shape in the queries' dtype and library."""
        return self._given.like(a)


def source_of(blocks: Any, queries: Queries) -> tuple[Iterator[np.ndarray | Keys], int | None]:
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


class Mask:
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


class Exclude:
    """The indices that rows may not return, for blocks whose total number of rows may be unknown."""

    def __init__(self, value: Any, rows: int | None) -> None:
        self._lists = excluded(value, rows, None)
        self._width = value.shape[1] if is_sparse(value) else None

    def check(self, total: int) -> None:
        """Reject indices that are not those of rows of the blocks."""
        if self._lists is None:
            return
        if self._width is not None and self._width != total:
            check.fail("exclude", f"{total} columns, one for each row of all blocks", self._width)
        greatest = self._lists.columns.max(initial=-1)
        if greatest >= total:
            check.fail("exclude", f"indices from 0 to {total - 1}, or -1 for none", int(greatest))

    def part(self, first: int) -> Excluded | None:
        """Return the lists for a block whose first row is `first`."""
        return None if self._lists is None else self._lists.from_column(first)
