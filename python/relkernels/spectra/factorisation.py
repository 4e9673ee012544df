"""The factorisation norm of a relation on points: how large two feature maps with <phi, psi> = r must be.

gamma_2(r) = min sup |phi| sup |psi| over all maps into a Hilbert space with <phi(x), psi(y)> = r(x, y).

From above: any factorisation R = A B'. From below: for weights u, v with sum u_i^2 = sum v_j^2 = 1, the
nuclear norm of diag(u) R diag(v) = (diag(u) A)(diag(v) B)' is at most |diag(u) A|_F |diag(v) B|_F <=
max |A_i| max |B_j|. With the singular value decomposition U S V' of that matrix, A = diag(1/u) U S^(1/2) and
B = diag(1/v) V S^(1/2) factorise R, and both sides agree when all rows with a weight have the same length.
Rows that are too long get a larger weight: u_i^2 is multiplied by |A_i|^4, v_j^2 by |B_j|^4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base import check
from ..maps.mlp import MLP
from .operators import evaluate, points

# Least square weight of a row or column; power of squared lengths by which weights are multiplied.
_LEAST, _POWER = 1e-12, 2.0


@dataclass(frozen=True, repr=False)
class Gamma2:
    """The factorisation norm of a matrix, from both sides.

    Attributes
    ----------
    lower, upper : float
        Bounds, up to rounding.
    left : ndarray of shape (n, d)
        Features of the rows, the longest of which has a norm of sqrt(upper).
    right : ndarray of shape (m, d)
        Features of the columns, likewise; ``left @ right.T`` is the matrix.
    row_weights, column_weights : ndarray of shape (n,), (m,)
        u and v of unit length: `lower` is the sum of the singular values of ``u[:, None] * R * v``.
    steps : int

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.spectra import gamma2
    >>> gamma2(np.eye(3))
    Gamma2(1 to 1, 3 x 3 points)
    """

    lower: float
    upper: float
    left: np.ndarray
    right: np.ndarray
    row_weights: np.ndarray
    column_weights: np.ndarray
    steps: int

    def __repr__(self) -> str:
        return f"Gamma2({self.lower:.5g} to {self.upper:.5g}, {len(self.left)} x {len(self.right)} points)"


def gamma2(
    relation: Any,
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
    *,
    tolerance: float = 5e-4,
    max_steps: int = 1000,
) -> Gamma2:
    """Return the factorisation norm of a relation on points: ``min max |phi(x_i)| max |psi(y_j)|``.

    For a positive semi-definite kernel it is max r(x, x). The norm over more points is at least as large: if
    it grows without limit, the relation is the inner product of no bounded feature maps.

    Parameters
    ----------
    relation : callable or ndarray of shape (n, m)
        ``relation(a, b)`` returns the values between the rows of two arrays; or the matrix.
    x : ndarray of shape (n, d_x), optional
    y : ndarray of shape (m, d_y), optional
        The points, if the relation is a callable; `y` None means `x`.
    tolerance : float, default 5e-4
        Stop when ``upper <= (1 + tolerance) * lower``.
    max_steps : int, default 1000
        Stop after this many singular value decompositions; the bounds are valid then, too.

    Returns
    -------
    Gamma2

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.spectra import gamma2
    >>> x = np.linspace(-1, 1, 40)[:, None]
    >>> gamma2(lambda a, b: np.exp(-((a - b.T) ** 2) / 2), x)  # r(x, x) = 1
    Gamma2(1 to 1, 40 x 40 points)
    >>> before = [gamma2(lambda a, b: (a < b.T) * 1.0, x[:n]).lower for n in (10, 20, 40)]
    >>> (np.diff(before) / np.log(2) * np.pi).round(1)  # grows like log n / pi
    array([1., 1.])
    """
    from scipy.linalg import svd

    if isinstance(relation, MLP):
        raise TypeError(
            "relation: expected a callable of two arrays, got MLP: use "
            "lambda a, b: relkernels.relation_matrix(a, b, phi, psi)"
        )
    if callable(relation):
        if x is None:
            raise ValueError("x: expected points, as the relation is a callable, got None")
        x = points("x", x)
        R = evaluate(relation, x, x if y is None else points("y", y), "relation")
    else:
        R = check.numbers("relation", relation)
        if R.ndim != 2 or not R.size:
            check.fail("relation", "a callable or a matrix", f"shape {R.shape}")
        if not np.isfinite(R).all():
            check.fail("relation", "finite values", "NaN or infinite ones")
    close = check.real("tolerance", tolerance)
    if not 0 < close < np.inf:
        check.fail("tolerance", "a finite number > 0", repr(tolerance))
    most = check.integer("max_steps", max_steps, 1)
    n, m = R.shape
    size = float(np.abs(R).max())
    rows, columns = np.abs(R).max(axis=1) > 0, np.abs(R).max(axis=0) > 0
    if size == 0:
        flat = np.full(n, n**-0.5), np.full(m, m**-0.5)
        return Gamma2(0.0, 0.0, np.zeros((n, 1)), np.zeros((m, 1)), *flat, 0)
    some = R[np.ix_(rows, columns)] / size
    a, b = np.full(len(some), 1 / len(some)), np.full(some.shape[1], 1 / some.shape[1])
    lower, upper, step = 0.0, np.inf, 0
    while step < most and upper > (1 + close) * lower:
        step += 1
        u, v = np.sqrt(a), np.sqrt(b)
        U, s, Vt = svd(u[:, None] * some * v, full_matrices=False)
        if s.sum() > lower:
            lower, weights = float(s.sum()), (u, v)
        left, right = U * np.sqrt(s) / u[:, None], Vt.T * np.sqrt(s) / v[:, None]
        long, wide = np.square(left).sum(axis=1), np.square(right).sum(axis=1)
        product = float(np.sqrt(long.max() * wide.max()))
        if product < upper:
            balance = float((wide.max() / long.max()) ** 0.25)
            upper, factors = product, (left * balance, right / balance)
        a, b = (_weights(w, squares) for w, squares in ((a, long), (b, wide)))
    phi, psi = np.zeros((n, factors[0].shape[1])), np.zeros((m, factors[0].shape[1]))
    phi[rows], psi[columns] = factors[0] * size**0.5, factors[1] * size**0.5
    row_weights, column_weights = np.zeros(n), np.zeros(m)
    row_weights[rows], column_weights[columns] = weights
    return Gamma2(lower * size, upper * size, phi, psi, row_weights, column_weights, step)


def _weights(old: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return new squares of weights, larger for longer features."""
    new = old * (squares / squares.max()) ** _POWER
    new = np.maximum(new / new.sum(), _LEAST)
    return new / new.sum()
