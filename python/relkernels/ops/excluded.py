"""The columns that a search may not return: the argument `exclude` as lists per row."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..arrays.kinds import in_main_memory, is_array
from ..arrays.sparse import FORMATS, check_sparse, is_sparse
from ..base import check
from ..base.describe import described

_FORMS = "an array of integer indices, -1 for none, or a sparse matrix with an entry per excluded pair"


class Excluded(NamedTuple):
    """The list of row i is ``columns[ranges[i, 0] : ranges[i, 1]]``, ascending.

    Attributes
    ----------
    ranges : ndarray of int64 of shape (..., n, 2)
        Of the leading dimensions of the search; strides may be 0.
    columns : ndarray of int64 of shape (entries,)
    first : int
        The number of the search's first column in the lists: a search of a part of the columns uses the lists
        of all columns.
    """

    ranges: np.ndarray
    columns: np.ndarray
    first: int = 0

    def from_column(self, first: int) -> Excluded:
        """Return the lists for a search whose first column is `first` of these."""
        return self._replace(first=self.first + first)

    def translated(self, places: np.ndarray) -> Excluded:
        """Return lists with ``places[i]`` for the i-th entry, ascending like the entries; -1 removes it."""
        if places.size == 0 or places.min() >= 0:
            return self._replace(columns=places, first=0)
        kept = places >= 0
        before = np.concatenate([[0], np.cumsum(kept)])
        return Excluded(before[self.ranges], places[kept])

    def spread(self, lead: tuple[int, ...], n: int) -> Excluded:
        """Return the lists with these leading dimensions."""
        return self._replace(ranges=np.broadcast_to(self.ranges, (*lead, n, 2)))


def excluded(value: Any, n: int | None, m: int | None, *, ids: bool = False) -> Excluded | None:
    """Check the argument `exclude` of a search for n queries, None for a single one without that axis.

    Parameters
    ----------
    value : None, array of int, sparse matrix or Excluded
        Arrays of shape (n,) or (..., n, e); for a single query (), or (..., e). A sparse matrix has shape
        (n, m).
    n, m : int
        Indices are from -1 to m - 1; of any size if `m` is None.
    ids : bool
        Whether indices are ids of `Keys`. A sparse matrix may then have fewer than m columns.

    Returns
    -------
    Excluded or None
        With ranges of shape (..., 1 or n, 2); leading dimensions are those of the argument.
    """
    if value is None or isinstance(value, Excluded):
        return value
    rows = 1 if n is None else n
    if is_sparse(value):
        return _of_matrix(value, rows, m, ids)
    if not is_array(value):
        raise TypeError(f"exclude: expected {_FORMS}, got {described(value)}")
    lists, dtype = in_main_memory("exclude", value)
    if isinstance(value, np.ma.MaskedArray) or lists.dtype.kind not in "iu" or dtype == "bfloat16":
        hint = "; a boolean matrix is a mask" if lists.dtype == np.bool_ else ""
        raise TypeError(f"exclude: expected {_FORMS}, got {described(value)}{hint}")
    given = lists.shape
    if n is None:
        lists = lists.reshape(*given[:-1], 1, given[-1] if given else 1)
    elif lists.ndim == 1:
        lists = lists[:, None]
    if lists.ndim < 2 or lists.shape[-2] not in (1, rows):
        wanted = "(e,) or ()" if n is None else f"({n},) or (..., {n}, e)"
        check.fail("exclude", f"shape {wanted}", given)
    if lists.size and (lists.min() < -1 or lists.max() >= (2**62 if m is None else m)):
        worst = lists.min() if lists.min() < -1 else lists.max()
        what = f"{'ids of keys' if ids else 'indices'} from 0" + ("" if m is None else f" to {m - 1}")
        check.fail("exclude", f"{what}, or -1 for none", int(worst))
    ordered = np.sort(lists.astype(np.int64, copy=False), axis=-1)  # -1 comes first
    width = ordered.shape[-1]
    ranges = np.empty((*ordered.shape[:-1], 2), np.int64)
    starts = np.arange(0, ordered.size, width) if width else np.zeros(ranges[..., 0].size, np.int64)
    ranges[..., 1] = starts.reshape(ranges.shape[:-1]) + width
    ranges[..., 0] = starts.reshape(ranges.shape[:-1]) + (ordered < 0).sum(axis=-1)
    return Excluded(ranges, ordered.reshape(-1))


def _of_matrix(matrix: Any, rows: int, m: int | None, ids: bool) -> Excluded:
    """Return the lists of the stored entries of each row, whatever their values."""
    if matrix.format not in FORMATS:
        raise TypeError(
            f"exclude: expected a sparse matrix in CSR, CSC or COO format, got {described(matrix)}: "
            "use exclude.tocsr()"
        )
    check_sparse("exclude", matrix)
    n, width = matrix.shape
    if n not in (1, rows) or (m is not None and (width > m if ids else width != m)):
        wanted = f"({rows}, at most {m}), a column per id" if ids else f"({rows}, {'m' if m is None else m})"
        check.fail("exclude", f"shape {wanted}", matrix.shape)
    csr = matrix.tocsr()
    end = int(csr.indptr[-1])
    columns, ends = csr.indices[:end].astype(np.int64), csr.indptr.astype(np.int64)
    if not _ascending(columns, ends):
        row_of = np.repeat(np.arange(n), np.diff(ends))
        columns = columns[np.lexsort((columns, row_of))]
    return Excluded(np.stack([ends[:-1], ends[1:]], axis=-1), columns)


def _ascending(columns: np.ndarray, ends: np.ndarray) -> bool:
    """Return whether the columns of each row ascend."""
    descends = np.flatnonzero(columns[1:] < columns[:-1]) + 1
    return bool(np.isin(descends, ends).all())
