"""Operations that sum over columns, on Dask arrays: states of pairs of blocks, merged in a tree."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from ..base import check
from ..base.describe import described
from ..maps.mlp import MLP, check_mlp, mapped_width
from ..ops.allowed import Allowed, Band, Window
from ..ops.links import Linked, as_columns
from ..ops.scoring import Scoring
from ..ops.sides import Attended, Sides
from ..states.consumers import LinkedSum, SoftmaxAccumulate, State, TopK
from .arrays import aligned, array, array_of_pairs, optional_array, own_precision, stand_in, value, widened
from .excluded import excluded_array, excluded_block
from .graphs import tree_of_states
from .key_blocks import OfKeys
from .relations import features


def retrieve(
    q: Any,
    keys: Any,
    k: int,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    mask: Any = None,
    exclude: Any = None,
    pad: bool = False,
    precision: str | None = None,
) -> tuple[da.Array, da.Array]:
    """Return the `k` largest ``<phi(q_i), psi(keys_j)>`` of each row: exact maximum inner products.

    Parameters
    ----------
    q : dask.array.Array of shape (..., n, d_q), or (d_q,) for a single query
        Few large blocks, ideally one: the keys are read, and mapped by `psi`, once per block.
    keys : dask.array.Array of shape (..., m, d_k)
        Or the result of `keys`, whose blocks are `relkernels.Keys`; `psi` is then None.
    k : int
        Number to return per row, at least 1; at most m unless `pad` is true.
    phi, psi : MLP, optional
        Feature maps of `q` and of `keys`; `psi` None means `phi`, `phi` None the identity.
    mask : dask.array.Array of bool, optional
        True = may be retrieved; broadcast to (..., n, m), or to (..., m) for a single query.
    exclude : dask.array.Array of int of shape (n,) or (..., n, e), or sparse matrix in memory, optional
        As in memory: indices of rows of `keys` that a row may not return, -1 for none; for a single query of
        shape (e,).
    pad : bool, default False
        Accept `k` above m and pad the results. False raises instead.
    precision : {"bf16"}, optional
        As in memory.

    Returns
    -------
    values : dask.array.Array of shape (..., n, k), or (..., k) for a single query
        Best first; equal values ordered by index; NaN after every number.
    indices : dask.array.Array of int64 of the same shape
        Rows of `keys`. If `mask` and `exclude` (or, with `pad`, m) leave fewer than `k` keys, the remaining
        values are -inf and the remaining indices -1.
        Both are bit-identical to the results in memory, whatever the chunks: the order of (value, index) is
        total, so merges are exact.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or has unknown chunks; the message names it.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> from relkernels.dask import retrieve
    >>> keys = da.from_array(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), chunks=(2, 2))
    >>> values, indices = retrieve(np.array([[1.0, 0.5]]), keys, 2)
    >>> values.compute(), indices.compute()
    (array([[2., 1.]]), array([[2, 0]]))
    """
    q, keys = array("q", q), array("keys", keys)
    if isinstance(keys._meta, OfKeys):
        (q,), dtype, precision = widened(precision, ("q", q))
        q, phi = mapped_queries(q, phi, psi, precision), None
    else:
        (q, keys), dtype, precision = widened(precision, ("q", q), ("keys", keys))
    single = q.ndim == 1
    allowed = optional_array("mask", mask) if single else array_of_pairs("mask", mask)
    a = Attended(
        stand_in(q),
        stand_in(keys),
        None,
        phi,
        psi,
        1.0,
        Scoring(Allowed(stand_in(allowed))),
        precision,
        keys_name="keys",
        least_ndim=1,
    )
    count = check.integer("k", k, 1)
    if not check.flag("pad", pad) and count > a.m:
        rows = f"the rows of keys of shape {keys.shape}"
        check.fail("k", f"at most {a.m}, {rows} (pad=True pads with -inf and -1)", count)
    if single:
        q = q[None]
        if allowed is not None:
            allowed = array_of_pairs("mask", allowed[..., None, :] if allowed.ndim else allowed)
    lists = excluded_array(exclude, q, a.m, single)
    operands = [(q, ("i", "d")), (keys, ("j", "e"))]
    if allowed is not None:
        operands.append((allowed, ("i", "j")))
    if lists is not None:
        operands.append((lists, ("i", "g")))
    values, indices = tree_of_states(
        "retrieve",
        partial(_accept_top_k, columns=None if lists is None else a.m),
        TopK(count, a.precision),
        *aligned(operands),
        (value(a.phi), value(a.psi)),
        [((count,), a.dtype), ((count,), np.dtype(np.int64))],
    )
    if single:
        values, indices = values[..., 0, :], indices[..., 0, :]
    return values.astype(dtype, copy=False), indices


def mapped_queries(q: da.Array, phi: MLP | None, psi: Any, precision: str | None) -> da.Array:
    """Return the features of queries for blocks of `Keys`."""
    if psi is not None:
        raise TypeError(f"psi: expected None with blocks of Keys, which are features, got {described(psi)}")
    if check_mlp("phi", phi) is None:
        return q
    points = check.features("q", stand_in(q), 1)
    check.same_dtype(("q", points), ("phi", phi))
    mapped_width("q", points, "phi", phi)
    return features(q, phi, precision)


def _accept_top_k(*blocks: Any, state: TopK, phi: MLP | None, psi: MLP | None, columns: int | None) -> State:
    """Return the state of a pair of blocks; the last operand has lists of indices if `columns` is given."""
    q, keys, *rest, _, first = blocks
    lists = None if columns is None else excluded_block(rest.pop(), q, columns, first)
    return state.accept(q, keys, first, phi, psi, rest[0] if rest else None, lists)


def attention(
    q: Any,
    k: Any,
    v: Any,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float | None = None,
    mask: Any = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Any = None,
    softcap: float | None = None,
    return_lse: bool = False,
    precision: str | None = None,
) -> da.Array | tuple[da.Array, da.Array]:
    """Return attention ``softmax_j(cap(scale * <phi(q_i), psi(k_j)> + bias_ij)) @ v``, scores never stored.

    Parameters
    ----------
    q : dask.array.Array of shape (..., n, d_q)
        Few large blocks: keys and values are read once per block.
    k : dask.array.Array of shape (..., m, d_k)
    v : dask.array.Array of shape (..., m, d_v)
        Chunked like `k`.
    phi, psi : MLP, optional
        Feature maps of `q` and of `k`; `psi` None means `phi`, `phi` None the identity.
    scale : float, optional
        Any finite number; None means 1 / sqrt(d), d the feature width.
    mask : dask.array.Array of bool, optional
        True = may attend; broadcast to (..., n, m).
    causal, window, align
        As in memory. Pairs of blocks in which nothing may be attended are left out of the graph.
    bias : dask.array.Array, optional
        Of the dtype of `q`, broadcast to (..., n, m); -inf forbids a pair.
    softcap : float, optional
        As in memory.
    return_lse : bool, default False
        Also return the log-sum-exp of each row's scores.
    precision : {"bf16"}, optional
        As in memory.

    Returns
    -------
    out : dask.array.Array of shape (..., n, d_v)
    lse : dask.array.Array of shape (..., n)
        Only with `return_lse`.
        If the keys are one block, both are bit-identical to the results in memory. Otherwise blocks are
        merged by their log-sum-exp: the result is within the package's tolerance (5e-6 in float32, 1e-13 in
        float64) and depends on the chunks of the keys, but not on those of the queries, nor on workers.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or has unknown chunks; the message names it.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> from relkernels.dask import attention
    >>> x = da.from_array(np.eye(4), chunks=(2, 4))
    >>> attention(x, x, x, causal=True).compute().round(2)
    array([[1.  , 0.  , 0.  , 0.  ],
           [0.38, 0.62, 0.  , 0.  ],
           [0.27, 0.27, 0.45, 0.  ],
           [0.22, 0.22, 0.22, 0.35]])
    """
    named = [("q", array("q", q)), ("k", array("k", k)), ("v", array("v", v))]
    terms = array_of_pairs("bias", bias)
    if terms is not None:
        named.append(("bias", terms))
    (q, k, v, *wide), dtype, precision = widened(precision, *named)
    allowed, terms = array_of_pairs("mask", mask), wide[0] if wide else None
    shown = (stand_in(q), stand_in(k), stand_in(v))
    scoring = Scoring(Allowed(stand_in(allowed), causal, window, align), stand_in(terms), softcap)
    a = Attended(*shown, phi, psi, scale, scoring, precision)
    offset = a.m - a.n if align == "lower_right" else 0
    want_lse = check.flag("return_lse", return_lse)
    operands = [(q, ("i", "d")), (k, ("j", "e")), (v, ("j", "f"))]
    for_pairs = {name: a for name, a in (("mask", allowed), ("bias", terms)) if a is not None}
    operands += [(a, ("i", "j")) for a in for_pairs.values()]
    out, lse = tree_of_states(
        "attention",
        partial(_accept_softmax, names=tuple(for_pairs), causal=causal, window=window, offset=offset),
        SoftmaxAccumulate(a.scale, a.precision, a.softcap),
        *aligned(operands),
        (value(a.phi), value(a.psi)),
        [((v.shape[-1],), a.dtype), ((), a.dtype)],
        needed=partial(_reached, band=a.band),
    )
    out, lse = out.astype(dtype, copy=False), lse.astype(dtype, copy=False)
    return (out, lse) if want_lse else out


def _accept_softmax(
    *blocks: Any,
    state: SoftmaxAccumulate,
    phi: MLP | None,
    psi: MLP | None,
    names: tuple[str, ...],
    causal: bool,
    window: Window,
    offset: int,
) -> State:
    q, k, v, *for_pairs, i, j = blocks
    options = dict(zip(names, for_pairs, strict=True))
    return state.accept(q, k, v, phi, psi, causal=causal, window=window, offset=offset + i - j, **options)


def _reached(i: int, n: int, j: int, m: int, band: Band) -> bool:
    """Return whether any of n rows from i on may attend to any of m columns from j on."""
    least, greatest = band
    return (least is None or j + m - 1 - i >= least) and (greatest is None or j - (i + n - 1) <= greatest)


def relation_matvec(
    x: Any,
    y: Any,
    v: Any,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    link: str = "identity",
    scale: float = 1.0,
    precision: str | None = None,
) -> da.Array:
    """Return ``u_i = sum_j link(R_ij) v_j``, ``R_ij = scale * <phi(x_i), psi(y_j)>``, without storing R.

    Parameters
    ----------
    x : dask.array.Array of shape (..., n, d_x)
        Few large blocks: `y` is read once per block.
    y : dask.array.Array of shape (..., m, d_y)
    v : dask.array.Array of shape (..., m) or (..., m, c)
        Chunked like `y`. An array of fewer dimensions than `y` is one vector (..., m) per relation; any
        other is (..., m, c).
    phi, psi : MLP, optional
        Feature maps of `x` and of `y`; `psi` None means `phi`, `phi` None the identity.
    link, scale
        As in memory.
    precision : {"bf16"}, optional
        As in memory.

    Returns
    -------
    dask.array.Array of shape (..., n) or (..., n, c)
        If `y` is one block, bit-identical to the result in memory; otherwise partial sums are added in a tree
        whose shape depends only on the chunks of `y`, with different rounding.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or has unknown chunks; the message names it.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> from relkernels.dask import relation_matvec
    >>> x = da.from_array(np.array([[0.0], [1.0]]), chunks=(1, 1))
    >>> relation_matvec(x, x, np.array([1.0, 1.0]), link="exp").compute().round(4)
    array([2.    , 3.7183])
    """
    named = [("x", array("x", x)), ("y", array("y", y)), ("v", array("v", v))]
    (x, y, v), dtype, precision = widened(precision, *named)
    sides = Sides(stand_in(x), stand_in(y), phi, psi)
    v, single = as_columns(v, y)
    check.same_dtype(("x", sides.x), ("v", stand_in(v)))
    state = LinkedSum(*Linked.of(sides, link, scale, own_precision(precision, dtype, link)))
    sides.leading(("v", stand_in(v), 2))
    (out,) = tree_of_states(
        "relation_matvec",
        _accept_sum,
        state,
        *aligned([(x, ("i", "d")), (y, ("j", "e")), (v, ("j", "f"))]),
        (value(sides.phi), value(sides.psi)),
        [((v.shape[-1],), sides.dtype)],
    )
    return (out[..., 0] if single else out).astype(dtype, copy=False)


def _accept_sum(*blocks: Any, state: LinkedSum, phi: MLP | None, psi: MLP | None) -> State:
    x, y, v, _, _ = blocks
    return state.accept(x, y, v, phi, psi)
