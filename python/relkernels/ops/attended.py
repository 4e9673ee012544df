"""Softmax over relations: scores and attention."""

from __future__ import annotations

from typing import Any, Literal, overload

from ..arrays import Array, operation
from ..arrays.outputs import Destination, PairDestination
from ..base import check, shapes
from ..maps.mlp import MLP
from .allowed import Allowed, Window
from .scoring import Scoring
from .sides import Attended
from .sparse import mapped_sides


@operation("q", "k", "mask", "bias", "out")
def attention_scores(
    q: Array,
    k: Array,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float | None = None,
    mask: Array | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Array | None = None,
    softcap: float | None = None,
    precision: str | None = None,
    out: Array | None = None,
) -> Array:
    """Return the attention weights ``softmax_j(cap(scale * <phi(q_i), psi(k_j)> + bias_ij))``.

    Parameters
    ----------
    q : ndarray of shape (..., n, d_q)
        Or a sparse matrix, as in `feature_map`, if its map is not None.
    k : ndarray of shape (..., m, d_k)
        Sparse or not, like `q`.
    phi, psi : MLP, optional
        Feature maps of `q` and of `k`; `psi` None stands for `phi`, `phi` None for the identity.
    scale : float, optional
        Any finite number; None is 1 / sqrt(d), d the feature width.
    mask : ndarray of bool, optional
        True = may attend; broadcast to (..., n, m).
    causal : bool, default False
        Row i may attend to columns j <= i + o, o as `align` says.
    window : int or (int or None, int or None), optional
        (left, right): row i may attend to columns i + o - left <= j <= i + o + right; None is no limit, and
        an int w stands for (w, w). Tiles outside the window are not computed: time O(n * (left + right)).
    align : {"upper_left", "lower_right"}, default "upper_left"
        Where `causal` and `window` have their diagonal: o = 0, or o = m - n, which aligns the last query with
        the last key (as in decoding with a cache).
    bias : ndarray, optional
        Of the dtype of `q`, broadcast to (..., n, m) and read in place. A pair whose bias is -inf may not
        attend.
    softcap : float, optional
        Scores s become ``softcap * tanh(s / softcap)``.
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16".
    out : ndarray of shape (..., n, m), optional
        Where to write the result; may not overlap an input.

    Returns
    -------
    ndarray of shape (..., n, m)
        Rows sum to one; a row with nothing to attend to is zero, one with a score of +inf NaN.

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
    q, k, phi, psi = mapped_sides(q, k, phi, psi, precision, ("q", "k"))
    scoring = Scoring(Allowed(mask, causal, window, align), bias, softcap)
    a = Attended(q, k, None, phi, psi, scale, scoring, precision)
    to = Destination(a.engine, "attention_scores", shapes.relation(a.lead, a.n, a.m), a.dtype, out, *a.inputs)
    maps = a.maps(a.precision)
    a.engine.run("attention_scores", a.q, a.k, *maps, a.precision, a.scale, *a.scoring, to.array)
    return to.result()


@overload
def attention(
    q: Array,
    k: Array,
    v: Array,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float | None = None,
    mask: Array | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Array | None = None,
    softcap: float | None = None,
    q_offsets: Array | None = None,
    k_offsets: Array | None = None,
    return_lse: Literal[False] = False,
    precision: str | None = None,
    out: Array | None = None,
) -> Array: ...
@overload
def attention(
    q: Array,
    k: Array,
    v: Array,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float | None = None,
    mask: Array | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Array | None = None,
    softcap: float | None = None,
    q_offsets: Array | None = None,
    k_offsets: Array | None = None,
    return_lse: Literal[True],
    precision: str | None = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]: ...
@operation("q", "k", "v", "mask", "bias", "q_offsets", "k_offsets", "out")
def attention(
    q: Array,
    k: Array,
    v: Array,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float | None = None,
    mask: Array | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Array | None = None,
    softcap: float | None = None,
    q_offsets: Array | None = None,
    k_offsets: Array | None = None,
    return_lse: bool = False,
    precision: str | None = None,
    out: Array | tuple[Array, Array] | None = None,
) -> Array | tuple[Array, Array]:
    """Return attention ``softmax_j(cap(scale * <phi(q_i), psi(k_j)> + bias_ij)) @ v``, scores never stored.

    Memory is O((n + m) d), not O(n m): scores are folded into the result tile by tile (Milakov &
    Gimelshein 2018; Dao et al. 2022).

    Parameters
    ----------
    q : ndarray of shape (..., n, d_q)
        Or a sparse matrix, as in `feature_map`, if its map is not None.
    k : ndarray of shape (..., m, d_k)
        Sparse or not, like `q`.
    v : ndarray of shape (..., m, d_v)
    phi, psi : MLP, optional
        Feature maps of `q` and of `k`; `psi` None stands for `phi`, `phi` None for the identity.
    scale : float, optional
        Any finite number; None is 1 / sqrt(d), d the feature width.
    mask : ndarray of bool, optional
        True = may attend; broadcast to (..., n, m). What a row may not attend to cannot reach it, NaN
        and infinities included.
    causal : bool, default False
        Row i may attend to columns j <= i + o, o as `align` says.
    window : int or (int or None, int or None), optional
        (left, right): row i may attend to columns i + o - left <= j <= i + o + right; None is no limit, and
        an int w stands for (w, w). Tiles outside the window are not computed: time O(n * (left + right)).
    align : {"upper_left", "lower_right"}, default "upper_left"
        Where `causal` and `window` have their diagonal: o = 0, or o = m - n, which aligns the last query with
        the last key (as in decoding with a cache).
    bias : ndarray, optional
        Of the dtype of `q`, broadcast to (..., n, m) and read in place. A pair whose bias is -inf may not
        attend.
    softcap : float, optional
        Scores s become ``softcap * tanh(s / softcap)``.
    q_offsets, k_offsets : ndarray of int64 of shape (b + 1,), optional
        A ragged batch of b segments, whose rows are packed one after the other: queries q_offsets[s] to
        q_offsets[s + 1] - 1 attend to keys k_offsets[s] to k_offsets[s + 1] - 1. `causal`, `window` and
        `align` then apply within each segment, n and m being its numbers of rows; `mask` and `bias` must be
        None. With arrays on a CUDA device, also of NumPy: offsets on the device are read back first.
    return_lse : bool, default False
        Also return the log-sum-exp of each row's scores.
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16".
    out : ndarray of shape (..., n, d_v), optional
        Where to write the result; with `return_lse` a tuple of two, the other for the log-sum-exp. May
        not overlap an input.

    Returns
    -------
    out : ndarray of shape (..., n, d_v)
        A row with nothing to attend to is zero.
    lse : ndarray of shape (..., n)
        Only with `return_lse`; -inf for a row with nothing to attend to, +inf for one with a score of +inf.

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
    >>> offsets = np.array([0, 300, 300, 1000])  # segments of 300, 0 and 700 rows
    >>> rk.attention(q, k, v, causal=True, q_offsets=offsets, k_offsets=offsets).shape
    (2, 1000, 64)
    """
    allowed = Allowed(mask, causal, window, align, q_offsets=q_offsets, k_offsets=k_offsets)
    q, k, phi, psi = mapped_sides(q, k, phi, psi, precision, ("q", "k"))
    a = Attended(q, k, v, phi, psi, scale, Scoring(allowed, bias, softcap), precision, has_values=True)
    a = a.mapped_once(precision)
    return attend(a, check.flag("return_lse", return_lse), out)


def attend(a: Attended, want_lse: bool, out: Any = None) -> Any:
    """Return the attention of checked arguments: what `attention` returns."""
    assert a.v is not None
    shape, shape_of_lse = shapes.attention(a.lead, a.n, a.v.shape[-1])
    to: Destination | PairDestination
    written: tuple[Any, Any]
    if want_lse:
        wanted = ((shape, a.dtype), (shape_of_lse, a.dtype))
        to = PairDestination(a.engine, "attention", "(out, lse)", wanted, out, *a.inputs)
        written = to.arrays
    else:
        to = Destination(a.engine, "attention", shape, a.dtype, out, *a.inputs)
        written = to.array, None
    maps = a.maps(a.precision)
    a.engine.run("attention", a.q, a.k, a.v, *maps, a.precision, a.scale, *a.scoring, *written, *a.ragged)
    return to.result()
