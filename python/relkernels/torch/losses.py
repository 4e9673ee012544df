"""Losses over all pairs, the relation never stored."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..base import check
from ..gradients import LOSSES
from . import _check as _tensors
from . import _ops
from .maps import Map
from .relations import both_features


def relation_loss(
    x: Tensor,
    y: Tensor | None,
    target: Tensor | tuple[Tensor, Tensor],
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    loss: str = "squared",
    scale: float | Tensor = 1.0,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Return a loss over all pairs, with gradients, streaming over the pairs.

    The value is that of `relkernels.relation_loss`, where the losses are defined. Its gradients are
    formed on the same walk over the pairs: memory is O((n + m) d) forward and backward, where a loss of
    `relation_matrix` takes O(n m) several times over.

    Parameters
    ----------
    x : Tensor of shape (n, d_x)
        Float32 or float64, or 16-bit floats, which are computed in float32; on the CPU: there is no CUDA
        kernel of the loss.
    y : Tensor of shape (m, d_y) or None
        None stands for `x`.
    target : Tensor or tuple
        Either relation values, of the dtype of `x`, that broadcast to (n, m), or integer labels: of
        shape (n,) for both sides, or a pair of shapes (n,) and (m,), whose relation is 1 where they are
        equal, else 0. Has no gradient.
    phi, psi : FeatureMap, optional
        Maps of `x` and of `y`, as in `relation_matrix`.
    loss : {"squared", "logistic", "hinge", "softmax"}, default "squared"
    scale : float or Tensor of one element, default 1.0
        Factor of the relation, any finite number: the loss is that of ``scale * <phi(x_i), psi(y_j)>``.
        With softmax it is 1 / temperature of InfoNCE. A tensor has a gradient.
    sample_weight : Tensor of shape (n,) or (n, m), optional
        Weight of each row of `x`, or of each pair (not for softmax). Has no gradient.

    Returns
    -------
    Tensor of shape ()

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import FeatureMap, relation_loss
    >>> phi = FeatureMap([8, 32, 4])
    >>> x, labels = torch.randn(1000, 8), torch.arange(1000) % 10
    >>> loss = relation_loss(x, None, labels, phi, loss="softmax")
    >>> loss.backward()
    >>> loss.shape, phi.weights[0].grad.shape
    (torch.Size([]), torch.Size([8, 32]))
    """
    f, g = both_features(x, y, phi, psi)
    rows, columns = target if isinstance(target, tuple) and len(target) == 2 else (target, None)
    name = "target" if columns is None else "target[0]"
    optional = {"target[1]": columns, "sample_weight": sample_weight}
    goal = _constant(name, rows, x)
    constants = [None if a is None else _constant(label, a, x) for label, a in optional.items()]
    factor, kind = _tensors.scale(scale, ("x", x)), check.choice("loss", loss, LOSSES)
    total: Tensor = _ops.relation_loss(f, g, factor, goal, *constants, kind)[0]
    return _tensors.narrowed(total, x)


def _constant(name: str, value: Any, x: Tensor) -> Tensor:
    """Return a target or weights, which have no gradient, 16-bit floats widened."""
    value = _tensors.constant(name, value)
    _tensors.on_one_device(("x", x), (name, value))
    return _tensors.widened(value)
