"""Relation matrices, and products with relations that are never stored."""

from __future__ import annotations

from .. import _core
from ..arrays import Array, operation
from ..arrays.outputs import Destination
from ..base import check, shapes
from ..maps.mlp import MLP
from .sides import Sides, spread
from .sparse import mapped_sides

LINKS = _core.LINKS


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
        Or a sparse matrix, as in `feature_map`, if its map is not None.
    y : ndarray of shape (..., m, d_y), optional
        Sparse or not, like `x`. None stands for `x`; the relation is then symmetric unless `psi` differs
        from `phi`, half of it is computed, and it equals its transpose to the last bit.
    phi : MLP, optional
        Feature map of `x`; None is the identity.
    psi : MLP, optional
        Feature map of `y`; None stands for `phi`.
    scale : float, default 1.0
        Any finite number.
    heads : int, default 1
        If greater than 1, the features are split into this many groups of equal size, each of which gives
        its own relation.
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
    sides = Sides(*mapped_sides(x, y, phi, psi, precision))
    factor = check.scale(scale, sides.dtype)
    h = check.heads(heads, sides.width)
    engine = sides.engine
    rounding = engine.precision(precision, sides.dtype)
    lead = sides.leading()
    shape = shapes.relation(lead, sides.x.shape[-2], sides.y.shape[-2], h)
    to = Destination(engine, "relation_matrix", shape, sides.dtype, out, *sides.named)
    # Without columns the kernels compute half of a symmetric matrix.
    columns = None if sides.same_points and sides.one_map else spread(sides.y, lead, 2)
    rows, maps = spread(sides.x, lead, 2), sides.maps(rounding)
    engine.run("relation_matrix", rows, columns, *maps, rounding, factor, h, to.array)
    return to.result()


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
        Or a sparse matrix, as in `feature_map`, if its map is not None.
    y : ndarray of shape (..., m, d_y)
        Sparse or not, like `x`.
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
    if y is None:  # not shorthand for x here
        check.features("y", y)
    sides = Sides(*mapped_sides(x, y, phi, psi, precision))
    values = check.floats("v", v, 1)
    m = sides.y.shape[-2]
    single = values.ndim < 2 or values.shape[-2] != m
    if single and values.shape[-1] != m:
        check.fail("v", f"shape (..., {m}) or (..., {m}, c), m the rows of y {sides.y.shape}", values.shape)
    check.same_dtype(("x", sides.x), ("v", values))
    link = check.choice("link", link, LINKS)
    engine = sides.engine
    rounding = engine.precision(precision, sides.dtype)
    factor = check.scale(scale, sides.dtype)
    vectors = values[..., None] if single else values
    lead = sides.leading(("v", vectors, 2))
    shape = (*lead, sides.x.shape[-2], *(() if single else vectors.shape[-1:]))
    to = Destination(engine, "relation_matvec", shape, sides.dtype, out, *sides.named, ("v", values))
    if vectors.shape[-1]:
        operands = (spread(a, lead, 2) for a in (sides.x, sides.y, vectors))
        written = to.array[..., None] if single else to.array
        engine.run("relation_matvec", *operands, *sides.maps(rounding), rounding, link, factor, written)
    return to.result()
