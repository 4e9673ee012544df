"""The rows of a file that does not fit in memory, indexed like an array and read block by block."""

from __future__ import annotations

import mmap
import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import Any

import numpy as np

from ..base import check

# Default size of a block in bytes: large enough to keep the kernels and the disk busy.
_BLOCK = 32 << 20
# Rows at most this many bytes apart are read together.
_NEAR = 4096


class NpyBlocks:
    """The rows of a ``.npy`` file, mapped into memory one block at a time.

    Only the current block (and the next one, which the system reads ahead) is mapped, whatever the size of
    the file. `numpy.load` with ``mmap_mode`` maps the whole file, and every page touched counts towards the
    process's memory.

    It behaves like the array of rows in the file: ``len(b)`` is ``b.shape[0]``, iteration yields rows, and
    ``b[index]`` equals indexing the array. `blocks` iterates over the `n_blocks` blocks.

    Parameters
    ----------
    path : path-like
        A file written by `numpy.save`: two dimensions, C order, float32, float64, float16 or bfloat16.
    rows : int, optional
        Rows per block; None means blocks of about 32 MiB.
    dtype : {"bfloat16"}, optional
        Required for bfloat16, which `numpy.save` writes as unnamed two-byte elements: they (or uint16, the
        bits) are read as ``ml_dtypes.bfloat16``. None means the dtype in the file's header.

    Attributes
    ----------
    path : str
    shape : tuple of int
    dtype : numpy.dtype
    rows : int
        Rows per block; the last block may have fewer.

    Raises
    ------
    OSError
        If the file cannot be opened.
    TypeError, ValueError
        If it is not such a file, is shorter than its header says, or its header has changed since; the
        message names the file. Every access checks again.
    ImportError
        If `dtype` is given and ml_dtypes is not installed.

    See Also
    --------
    retrieve_blocks : Exact retrieval over the blocks.

    Notes
    -----
    A row, or a slice of rows with step 1, is a read-only view of the file's pages. Every other index (lists,
    arrays, boolean masks, other steps) copies, and reads only the pages of the selected rows.

    Examples
    --------
    >>> import os, tempfile, numpy as np, relkernels as rk
    >>> path = os.path.join(tempfile.mkdtemp(), "keys.npy")
    >>> np.save(path, np.arange(20.0).reshape(10, 2))
    >>> keys = rk.NpyBlocks(path, rows=4)
    >>> len(keys), keys.n_blocks, [block.shape for block in keys.blocks()]
    (10, 3, [(4, 2), (4, 2), (2, 2)])
    >>> keys[8:, 1]
    array([17., 19.])
    >>> keys[[3, -1]]
    array([[ 6.,  7.],
           [18., 19.]])
    """

    ndim = 2

    def __init__(self, path: str | os.PathLike[str], rows: int | None = None, *, dtype: Any = None) -> None:
        self.path = os.fsdecode(check.path("path", path))
        with open(self.path, "rb") as file:
            self.shape, found = _read_header(self.path, file)
            size = file.tell()
            file.seek(0)
            self._header = file.read(size)
        self.dtype = _dtype(self.path, found, dtype)
        if rows is None:
            rows = max(_BLOCK // self._row, 1)
        self.rows = check.integer("rows", rows, 1, 2**62)
        with self._open():
            pass

    @property
    def _row(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Total size of the rows in bytes."""
        return self.shape[0] * self._row

    @property
    def n_blocks(self) -> int:
        """Number of blocks that `blocks` yields."""
        return -(-self.shape[0] // self.rows)

    @contextmanager
    def _open(self) -> Iterator[BufferedReader]:
        """Open the file if it is unchanged, because reading past the end of a mapping kills the process."""
        with open(self.path, "rb") as file:
            there, needed = os.fstat(file.fileno()).st_size, len(self._header) + self.nbytes
            if there < needed:
                raise ValueError(
                    f"{self.path}: truncated: expected {needed} bytes, for an array of shape {self.shape} "
                    f"and dtype {self.dtype}, got {there}"
                )
            if file.read(len(self._header)) != self._header:
                check.fail(self.path, f"the header of an array of shape {self.shape}", "another: it changed")
            yield file

    def block(self, first: int, end: int) -> np.ndarray:
        """Return rows first .. end - 1 as a read-only array with its own mapping."""
        with self._open() as file:
            count = end - first
            if count == 0:
                return np.empty((0, self.shape[1]), self.dtype)
            at = len(self._header) + first * self._row
            skip = at % mmap.ALLOCATIONGRANULARITY
            pages = mmap.mmap(
                file.fileno(), skip + count * self._row, access=mmap.ACCESS_READ, offset=at - skip
            )
        if hasattr(mmap, "MADV_WILLNEED"):
            pages.madvise(mmap.MADV_WILLNEED)
        return np.frombuffer(pages, self.dtype, count * self.shape[1], skip).reshape(count, self.shape[1])

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the blocks in order: read-only arrays of `rows` rows, the last with the remaining rows."""
        n = self.shape[0]
        ahead = None
        for first in range(0, n, self.rows):
            block = self.block(first, min(first + self.rows, n)) if ahead is None else ahead
            nxt = first + self.rows
            ahead = self.block(nxt, min(nxt + self.rows, n)) if nxt < n else None
            yield block

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self.blocks():
            yield from block

    def __getitem__(self, index: Any) -> Any:
        """Return the result of indexing the array in the file with a NumPy index."""
        rows, rest = self._split(index)
        if isinstance(rows, int):
            row = self.block(rows, rows + 1)[0]
            return row[rest] if rest else row
        if isinstance(rows, slice):
            first, end, step = rows.indices(self.shape[0])
            whole = (slice(None), *rest)
            if step == 1:
                return self.block(first, max(first, end))[whole]
            return self._take(np.arange(first, end, step))[whole]
        taken = self._take(rows.ravel())
        if not rest:
            return taken.reshape(*rows.shape, self.shape[1])
        return taken[(np.arange(rows.size).reshape(rows.shape), *rest)]

    def _split(self, index: Any) -> tuple[int | slice | np.ndarray, tuple[Any, ...]]:
        """Return the rows that an index selects, none of them negative, and its index of the columns."""
        parts = index if isinstance(index, tuple) else (index,)
        if any(part is Ellipsis for part in parts):
            at = next(i for i, part in enumerate(parts) if part is Ellipsis)
            parts = (*parts[:at], *(slice(None),) * (3 - len(parts)), *parts[at + 1 :])
        if len(parts) > 2:
            raise IndexError(f"index: expected rows and columns of {self.path}, got {len(parts)} indices")
        rows, *rest = parts or (slice(None),)
        if isinstance(rows, slice):
            return rows, tuple(rest)
        wanted = "index: expected an integer, a slice, integers or booleans for the rows"
        if rows is None or isinstance(rows, (bool, np.bool_)):
            raise TypeError(f"{wanted}, got {rows}")
        if hasattr(rows, "__index__") and np.ndim(rows) == 0:
            return int(self._inside(np.array(operator.index(rows)))), tuple(rest)
        picked = np.asarray(rows)
        if picked.dtype == np.bool_:
            if picked.ndim + len(rest) > 2 or picked.shape != self.shape[: picked.ndim]:
                raise IndexError(
                    f"index: expected booleans of shape {self.shape[:1]} or {self.shape}, those of "
                    f"{self.path}, got {picked.shape}"
                )
            picked, *columns = np.nonzero(picked)
            return picked, (*columns, *rest)
        if picked.size == 0 and not isinstance(rows, np.ndarray):
            picked = picked.astype(np.intp)
        if picked.dtype.kind not in "iu":
            raise TypeError(f"{wanted}, got {type(rows).__name__} of dtype {picked.dtype}")
        return self._inside(picked), tuple(rest)

    def _inside(self, rows: np.ndarray) -> np.ndarray:
        """Return non-negative row numbers."""
        n = self.shape[0]
        outside = (rows < -n) | (rows >= n)
        if outside.any():
            raise IndexError(
                f"index: expected rows of {self.path}, which has {n}, got {rows[outside].flat[0]}"
            )
        return np.where(rows < 0, rows + n, rows).astype(np.intp)

    def _take(self, rows: np.ndarray) -> np.ndarray:
        """Return a copy of some rows, in any order; nearby rows are read together, up to a block."""
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        apart = (np.diff(ascending) > max(_NEAR // self._row, 1)) | (np.diff(ascending // self.rows) > 0)
        cuts = [0, *(np.flatnonzero(apart) + 1).tolist(), len(rows)]
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        with self._open() as file:
            for begin, end in zip(cuts, cuts[1:], strict=False):
                if begin == end:
                    continue
                first = int(ascending[begin])
                span = np.empty((int(ascending[end - 1]) + 1 - first, self.shape[1]), self.dtype)
                file.seek(len(self._header) + first * self._row)
                if file.readinto(span.view(np.uint8).data) < span.nbytes:
                    raise ValueError(f"{self.path}: truncated while it was read")
                out[order[begin:end]] = span[ascending[begin:end] - first]
        return out

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        state = os.stat(self.path)
        return type(self).__name__, os.path.abspath(self.path), state.st_size, state.st_mtime_ns

    def __repr__(self) -> str:
        return f"NpyBlocks({self.path!r}, rows={self.rows}): shape {self.shape}, {self.dtype}"


def _read_header(path: str, file: BufferedReader) -> tuple[tuple[int, int], np.dtype]:
    """Return shape and dtype, and leave the file positioned at the data."""
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"version {version} of the format")
        shape, fortran, dtype = read(file)
    except Exception as error:  # NumPy reads headers as Python literals: a damaged one may raise anything
        raise ValueError(f"{path}: not a readable .npy file: {error}") from None
    if len(shape) != 2 or shape[0] < 0 or shape[1] <= 0:
        check.fail(path, "an array of shape (rows, features), features > 0", f"shape {shape}")
    if fortran and min(shape) > 1:
        check.fail(
            path,
            "rows one after the other (C order)",
            "columns one after the other (Fortran order): save np.ascontiguousarray of it",
        )
    return (int(shape[0]), int(shape[1])), dtype


def _dtype(path: str, found: np.dtype, given: Any) -> np.dtype:
    """Return the dtype of a file's elements."""
    if given is None:
        if found.char in "efd" and found.isnative:
            return found
        hint = "; where it holds bfloat16, say dtype='bfloat16'" if found == np.dtype("V2") else ""
        raise TypeError(f"{path}: expected {check.FLOATS} or float16, got {found}{hint}")
    name = given if isinstance(given, str) else getattr(given, "name", getattr(given, "__name__", None))
    if name != "bfloat16":
        check.fail("dtype", "None or 'bfloat16'", check.option(given))
    if found not in (np.dtype("V2"), np.dtype("<u2")):
        raise TypeError(f"{path}: expected bfloat16 (two bytes without a name, or uint16), got {found}")
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("dtype='bfloat16' needs ml_dtypes: pip install ml_dtypes") from error
    return np.dtype(ml_dtypes.bfloat16)
