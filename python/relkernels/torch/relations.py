"""Relations and attention over them, as functions of tensors."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from ..base import check
from ..ops.allowed import Allowed, Window
from ..ops.links import LINKS, as_columns
from . import _attention, _ops
from . import _check as _tensors
from ._jagged import is_jagged, nested_as, packed
from ._library import is_eager, is_plain
from .maps import Map, check_map, mapped

_NUMPY: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}


def both_features(
    x: Tensor, y: Tensor | None, phi: Map | None, psi: Map | None, names: tuple[str, str] = ("x", "y")
) -> tuple[Tensor, Tensor | None]:
    """Check the sides of a relation and map them; None for the second if it is the first."""
    x_name, y_name = names if y is not None else (names[0], names[0])
    x = _tensors.features(x_name, x)
    other = x if y is None else _tensors.features(y_name, y)
    check.same_dtype((x_name, x), (y_name, other))
    phi, psi = check_map("phi", phi), check_map("psi", psi)
    f = mapped(x_name, x, "phi", phi)
    if psi is not None and psi is not phi:
        return f, mapped(y_name, other, "psi", psi)
    return f, None if y is None else mapped(y_name, other, "phi", phi)


def relation_matrix(
    x: Tensor,
    y: Tensor | None = None,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    link: str = "identity",
    scale: float | Tensor = 1.0,
    heads: int = 1,
) -> Tensor:
    """Return the inner products ``R_ij = scale * <phi(x_i), psi(y_j)>``, or a link of them, with gradients.

    Parameters
    ----------
    x : Tensor of shape (..., n, d_x)
        Float32 or float64, on the CPU or on a CUDA device.
    y : Tensor of shape (..., m, d_y), optional
        None stands for `x`; the relation is then symmetric to the last bit unless `psi` differs from
        `phi`, and half of it is computed.
    phi : FeatureMap, optional
        Map of `x`; None is the identity. Any other module or callable from (..., n, d_x) to (..., n, d)
        of the same dtype will do.
    psi : FeatureMap, optional
        Map of `y`; None, or `phi` itself, is `phi`.
    link : str, default "identity"
        As in `relkernels.relation_matvec`.
    scale : float or Tensor of one element, default 1.0
        Any finite number; at least 0 with a link of distances. A tensor's gradient is computed without
        storing the relation.
    heads : int, default 1
        If greater than 1, the features are split into this many groups of equal size, each of which gives
        its own relation.

    Returns
    -------
    Tensor of shape (..., n, m), or (..., heads, n, m) with more than one head

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import relation_matrix
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> r = relation_matrix(x)
    >>> r.tolist()
    [[5.0, 11.0], [11.0, 25.0]]
    >>> r.trace().backward()
    >>> x.grad.tolist()
    [[2.0, 4.0], [6.0, 8.0]]
    """
    f, g = both_features(x, y, phi, psi)
    link, h = check.choice("link", link, LINKS), check.heads(heads, f.shape[-1])
    relation: Tensor = _ops.relation_matrix(f, g, _tensors.scale(scale), h, link)
    return relation


def relation_matvec(
    x: Tensor,
    y: Tensor,
    v: Tensor,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    link: str = "identity",
    scale: float | Tensor = 1.0,
) -> Tensor:
    """Return ``sum_j link(scale * <phi(x_i), psi(y_j)>) v_j``, with gradients, the relation never stored.

    Parameters
    ----------
    x : Tensor of shape (..., n, d_x)
        Float32 or float64, on the CPU or on a CUDA device.
    y : Tensor of shape (..., m, d_y)
    v : Tensor of shape (..., m) or (..., m, c)
        A tensor of fewer dimensions than `y` is one vector (..., m) per relation; any other is (..., m, c).
    phi, psi : FeatureMap, optional
        Maps of `x` and of `y`, as in `relation_matrix`.
    link : str, default "identity"
        As in `relkernels.relation_matvec`.
    scale : float or Tensor of one element, default 1.0
        Any finite number; at least 0 with a link of distances. A tensor has a gradient.

    Returns
    -------
    Tensor of shape (..., n) or (..., n, c)

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Notes
    -----
    If only `v` requires a gradient, it is computed as one product with the transposed relation.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import relation_matvec
    >>> x = torch.tensor([[0.0], [1.0]], requires_grad=True)
    >>> u = relation_matvec(x, x, torch.tensor([1.0, 0.0]), link="gaussian")
    >>> [round(a, 4) for a in u.tolist()]
    [1.0, 0.6065]
    >>> u.sum().backward()
    >>> [round(a, 4) for a in x.grad.ravel().tolist()]
    [0.6065, -0.6065]
    """
    if y is None:  # not shorthand for x here
        _tensors.features("y", y)
    f, g = both_features(x, y, phi, psi)
    v = _tensors.floats("v", v, 1)
    check.same_dtype(("x", x), ("v", v))
    columns, single = as_columns(v, y)
    link = check.choice("link", link, LINKS)
    out: Tensor = _ops.relation_matvec(f, g, columns, _tensors.scale(scale), link)
    return out[..., 0] if single else out


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
        Float32 or float64, on the CPU or on a CUDA device. Or a nested tensor of layout torch.jagged, of
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
        Segments of a ragged batch, as in `relkernels.attention`, on the CPU only.
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
    v = _tensors.floats("v", v)
    check.same_dtype(("q", q), ("v", v))
    for name, offsets in (("q_offsets", q_offsets), ("k_offsets", k_offsets)):
        if offsets is not None:
            _tensors.dense(name, offsets, "a vector of int64")
    if q_offsets is not None or k_offsets is not None:
        _check_offsets(f, g, mask, q_offsets, k_offsets)
    grouped = check.flag("enable_gqa", enable_gqa)
    mask, *options, terms, cap = scoring
    if grouped:
        f, g, v, (mask, terms) = _groups(f, g, v, (("mask", mask), ("bias", terms)))
    both: tuple[Tensor, Tensor] = _attention.attention(
        f, g, v, mask, *options, terms, cap, q_offsets, k_offsets
    )
    out, lse = both
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
    return weights


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
    if bias is not None:
        check.same_dtype(("q", q), ("bias", _tensors.floats("bias", bias, 0)))
    factor = _tensors.scale(1 / math.sqrt(f.shape[-1]) if scale is None else scale)
    causal, window, align = allowed.limits()
    cap = check.softcap(softcap, _NUMPY[q.dtype])
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
