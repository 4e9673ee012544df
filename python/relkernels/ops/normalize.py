"""Rows of unit length."""

from __future__ import annotations

from ..arrays import Array, operation
from ..arrays.engine import engine_of
from ..arrays.outputs import Destination
from ..base import check


@operation("x", "out")
def normalize(x: Array, *, out: Array | None = None) -> Array:
    """Return the rows of `x` divided by their Euclidean length, as ``MLP(..., normalize=True)`` ends.

    Inner products of the result are cosines.

    Parameters
    ----------
    x : ndarray of shape (..., n, d), or (d,) for a single row
        Float32 or float64.
    out : ndarray of the shape of `x`, optional
        Where to write the result; may not overlap `x`.

    Returns
    -------
    ndarray of the shape of `x`
        A row of zeros stays as it is, and a row with a NaN is NaN. Rows of any finite scale keep their
        digits: squares neither overflow nor underflow.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.
    MemoryError
        If the output would not fit in memory.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> rk.normalize(np.array([[3.0, 4.0], [0.0, 0.0], [1e300, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ],
           [1. , 0. ]])
    """
    rows = check.features("x", x, 1)
    engine = engine_of(rows)
    to = Destination(engine, "normalize", rows.shape, rows.dtype, out, ("x", rows))
    source, target = (rows[None], to.array[None]) if rows.ndim == 1 else (rows, to.array)
    engine.run("normalize", source, target)
    return to.result()
