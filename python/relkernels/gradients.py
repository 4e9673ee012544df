"""Vector-Jacobian products of the operations, and losses over all pairs with their gradients.

Each function takes features through the maps once, has the kernels form the gradient with respect to
the features (streaming over pairs, so memory is O((n + m) d)), and takes it back through the maps.
Sums are taken in an order fixed by the shapes: results are the same to the last bit whatever the number
of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import _check, _core
from ._engine import engine_of
from .mlp import MLP
from .ops import _Attended, _spread, attention, feature_map

LOSSES = ("squared", "logistic", "hinge", "softmax")


class MLPGradient(NamedTuple):
    """Gradient with respect to the parameters of an MLP, layer by layer as in `MLP`.

    Attributes
    ----------
    weights : list of ndarray
    biases : list of ndarray or None
        None for an MLP without biases.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> phi = rk.MLP.random([3, 4, 2], bias=False)
    >>> _, gradient = rk.feature_map_vjp(np.ones((5, 3), "f4"), phi, np.ones((5, 2), "f4"))
    >>> [w.shape for w in gradient.weights], gradient.biases
    ([(3, 4), (4, 2)], None)
    """

    weights: list[np.ndarray]
    biases: list[np.ndarray] | None


def _summed_to(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum over the leading dimensions that broadcasting had added or stretched."""
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    stretched = tuple(i + extra for i, size in enumerate(shape) if size == 1 and grad.shape[i + extra] != 1)
    return engine_of(grad).sum(grad, tuple(range(extra)) + stretched).reshape(shape)


def _features(x: np.ndarray, phi: MLP | None) -> np.ndarray:
    return x if phi is None else feature_map(x, phi)


def _through(x: np.ndarray, phi: MLP | None, grad: np.ndarray) -> tuple[np.ndarray, MLPGradient | None]:
    """Take a gradient with respect to the features of `x` back to `x` and to the map."""
    return (grad, None) if phi is None else feature_map_vjp(x, phi, grad)


def _added(a: MLPGradient | None, b: MLPGradient | None) -> MLPGradient | None:
    """Sum of the two parts of a gradient where one map serves both sides."""
    if a is None or b is None:
        return None
    add = engine_of(a.weights[0]).add
    biases = None
    if a.biases is not None and b.biases is not None:
        biases = [add(p, q) for p, q in zip(a.biases, b.biases, strict=True)]
    return MLPGradient([add(p, q) for p, q in zip(a.weights, b.weights, strict=True)], biases)


def feature_map_vjp(x: np.ndarray, mlp: MLP, grad: np.ndarray) -> tuple[np.ndarray, MLPGradient]:
    """Return the gradients of ``sum(grad * feature_map(x, mlp))``.

    Parameters
    ----------
    x : ndarray of shape (..., n, d_x)
    mlp : MLP
    grad : ndarray of shape (..., n, d)
        Gradient with respect to the features.

    Returns
    -------
    grad_x : ndarray of shape (..., n, d_x)
    grad_mlp : MLPGradient
        Summed over all rows.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> phi = rk.MLP([np.array([[2.0], [3.0]])])
    >>> grad_x, grad_phi = rk.feature_map_vjp(np.array([[1.0, 1.0]]), phi, np.array([[1.0]]))
    >>> grad_x, grad_phi.weights[0].ravel()
    (array([[2., 3.]]), array([1., 1.]))
    """
    x = _check.features("x", x)
    _check.mlp("mlp", mlp, optional=False)
    grad = _check.floats("grad", grad)
    _check.same_dtype(("x", x), ("mlp", mlp), ("grad", grad))
    width = _check.mapped_width("x", x, "mlp", mlp)
    expected = (*x.shape[:-1], width)
    if grad.shape != expected:
        _check.fail("grad", f"shape {expected}, that of the features", grad.shape)
    engine = engine_of(x)
    grad_x = engine.empty("feature_map_vjp", x.shape, x.dtype)
    gradient = MLPGradient(
        [engine.empty("feature_map_vjp", w.shape, w.dtype) for w in mlp.weights],
        None
        if mlp.biases is None
        else [engine.empty("feature_map_vjp", b.shape, b.dtype) for b in mlp.biases],
    )
    map_ = engine.packed(mlp, engine.precision(None, x.dtype))
    engine.run("feature_map_vjp", x, map_, grad, grad_x, gradient.weights, gradient.biases)
    return grad_x, gradient


def relation_matrix_vjp(
    x: np.ndarray,
    y: np.ndarray | None,
    grad: np.ndarray,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float = 1.0,
    heads: int = 1,
) -> tuple[np.ndarray, np.ndarray | None, MLPGradient | None, MLPGradient | None]:
    """Return the gradients of ``sum(grad * relation_matrix(x, y, phi, psi, ...))``.

    Parameters
    ----------
    x : ndarray of shape (..., n, d_x)
    y : ndarray of shape (..., m, d_y) or None
        None stands for `x`.
    grad : ndarray of the relation's shape
        (..., n, m), or (..., heads, n, m) with more than one head.
    phi, psi : MLP, optional
        As in `relation_matrix`.
    scale : float, default 1.0
    heads : int, default 1

    Returns
    -------
    grad_x : ndarray of the shape of `x`
    grad_y : ndarray of the shape of `y`, or None
        None where `y` is: its part is then in `grad_x`.
    grad_phi, grad_psi : MLPGradient or None
        None for a map that is None; where `psi` stands for `phi`, its part is in `grad_phi`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> x, y = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])
    >>> rk.relation_matrix_vjp(x, y, np.array([[1.0]]))[:2]
    (array([[3., 4.]]), array([[1., 2.]]))
    """
    x = _check.features("x", x)
    other = x if y is None else _check.features("y", y)
    grad = _check.floats("grad", grad)
    phi, psi = _check.mlp("phi", phi), _check.mlp("psi", psi)
    _check.same_dtype(("x", x), ("y", other), ("grad", grad), ("phi", phi), ("psi", psi))
    one_map = psi is None or psi is phi
    psi_name = "phi" if psi is None else "psi"
    psi = phi if psi is None else psi
    width = _check.mapped_width("x", x, "phi", phi)
    y_name = "x" if y is None else "y"
    width_y = _check.mapped_width(y_name, other, psi_name, psi)
    _check.same_width("x", x, width, y_name, other, width_y)
    factor = _check.scale(scale)
    h = _check.heads(heads, width)
    lead = _check.batch_shape(("x", x, 2), (y_name, other, 2))
    expected = (*lead, x.shape[-2], other.shape[-2])
    if h > 1:
        expected = (*lead, h, *expected[-2:])
    if grad.shape != expected:
        _check.fail("grad", f"shape {expected}, that of the relation", grad.shape)

    f = _features(x, phi)
    g = f if y is None and one_map else _features(other, psi)
    engine = engine_of(x)
    grad_f = engine.empty("relation_matrix_vjp", (*lead, *f.shape[-2:]), x.dtype)
    grad_g = engine.empty("relation_matrix_vjp", (*lead, *g.shape[-2:]), x.dtype)
    operands = (_spread(f, lead, 2), _spread(g, lead, 2), grad, factor, h)
    engine.run("relation_matrix_vjp", *operands, grad_f, grad_g)
    return _both_sides(x, y, phi, psi, one_map, grad_f, grad_g)


def _both_sides(
    x: np.ndarray,
    y: np.ndarray | None,
    phi: MLP | None,
    psi: MLP | None,
    one_map: bool,
    grad_f: np.ndarray,
    grad_g: np.ndarray,
) -> tuple[np.ndarray, np.ndarray | None, MLPGradient | None, MLPGradient | None]:
    """From gradients with respect to both features to those of inputs and maps."""
    add = engine_of(grad_f).add
    if y is None and one_map:
        both = _summed_to(add(grad_f, grad_g), (*x.shape[:-1], grad_f.shape[-1]))
        grad_x, grad_phi = _through(x, phi, both)
        return grad_x, None, grad_phi, None
    other = x if y is None else y
    grad_x, grad_phi = _through(x, phi, _summed_to(grad_f, (*x.shape[:-1], grad_f.shape[-1])))
    grad_y, grad_psi = _through(other, psi, _summed_to(grad_g, (*other.shape[:-1], grad_g.shape[-1])))
    if one_map:
        grad_phi, grad_psi = _added(grad_phi, grad_psi), None
    if y is None:
        return add(grad_x, grad_y), None, grad_phi, grad_psi
    return grad_x, grad_y, grad_phi, grad_psi


def attention_vjp(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    grad: np.ndarray,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float | None = None,
    mask: np.ndarray | None = None,
    causal: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, MLPGradient | None, MLPGradient | None]:
    """Return the gradients of ``sum(grad * attention(q, k, v, phi, psi, ...))``.

    Scores are made again tile by tile (Dao et al. 2022): memory is O((n + m) d).

    Parameters
    ----------
    q, k, v, phi, psi, scale, mask, causal
        As in `attention`.
    grad : ndarray of shape (..., n, d_v)

    Returns
    -------
    grad_q, grad_k, grad_v : ndarray
        Of the shapes of `q`, `k` and `v`.
    grad_phi, grad_psi : MLPGradient or None
        None for a map that is None; where `psi` stands for `phi`, its part is in `grad_phi`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> q, k, v, grad = np.random.default_rng(0).standard_normal((4, 6, 3))
    >>> [g.shape for g in rk.attention_vjp(q, k, v, grad)[:3]]
    [(6, 3), (6, 3), (6, 3)]
    """
    a = _Attended(q, k, v, phi, psi, scale, mask, causal, None)
    assert a.v is not None
    grad = _check.floats("grad", grad)
    _check.same_dtype(("q", a.q), ("grad", grad))
    expected = (*a.lead, a.n, a.v.shape[-1])
    if grad.shape != expected:
        _check.fail("grad", f"shape {expected}, that of the attention", grad.shape)
    f, g = _features(q, a.phi), _features(k, a.psi)
    out, lse = attention(f, g, v, scale=a.scale, mask=mask, causal=a.causal, return_lse=True)
    grad_f, grad_g, grad_v = _attention_of_features_vjp(a, f, g, out, lse, grad)
    one_map = psi is None or psi is phi
    grad_q, grad_k, grad_phi, grad_psi = _both_sides(q, k, a.phi, a.psi, one_map, grad_f, grad_g)
    assert grad_k is not None
    return grad_q, grad_k, _summed_to(grad_v, v.shape), grad_phi, grad_psi


def _attention_of_features_vjp(
    a: _Attended, f: np.ndarray, g: np.ndarray, out: np.ndarray, lse: np.ndarray, grad: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients with respect to the features and the values, over all of the leading dimensions."""
    assert a.v is not None
    grad_f = a.engine.empty("attention_vjp", (*a.lead, *f.shape[-2:]), a.dtype)
    grad_g = a.engine.empty("attention_vjp", (*a.lead, *g.shape[-2:]), a.dtype)
    grad_v = a.engine.empty("attention_vjp", a.v.shape, a.dtype)
    a.engine.run(
        "attention_vjp",
        _spread(f, a.lead, 2),
        _spread(g, a.lead, 2),
        a.v,
        a.mask,
        a.causal,
        a.scale,
        out,
        lse,
        grad,
        grad_f,
        grad_g,
        grad_v,
    )
    return grad_f, grad_g, grad_v


class _Targets(NamedTuple):
    """What `_core.relation_loss` takes: a matrix of targets, or labels of both sides."""

    matrix: np.ndarray | None
    labels_x: np.ndarray | None
    labels_y: np.ndarray | None

    def mass(self, n: int) -> np.ndarray:
        """Sum of each row's targets."""
        if self.matrix is not None:
            return self.matrix.sum(axis=1, dtype=np.float64)
        assert self.labels_x is not None
        assert self.labels_y is not None
        values, counts = np.unique(self.labels_y, return_counts=True)
        at = np.minimum(np.searchsorted(values, self.labels_x), len(values) - 1)
        return np.where(values[at] == self.labels_x, counts[at], 0).astype(np.float64)


def _labels(name: str, labels: object, n: int) -> np.ndarray:
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iub":
        raise TypeError(f"{name}: expected an array of integer labels, got {_check._kind(labels)}")
    if labels.shape != (n,):
        _check.fail(name, f"labels of shape ({n},)", labels.shape)
    return np.ascontiguousarray(labels, dtype=np.int64)


def _targets(target: object, x: np.ndarray, y: np.ndarray) -> _Targets:
    n, m = len(x), len(y)
    if isinstance(target, tuple):
        if len(target) != 2:
            _check.fail("target", "a pair (labels of x, labels of y)", f"{len(target)} entries")
        return _Targets(None, _labels("target[0]", target[0], n), _labels("target[1]", target[1], m))
    if isinstance(target, np.ndarray) and target.dtype.kind in "iub":
        labels = _labels("target", target, n)
        if n != m:
            _check.fail("target", f"labels of both sides, a pair, as n = {n} and m = {m}", target.shape)
        return _Targets(None, labels, labels)
    matrix = _check.floats("target", target, 1)
    _check.same_dtype(("x", x), ("target", matrix))
    try:
        return _Targets(np.broadcast_to(matrix, (n, m)), None, None)
    except ValueError:
        _check.fail("target", f"a shape that broadcasts to ({n}, {m})", matrix.shape)


def _pair_weights(weight: object, x: np.ndarray, m: int, loss: str) -> tuple[np.ndarray | None, float]:
    """Weights of the pairs as an (n, m) view, and their sum over the terms of the loss."""
    n = len(x)
    if weight is None:
        return None, 1.0
    w = _check.floats("sample_weight", weight, 1)
    _check.same_dtype(("x", x), ("sample_weight", w))
    if w.shape != (n,) and (loss == "softmax" or w.shape != (n, m)):
        shapes = f"({n},)" if loss == "softmax" else f"({n},) or ({n}, {m})"
        _check.fail("sample_weight", f"shape {shapes}", w.shape)
    total = float(w.sum(dtype=np.float64))
    if not (np.isfinite(total) and w.min() >= 0 and total > 0):
        _check.fail(
            "sample_weight",
            "finite weights >= 0 with a positive sum",
            f"minimum {w.min()}, sum {total}",
        )
    if w.ndim == 1:
        return np.broadcast_to(w[:, None], (n, m)), total * (1 if loss == "softmax" else m)
    return w, total


def feature_loss(
    f: np.ndarray, g: np.ndarray, target: object, loss: str, sample_weight: np.ndarray | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the loss of `relation_loss` between features, and its gradients with respect to both.

    Where `g` is `f` the two gradients are parts of one: their sum counts. They may be one array.
    """
    n, m = len(f), len(g)
    targets = _targets(target, f, g)
    weights, total = _pair_weights(sample_weight, f, m, loss)
    row_scale = None
    if loss == "softmax":
        mass = targets.mass(n)
        if not (mass > 0).all():
            row = int(np.argmin(mass > 0))
            _check.fail("target", "a positive sum in every row", f"{mass[row]} in row {row}")
        row_scale = (1 / mass).astype(f.dtype)
    # Where loss and relation are symmetric, so is the derivative: both sides have one gradient.
    mirrored = (
        f is g
        and targets.labels_x is targets.labels_y
        and targets.matrix is None
        and weights is None
        and loss != "softmax"
    )
    values = np.empty(n)
    grad_f = np.empty(f.shape, f.dtype)
    grad_g = grad_f if mirrored else np.empty(g.shape, f.dtype)
    _core.relation_loss(
        f, g, *targets, weights, row_scale, loss, values, grad_f, None if mirrored else grad_g
    )
    if weights is not None:
        grad_f *= f.dtype.type(1 / total)
        grad_g *= f.dtype.type(1 / total)
    return float(values.sum()) / total, grad_f, grad_g


def relation_loss(
    x: np.ndarray,
    y: np.ndarray | None,
    target: np.ndarray | tuple[np.ndarray, np.ndarray],
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    loss: str = "squared",
    sample_weight: np.ndarray | None = None,
) -> tuple[float, MLPGradient | None, MLPGradient | None]:
    """Return a loss over all pairs and its gradients, streaming over the pairs.

    With ``R_ij = <phi(x_i), psi(y_j)>``, targets T and weights w the value is ``sum(w * l) / sum(w)``:

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

    Returns
    -------
    value : float
    grad_phi, grad_psi : MLPGradient or None
        None for a map that is None; where `psi` stands for `phi`, its part is in `grad_phi`.

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
    """
    x = _check.floats("x", x, 2, exact=True)
    other = x if y is None else _check.floats("y", y, 2, exact=True)
    y_name = "x" if y is None else "y"
    _check.features("x", x)
    _check.features(y_name, other)
    phi, psi = _check.mlp("phi", phi), _check.mlp("psi", psi)
    _check.same_dtype(("x", x), (y_name, other), ("phi", phi), ("psi", psi))
    one_map = psi is None or psi is phi
    psi_name = "phi" if psi is None else "psi"
    psi = phi if psi is None else psi
    width = _check.mapped_width("x", x, "phi", phi)
    width_y = _check.mapped_width(y_name, other, psi_name, psi)
    _check.same_width("x", x, width, y_name, other, width_y)
    loss = _check.choice("loss", loss, LOSSES)
    for name, a in (("x", x), (y_name, other)):
        if len(a) == 0:
            _check.fail(name, "at least one row", a.shape)
    f = _features(x, phi)
    g = f if y is None and one_map else _features(other, psi)
    value, grad_f, grad_g = feature_loss(f, g, target, loss, sample_weight)
    _, _, grad_phi, grad_psi = _both_sides(x, y, phi, psi, one_map, grad_f, grad_g)
    return value, grad_phi, grad_psi


__all__ = [
    "MLPGradient",
    "attention_vjp",
    "feature_map_vjp",
    "relation_loss",
    "relation_matrix_vjp",
]
