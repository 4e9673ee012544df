"""Relations and attention over them, as functions of tensors."""

from __future__ import annotations

import math

from torch import Tensor

from ..base import check
from ..ops.allowed import Allowed, Window
from . import _check as _tensors
from . import _ops
from .maps import Map, check_map, mapped


def _same_width(x_name: str, x: Tensor, f: Tensor, y_name: str, y: Tensor, g: Tensor) -> None:
    if f.shape[-1] != g.shape[-1]:
        check.fail(
            y_name,
            f"features as wide as those of {x_name}, {f.shape[-1]} (from {x_name} of shape {tuple(x.shape)})",
            f"{g.shape[-1]} (from {y_name} of shape {tuple(y.shape)})",
        )


def both_features(
    x: Tensor, y: Tensor | None, phi: Map | None, psi: Map | None
) -> tuple[Tensor, Tensor | None]:
    """Check a relation's sides and map them; None for the second where it is the first."""
    x = _tensors.features("x", x)
    y_name = "x" if y is None else "y"
    other = x if y is None else _tensors.features("y", y)
    check.same_dtype(("x", x), (y_name, other))
    phi, psi = check_map("phi", phi), check_map("psi", psi)
    one_map = psi is None or psi is phi
    f = mapped("x", x, "phi", phi)
    g = None
    if y is not None or not one_map:
        g = mapped(y_name, other, "phi", phi) if one_map else mapped(y_name, other, "psi", psi)
        _same_width("x", x, f, y_name, other, g)
        _tensors.same_batch(("x", x), (y_name, other))
    return f, g


def relation_matrix(
    x: Tensor,
    y: Tensor | None = None,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    scale: float | Tensor = 1.0,
    heads: int = 1,
) -> Tensor:
    """Return the inner products ``R_ij = scale * <phi(x_i), psi(y_j)>``, with gradients.

    Parameters
    ----------
    x : Tensor of shape (..., n, d_x)
        Float32 or float64 on the CPU.
    y : Tensor of shape (..., m, d_y), optional
        None stands for `x`; the relation is then symmetric to the last bit unless `psi` differs from
        `phi`, and half of it is computed.
    phi : FeatureMap, optional
        Map of `x`; None is the identity. Any other module or callable from (..., n, d_x) to (..., n, d)
        of the same dtype will do.
    psi : FeatureMap, optional
        Map of `y`; None, or `phi` itself, is `phi`.
    scale : float or Tensor of one element, default 1.0
        Any finite number. A tensor's gradient is computed without storing the relation.
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
    relation: Tensor = _ops.relation_matrix(f, g, _tensors.scale(scale), check.heads(heads, f.shape[-1]))
    return relation


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
) -> Tensor:
    """Return attention ``softmax_j(scale * <phi(q_i), psi(k_j)>) @ v``, with gradients.

    Scores are stored neither on the way forward nor back: memory is O((n + m) d) (Dao et al. 2022).

    Parameters
    ----------
    q : Tensor of shape (..., n, d_q)
        Float32 or float64 on the CPU.
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
        As in `relkernels.attention`.

    Returns
    -------
    Tensor of shape (..., n, d_v)
        A row with nothing to attend to is zero.

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
    q, k, v = _tensors.features("q", q), _tensors.features("k", k), _tensors.floats("v", v)
    check.same_dtype(("q", q), ("k", k), ("v", v))
    phi, psi = check_map("phi", phi), check_map("psi", psi)
    if v.shape[-2] != k.shape[-2]:
        check.fail("v", f"{k.shape[-2]} rows, one for each row of k {tuple(k.shape)}", tuple(v.shape))
    allowed = _tensors.mask(mask, q.shape[-2], k.shape[-2])
    _tensors.same_batch(("q", q), ("k", k), ("v", v), ("mask", allowed))
    f = mapped("q", q, "phi", phi)
    g = mapped("k", k, "phi", phi) if psi is None or psi is phi else mapped("k", k, "psi", psi)
    _same_width("q", q, f, "k", k, g)
    factor = _tensors.scale(1 / math.sqrt(f.shape[-1]) if scale is None else scale)
    band = Allowed(None, causal, window, align).band(q.shape[-2], k.shape[-2])
    out: Tensor = _ops.attention(f, g, v, allowed, *band, factor)[0]
    return out
