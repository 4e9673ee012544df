"""Losses over all pairs with their gradients, streaming over the pairs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..arrays import Array, operation
from ..arrays.engine import Engine, engine_of
from ..base import check
from ..base.describe import described
from ..maps.mlp import MLP
from ..ops.sides import Sides
from .results import FeatureLoss, LossGradients
from .vjp import through_maps

LOSSES = _core.LOSSES


class _Targets(NamedTuple):
    """A matrix of targets, or labels of both sides, in main memory."""

    matrix: np.ndarray | None
    labels_x: np.ndarray | None
    labels_y: np.ndarray | None

    def mass(self, engine: Engine[Any]) -> np.ndarray:
        """Sum of each row's targets, in main memory."""
        if self.matrix is not None:
            return engine.row_sums(self.matrix)
        assert self.labels_x is not None
        assert self.labels_y is not None
        values, counts = np.unique(self.labels_y, return_counts=True)
        at = np.minimum(np.searchsorted(values, self.labels_x), len(values) - 1)
        return np.where(values[at] == self.labels_x, counts[at], 0).astype(np.float64)

    def where(self, engine: Engine[Any]) -> tuple[np.ndarray | None, ...]:
        """Return the targets as kernels take them."""
        return self.matrix, *(None if a is None else engine.upload(a) for a in (self.labels_x, self.labels_y))


def _labels(name: str, labels: object, n: int) -> np.ndarray:
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iub":
        raise TypeError(f"{name}: expected an array of integer labels, got {described(labels)}")
    if labels.shape != (n,):
        check.fail(name, f"labels of shape ({n},)", labels.shape)
    return np.ascontiguousarray(engine_of(labels).read(labels), dtype=np.int64)


def _targets(target: object, x: np.ndarray, y: np.ndarray) -> _Targets:
    n, m = len(x), len(y)
    if isinstance(target, tuple):
        if len(target) != 2:
            check.fail("target", "a pair (labels of x, labels of y)", f"{len(target)} entries")
        return _Targets(None, _labels("target[0]", target[0], n), _labels("target[1]", target[1], m))
    if isinstance(target, np.ndarray) and target.dtype.kind in "iub":
        labels = _labels("target", target, n)
        if n != m:
            check.fail("target", f"labels of both sides, a pair, as n = {n} and m = {m}", target.shape)
        return _Targets(None, labels, labels)
    matrix = check.floats("target", target, 1)
    check.same_dtype(("x", x), ("target", matrix))
    try:
        return _Targets(np.broadcast_to(matrix, (n, m)), None, None)
    except ValueError:
        check.fail("target", f"a shape that broadcasts to ({n}, {m})", matrix.shape)


def _pair_weights(weight: object, x: np.ndarray, m: int, loss: str) -> tuple[np.ndarray | None, float]:
    """Weights of the pairs as an (n, m) view, and their sum over the terms of the loss."""
    n = len(x)
    if weight is None:
        return None, float(n) * (1 if loss == "softmax" else m)
    w = check.floats("sample_weight", weight, 1)
    check.same_dtype(("x", x), ("sample_weight", w))
    if w.shape != (n,) and (loss == "softmax" or w.shape != (n, m)):
        shapes = f"({n},)" if loss == "softmax" else f"({n},) or ({n}, {m})"
        check.fail("sample_weight", f"shape {shapes}", w.shape)
    engine = engine_of(w)
    total = float(engine.row_sums(w[:, None] if w.ndim == 1 else w).sum())
    least = engine.least(w)
    if not (np.isfinite(total) and least >= 0 and total > 0):
        check.fail(
            "sample_weight", "finite weights >= 0 with a positive sum", f"minimum {least}, sum {total}"
        )
    if w.ndim == 1:
        return np.broadcast_to(w[:, None], (n, m)), total * (1 if loss == "softmax" else m)
    return w, total


def feature_loss(
    f: np.ndarray,
    g: np.ndarray,
    target: object,
    loss: str,
    sample_weight: object = None,
    scale: float = 1.0,
) -> FeatureLoss:
    """Return the loss of `relation_loss` between features, with its gradients: see `FeatureLoss`.

    Where `g` is `f` the gradients of both are parts of one: their sum counts. They may be one array.
    """
    n, m = len(f), len(g)
    engine = engine_of(f)
    targets = _targets(target, f, g)
    weights, total = _pair_weights(sample_weight, f, m, loss)
    row_scale = None
    if loss == "softmax":
        mass = targets.mass(engine)
        if not (mass > 0).all():
            row = int(np.argmin(mass > 0))
            check.fail("target", "a positive sum in every row", f"{mass[row]} in row {row}")
        row_scale = engine.upload((1 / mass).astype(f.dtype))
    # Where loss and relation are symmetric, so is the derivative: both sides have one gradient.
    mirrored = (
        f is g
        and targets.labels_x is targets.labels_y
        and targets.matrix is None
        and weights is None
        and loss != "softmax"
    )
    values, parts = (engine.empty_parts("relation_loss", (n,), f.dtype) for _ in range(2))
    grad_f = engine.empty("relation_loss", f.shape, f.dtype)
    grad_g = grad_f if mirrored else engine.empty("relation_loss", g.shape, f.dtype)
    how = loss, scale, 1 / total
    written = values, grad_f, None if mirrored else grad_g, parts
    engine.run("relation_loss", f, g, *targets.where(engine), weights, row_scale, *how, *written)
    return FeatureLoss(engine.total(values), grad_f, grad_g, engine.total(parts))


@operation("x", "y", "target", "sample_weight")
def relation_loss(
    x: Array,
    y: Array | None,
    target: Array | tuple[Array, Array],
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    loss: str = "squared",
    sample_weight: Array | None = None,
    scale: float = 1.0,
) -> LossGradients[Array]:
    """Return a loss over all pairs and its gradients, streaming over the pairs.

    With ``R_ij = scale * <phi(x_i), psi(y_j)>``, targets T and weights w the value is
    ``sum(w * l) / sum(w)``:

    - squared: ``l = (R - T)**2``
    - logistic: ``l = log(1 + exp(R)) - T * R``, T in [0, 1]
    - hinge: ``l = max(0, 1 - (2 T - 1) R)``, T in [0, 1]
    - softmax (InfoNCE), one term a row: ``l_i = logsumexp_j R_ij - sum_j T_ij R_ij / sum_j T_ij``

    Neither R nor its gradient is stored: memory is O((n + m) d).

    Parameters
    ----------
    x : ndarray of shape (n, d_x)
    y : ndarray of shape (m, d_y) or None
        None stands for `x`.
    target : ndarray or tuple
        Either T, an array of the dtype of `x` that broadcasts to (n, m), or integer labels: of shape
        (n,) for both sides, or a pair of shapes (n,) and (m,). Then T_ij is 1 for equal labels, else 0.
    phi, psi : MLP, optional
        Feature maps; `psi` None stands for `phi`, `phi` None for the identity.
    loss : {"squared", "logistic", "hinge", "softmax"}, default "squared"
    sample_weight : ndarray of shape (n,) or (n, m), optional
        Weight of each row of `x`, or of each pair (not for softmax).
    scale : float, default 1.0
        Any finite number; for softmax the inverse temperature.

    Returns
    -------
    LossGradients
        Unpacks into ``value, grad_phi, grad_psi``; `grad_x`, `grad_y` and `grad_scale` are attributes
        besides. Gradients of maps are None for a map that is None; where `psi` stands for `phi`, its part
        is in `grad_phi`. `grad_y` is None where `y` is None: its part is then in `grad_x`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> x, labels = np.eye(4), np.array([0, 0, 1, 1])
    >>> value, grad_phi, _ = rk.relation_loss(x, None, labels, rk.MLP([np.eye(4)]))
    >>> value
    0.25

    Without maps, the gradients are those of the rows:

    >>> loss = rk.relation_loss(x, None, labels, loss="softmax", scale=0.5)
    >>> loss.grad_x.shape, round(loss.grad_scale, 3)
    ((4, 4), -0.145)
    """
    check.floats("x", x, 2, exact=True)
    if y is not None:
        check.floats("y", y, 2, exact=True)
    sides = Sides(x, y, phi, psi)
    loss, factor = check.choice("loss", loss, LOSSES), check.scale(scale, sides.dtype)
    for name, points in sides.named:
        if points.shape[0] == 0:
            check.fail(name, "at least one row", points.shape)
    f, g = sides.features()
    found = feature_loss(f, g, target, loss, sample_weight, factor)
    grad_g = found.grad_g
    if not sides.same_points and grad_g is found.grad_f:
        # The gradients of x and of y are two arrays, even where y is x.
        grad_g = sides.engine.empty_like(found.grad_f)
        sides.engine.copy(grad_g, found.grad_f)
    grad_x, grad_y, grad_phi, grad_psi = through_maps(sides, found.grad_f, grad_g)
    return LossGradients(found.value, grad_phi, grad_psi, grad_x, grad_y, found.grad_scale)
