"""From points to the whole cube: how far the sections of a kernel are from those of given points.

In the space of the kernel, k_x = k(x, .) has ||k_x - k_y||^2 = k(x, x) - 2 k(x, y) + k(y, y), which is
2 - 2 k(x, y) for a kernel of x - y with k(x, x) = 1. If every x has a point x_i of the sample within the fill
distance h, every section is within w = sup_{|x - y| <= h} ||k_x - k_y|| of one of the sample.

Fill distance: the distance to the nearest point changes by at most the step, so in a cell with centre c and
half diagonal s it is at most its value at c plus s. Cells that may hold the maximum are halved.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..base import check
from .bound import positive

# Kernels of |x - y| or bounded below by one, k(0) = 1.
_KERNELS = ("gaussian", "matern32", "laplace", "periodic")
# Cells at a time.
_MOST_CELLS = 1 << 17


def section_gap(kernel: str, points: Any, *, length_scale: float = 1.0, period: float = 2.0) -> float:
    """Return the largest distance, over [-1, 1]^D, of a kernel's section to the nearest one of some points.

    `symmetric` needs it to extend suprema and tails on the points to the cube.

    Parameters
    ----------
    kernel : {"gaussian", "matern32", "laplace", "periodic"}
        As in `kernel_norm`.
    points : array-like of shape (n, D)
        Points in [-1, 1]^D. In more than three dimensions, very many are needed for one to be near every
        point of the cube.
    length_scale : float, default 1.0
    period : float, default 2.0

    Returns
    -------
    float
        An upper bound of ``sup_x min_i ||k_x - k_{x_i}||`` in the norm of the kernel's space, at most
        sqrt(2).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels import bounds
    >>> x = np.linspace(-1, 1, 101)[:, None]  # every point is within 0.01 of one of them
    >>> round(bounds.section_gap("gaussian", x), 3)
    0.01
    """
    name = check.choice("kernel", kernel, _KERNELS)
    scale, wave = positive("length_scale", length_scale), positive("period", period)
    h = _fill_distance(in_cube("points", points))
    if name == "gaussian":
        short = -math.expm1(-((h / scale) ** 2) / 2)  # 1 - k
    elif name == "matern32":
        z = math.sqrt(3) * h / scale
        short = 1 - (1 + z) * math.exp(-z)
    elif name == "laplace":
        short = -math.expm1(-h / scale)
    else:
        # sin(t)^2 <= t^2 in every coordinate.
        short = -math.expm1(-2 * (math.pi * h / wave) ** 2 / scale**2)
    return math.sqrt(2 * short)


def in_cube(name: str, points: Any, dimension: int | None = None) -> np.ndarray:
    """Return points of shape (n, D), checked to be in [-1, 1]^D up to rounding."""
    x = check.numbers(name, points)
    if x.ndim != 2 or x.size == 0 or (dimension is not None and x.shape[1] != dimension):
        check.fail(name, f"shape (n, {'D' if dimension is None else dimension}), n >= 1", x.shape)
    if not np.abs(x).max() <= 1 + 1e-6:  # NaN fails too
        check.fail(name, "points in [-1, 1]^D", f"a coordinate of {x.ravel()[np.abs(x).argmax()]:.4g}")
    return x


def _fill_distance(points: np.ndarray) -> float:
    """Return an upper bound, to 1 % if the cells suffice, of the largest distance in the cube to a point."""
    from scipy.spatial import cKDTree

    tree, D = cKDTree(points), points.shape[1]
    centres, half = np.zeros((1, D)), 1.0
    while True:
        distance = tree.query(centres)[0]
        low, reach = float(distance.max()), half * math.sqrt(D)
        upper = low + reach
        kept = distance + reach > low
        if upper <= 1.01 * low or int(kept.sum()) << min(D, 40) > _MOST_CELLS:
            return upper * (1 + 1e-12)  # rounding of the distances
        half /= 2
        corners = np.stack(np.meshgrid(*[[-half, half]] * D, indexing="ij"), axis=-1).reshape(-1, D)
        centres = (centres[kept][:, None] + corners).reshape(-1, D)
