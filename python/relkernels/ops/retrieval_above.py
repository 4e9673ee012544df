"""All relations at or above a threshold: exact range search by inner products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arrays import Array, operation
from ..arrays.engine import PROCESSOR, Engine, engine_of
from ..arrays.stand_ins import StandIn
from ..arrays.stored import STORED_PROCESSOR, widened
from ..base import check
from ..base.describe import described
from ..maps.mlp import MLP
from .allowed import Allowed
from .keys import Keys
from .search import Search

# Up to this many pairs, the memory that is left is not checked.
_FEW = 1 << 20
_INT64 = np.dtype(np.int64)


@operation("q", "keys", "threshold", "mask")
def retrieve_above(
    q: Array,
    keys: Array | Keys,
    threshold: Any,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    mask: Array | None = None,
    exclude: Any = None,
    limit: int | None = None,
    precision: str | None = None,
) -> tuple[Array, Array, Array]:
    """Return all pairs with ``<phi(q_i), psi(keys_j)> >= threshold``, as the rows of a sparse matrix.

    Parameters
    ----------
    q : ndarray of shape (..., n, d_q), or (d_q,) for a single query
        As in `retrieve`.
    keys : ndarray of shape (..., m, d_k), or Keys
        As in `retrieve`.
    threshold : float, or ndarray of shape (..., n)
        The least value of all rows, or of each. A number is rounded to the dtype of `q` (float32 for 16
        bits); an array has that dtype, and for a single query the shape ().
    phi, psi, mask, exclude, precision
        As in `retrieve`.
    limit : int, optional
        The most pairs to return, at least 1. More are counted, but not stored. None: as many as fit in
        memory.

    Returns
    -------
    offsets : ndarray of int64 of shape (rows + 1,)
        Row i of the result has the elements from ``offsets[i]`` to ``offsets[i + 1] - 1`` of the other
        arrays. Rows of a batch are numbered consecutively, as in ``q.reshape(-1, d_q)``.
    indices : ndarray of int64 of shape (pairs,)
        Rows of `keys` (ids of `Keys`), ascending within each row.
    values : ndarray of shape (pairs,)
        The same bits as in `retrieve`. NaN is not above any threshold.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or if there are more pairs than `limit`; the message has their number.
    MemoryError
        If the result would not fit in memory.

    See Also
    --------
    retrieve : The largest values of each row.

    Notes
    -----
    Takes about three times the memory of the result, and at most some 30 MiB more.

    Examples
    --------
    >>> import numpy as np, relkernels as rk, scipy.sparse
    >>> x = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> offsets, indices, values = rk.retrieve_above(x, x, 0.5, exclude=np.arange(3))
    >>> offsets, indices, values
    (array([0, 1, 3, 4]), array([1, 0, 2, 1]), array([0.8, 0.8, 0.6, 0.6]))
    >>> scipy.sparse.csr_array((values, indices, offsets), shape=(3, 3)).toarray()
    array([[0. , 0.8, 0. ],
           [0.8, 0. , 0.6],
           [0. , 0.6, 0. ]])
    """
    a = Search(q, keys, phi, psi, Allowed(mask), exclude, precision)
    room = Room(limit, math.prod(a.lead) * a.n * a.m, a.dtype, a.engine)
    return room.checked(found_above(a, threshold, room))


class Room:
    """How many pairs a search may return, and how many it has found, including those beyond the limit.

    Parameters
    ----------
    limit : int or None
        As in `retrieve_above`.
    most : int or None
        The number of all pairs; None if it is not known.
    dtype : dtype
        Of the values.
    engine : Engine
        Allocates the result.
    """

    def __init__(
        self, limit: Any, most: int | None, dtype: np.dtype, engine: Engine[Any] = PROCESSOR
    ) -> None:
        self._limit = None if limit is None else check.integer("limit", limit, 1, 2**63 - 1)
        # A pair takes an element of the list, an index and a value.
        self._per_pair = 2 * (8 + dtype.itemsize) + 8
        self._left = engine.available() if most is None or most > _FEW else None
        bounds = (self._limit, most, None if self._left is None else self._left // self._per_pair)
        self.total, self._room = 0, min((b for b in bounds if b is not None), default=2**62)

    @property
    def left(self) -> int:
        """The number of pairs that may still be found."""
        return max(self._room - self.total, 0)

    def checked(self, result: Any) -> Any:
        """Return the result if all pairs fit."""
        if self._limit is not None and self.total > self._limit:
            wanted = f"at least {self.total}, the number of pairs at or above the threshold"
            check.fail("limit", wanted, self._limit)
        if self.total > self._room:
            raise MemoryError(
                f"retrieve_above: {self.total} pairs at or above the threshold need "
                f"{self.total * self._per_pair} bytes; {self._left} bytes are available"
            )
        return result


def found_above(a: Search, threshold: Any, room: Room) -> tuple[Any, Any, Any] | None:
    """Return offsets, indices and values of a search; None if they do not fit."""
    bars = row_thresholds(threshold, a.lead if a.single else (*a.lead, a.n), a.dtype)
    # Before the search, so that results of too many rows are an error at once.
    offsets = a.engine.empty_sums("retrieve_above", (math.prod(a.lead) * a.n + 1,), _INT64)
    found = a.run("retrieve_above", a.engine.upload(bars[..., None] if a.single else bars), room.left)
    fits = found.total <= room.left
    room.total += found.total
    if not fits:
        return None
    indices = a.engine.empty_sums("retrieve_above", (found.total,), _INT64)
    values = a.engine.empty("retrieve_above", (found.total,), a.dtype)
    found.write(offsets, indices, values)
    if a.stored is not None:
        a.stored.to_ids(indices)
    return offsets, indices, values


def row_thresholds(value: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return the threshold of each row of a search; `shape` is that of an array with one per row."""
    if engine_of(value) is STORED_PROCESSOR:
        value = widened(value)
    if isinstance(value, np.ndarray) and (value.ndim > 0 or isinstance(value, StandIn)):
        if isinstance(value, np.ma.MaskedArray) or value.dtype.kind != "f":
            raise TypeError(f"threshold: expected a number, or an array of {dtype}, got {described(value)}")
        if value.dtype != dtype:
            check.different_dtype(
                "threshold", "q", str(dtype), str(value.dtype), f"threshold.astype(np.{dtype})"
            )
        bars = check.floats("threshold", value, 0)
        if engine_of(bars).any_nan(bars):
            check.fail("threshold", "numbers", "NaN")
        try:
            return np.broadcast_to(bars, shape)
        except ValueError:
            check.fail("threshold", f"a number, or a shape that broadcasts to {shape}", value.shape)
    number = check.real("threshold", value)
    if math.isnan(number):
        check.fail("threshold", "a number", "NaN")
    with np.errstate(over="ignore"):  # infinity is above all finite values
        return np.broadcast_to(np.array(number).astype(dtype), shape)
