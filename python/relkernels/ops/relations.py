"""Features, relation matrices, and products with relations that are never stored."""

from __future__ import annotations

from typing import Any

from .. import _check, _core
from .._engine import engine_of
from .._operands import filled, spread, target
from ..arrays import Array, operation
from ..mlp import MLP

LINKS = _core.LINKS


@operation("x", "out")
def feature_map(x: Array, mlp: MLP, *, precision: str | None = None, out: Array | None = None) -> Array:
    """Return the features of `x` through an MLP.

    Parameters
    ----------
    x : ndarray of shape (..., n, d_x), or (d_x,) for a single point
        Float32 or float64, of the MLP's dtype and input width.
    mlp : MLP
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16".
    out : ndarray of the result's shape, optional
        Where to write the result; may not overlap `x`.

    Returns
    -------
    ndarray of shape (..., n, d), or (d,) for a single point
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
    >>> rk.feature_map(np.ones(64, np.float32), phi).shape
    (64,)
    """
    points = _check.features("x", x, 1)
    if not isinstance(mlp, MLP):
        _check.mlp("mlp", mlp, optional=False)
    if points.dtype != mlp.dtype:
        _check.same_dtype(("x", points), ("mlp", mlp))
    width = _check.mapped_width("x", points, "mlp", mlp)
    engine = engine_of(points)
    rounding = engine.precision(precision, points.dtype)
    shape = (*points.shape[:-1], width)
    to: Any
    if out is None:
        to = engine.empty("feature_map", shape, points.dtype)
    else:
        to = target(_check.output(out, shape, points.dtype, ("x", points)))
    rows, written = (points[None], to[None]) if points.ndim == 1 else (points, to)
    engine.run("feature_map", rows, engine.packed(mlp, rounding), rounding, written)
    return to if out is None else filled(out, to)


@operation("x", "y", "out")
def relation_matrix(
    x: Array,
    y: Array | None = None,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    scale: float = 1.0,
    heads: int = 1,
    precision: str | None = None,
    out: Array | None = None,
) -> Array:
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
        Any finite number.
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
    points = _check.features("x", x)
    symmetric = y is None and (psi is None or psi is phi)
    others = points if y is None else _check.features("y", y)
    phi, psi = _check.mlp("phi", phi), _check.mlp("psi", psi)
    _check.same_dtype(("x", points), ("y", others), ("phi", phi), ("psi", psi))
    psi_name = "phi" if psi is None else "psi"
    psi = phi if psi is None else psi
    width = _check.mapped_width("x", points, "phi", phi)
    y_name = "x" if y is None else "y"
    width_y = _check.mapped_width(y_name, others, psi_name, psi)
    _check.same_width("x", points, width, y_name, others, width_y)
    factor = _check.scale(scale, points.dtype)
    h = _check.heads(heads, width)
    engine = engine_of(points)
    rounding = engine.precision(precision, points.dtype)
    lead = points.shape[:-2] if y is None else _check.batch_shape(("x", points, 2), ("y", others, 2))
    shape = (*lead, points.shape[-2], others.shape[-2])
    if h > 1:
        shape = (*lead, h, *shape[-2:])
    rows, columns = spread(points, lead, 2), None if symmetric else spread(others, lead, 2)
    to: Any
    if out is None:
        to = engine.empty("relation_matrix", shape, points.dtype)
    else:
        to = target(_check.output(out, shape, points.dtype, ("x", points), (y_name, others)))
    maps = engine.packed(phi, rounding), engine.packed(psi, rounding)
    engine.run("relation_matrix", rows, columns, *maps, rounding, factor, h, to)
    return to if out is None else filled(out, to)


@operation("x", "y", "v", "out")
def relation_matvec(
    x: Array,
    y: Array,
    v: Array,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    link: str = "identity",
    scale: float = 1.0,
    precision: str | None = None,
    out: Array | None = None,
) -> Array:
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
        Any finite number.
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16".
    out : ndarray of the result's shape, optional
        Where to write the result; may not overlap an input.

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
    values = _check.floats("v", v, 1)
    points, others = _check.features("x", x), _check.features("y", y)
    m = others.shape[-2]
    single = values.ndim < 2 or values.shape[-2] != m
    if single and values.shape[-1] != m:
        _check.fail("v", f"shape (..., {m}) or (..., {m}, c), m the rows of y {others.shape}", values.shape)
    columns = values[..., None] if single else values
    phi, psi = _check.mlp("phi", phi), _check.mlp("psi", psi)
    _check.same_dtype(("x", points), ("y", others), ("v", values), ("phi", phi), ("psi", psi))
    psi_name = "phi" if psi is None else "psi"
    psi = phi if psi is None else psi
    width = _check.mapped_width("x", points, "phi", phi)
    width_y = _check.mapped_width("y", others, psi_name, psi)
    _check.same_width("x", points, width, "y", others, width_y)
    link = _check.choice("link", link, LINKS)
    engine = engine_of(points)
    rounding = engine.precision(precision, points.dtype)
    factor = _check.scale(scale, points.dtype)
    lead = _check.batch_shape(("x", points, 2), ("y", others, 2), ("v", columns, 2))
    shape = (*lead, points.shape[-2], columns.shape[-1])
    to: Any
    if out is None:
        to = engine.empty("relation_matvec", shape, points.dtype)
    else:
        inputs = (("x", points), ("y", others), ("v", values))
        to = target(_check.output(out, shape[:-1] if single else shape, points.dtype, *inputs))
        to = to[..., None] if single else to
    if columns.shape[-1]:
        engine.run(
            "relation_matvec",
            spread(points, lead, 2),
            spread(others, lead, 2),
            spread(columns, lead, 2),
            engine.packed(phi, rounding),
            engine.packed(psi, rounding),
            rounding,
            link,
            factor,
            to,
        )
    to = to[..., 0] if single else to
    return to if out is None else filled(out, to)
