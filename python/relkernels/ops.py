"""Operations on feature maps and relations: checks, output, call.

Shapes: `x` (..., n, d_x), `y` (..., m, d_y); leading dimensions broadcast. A map that is None is the
identity. Arrays of one call and the maps have one dtype, float32 or float64; strides are free, nothing
is copied. Arrays of bfloat16 and float16 are taken to float32, and results back to their dtype. Bad
arguments raise TypeError or ValueError that names the argument; an output that would not fit raises
MemoryError that names the bytes.
"""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np

from . import _check
from ._engine import Engine, engine_of
from ._half import accepts_half
from .mlp import MLP

LINKS = ("identity", "exp", "relu", "square")


def _spread(a: np.ndarray, lead: tuple[int, ...], core: int) -> np.ndarray:
    """Return `a` with the leading dimensions `lead`: a view with strides of 0."""
    shape = lead + a.shape[a.ndim - core :]
    return a if a.shape == shape else np.broadcast_to(a, shape)


@accepts_half("x")
def feature_map(
    x: np.ndarray, mlp: MLP, *, precision: str | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """Return the features of `x` through an MLP.

    Parameters
    ----------
    x : ndarray of shape (..., n, d_x)
        Float32 or float64, of the MLP's dtype and input width.
    mlp : MLP
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16".
    out : ndarray of shape (..., n, d), optional
        Where to write the result; may not overlap `x`.

    Returns
    -------
    ndarray of shape (..., n, d)
        Each row depends on its row of `x` alone, to the last bit.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> phi = rk.MLP.random([64, 256, 256, 64], activation="gelu")
    >>> rk.feature_map(np.ones((1000, 64), np.float32), phi).shape
    (1000, 64)
    """
    x = _check.features("x", x)
    if not isinstance(mlp, MLP):
        _check.mlp("mlp", mlp, optional=False)
    if x.dtype != mlp.dtype:
        _check.same_dtype(("x", x), ("mlp", mlp))
    width = _check.mapped_width("x", x, "mlp", mlp)
    engine = engine_of(x)
    rounding = engine.precision(precision, x.dtype)
    shape = (*x.shape[:-1], width)
    operands = (x, engine.packed(mlp, rounding), rounding)
    if out is None:
        result = engine.empty("feature_map", shape, x.dtype)
        engine.run("feature_map", *operands, result)
        return result
    return _written(engine, "feature_map", operands, _check.output(out, shape, x.dtype, ("x", x)))


def _written(engine: Engine, name: str, operands: tuple[Any, ...], out: np.ndarray) -> np.ndarray:
    """Have a kernel fill `out`; by way of a fresh array where the last axis has no unit stride."""
    if out.shape[-1] <= 1 or (out.strides[-1] == out.itemsize and out.flags.aligned):
        engine.run(name, *operands, out)
    else:
        fresh = engine.empty_like(out)
        engine.run(name, *operands, fresh)
        engine.copy(out, fresh)
    return out


@accepts_half("x", "y")
def relation_matrix(
    x: np.ndarray,
    y: np.ndarray | None = None,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float = 1.0,
    heads: int = 1,
    precision: str | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the inner products ``R_ij = scale * <phi(x_i), psi(y_j)>``.

    Parameters
    ----------
    x : ndarray of shape (..., n, d_x)
    y : ndarray of shape (..., m, d_y), optional
        None stands for `x`; the relation is then symmetric unless `psi` differs from `phi`, half of
        it is computed, and it equals its transpose to the last bit.
    phi : MLP, optional
        Feature map of `x`; None is the identity.
    psi : MLP, optional
        Feature map of `y`; None stands for `phi`.
    scale : float, default 1.0
        Finite, not negative.
    heads : int, default 1
        With more than one, the features are split into so many groups of equal size, and each gives a
        relation of its own.
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16".
    out : ndarray of the result's shape, optional
        Where to write the result; may not overlap `x` or `y`.

    Returns
    -------
    ndarray of shape (..., n, m), or (..., heads, n, m) with more than one head

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> x = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> rk.relation_matrix(x)
    array([[ 5., 11.],
           [11., 25.]])
    """
    x = _check.features("x", x)
    symmetric = y is None and (psi is None or psi is phi)
    other = x if y is None else _check.features("y", y)
    phi, psi = _check.mlp("phi", phi), _check.mlp("psi", psi)
    _check.same_dtype(("x", x), ("y", other), ("phi", phi), ("psi", psi))
    psi_name = "phi" if psi is None else "psi"
    psi = phi if psi is None else psi
    width = _check.mapped_width("x", x, "phi", phi)
    y_name = "x" if y is None else "y"
    width_y = _check.mapped_width(y_name, other, psi_name, psi)
    _check.same_width("x", x, width, y_name, other, width_y)
    factor = _check.scale(scale)
    h = _check.heads(heads, width)
    engine = engine_of(x)
    rounding = engine.precision(precision, x.dtype)
    lead = x.shape[:-2] if y is None else _check.batch_shape(("x", x, 2), ("y", other, 2))
    shape = (*lead, x.shape[-2], other.shape[-2])
    if h > 1:
        shape = (*lead, h, *shape[-2:])
    rows, columns = _spread(x, lead, 2), None if symmetric else _spread(other, lead, 2)
    maps = engine.packed(phi, rounding), engine.packed(psi, rounding)
    operands = (rows, columns, *maps, rounding, factor, h)
    if out is None:
        result = engine.empty("relation_matrix", shape, x.dtype)
        engine.run("relation_matrix", *operands, result)
        return result
    to = _check.output(out, shape, x.dtype, ("x", x), ("y", y))
    return _written(engine, "relation_matrix", operands, to)


class _Attended:
    """The checked arguments that attention and its relatives share."""

    def __init__(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray | None,
        phi: MLP | None,
        psi: MLP | None,
        scale: float | None,
        mask: np.ndarray | None,
        causal: bool,
        precision: str | None,
        keys_name: str = "k",
    ) -> None:
        q, k = _check.features("q", q), _check.features(keys_name, k)
        named = [("q", q), (keys_name, k)]
        if v is not None:
            v = _check.floats("v", v)
            if v.shape[-2] != k.shape[-2]:
                _check.fail("v", f"{k.shape[-2]} rows, one for each row of {keys_name} {k.shape}", v.shape)
            named.append(("v", v))
        self.phi, self.psi = _check.mlp("phi", phi), _check.mlp("psi", psi)
        _check.same_dtype(*named, ("phi", self.phi), ("psi", self.psi))
        psi_name = "phi" if self.psi is None else "psi"
        self.psi = self.phi if self.psi is None else self.psi
        width = _check.mapped_width("q", q, "phi", self.phi)
        width_k = _check.mapped_width(keys_name, k, psi_name, self.psi)
        _check.same_width("q", q, width, keys_name, k, width_k)
        self.width, self.dtype = width, q.dtype
        self.engine = engine_of(q)
        self.precision = self.engine.precision(precision, q.dtype)
        self.scale = _check.scale(scale, 1 / math.sqrt(width))
        self.n, self.m = q.shape[-2], k.shape[-2]
        mask = _check.mask(mask, self.n, self.m)
        self.causal = _check.flag("causal", causal)
        batched = [(name, a, 2) for name, a in named]
        if mask is not None:
            batched.append(("mask", mask, 2))
        self.lead = _check.batch_shape(*batched)
        self.q, self.k = _spread(q, self.lead, 2), _spread(k, self.lead, 2)
        self.v = None if v is None else _spread(v, self.lead, 2)
        self.mask = None if mask is None else np.broadcast_to(mask, (*self.lead, self.n, self.m))

    @property
    def maps(self) -> tuple[Any, Any]:
        return self.engine.packed(self.phi, self.precision), self.engine.packed(self.psi, self.precision)


@accepts_half("q", "k")
def attention_scores(
    q: np.ndarray,
    k: np.ndarray,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float | None = None,
    mask: np.ndarray | None = None,
    causal: bool = False,
    precision: str | None = None,
) -> np.ndarray:
    """Return the attention weights ``softmax_j(scale * <phi(q_i), psi(k_j)>)``.

    Parameters
    ----------
    q : ndarray of shape (..., n, d_q)
    k : ndarray of shape (..., m, d_k)
    phi, psi : MLP, optional
        Feature maps of `q` and of `k`; `psi` None stands for `phi`, `phi` None for the identity.
    scale : float, optional
        None is 1 / sqrt(d), d the feature width.
    mask : ndarray of bool, optional
        True = may attend; broadcast to (..., n, m).
    causal : bool, default False
        Row i may attend to columns j <= i.
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16".

    Returns
    -------
    ndarray of shape (..., n, m)
        Rows sum to one; a row with nothing to attend to is zero.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> rk.attention_scores(np.eye(2), np.eye(2), causal=True).round(3)
    array([[1.  , 0.  ],
           [0.33, 0.67]])
    """
    a = _Attended(q, k, None, phi, psi, scale, mask, causal, precision)
    out = a.engine.empty("attention_scores", (*a.lead, a.n, a.m), a.dtype)
    a.engine.run("attention_scores", a.q, a.k, *a.maps, a.precision, a.scale, a.mask, a.causal, out)
    return out


@overload
def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float | None = None,
    mask: np.ndarray | None = None,
    causal: bool = False,
    return_lse: Literal[False] = False,
    precision: str | None = None,
) -> np.ndarray: ...
@overload
def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float | None = None,
    mask: np.ndarray | None = None,
    causal: bool = False,
    return_lse: Literal[True],
    precision: str | None = None,
) -> tuple[np.ndarray, np.ndarray]: ...
@accepts_half("q", "k", "v")
def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float | None = None,
    mask: np.ndarray | None = None,
    causal: bool = False,
    return_lse: bool = False,
    precision: str | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Return attention ``softmax_j(scale * <phi(q_i), psi(k_j)>) @ v``, scores never stored.

    Memory is O((n + m) d), not O(n m): scores are folded into the result tile by tile (Milakov &
    Gimelshein 2018; Dao et al. 2022).

    Parameters
    ----------
    q : ndarray of shape (..., n, d_q)
    k : ndarray of shape (..., m, d_k)
    v : ndarray of shape (..., m, d_v)
    phi, psi : MLP, optional
        Feature maps of `q` and of `k`; `psi` None stands for `phi`, `phi` None for the identity.
    scale : float, optional
        None is 1 / sqrt(d), d the feature width.
    mask : ndarray of bool, optional
        True = may attend; broadcast to (..., n, m). What a row may not attend to cannot reach it, NaN
        and infinities included.
    causal : bool, default False
        Row i may attend to columns j <= i.
    return_lse : bool, default False
        Also return the log-sum-exp of each row's scores.
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16".

    Returns
    -------
    out : ndarray of shape (..., n, d_v)
        A row with nothing to attend to is zero.
    lse : ndarray of shape (..., n)
        Only with `return_lse`; -inf for a row with nothing to attend to.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 2, 1000, 64), dtype=np.float32)
    >>> rk.attention(q, k, v, causal=True).shape
    (2, 1000, 64)
    """
    a = _Attended(q, k, v, phi, psi, scale, mask, causal, precision)
    want_lse = _check.flag("return_lse", return_lse)
    assert a.v is not None
    out = a.engine.empty("attention", (*a.lead, a.n, a.v.shape[-1]), a.dtype)
    lse = a.engine.empty_sums("attention", (*a.lead, a.n), a.dtype) if want_lse else None
    a.engine.run("attention", a.q, a.k, a.v, *a.maps, a.precision, a.scale, a.mask, a.causal, out, lse)
    return out if lse is None else (out, lse)


@accepts_half("q", "keys")
def retrieve(
    q: np.ndarray,
    keys: np.ndarray,
    k: int,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    mask: np.ndarray | None = None,
    precision: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` largest ``<phi(q_i), psi(keys_j)>`` of each row: exact maximum inner products.

    Parameters
    ----------
    q : ndarray of shape (..., n, d_q)
    keys : ndarray of shape (..., m, d_k)
    k : int
        How many, 1 <= k <= m.
    phi, psi : MLP, optional
        Feature maps of `q` and of `keys`; `psi` None stands for `phi`, `phi` None for the identity.
    mask : ndarray of bool, optional
        True = may be retrieved; broadcast to (..., n, m).
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16".

    Returns
    -------
    values : ndarray of shape (..., n, k)
        Best first; equal values by the lower index; NaN after every number.
    indices : ndarray of int64 of shape (..., n, k)
        Rows of `keys`. Where the mask leaves fewer than `k`, the rest is -inf and -1.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> keys = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    >>> rk.retrieve(np.array([[1.0, 0.5]]), keys, 2)
    (array([[2., 1.]]), array([[2, 0]]))
    """
    a = _Attended(q, keys, None, phi, psi, 1.0, mask, False, precision, keys_name="keys")
    count = _check.integer("k", k, 1)
    if count > a.m:
        _check.fail("k", f"at most {a.m}, the rows of keys of shape {keys.shape}", count)
    shape = (*a.lead, a.n, count)
    values = a.engine.empty("retrieve", shape, a.dtype)
    indices = a.engine.empty("retrieve", shape, np.dtype(np.int64))
    a.engine.run("retrieve", a.q, a.k, *a.maps, a.precision, a.mask, values, indices)
    return values, indices


@accepts_half("x", "y", "v")
def relation_matvec(
    x: np.ndarray,
    y: np.ndarray,
    v: np.ndarray,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    link: str = "identity",
    scale: float = 1.0,
    precision: str | None = None,
) -> np.ndarray:
    """Return ``u_i = sum_j link(scale * <phi(x_i), psi(y_j)>) v_j``, the relation never stored.

    Parameters
    ----------
    x : ndarray of shape (..., n, d_x)
    y : ndarray of shape (..., m, d_y)
    v : ndarray of shape (..., m) or (..., m, c)
        One vector or c of them. An array of as many dimensions as `y` whose last but one is m is read
        as (..., m, c).
    phi, psi : MLP, optional
        Feature maps of `x` and of `y`; `psi` None stands for `phi`, `phi` None for the identity.
    link : {"identity", "exp", "relu", "square"}, default "identity"
    scale : float, default 1.0
        Finite, not negative.
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16".

    Returns
    -------
    ndarray of shape (..., n) or (..., n, c)

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> x = np.array([[0.0], [1.0]])
    >>> rk.relation_matvec(x, x, np.array([1.0, 1.0]), link="exp").round(4)
    array([2.    , 3.7183])
    """
    v = _check.floats("v", v, 1)
    m = y.shape[-2] if isinstance(y, np.ndarray) and y.ndim > 1 else None
    single = v.ndim < 2 or v.shape[-2] != m
    if single and v.shape[-1] != m and m is not None:
        _check.fail("v", f"shape (..., {m}) or (..., {m}, c), m the rows of y {y.shape}", v.shape)
    columns = v[..., None] if single else v
    x, y = _check.features("x", x), _check.features("y", y)
    phi, psi = _check.mlp("phi", phi), _check.mlp("psi", psi)
    _check.same_dtype(("x", x), ("y", y), ("v", v), ("phi", phi), ("psi", psi))
    psi_name = "phi" if psi is None else "psi"
    psi = phi if psi is None else psi
    width = _check.mapped_width("x", x, "phi", phi)
    _check.same_width("x", x, width, "y", y, _check.mapped_width("y", y, psi_name, psi))
    link = _check.choice("link", link, LINKS)
    engine = engine_of(x)
    rounding = engine.precision(precision, x.dtype)
    factor = _check.scale(scale)
    lead = _check.batch_shape(("x", x, 2), ("y", y, 2), ("v", columns, 2))
    out = engine.empty("relation_matvec", (*lead, x.shape[-2], columns.shape[-1]), x.dtype)
    if columns.shape[-1]:
        engine.run(
            "relation_matvec",
            _spread(x, lead, 2),
            _spread(y, lead, 2),
            _spread(columns, lead, 2),
            engine.packed(phi, rounding),
            engine.packed(psi, rounding),
            rounding,
            link,
            factor,
            out,
        )
    return out[..., 0] if single else out
