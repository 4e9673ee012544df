"""All relations at or above a threshold: exact range search by inner products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arrays import Array, operation
from ..arrays.allocate import available
from ..arrays.engine import engine_of
from ..arrays.stored import STORED_PROCESSOR, widened
from ..base import check
from ..base.describe import described
from ..maps.mlp import MLP
from .keys import Keys
from .search import Search

# The results of this many pairs need no look at the memory that is left.
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
        arrays. Rows of a batch are numbered through, as in ``q.reshape(-1, d_q)``.
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
    Takes the memory of about three times the result, and at most some 30 MiB besides.

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
    a = Search(q, keys, phi, psi, mask, exclude, precision)
    thresholds = _thresholds(threshold, a)
    rows = math.prod(a.lead) * a.n
    most = rows * a.m
    if limit is not None:
        most = min(check.integer("limit", limit, 1), most)
    # Offsets of 8 bytes a row; of each pair an element of the list, an index and a value.
    per_pair = 2 * (8 + a.dtype.itemsize) + 8
    left = available() if most > _FEW else None
    room = most if left is None else min(most, left // per_pair)
    found = a.run("retrieve_above", thresholds, room)
    total = found.total
    if limit is not None and total > limit:
        check.fail("limit", f"at least {total}, the number of pairs at or above the threshold", limit)
    if total > room:
        raise MemoryError(
            f"retrieve_above: {total} pairs at or above the threshold need {total * per_pair} bytes; "
            f"{left} bytes are available"
        )
    offsets = a.engine.empty_sums("retrieve_above", (rows + 1,), _INT64)
    indices = a.engine.empty_sums("retrieve_above", (total,), _INT64)
    values = a.engine.empty("retrieve_above", (total,), a.dtype)
    found.write(offsets, indices, values)
    if a.stored is not None:
        a.stored.to_ids(indices)
    return offsets, indices, values


def _thresholds(value: Any, a: Search) -> np.ndarray:
    """Return the threshold of each row."""
    if engine_of(value) is STORED_PROCESSOR:
        value = widened(value)
    if isinstance(value, np.ndarray) and value.ndim > 0:
        if isinstance(value, np.ma.MaskedArray) or value.dtype.kind != "f":
            raise TypeError(f"threshold: expected a number, or an array of {a.dtype}, got {described(value)}")
        check.same_dtype(("q", a.x), ("threshold", check.floats("threshold", value, 0)))
        value = check.floats("threshold", value, 0)
        if np.isnan(value).any():
            check.fail("threshold", "numbers", "NaN")
        shape = a.lead if a.single else (*a.lead, a.n)
        try:
            value = np.broadcast_to(value, shape)
        except ValueError:
            check.fail("threshold", f"a number, or a shape that broadcasts to {shape}", value.shape)
        return value[..., None] if a.single else value
    number = check.real("threshold", value)
    if math.isnan(number):
        check.fail("threshold", "a number", "NaN")
    with np.errstate(over="ignore"):  # above all finite values
        return np.broadcast_to(np.array(number).astype(a.dtype), (*a.lead, a.n))
