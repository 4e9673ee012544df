"""Keys that do not fit in memory: files read block by block, and exact retrieval over blocks."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from . import _check
from .mlp import MLP
from .states import State, TopK

# Bytes of a block unless it is said how many rows: long enough to keep the kernels and the disk busy.
_BLOCK = 32 << 20


class NpyBlocks:
    """The rows of a ``.npy`` file, mapped into memory a block at a time.

    Only the block in use (and the next one, which the system reads ahead) is mapped: a process that goes
    through the file keeps no more of it than that, whatever the size of the file. `numpy.load` with
    ``mmap_mode`` maps it whole, and its pages count as the process's own as they are touched.

    Parameters
    ----------
    path : path-like
        A file that `numpy.save` wrote: two dimensions, C order, float32, float64 or float16.
    rows : int, optional
        Rows of a block; None is as many as come to 32 MiB.

    Attributes
    ----------
    path : str
    shape : tuple of int
    dtype : numpy.dtype
    rows : int

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is no such file, or shorter than its header says; the message names it.

    See Also
    --------
    retrieve_blocks : Exact retrieval over the blocks.

    Examples
    --------
    >>> import os, tempfile, numpy as np, relkernels as rk
    >>> path = os.path.join(tempfile.mkdtemp(), "keys.npy")
    >>> np.save(path, np.arange(20.0).reshape(10, 2))
    >>> keys = rk.NpyBlocks(path, rows=4)
    >>> keys.shape, len(keys), [block.shape for block in keys]
    ((10, 2), 3, [(4, 2), (4, 2), (2, 2)])
    >>> keys[8:, 1]
    array([17., 19.])
    """

    ndim = 2

    def __init__(self, path: str | os.PathLike[str], rows: int | None = None) -> None:
        self.path = os.fspath(path)
        self.shape, self.dtype, self._start = _read_header(self.path)
        if rows is None:
            rows = max(_BLOCK // self._row, 1)
        self.rows = _check.integer("rows", rows, 1)
        self._check_size()

    @property
    def _row(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self._row

    def _check_size(self) -> None:
        # Before every mapping: a read past the end of a file that was cut would kill the process.
        there, needed = os.path.getsize(self.path), self._start + self.nbytes
        if there < needed:
            raise ValueError(
                f"{self.path}: truncated: expected {needed} bytes, for an array of shape {self.shape} and "
                f"dtype {self.dtype}, got {there}"
            )

    def block(self, first: int, end: int) -> np.ndarray:
        """Return the rows first .. end - 1: a read-only array of its own mapping."""
        self._check_size()
        count = end - first
        if count == 0:
            return np.empty((0, self.shape[1]), self.dtype)
        at = self._start + first * self._row
        skip = at % mmap.ALLOCATIONGRANULARITY
        with open(self.path, "rb") as file:
            pages = mmap.mmap(
                file.fileno(), skip + count * self._row, access=mmap.ACCESS_READ, offset=at - skip
            )
        if hasattr(mmap, "MADV_WILLNEED"):
            pages.madvise(mmap.MADV_WILLNEED)
        return np.frombuffer(pages, self.dtype, count * self.shape[1], skip).reshape(count, self.shape[1])

    def __len__(self) -> int:
        return -(-self.shape[0] // self.rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        n = self.shape[0]
        ahead = None
        for first in range(0, n, self.rows):
            block = self.block(first, min(first + self.rows, n)) if ahead is None else ahead
            nxt = first + self.rows
            ahead = self.block(nxt, min(nxt + self.rows, n)) if nxt < n else None
            yield block

    def __getitem__(self, index: Any) -> np.ndarray:
        """Return rows, and of these columns, as an array: what Dask asks of a source."""
        rows, *rest = index if isinstance(index, tuple) else (index,)
        if not isinstance(rows, slice):
            raise TypeError(f"index: expected a slice of rows, got {rows!r}")
        first, end, step = rows.indices(self.shape[0])
        if step != 1:
            _check.fail("index", "a slice of rows of step 1", repr(rows))
        block = self.block(first, max(first, end))
        return block[(slice(None), *rest)] if rest else block

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        state = os.stat(self.path)
        return type(self).__name__, os.path.abspath(self.path), state.st_size, state.st_mtime_ns

    def __repr__(self) -> str:
        return f"NpyBlocks({self.path!r}, rows={self.rows}): shape {self.shape}, {self.dtype}"


def _read_header(path: str) -> tuple[tuple[int, int], np.dtype, int]:
    """Return shape, dtype, and where the data begins."""
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"version {version} of the format")
            shape, fortran, dtype = read(file)
        except Exception as error:  # NumPy reads headers as Python's literals: a damaged one raises anything
            raise ValueError(f"{path}: not a readable .npy file: {error}") from None
        start = file.tell()
    if len(shape) != 2 or shape[0] < 0 or shape[1] <= 0:
        _check.fail(path, "an array of shape (rows, features), features > 0", f"shape {shape}")
    if dtype.char not in "efd" or not dtype.isnative:
        raise TypeError(f"{path}: expected {_check.FLOATS} or float16, got {dtype}")
    if fortran and min(shape) > 1:
        _check.fail(path, "rows one after the other (C order)", "columns one after the other (Fortran order)")
    return (int(shape[0]), int(shape[1])), dtype, start


def retrieve_blocks(
    q: np.ndarray,
    blocks: Iterable[np.ndarray],
    k: int,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    precision: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `retrieve` does, of keys that come block by block and are not held.

    Parameters
    ----------
    q : ndarray of shape (n, d_q)
    blocks : iterable of ndarray of shape (m_b, d_k)
        The keys in their order, as `NpyBlocks` gives those of a file; any generator will do.
    k : int
        How many, 1 <= k <= the rows of all blocks together.
    phi, psi : MLP, optional
        Feature maps of `q` and of the keys; `psi` None stands for `phi`, `phi` None for the identity.
    precision : {"bf16"}, optional
        As for `retrieve`.

    Returns
    -------
    values : ndarray of shape (n, k)
        Best first; equal values by the lower index; NaN after every number.
    indices : ndarray of int64 of shape (n, k)
        Rows of the keys, counted over all blocks. Both equal those of `retrieve` on all keys at once to the
        last bit, however they are cut.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Notes
    -----
    Memory is that of one block and O(n k). Each block goes through the compiled walk over pairs; the k best
    of both are then merged (``relkernels.states.TopK``).

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> keys = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    >>> rk.retrieve_blocks(np.array([[1.0, 0.5]]), (keys[:3], keys[3:]), 2)
    (array([[2. , 1.5]]), array([[2, 3]]))
    """
    q = _matrix("q", q)
    top = TopK(_check.integer("k", k, 1), precision)
    state: State = top.init((len(q),), q.dtype)
    rows = 0
    for i, block in enumerate(blocks):
        state = top.merge(state, top.accept(q, _matrix(f"blocks[{i}]", block), rows, phi, psi))
        rows += len(block)
    if top.k > rows:
        _check.fail("k", f"at most {rows}, the rows of all blocks", k)
    values, indices = top.finish(state)
    return values, indices


def _matrix(name: str, a: Any) -> np.ndarray:
    """Return `a` if it is an array of two dimensions; the operation looks at its dtype."""
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(a).__name__}")
    if a.ndim != 2:
        _check.fail(name, "shape (rows, features)", a.shape)
    return a
