"""Feature maps and relation matrices on Dask arrays: one task per block, or per pair of blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from .. import ops
from ..arrays.engine import PROCESSOR
from ..base import check
from ..maps.activations import Activation
from ..maps.mlp import MLP, check_mlp, mapped_width
from ..ops import nngp
from ..ops.links import Linked
from ..ops.sides import Sides
from .arrays import aligned, array, optional_array, own_precision, stand_in, value, widened
from .graphs import grid


def feature_map(x: Any, mlp: MLP, *, precision: str | None = None) -> da.Array:
    """Return the features of `x` through an MLP: `relkernels.feature_map` block by block.

    Parameters
    ----------
    x : dask.array.Array of shape (..., n, d_x)
        Of the MLP's dtype and input width, or of bfloat16 or float16; chunked in any way, except that
        features are rechunked into one chunk.
    mlp : MLP
    precision : {"bf16"}, optional
        As in memory.

    Returns
    -------
    dask.array.Array of shape (..., n, d)
        With the chunks of `x`; bit-identical to the result in memory.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or has unknown chunks; the message names it.

    Examples
    --------
    >>> import dask.array as da, numpy as np, relkernels as rk
    >>> from relkernels.dask import feature_map
    >>> phi = rk.MLP.random([64, 256, 16], activation="gelu")
    >>> x = da.ones((10_000, 64), chunks=(2_500, 64), dtype=np.float32)
    >>> feature_map(x, phi).chunks
    ((2500, 2500, 2500, 2500), (16,))
    """
    (x,), dtype, precision = widened(precision, ("x", array("x", x)))
    shown = check.features("x", stand_in(x))
    check_mlp("mlp", mlp, optional=False)
    check.same_dtype(("x", shown), ("mlp", mlp))
    mapped_width("x", shown, "mlp", mlp)
    PROCESSOR.precision(precision, shown.dtype)
    return features(x, mlp, precision).astype(dtype, copy=False)


def features(x: da.Array, mlp: MLP | None, precision: str | None) -> da.Array:
    """Return the features of checked points, in one chunk."""
    x = x.rechunk({-1: -1}) if x.numblocks[-1] > 1 else x
    if mlp is None:
        return x
    return da.map_blocks(
        partial(ops.feature_map, precision=precision),
        x,
        mlp=value(mlp),
        chunks=(*x.chunks[:-1], (mlp.widths[-1],)),
        meta=np.empty((0,) * x.ndim, x.dtype),
        token="feature_map",
    )


def normalize(x: Any) -> da.Array:
    """Return the rows of `x` divided by their Euclidean length: `relkernels.normalize` block by block.

    Parameters
    ----------
    x : dask.array.Array of shape (..., n, d), or (d,) for a single row
        Floats, chunked in any way, except that features are rechunked into one chunk.

    Returns
    -------
    dask.array.Array of the shape of `x`
        With its chunks; bit-identical to the result in memory.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or has unknown chunks; the message names it.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> from relkernels.dask import normalize
    >>> normalize(da.from_array(np.array([[3.0, 4.0], [0.0, 2.0]]), chunks=1)).compute()
    array([[0.6, 0.8],
           [0. , 1. ]])
    """
    (x,), dtype, _ = widened(None, ("x", array("x", x)))
    check.features("x", stand_in(x), 1)
    x = features(x, None, None)
    meta = np.empty((0,) * x.ndim, x.dtype)
    return da.map_blocks(ops.normalize, x, meta=meta, token="normalize").astype(dtype, copy=False)


def relation_matrix(
    x: Any,
    y: Any = None,
    phi: MLP | None = None,
    psi: MLP | None = None,
    *,
    link: str = "identity",
    scale: float = 1.0,
    heads: int = 1,
    precision: str | None = None,
) -> da.Array:
    """Return the inner products ``R_ij = scale * <phi(x_i), psi(y_j)>``, in blocks.

    Parameters
    ----------
    x : dask.array.Array of shape (..., n, d_x)
    y : dask.array.Array of shape (..., m, d_y), optional
        None means `x`; the relation is then symmetric unless `psi` differs from `phi`, and blocks below
        the diagonal are transposed copies of those above.
    phi, psi : MLP, optional
        Feature maps of `x` and of `y`; `psi` None means `phi`, `phi` None the identity.
    link, scale
        As in memory.
    heads : int, default 1
    precision : {"bf16"}, optional
        As in memory.

    Returns
    -------
    dask.array.Array of shape (..., n, m), or (..., heads, n, m) with more than one head
        Rows in the chunks of `x`, columns in those of `y`; bit-identical to the result in memory.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or has unknown chunks; the message names it.

    Notes
    -----
    Features are computed once per block, and kept while pairs of blocks need them.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> from relkernels.dask import relation_matrix
    >>> x = da.from_array(np.arange(8.0).reshape(4, 2), chunks=(2, 2))
    >>> relation_matrix(x).compute()
    array([[ 1.,  3.,  5.,  7.],
           [ 3., 13., 23., 33.],
           [ 5., 23., 41., 59.],
           [ 7., 33., 59., 85.]])
    """
    x = array("x", x)
    other = x if y is None else array("y", y)
    (x, other), dtype, precision = widened(precision, ("x", x), ("y", other))
    sides = Sides(stand_in(x), None if y is None else stand_in(other), phi, psi)
    h = check.heads(heads, sides.width)
    sides.leading()
    how = Linked.of(sides, link, scale, own_precision(precision, dtype, link))
    tile = partial(ops.relation_matrix, link=how.link, scale=how.scale, heads=h, precision=how.precision)
    blocks = [(features(x, sides.phi, how.precision), ("i", "d"))]
    if not (sides.same_points and sides.one_map):
        blocks.append((features(other, sides.psi, how.precision), ("j", "e")))
    result = grid("relation_matrix", tile, *aligned(blocks), new_axis=(h,) if h > 1 else ())
    return result.astype(dtype, copy=False)


def nngp_kernel(
    x: Any,
    y: Any = None,
    *,
    depth: int = 1,
    activation: str | Activation = "relu",
    weight_std: float = 2**0.5,
    bias_std: float = 0.0,
    kind: str = "nngp",
) -> da.Array:
    """Return the kernel of an infinitely wide random network between rows of `x` and of `y`, in blocks.

    Parameters
    ----------
    x : dask.array.Array of shape (..., n, D)
        Float32 or float64.
    y : dask.array.Array of shape (..., m, D), optional
        None means `x`: blocks below the diagonal are transposed copies of those above.
    depth, activation, weight_std, bias_std, kind
        As for `relkernels.nngp_kernel`.

    Returns
    -------
    dask.array.Array of shape (..., n, m)
        Bit-identical to the result in memory. Points whose variance exceeds the range of an activation's
        series raise when their block is computed.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or has unknown chunks; the message names it.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> from relkernels.dask import nngp_kernel
    >>> nngp_kernel(da.from_array(np.eye(2), chunks=1), depth=1).compute().round(4)
    array([[1.    , 0.3183],
           [0.3183, 1.    ]])
    """
    x, other = array("x", x), optional_array("y", y)
    Sides(stand_in(x), stand_in(other), None, None).leading()
    blocks = [(features(x, None, None), ("i", "d"))]
    if other is not None:
        blocks.append((features(other, None, None), ("j", "e")))
    settings: dict[str, Any] = {
        "depth": depth,
        "activation": activation,
        "weight_std": weight_std,
        "bias_std": bias_std,
        "kind": kind,
    }
    nngp.Recursion(**settings)  # rejects invalid settings
    return grid("nngp_kernel", partial(nngp.nngp_kernel, **settings), *aligned(blocks))
