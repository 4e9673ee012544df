"""Relation matrices, and products with relations that are never stored."""

from __future__ import annotations

from ..arrays import Array, operation
from ..arrays.outputs import Destination
from ..base import check, shapes
from ..maps.mlp import MLP
from .links import Linked, as_columns
from .sides import Sides, spread
from .sparse import mapped_sides


@operation("x", "y", "out")
def relation_matrix(
    x: Array,
    y: Array | None = None,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    link: str = "identity",
    scale: float = 1.0,
    heads: int = 1,
    precision: str | None = None,
    out: Array | None = None,
) -> Array:
    """Return the inner products ``R_ij = scale * <phi(x_i), psi(y_j)>``, or a link of them or of distances.

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
    link : str, default "identity"
        The function applied to each entry, as in `relation_matvec`.
    scale : float, default 1.0
        Any finite number; at least 0 with a link of distances.
    heads : int, default 1
        If greater than 1, the features are split into this many groups of equal size, each of which gives
        its own relation.
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16". A link of distances takes None.
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
    how = Linked.of(sides, link, scale, precision)
    h = check.heads(heads, sides.width)
    engine = sides.engine
    lead = sides.leading()
    shape = shapes.relation(lead, sides.x.shape[-2], sides.y.shape[-2], h)
    to = Destination(engine, "relation_matrix", shape, sides.dtype, out, *sides.named)
    # Without columns the kernels compute half of a symmetric matrix.
    columns = None if sides.same_points and sides.one_map else spread(sides.y, lead, 2)
    rows, maps = spread(sides.x, lead, 2), sides.maps(how.precision)
    engine.run("relation_matrix", rows, columns, *maps, how.precision, how.link, how.scale, h, to.array)
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
    """Return ``u_i = sum_j link(R_ij) v_j`` with ``R_ij = scale * <phi(x_i), psi(y_j)>``, R never stored.

    Parameters
    ----------
    x : ndarray of shape (..., n, d_x)
        Or a sparse matrix, as in `feature_map`, if its map is not None.
    y : ndarray of shape (..., m, d_y)
        Sparse or not, like `x`.
    v : ndarray of shape (..., m) or (..., m, c)
        An array of fewer dimensions than `y` is one vector (..., m) per relation; any other is (..., m, c).
    phi, psi : MLP, optional
        Feature maps of `x` and of `y`; `psi` None stands for `phi`, `phi` None for the identity.
    link : {"identity", "exp", "relu", "square", "gaussian", "matern12", "matern32", "matern52"}
        "identity" by default. The last four are functions of ``t = scale * |phi(x_i) - psi(y_j)|**2`` in
        place of R_ij, with ``r = sqrt(t)``:

        - gaussian: ``exp(-t / 2)``
        - matern12: ``exp(-r)``
        - matern32: ``(1 + sqrt(3) r) exp(-sqrt(3) r)``
        - matern52: ``(1 + sqrt(5) r + 5 t / 3) exp(-sqrt(5) r)``
    scale : float, default 1.0
        Any finite number; at least 0 with a link of distances, 1 / length_scale**2 in the terms of
        Gaussian processes.
    precision : {"bf16"}, optional
        "bf16" rounds the factors of float32 products to bfloat16 and sums in float32; None multiplies in
        the arrays' own dtype. Bfloat16 arrays imply "bf16". A link of distances takes None.
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
    >>> rk.relation_matvec(x, x, np.array([1.0, 0.0]), link="gaussian").round(4)
    array([1.    , 0.6065])

    Notes
    -----
    Squared distances are sums of squares of differences: 0 between equal points, and accurate to
    ``(d + 3) eps`` of themselves wherever the points are (docs/accuracy.md).
    """
    if y is None:  # not shorthand for x here
        check.features("y", y)
    sides = Sides(*mapped_sides(x, y, phi, psi, precision))
    values = check.floats("v", v, 1)
    vectors, single = as_columns(values, sides.y)
    check.same_dtype(("x", sides.x), ("v", values))
    how = Linked.of(sides, link, scale, precision)
    engine = sides.engine
    lead = sides.leading(("v", vectors, 2))
    shape = (*lead, sides.x.shape[-2], *(() if single else vectors.shape[-1:]))
    to = Destination(engine, "relation_matvec", shape, sides.dtype, out, *sides.named, ("v", values))
    if vectors.shape[-1]:
        operands = (spread(a, lead, 2) for a in (sides.x, sides.y, vectors))
        written = to.array[..., None] if single else to.array
        engine.run("relation_matvec", *operands, *sides.maps(how.precision), how.precision, *how[:2], written)
    return to.result()
