"""The error that no symmetric network <phi, phi> goes below on a relation.

s(x, y) = <phi(x), phi(y)> is symmetric and positive semi-definite. Let r = r_s + r_a be the symmetric and the
antisymmetric part of the relation.

Largest error. |r(x, y) - s| + |r(y, x) - s| >= 2 |r_a(x, y)|, so one of the two errors is at least |r_a(x,
y)|. The larger of the two is |r_s - s| + |r_a|. For every vector v, v' s v >= 0, so

    sum_ij |v_i v_j| (|r_s - s| + |r_a|)_ij >= -v' r_s v + |v|' |r_a| |v|,

and the weights |v_i v_j| sum to |v|_1^2: the largest error is at least the right side over |v|_1^2. The
vectors tried are e_i, e_i + e_j, e_i - e_j and, up to a number of points, the eigenvectors of r_s with
negative eigenvalues. The best bound of this kind is a semidefinite program over W = sum of v v'.

Root mean square. The two parts are orthogonal, and the nearest positive semi-definite matrix to r_s drops its
negative eigenvalues, so the squares add.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..base import check
from .bound import Assumption, Bound, Constant

# Up to this many points eigenvectors are tried.
_MOST = 2048


def symmetric_floor(values: Any, norm: str = "sup") -> Bound:
    """Return a lower bound on the error of every symmetric network <phi, phi> on a relation.

    Parameters
    ----------
    values : array-like of shape (n, n)
        Relation values r(x_i, x_j).
    norm : {"sup", "l2"}, default "sup"
        Largest error, or root mean square over all pairs.

    Returns
    -------
    Bound
        `details` has the ``statement`` that gives the value: "antisymmetric part", "diagonal", "pair" or
        "eigenvector" for the largest error.

    Raises
    ------
    ValueError
        If `values` is not a square matrix of finite numbers.

    Notes
    -----
    Derived. s = <phi, phi> is symmetric, so one of the errors at (x, y) and (y, x) is at least half of
    ``|r(x, y) - r(y, x)|``. It is positive semi-definite, so ``v' s v >= 0`` for every v, and for symmetric r
    the largest error is at least ``-v' r v / |v|_1^2``: on the diagonal ``-r(x, x)``, for two points
    ``(2 |r(x, y)| - r(x, x) - r(y, y)) / 4``, and the same for eigenvectors of negative eigenvalues. In L2
    the antisymmetric and symmetric parts are orthogonal, so the squares add.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels import bounds
    >>> bounds.symmetric_floor([[0.0, 1.0], [-1.0, 0.0]]).value
    1.0
    >>> x = np.linspace(-1, 1, 21)
    >>> bounds.symmetric_floor(-np.abs(x[:, None] - x)).value  # attained by phi(x) = x
    1.0
    """
    r = check.numbers("values", values)
    if r.ndim != 2 or r.shape[0] != r.shape[1] or r.size == 0:
        check.fail("values", "a square matrix", f"shape {r.shape}")
    if not np.isfinite(r).all():
        check.fail("values", "finite values", "NaN or infinity")
    kind = check.choice("norm", norm, ("sup", "l2"))
    even, odd = (r + r.T) / 2, (r - r.T) / 2
    eigenvalues, vectors = (
        np.linalg.eigh(even) if kind == "sup" and len(r) <= _MOST else (np.linalg.eigvalsh(even), None)
    )
    if kind == "sup":
        floors = _largest(even, np.abs(odd), eigenvalues, vectors)
        statement = max(floors, key=lambda name: floors[name])
        floor = max(floors[statement], 0.0)
    else:
        negative = np.minimum(eigenvalues, 0)
        statement = "orthogonal parts"
        floor = math.sqrt((odd**2).sum() + (negative**2).sum()) / len(r)
    return Bound(
        "symmetric_floor",
        "error that no symmetric network can go below",
        floor,
        "max(sup |r_a|, max_v (-v' r_s v + |v|' |r_a| |v|) / |v|_1^2)"
        if kind == "sup"
        else "sqrt(||antisymmetric part||^2 + ||negative part||^2) / n",
        r"\max\left(\sup|r_a|,\ \max_v \frac{-v^\top r_s v + |v|^\top |r_a| |v|}{\|v\|_1^2}\right)"
        if kind == "sup"
        else r"\tfrac1n\sqrt{\|r_a\|_F^2 + \sum_{\lambda_i<0}\lambda_i^2}",
        source="derived: <phi, phi> is symmetric positive semi-definite",
        constants=(
            Constant("antisymmetric", float(np.abs(odd).max()), "largest |r(x,y) - r(y,x)| / 2"),
            Constant("lambda_min", float(eigenvalues[0]), "smallest eigenvalue of the symmetric part"),
        ),
        assumptions=(Assumption("values on the pairs given", f"{len(r)} x {len(r)} pairs"),),
        details={"statement": statement},
        arguments={"values": r, "norm": norm},
        function=symmetric_floor,
    )


def _largest(
    even: np.ndarray, odd: np.ndarray, eigenvalues: np.ndarray, vectors: np.ndarray | None
) -> dict[str, float]:
    """Return the floors of the largest error by statement; `odd` is |r_a|."""
    diagonal = np.diag(even)
    pairs = (2 * (np.abs(even) + odd) - diagonal[:, None] - diagonal) / 4
    np.fill_diagonal(pairs, -np.inf)  # e_i + e_i is e_i
    found = {
        "antisymmetric part": float(odd.max()),
        "diagonal": float(-diagonal.min()),
        "pair": float(pairs.max()) if len(even) > 1 else -math.inf,
    }
    if vectors is not None and eigenvalues[0] < 0:
        v = vectors[:, eigenvalues < 0]
        size = np.abs(v)
        # Rayleigh quotients are recomputed: the statement holds for any v, exact eigenvector or not.
        value = (-(v * (even @ v)).sum(axis=0) + (size * (odd @ size)).sum(axis=0)) / size.sum(axis=0) ** 2
        found["eigenvector"] = float(value.max())
    return found
