"""The largest relations of each row: exact maximum inner product search."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arrays import Array, operation
from ..arrays.outputs import PairDestination
from ..base import check
from ..maps.mlp import MLP
from .allowed import Allowed
from .keys import Keys
from .search import Search


@operation("q", "keys", "mask", "q_offsets", "k_offsets", "out")
def retrieve(
    q: Array,
    keys: Array | Keys,
    k: int,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    mask: Array | None = None,
    exclude: Any = None,
    q_offsets: Array | None = None,
    k_offsets: Array | None = None,
    pad: bool = False,
    precision: str | None = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Return the `k` largest ``<phi(q_i), psi(keys_j)>`` of each row: exact maximum inner products.

    Parameters
    ----------
    q : ndarray of shape (..., n, d_q), or (d_q,) for a single query
        Or a sparse matrix, as in `feature_map`, if its map is not None.
    keys : ndarray of shape (..., m, d_k), or Keys
        Sparse or not, like `q`. With `Keys`, `psi` is None, because they hold features already; `q` has their
        dtype, or float32 if that has 16 bits; indices are ids, and the columns of `mask` correspond to
        `Keys.ids`.
    k : int
        How many to return for each row, at least 1; at most m unless `pad` is true.
    phi, psi : MLP, optional
        Feature maps of `q` and of `keys`; `psi` None stands for `phi`, `phi` None for the identity. If
        `keys` already holds features, pass ``phi(q)`` and no maps.
    mask : ndarray of bool, optional
        True = may be retrieved; broadcast to (..., n, m), or to (..., m) for a single query.
    exclude : ndarray of int of shape (n,) or (..., n, e), or sparse matrix of shape (n, m), optional
        Indices that a row may not return, -1 for none; of a sparse matrix the stored entries, for instance
        the items that each user has seen. ``exclude=np.arange(n)`` excludes each row itself. For a single
        query of shape () or (..., e). With `Keys`, indices are ids, also of keys that were removed. Of any
        library, in main memory or, like `q`, on a CUDA device.
    q_offsets, k_offsets : ndarray of int64 of shape (b + 1,), optional
        A ragged batch of b segments, whose rows are packed one after the other: queries q_offsets[s] to
        q_offsets[s + 1] - 1 search keys k_offsets[s] to k_offsets[s + 1] - 1, and indices count from the
        first of these. `mask` and `exclude` must be None, and `keys` an array. With arrays on a CUDA device,
        also of NumPy: offsets on the device are read back first.
    pad : bool, default False
        Accept `k` above m and fill the places without a key. False raises instead.
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16".
    out : tuple of two ndarray of shape (..., n, k), optional
        Where to write the values and, of int64, the indices; may not overlap an input. Of shape (..., k) for
        a single query.

    Returns
    -------
    values : ndarray of shape (..., n, k), or (..., k) for a single query
        Best first; equal values by the lower index; NaN after every number.
    indices : ndarray of int64 of the same shape
        Rows of `keys`, or of the segment's keys. If `mask`, `exclude` or the segment (or, with `pad`, m)
        leave fewer than `k` keys, the remaining values are -inf and the remaining indices -1, after all keys
        found, NaN included.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Notes
    -----
    A service that searches the same items for every request prepares them once: ``items = Keys(items, psi)``
    at the start, then ``retrieve(q, items, k, phi)`` for each request. With arrays and maps, all m keys go
    through `psi` in every call.

    Excluded keys take the memory of their lists, where a mask has an element per pair.

    Keys are read in place. A search for few queries is bound by the bytes of the keys, so it is fastest with
    keys of bfloat16 or float16.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> keys = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    >>> rk.retrieve(np.array([[1.0, 0.5]]), keys, 2)
    (array([[2., 1.]]), array([[2, 0]]))
    >>> rk.retrieve(np.array([1.0, 0.5]), keys, 4, pad=True)
    (array([ 2. ,  1. ,  0.5, -inf]), array([ 2,  0,  1, -1]))
    """
    allowed = Allowed(mask, q_offsets=q_offsets, k_offsets=k_offsets)
    a = Search(q, keys, phi, psi, allowed, exclude, precision).mapped_once(precision)
    count = check.integer("k", k, 1, check.WIDEST)
    if not check.flag("pad", pad) and count > a.m:
        rows = f"the rows of keys of shape {a.y.shape}"
        check.fail("k", f"at most {a.m}, {rows} (pad=True pads with -inf and -1)", count)
    found = min(count, a.m)
    if a.ragged:
        of_keys = a.ragged[0][1]
        found = min(count, int(np.diff(of_keys).max(initial=0)))
    lead = a.lead if a.single else (*a.lead, a.n)
    wanted = (((*lead, count), a.dtype), ((*lead, count), np.dtype(np.int64)))
    inputs = [*a.inputs, ("exclude", exclude if isinstance(exclude, np.ndarray) else None)]
    to = PairDestination(a.engine, "retrieve", "(values, indices)", wanted, out, *inputs, packed=(True, True))
    best: tuple[np.ndarray, ...] = to.arrays
    if found < count:
        # The kernels' state grows with k, so it is at most the number of keys.
        best = tuple(a.engine.empty("retrieve", (*lead, found), dtype) for _, dtype in wanted)
    if found:
        rows_of_best = [part[..., None, :] if a.single else part for part in best]
        a.run("retrieve", *rows_of_best)
        if a.stored is not None:
            a.stored.to_ids(rows_of_best[1])
    if found < count:
        for whole, part, blank in zip(to.arrays, best, (-math.inf, -1), strict=True):
            a.engine.copy(whole[..., :found], part)
            a.engine.fill(whole[..., found:], blank)
    return to.result()
