"""Attention and its weights, as functions of tensors."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from ..base import check
from ..ops.allowed import Allowed, Window
from . import _attention
from . import _check as _tensors
from ._jagged import is_jagged, nested_as, packed
from ._library import is_eager, is_plain
from .maps import Map
from .relations import both_features

_NUMPY: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}

# Arguments of `attention`, as PyTorch calls them.
_PYTORCHS = {"q": "query", "k": "key", "v": "value", "mask": "attn_mask", "bias": "attn_mask"}


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    scale: float | Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Tensor | None = None,
    softcap: float | None = None,
    enable_gqa: bool = False,
    q_offsets: Tensor | None = None,
    k_offsets: Tensor | None = None,
    return_lse: Literal[False] = False,
) -> Tensor: ...
@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    scale: float | Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Tensor | None = None,
    softcap: float | None = None,
    enable_gqa: bool = False,
    q_offsets: Tensor | None = None,
    k_offsets: Tensor | None = None,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    scale: float | Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Tensor | None = None,
    softcap: float | None = None,
    enable_gqa: bool = False,
    q_offsets: Tensor | None = None,
    k_offsets: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return attention ``softmax_j(cap(scale * <phi(q_i), psi(k_j)> + bias_ij)) @ v``, with gradients.

    Scores are stored neither on the way forward nor back: memory is O((n + m) d) (Dao et al. 2022).

    Parameters
    ----------
    q : Tensor of shape (..., n, d_q)
        Float32 or float64, or 16-bit floats, which are computed in float32; on the CPU or on a CUDA device.
        Or a nested tensor of layout torch.jagged, of
        shape (b, j, d_q) or, transposed from (b, j, h, d_q), (b, h, j, d_q); `k` and `v` are then jagged too,
        and the result has the segments of `q`.
    k : Tensor of shape (..., m, d_k)
    v : Tensor of shape (..., m, d_v)
    phi, psi : FeatureMap, optional
        Maps of `q` and of `k`, as in `relation_matrix`.
    scale : float or Tensor of one element, optional
        Any finite number; None is 1 / sqrt(d), d the feature width. A tensor has a gradient.
    mask : Tensor of bool, optional
        True = may attend, as in ``torch.nn.functional.scaled_dot_product_attention``; broadcast to
        (..., n, m).
    causal : bool, default False
    window : int or (int or None, int or None), optional
    align : {"upper_left", "lower_right"}, default "upper_left"
    bias : Tensor, optional
        Its gradient is computed if it requires one, summed over the dimensions along which it is broadcast.
    softcap : float, optional
        As in `relkernels.attention`.
    enable_gqa : bool, default False
        Grouped queries, as in ``torch.nn.functional.scaled_dot_product_attention``: the third dimension from
        the end of `k` and `v` is a divisor of that of `q`, and each of their heads serves as many
        consecutive heads of `q`. Keys and values are not repeated in memory.
    q_offsets, k_offsets : Tensor of int64, optional
        Segments of a ragged batch, as in `relkernels.attention`. With the other tensors on a CUDA device they
        may be on the CPU, which avoids reading them back.
    return_lse : bool, default False
        Also return the log-sum-exp of each row's scores, with its gradient.

    Returns
    -------
    out : Tensor of shape (..., n, d_v)
        A row with nothing to attend to is zero.
    lse : Tensor of shape (..., n)
        Only with `return_lse`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import attention
    >>> q, k, v = torch.randn(3, 2, 100, 16)
    >>> attention(q, k, v, causal=True).shape
    torch.Size([2, 100, 16])
    """
    if phi is None and psi is None and window is None and enable_gqa is False:
        rest = _tensors.ordinary_scale(scale, q), bias, softcap, q_offsets, k_offsets
        found = _attention.attention.ordinary(q, k, v, mask, causal, None, None, align, *rest)
        if found is not NotImplemented and type(return_lse) is bool:
            return found if return_lse else found[0]
    if is_jagged(q):
        for name, offsets in (("q_offsets", q_offsets), ("k_offsets", k_offsets)):
            if offsets is not None:
                raise TypeError(f"{name}: expected None with a jagged q, got {_tensors.kind(offsets)}")
        if check.flag("return_lse", return_lse):
            check.fail("return_lse", "False with a jagged q", repr(return_lse))
        (rows, q_offsets), (keys, k_offsets), (values, of_v) = (
            packed(name, a) for name, a in (("q", q), ("k", k), ("v", v))
        )
        if not torch.equal(of_v, k_offsets):
            check.fail("v", "the segments of k", "others")
        out = attention(
            rows, keys, values, phi, psi, scale=scale, mask=mask, causal=causal, window=window, align=align,
            bias=bias, softcap=softcap, enable_gqa=enable_gqa, q_offsets=q_offsets, k_offsets=k_offsets,
        )  # fmt: skip
        return nested_as(q, out)
    allowed = Allowed(None, causal, window, align)
    f, g, scoring = _attended(q, k, phi, psi, scale, mask, allowed, bias, softcap)
    _tensors.alike(("q", q), ("v", _tensors.floats("v", v)))
    v = _tensors.widened(v)
    for name, offsets in (("q_offsets", q_offsets), ("k_offsets", k_offsets)):
        if offsets is not None:
            _tensors.dense(name, offsets, "a vector of int64")
            _tensors.on_one_device(("q", q), (name, offsets))
    if q_offsets is not None or k_offsets is not None:
        _check_offsets(f, g, mask, q_offsets, k_offsets)
    grouped = check.flag("enable_gqa", enable_gqa)
    mask, *options, terms, cap = scoring
    if grouped:
        f, g, v, (mask, terms) = _groups(f, g, v, (("mask", mask), ("bias", terms)))
    both: tuple[Tensor, Tensor] = _attention.attention(
        f, g, v, mask, *options, terms, cap, q_offsets, k_offsets
    )
    out, lse = _tensors.narrowed(both[0], q), both[1]
    if grouped:
        out, lse = out.flatten(-4, -3), lse.flatten(-3, -2)
    return (out, lse) if check.flag("return_lse", return_lse) else out


def attention_scores(
    q: Tensor,
    k: Tensor,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    scale: float | Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Return the weights ``softmax_j(cap(scale * <phi(q_i), psi(k_j)> + bias_ij))``, with gradients.

    Parameters
    ----------
    q, k, phi, psi, scale, mask, causal, window, align, bias, softcap
        As in `attention`.

    Returns
    -------
    Tensor of shape (..., n, m)
        Rows sum to one; a row with nothing to attend to is zero.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import attention_scores
    >>> attention_scores(torch.eye(2), torch.eye(2), causal=True)[0]
    tensor([1., 0.])
    """
    allowed = Allowed(None, causal, window, align)
    f, g, scoring = _attended(q, k, phi, psi, scale, mask, allowed, bias, softcap)
    weights: Tensor = _attention.attention_scores(f, g, *scoring)
    return _tensors.narrowed(weights, q)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return what ``torch.nn.functional.scaled_dot_product_attention`` does, by `attention`.

    Parameters
    ----------
    query : Tensor of shape (..., n, d)
    key : Tensor of shape (..., m, d)
    value : Tensor of shape (..., m, d_v)
    attn_mask : Tensor, optional
        Of bool, True = may attend; or of floats, added to the scores. Broadcasts to (..., n, m).
    dropout_p : float, default 0.0
        Only 0: there is no dropout.
    is_causal : bool, default False
        Query i attends to keys 0 to i. Only without `attn_mask`.
    scale : float, optional
        None is 1 / sqrt(d).
    enable_gqa : bool, default False
        As in `attention`.

    Returns
    -------
    Tensor of shape (..., n, d_v)
        A row that may attend to nothing is zero.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import scaled_dot_product_attention
    >>> q, k, v = torch.randn(3, 2, 4, 100, 16)
    >>> scaled_dot_product_attention(q, k, v, is_causal=True).shape
    torch.Size([2, 4, 100, 16])
    """
    if check.real("dropout_p", dropout_p) != 0:
        check.fail("dropout_p", "0, as there is no dropout", repr(dropout_p))
    causal = check.flag("is_causal", is_causal)
    if causal and attn_mask is not None:
        check.fail("attn_mask", "None with is_causal", _tensors.kind(attn_mask))
    added = isinstance(attn_mask, Tensor) and attn_mask.dtype.is_floating_point
    mask, bias = (None, attn_mask) if added else (attn_mask, None)
    try:
        return attention(
            query, key, value, causal=causal, mask=mask, bias=bias, scale=scale, enable_gqa=enable_gqa
        )
    except (TypeError, ValueError) as error:  # of attention's arguments, by other names
        name, colon, rest = str(error).partition(":")
        raise type(error)(_PYTORCHS.get(name, name) + colon + rest) from None


def _attended(
    q: Any,
    k: Any,
    phi: Any,
    psi: Any,
    scale: Any,
    mask: Any,
    allowed: Allowed,
    bias: Any,
    softcap: Any,
) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """Check what attention and its weights share; return both sides' features and the operators' options."""
    if k is None:  # not shorthand for the queries here
        _tensors.features("k", k)
    f, g = both_features(q, k, phi, psi, ("q", "k"))
    assert g is not None
    if mask is not None:
        _tensors.dense("mask", mask, "a boolean tensor (True = may be attended)")
        _tensors.on_one_device(("q", q), ("mask", mask))
    if bias is not None:
        _tensors.alike(("q", q), ("bias", _tensors.floats("bias", bias, 0)))
        bias = _tensors.widened(bias)
    factor = _tensors.scale(1 / math.sqrt(f.shape[-1]) if scale is None else scale, ("q", q))
    causal, window, align = allowed.limits()
    cap = check.softcap(softcap, _NUMPY[f.dtype])
    return f, g, (mask, causal, *window, align, factor, bias, cap)


def _check_offsets(f: Any, g: Any, mask: Any, *offsets: Tensor | None) -> None:
    """Check what the formula of attention cannot, before a transform hides values; the kernels do it too."""
    if is_eager() or torch.compiler.is_compiling():
        return
    for name, a in zip(("q_offsets", "k_offsets"), offsets, strict=True):
        if a is not None and not is_plain(a):
            raise NotImplementedError(f"{name}: expected a plain tensor, which no transform or mode changes")
    with torch._C._DisableFuncTorch():  # which makes every new tensor part of the transform, also a view
        arrays = [None if a is None else a.numpy() for a in offsets]
    Allowed(mask, False, None, "upper_left", 0, *arrays).ragged(f, g, "k")


def _groups(
    f: Tensor, g: Tensor, v: Tensor, of_pairs: tuple[tuple[str, Tensor | None], ...]
) -> tuple[Tensor, Tensor, Tensor, list[Tensor | None]]:
    """Return views in which heads of queries, (..., heads, group, n, d), broadcast against those of keys."""
    for name, a in (("q", f), ("k", g), ("v", v)):
        if a.ndim < 3:
            check.fail(name, "at least 3 dimensions with enable_gqa, (..., heads, rows, d)", tuple(a.shape))
    heads, of_q = g.shape[-3], f.shape[-3]
    if v.shape[-3] != heads:
        check.fail("v", f"{heads} heads, as many as k", tuple(v.shape))
    if heads == 0 or of_q % heads:
        check.fail("k", f"a number of heads that divides the {of_q} of q", tuple(g.shape))
    views: list[Tensor | None] = []
    for name, pairs in of_pairs:
        if pairs is None or pairs.ndim < 3:
            views.append(pairs)
        elif pairs.shape[-3] in (1, of_q):
            own = pairs.shape[-3] == of_q
            views.append(pairs.unflatten(-3, (heads, of_q // heads)) if own else pairs.unsqueeze(-3))
        else:
            check.fail(name, f"1 or {of_q} heads", tuple(pairs.shape))
    return f.unflatten(-3, (heads, of_q // heads)), g.unsqueeze(-3), v.unsqueeze(-3), views
