"""All relations at or above a threshold, on Dask arrays: a sparse matrix per block of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from ..base import check
from ..maps.mlp import MLP
from ..ops.allowed import Allowed
from ..ops.retrieval_above import row_thresholds
from ..ops.scoring import Scoring
from ..ops.sides import Attended
from ..states.consumers import Above, State
from .arrays import aligned, array, array_of_pairs, stand_in, value, widened
from .excluded import excluded_array, excluded_block
from .graphs import tree_of_states
from .key_blocks import OfKeys
from .reductions import mapped_queries


@dataclass(frozen=True)
class _SparseRows(Above):
    """The state whose result is a sparse matrix of this many columns."""

    columns: int = 0

    def finish(self, state: State) -> Any:
        """Return the matrix, the only result."""
        from scipy.sparse import csr_matrix  # Dask concatenates these, but not csr_array

        offsets, indices, values = state
        return (csr_matrix((values, indices, offsets), shape=(len(offsets) - 1, self.columns)),)


def retrieve_above(
    q: Any,
    keys: Any,
    threshold: Any,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    mask: Any = None,
    exclude: Any = None,
    precision: str | None = None,
) -> da.Array:
    """Return all pairs with ``<phi(q_i), psi(keys_j)> >= threshold`` as a sparse matrix, in blocks of rows.

    Parameters
    ----------
    q : dask.array.Array of shape (n, d_q)
        Few large blocks: the keys are read, and mapped by `psi`, once per block.
    keys : dask.array.Array of shape (m, d_k)
        Or the result of `keys`, as for `retrieve`.
    threshold : float, or array of shape (n,)
        The least value of all rows, or of each.
    phi, psi, mask, exclude, precision
        As for `retrieve`; `mask` broadcasts to (n, m).

    Returns
    -------
    dask.array.Array of shape (n, m)
        Its blocks are `scipy.sparse.csr_matrix`, one per block of `q`, with the bits of
        `relkernels.retrieve_above`; of float32 if the arrays have 16 bits. A worker must have the memory for
        the pairs of its blocks.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or has unknown chunks; the message names it.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> from relkernels.dask import retrieve_above
    >>> x = da.from_array(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), chunks=(2, 2))
    >>> retrieve_above(x, x, 0.5, exclude=np.arange(3)).compute().toarray()
    array([[0. , 0.8, 0. ],
           [0.8, 0. , 0.6],
           [0. , 0.6, 0. ]])
    """
    q, keys = array("q", q), array("keys", keys)
    for name, side in (("q", q), ("keys", keys)):
        if side.ndim != 2:
            check.fail(name, "2 dimensions", side.shape)
    if isinstance(keys._meta, OfKeys):
        (q,), _, precision = widened(precision, ("q", q))
        q, phi = mapped_queries(q, phi, psi, precision), None
    else:
        (q, keys), _, precision = widened(precision, ("q", q), ("keys", keys))
    allowed = array_of_pairs("mask", mask)
    shown = Scoring(Allowed(stand_in(allowed)))
    a = Attended(stand_in(q), stand_in(keys), None, phi, psi, 1.0, shown, precision, keys_name="keys")
    if isinstance(threshold, da.Array):
        bars = array("threshold", threshold)
        row_thresholds(stand_in(bars), (a.n,), a.dtype)
        bars = da.broadcast_to(bars, (a.n,))
    else:
        bars = da.from_array(row_thresholds(threshold, (a.n,), a.dtype), chunks=-1)
    lists = excluded_array(exclude, q, a.m, False)
    operands = [(q, ("i", "d")), (keys, ("j", "e")), (bars, ("i",))]
    if allowed is not None:
        operands.append((allowed, ("i", "j")))
    if lists is not None:
        operands.append((lists, ("i", "g")))
    (found,) = tree_of_states(
        "retrieve-above",
        partial(_accept, lists=lists is not None),
        _SparseRows(a.precision, a.m),
        *aligned(operands),
        (value(a.phi), value(a.psi)),
        [((a.m,), a.dtype)],
    )
    from scipy.sparse import csr_matrix

    return da.Array(found.dask, found.name, found.chunks, meta=csr_matrix((0, 0), dtype=a.dtype))


def _accept(*blocks: Any, state: _SparseRows, phi: MLP | None, psi: MLP | None, lists: bool) -> State:
    """Return the state of a pair of blocks; the last operand has lists of indices if `lists`."""
    q, keys, bars, *rest, _, first = blocks
    left_out = excluded_block(rest.pop(), q, state.columns, first) if lists else None
    found = state.accept(q, keys, first, np.asarray(bars), phi, psi, rest[0] if rest else None, left_out)
    if found is None:
        raise MemoryError(
            "retrieve_above: the pairs of a block at or above the threshold do not fit in memory"
        )
    return found
