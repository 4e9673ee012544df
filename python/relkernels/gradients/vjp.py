"""Vector-Jacobian products of feature maps and relations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, operation
from ..arrays.engine import engine_of
from ..arrays.sparse import SparseRows, is_sparse
from ..base import check, shapes
from ..maps.mlp import MLP, check_mlp, mapped_rows, mapped_width
from ..ops.links import Linked, as_columns
from ..ops.sides import Sides, spread
from .results import MatvecGradients, MLPGradient, RelationGradients


def summed_to(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum over the leading dimensions that broadcasting had added or stretched."""
    if grad.shape == shape:
        return grad
    extra = grad.ndim - len(shape)
    stretched = tuple(i + extra for i, size in enumerate(shape) if size == 1 and grad.shape[i + extra] != 1)
    return engine_of(grad).sum(grad, tuple(range(extra)) + stretched).reshape(shape)


def contiguous(a: np.ndarray) -> np.ndarray:
    """Return a packed copy of an array that is not contiguous."""
    if a.flags.c_contiguous:
        return a
    engine = engine_of(a)
    packed = engine.empty_like(a)
    engine.copy(packed, a)
    return packed


def _through(x: np.ndarray, phi: MLP | None, grad: np.ndarray | None) -> tuple[Any, MLPGradient | None]:
    """Take a gradient with respect to the features of `x`, if there is one, back to `x` and to the map."""
    if grad is None:
        return None, None
    width = x.shape[-1] if phi is None else phi.widths[-1]
    grad = summed_to(grad, shapes.features(x.shape, width))
    return (grad, None) if phi is None else feature_map_vjp(x, phi, grad)


def _added(a: MLPGradient | None, b: MLPGradient | None) -> MLPGradient | None:
    """Sum of the two parts of a gradient where one map serves both sides; either may be missing."""
    if a is None or b is None:
        return b if a is None else a
    add = engine_of(a.weights[0]).add
    biases = None
    if a.biases is not None and b.biases is not None:
        biases = [add(p, q) for p, q in zip(a.biases, b.biases, strict=True)]
    return MLPGradient([add(p, q) for p, q in zip(a.weights, b.weights, strict=True)], biases)


@operation("x", "grad")
def feature_map_vjp(x: Array, mlp: MLP, grad: Array) -> tuple[Array, MLPGradient]:
    """Return the gradients of ``sum(grad * feature_map(x, mlp))``.

    Parameters
    ----------
    x : ndarray of shape (..., n, d_x)
        Or a sparse matrix, as in `feature_map`.
    mlp : MLP
    grad : ndarray of shape (..., n, d)
        Gradient with respect to the features.

    Returns
    -------
    grad_x : ndarray of shape (..., n, d_x), or None for a sparse `x`
        The gradient of a sparse matrix is dense: it is not zero where the matrix is.
    grad_mlp : MLPGradient
        Summed over all rows. Its arrays are dense; for a sparse `x`, rows of ``weights[0]`` whose columns `x`
        does not store are zero.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Notes
    -----
    To get only the rows of the first layer that a batch of ids touches, renumber the ids: with ``ids, at =
    np.unique(x.indices, return_inverse=True)`` the rows ``scipy.sparse.csr_array((x.data, at, x.indptr),
    shape=(n, len(ids)))`` go through an MLP whose first layer is ``weights[0][ids]``, and time and memory no
    longer depend on the number of ids.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> phi = rk.MLP([np.array([[2.0], [3.0]])])
    >>> grad_x, grad_phi = rk.feature_map_vjp(np.array([[1.0, 1.0]]), phi, np.array([[1.0]]))
    >>> grad_x, grad_phi.weights[0].ravel()
    (array([[2., 3.]]), array([1., 1.]))
    """
    check_mlp("mlp", mlp, optional=False)
    points: Any = mapped_rows("x", x, "mlp", mlp) if is_sparse(x) else check.features("x", x)
    slope = check.floats("grad", grad)
    check.same_dtype(("x", points), ("mlp", mlp), ("grad", slope))
    expected = shapes.features(points.shape, mapped_width("x", points, "mlp", mlp))
    if slope.shape != expected:
        check.fail("grad", f"shape {expected}, that of the features", slope.shape)
    engine = engine_of(points)
    gradient = MLPGradient(
        [engine.empty("feature_map_vjp", w.shape, w.dtype) for w in mlp.weights],
        None
        if mlp.biases is None
        else [engine.empty("feature_map_vjp", b.shape, b.dtype) for b in mlp.biases],
    )
    map_ = engine.packed(mlp, engine.precision(None, points.dtype))
    grad_x: Any = None
    if isinstance(points, SparseRows):
        engine.run("sparse_feature_map_vjp", *points.arrays, mlp.weights[0], map_, slope, *gradient)
        return grad_x, gradient
    grad_x = engine.empty("feature_map_vjp", points.shape, points.dtype)
    engine.run("feature_map_vjp", points, map_, slope, grad_x, *gradient)
    return grad_x, gradient


@operation("x", "grad")
def normalize_vjp(x: Array, grad: Array) -> Array:
    """Return the gradient of ``sum(grad * normalize(x))``.

    With f the normalized row it is ``(grad - f * <f, grad>) / |x|``, and 0 where a row of `x` is 0.

    Parameters
    ----------
    x : ndarray of shape (..., n, d)
    grad : ndarray of the shape of `x`

    Returns
    -------
    ndarray of the shape of `x`

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> rk.normalize_vjp(np.array([[3.0, 4.0]]), np.array([[1.0, 0.0]]))
    array([[ 0.128, -0.096]])
    """
    rows, slope = check.features("x", x), check.floats("grad", grad)
    check.same_dtype(("x", rows), ("grad", slope))
    if slope.shape != rows.shape:
        check.fail("grad", f"shape {rows.shape}, that of x", slope.shape)
    engine = engine_of(rows)
    grad_x = engine.empty("normalize_vjp", rows.shape, rows.dtype)
    engine.run("normalize_vjp", rows, slope, grad_x)
    return grad_x


@operation("x", "y", "grad")
def relation_matrix_vjp(
    x: Array,
    y: Array | None,
    grad: Array,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    link: str = "identity",
    scale: float = 1.0,
    heads: int = 1,
    of: str | None = None,
) -> RelationGradients[Array]:
    """Return the gradients of ``sum(grad * relation_matrix(x, y, phi, psi, ...))``.

    With H = grad @ G for features F of `x` and G of `y`, the gradient of F is ``scale * H`` and that of
    `scale` is ``sum(F * H)``, added up in float64. With a link, R is formed again tile by tile.

    Parameters
    ----------
    x : ndarray of shape (..., n, d_x)
    y : ndarray of shape (..., m, d_y) or None
        None stands for `x`.
    grad : ndarray of the relation's shape
        (..., n, m), or (..., heads, n, m) with more than one head.
    phi, psi : MLP, optional
        As in `relation_matrix`.
    link : str, default "identity"
        As in `relation_matvec_vjp`.
    scale : float, default 1.0
    heads : int, default 1
    of : {"x", "y"}, optional
        Compute the gradients of one side only, in half the time: of `x`, its map and `scale`, or of `y` and
        its map. The others are None, and a map of both sides gets this side's part. Needs `y`.

    Returns
    -------
    RelationGradients
        Unpacks into ``grad_x, grad_y, grad_phi, grad_psi``; `grad_scale` is also an attribute. `grad_y`
        is None where `y` is None: its part is then in `grad_x`. Gradients of maps are None for a map that
        is None; where `psi` stands for `phi`, its part is in `grad_phi`.

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
    sides = Sides(x, y, phi, psi)
    slope = check.floats("grad", grad)
    check.same_dtype(("x", sides.x), ("grad", slope))
    how = Linked.of(sides, link, scale)
    h = check.heads(heads, sides.width)
    if of is not None:
        check.choice("of", of, ("x", "y"))
        if sides.same_points:
            check.fail("of", "None, as y is None", of)
    lead = sides.leading()
    expected = shapes.relation(lead, sides.x.shape[-2], sides.y.shape[-2], h)
    if slope.shape != expected:
        check.fail("grad", f"shape {expected}, that of the relation", slope.shape)

    f, g = sides.features()
    engine = sides.engine
    grad_f = grad_g = parts = None
    if of != "y":
        grad_f = engine.empty("relation_matrix_vjp", (*lead, *f.shape[-2:]), sides.dtype)
        parts = engine.empty_parts("relation_matrix_vjp", (*lead, sides.x.shape[-2]), sides.dtype)
    if of != "x":
        grad_g = engine.empty("relation_matrix_vjp", (*lead, *g.shape[-2:]), sides.dtype)
    operands = (spread(f, lead, 2), spread(g, lead, 2), slope, how.link, how.scale, h)
    engine.run("relation_matrix_vjp", *operands, grad_f, grad_g, parts)
    grad_scale = None if parts is None else engine.total(parts)
    return RelationGradients(*through_maps(sides, grad_f, grad_g), grad_scale)


@operation("x", "y", "v", "grad")
def relation_matvec_vjp(
    x: Array,
    y: Array,
    v: Array,
    grad: Array,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    link: str = "identity",
    scale: float = 1.0,
) -> MatvecGradients[Array]:
    """Return the gradients of ``sum(grad * relation_matvec(x, y, v, phi, psi, ...))``.

    The relation is formed again tile by tile: memory is O((n + m) (d + c)).

    Parameters
    ----------
    x, y, v, phi, psi, scale
        As in `relation_matvec`.
    grad : ndarray of shape (..., n) or (..., n, c), that of the product
    link : str, default "identity"
        As in `relation_matvec`. Where a link has a kink its slope is 0: "relu" at R_ij = 0, and "matern12"
        between equal points.

    Returns
    -------
    MatvecGradients
        Unpacks into ``grad_x, grad_y, grad_v, grad_phi, grad_psi``; `grad_scale` is also an attribute.
        Gradients of maps are None for a map that is None; where `psi` stands for `phi`, its part is in
        `grad_phi`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> x, y = np.array([[0.0]]), np.array([[1.0], [2.0]])
    >>> gradients = rk.relation_matvec_vjp(x, y, np.ones(2), np.ones(1), link="gaussian")
    >>> gradients.grad_x.round(4), gradients.grad_v.round(4)
    (array([[0.8772]]), array([0.6065, 0.1353]))
    """
    if y is None:  # not shorthand for x here
        check.features("y", y)
    sides = Sides(x, y, phi, psi)
    values, slope = check.floats("v", v, 1), check.floats("grad", grad, 1)
    vectors, single = as_columns(values, sides.y)
    check.same_dtype(("x", sides.x), ("v", values), ("grad", slope))
    how = Linked.of(sides, link, scale)
    lead = sides.leading(("v", vectors, 2))
    expected = (*lead, sides.x.shape[-2], *(() if single else vectors.shape[-1:]))
    if slope.shape != expected:
        check.fail("grad", f"shape {expected}, that of the product", slope.shape)

    f, g = sides.features()
    engine = sides.engine
    parts = engine.empty_parts("relation_matvec_vjp", (*lead, sides.x.shape[-2]), sides.dtype)
    grad_f, grad_g, grad_v = (
        engine.empty("relation_matvec_vjp", (*lead, *a.shape[-2:]), sides.dtype) for a in (f, g, vectors)
    )
    operands = (spread(a, lead, 2) for a in (f, g, vectors))
    above = slope[..., None] if single else slope
    engine.run("relation_matvec_vjp", *operands, above, *how[:2], grad_f, grad_g, grad_v, parts)
    grad_values: Any = summed_to(grad_v[..., 0] if single else grad_v, values.shape)
    grad_x, grad_y, grad_phi, grad_psi = through_maps(sides, grad_f, grad_g)
    return MatvecGradients(grad_x, grad_y, grad_values, grad_phi, grad_psi, engine.total(parts))


def through_maps(sides: Sides, grad_f: np.ndarray | None, grad_g: np.ndarray | None) -> Any:
    """Return grad_x, grad_y, grad_phi and grad_psi, from the gradients of both sides' features.

    If one array or map serves both sides, the second gradient is None: it is included in the first. For a
    side without a gradient, None.
    """
    add = sides.engine.add
    x, y, phi, psi = sides.x, sides.y, sides.phi, sides.psi
    if sides.same_points and sides.one_map:
        assert grad_f is not None
        assert grad_g is not None
        grad_x, grad_phi = _through(x, phi, add(grad_f, grad_g))
        return grad_x, None, grad_phi, None
    grad_x, grad_phi = _through(x, phi, grad_f)
    grad_y, grad_psi = _through(y, psi, grad_g)
    if sides.one_map:
        grad_phi, grad_psi = _added(grad_phi, grad_psi), None
    if sides.same_points:
        return add(grad_x, grad_y), None, grad_phi, grad_psi
    return grad_x, grad_y, grad_phi, grad_psi
