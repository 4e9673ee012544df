"""Relational attention, as a function of tensors."""

from __future__ import annotations

import math
from typing import Literal, overload

from torch import Tensor

from ..base import check
from ..ops.allowed import Allowed, Window
from ..ops.relational import REL_ACTIVATIONS
from . import _check as _tensors
from . import _relational


@overload
def relational_attention(
    q: Tensor,
    k: Tensor,
    q_rel: Tensor,
    k_rel: Tensor,
    v: Tensor,
    *,
    rel_activation: str = "identity",
    scale: float | Tensor | None = None,
    rel_scale: float | Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    return_lse: Literal[False] = False,
) -> tuple[Tensor, Tensor]: ...
@overload
def relational_attention(
    q: Tensor,
    k: Tensor,
    q_rel: Tensor,
    k_rel: Tensor,
    v: Tensor,
    *,
    rel_activation: str = "identity",
    scale: float | Tensor | None = None,
    rel_scale: float | Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor, Tensor]: ...
def relational_attention(
    q: Tensor,
    k: Tensor,
    q_rel: Tensor,
    k_rel: Tensor,
    v: Tensor,
    *,
    rel_activation: str = "identity",
    scale: float | Tensor | None = None,
    rel_scale: float | Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    window: Window = None,
    align: str = "upper_left",
    return_lse: bool = False,
) -> tuple[Tensor, ...]:
    """Return attention over relations and over values, with gradients; neither is stored for pairs.

    ``relations[i, l] = sum_j alpha_ij act(rel_scale * <q_rel_il, k_rel_jl>)`` and
    ``values[i] = sum_j alpha_ij v_j`` with ``alpha = softmax_j(scale * <q_i, k_j>)``, for each of h heads and
    R relations that all heads share. Memory is O((n + m) (h d + R d_r)), on the way forward and back.

    Parameters
    ----------
    q : Tensor of shape (..., h, n, d)
        Float32 or float64, or 16-bit floats, which are computed in float32; on the CPU or on a CUDA device.
        A dimension of one head, or of one relation, broadcasts as leading dimensions do.
    k : Tensor of shape (..., h, m, d)
    q_rel : Tensor of shape (..., R, n, d_r)
    k_rel : Tensor of shape (..., R, m, d_r)
    v : Tensor of shape (..., h, m, d_v)
    rel_activation : str, default "identity"
        As in `relkernels.relational_attention`.
    scale : float or Tensor of one element, optional
        Any finite number; None is 1 / sqrt(d). A tensor has a gradient.
    rel_scale : float or Tensor of one element, optional
        The same for the relations; None is 1 / sqrt(d_r).
    mask : Tensor of bool, optional
        True = may attend; broadcast to (..., h, n, m).
    causal : bool, default False
    window : int or (int or None, int or None), optional
    align : {"upper_left", "lower_right"}, default "upper_left"
        As in `relkernels.attention`.
    return_lse : bool, default False
        Also return the log-sum-exp of each row's scores, with its gradient.

    Returns
    -------
    relations : Tensor of shape (..., h, n, R)
    values : Tensor of shape (..., h, n, d_v)
        In both, a row with nothing to attend to is zero.
    lse : Tensor of shape (..., h, n)
        Only with `return_lse`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import relational_attention
    >>> q, k, v = torch.randn(3, 1, 8, 100, 16)  # 8 heads
    >>> q_rel, k_rel = torch.randn(2, 1, 4, 100, 16)  # 4 relations
    >>> relations, values = relational_attention(q, k, q_rel, k_rel, v, rel_activation="relu")
    >>> relations.shape, values.shape
    (torch.Size([1, 8, 100, 4]), torch.Size([1, 8, 100, 16]))
    """
    if window is None:
        factors = _tensors.ordinary_scale(scale, q), _tensors.ordinary_scale(rel_scale, q_rel)
        how = mask, causal, None, None, align, *factors, rel_activation
        found = _relational.relational_attention.ordinary(q, k, q_rel, k_rel, v, *how)
        if found is not NotImplemented and type(return_lse) is bool:
            return found if return_lse else found[:2]
    sides = {"q": q, "k": k, "q_rel": q_rel, "k_rel": k_rel, "v": v}
    for name, a in sides.items():
        _tensors.floats(name, a, 3)
    _tensors.alike(*sides.items())
    for name, a in list(sides.items())[:4]:
        if a.shape[-1] == 0:
            check.fail(name, "rows of at least one feature (last dimension > 0)", tuple(a.shape))
    if mask is not None:
        _tensors.dense("mask", mask, "a boolean tensor (True = may be attended)")
        _tensors.on_one_device(("q", q), ("mask", mask))
    check.choice("rel_activation", rel_activation, REL_ACTIVATIONS)
    wanted = check.flag("return_lse", return_lse)
    causal, window, align = Allowed(None, causal, window, align).limits()
    factor = _tensors.scale(1 / math.sqrt(q.shape[-1]) if scale is None else scale, ("q", q))
    rel_factor = _tensors.scale(
        1 / math.sqrt(q_rel.shape[-1]) if rel_scale is None else rel_scale, ("q", q), "rel_scale"
    )
    wide = map(_tensors.widened, sides.values())
    relations, values, lse = _relational.relational_attention(
        *wide, mask, causal, *window, align, factor, rel_factor, rel_activation
    )
    found = _tensors.narrowed(relations, q), _tensors.narrowed(values, q)
    return (*found, lse) if wanted else found
