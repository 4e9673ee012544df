"""Spectra on points: Mercer eigenvalues and Schmidt singular values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..base import check
from ..base.describe import described
from ..maps.mlp import MLP
from .operators import Kernel, diagonal, evaluate, kernel_operator, points

# Up to this many points the matrix is formed and its whole spectrum computed; beyond, the leading part is
# computed by Lanczos iterations on products.
_DENSE = 2048
_DEFAULT_COUNT = 50


def _rounding(values: Any) -> float:
    """Return t: eigenvalues above -t times the largest are rounding, for kernel values of this dtype."""
    return 1e-4 if getattr(values, "dtype", None) == np.float32 else 1e-10


def _leading(values: np.ndarray) -> str:
    shown = ", ".join(f"{v:.4g}" for v in values[:6])
    return f"[{shown}{', ...' if len(values) > 6 else ''}]"


@dataclass(frozen=True, repr=False)
class MercerSpectrum:
    """Eigenvalues and eigenfunctions of a kernel, with the mean over points in place of the integral.

    Attributes
    ----------
    values : ndarray of shape (k,)
        Eigenvalues of ``f -> mean_j kernel(., x_j) f(x_j)``, largest first, >= 0.
    vectors : ndarray of shape (n, k)
        Eigenfunctions at the points, with mean square 1.
    trace : float
        Mean of kernel(x_i, x_i): the sum of all eigenvalues.
    points : ndarray of shape (n, d) or None
    kernel : callable or None

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.spectra import mercer
    >>> print(mercer(np.diag([4.0, 2.0])))
    Mercer spectrum of 2 points: 2 of 2 eigenvalues [2, 1], trace 3, 0 % of it beyond them
    """

    values: np.ndarray
    vectors: np.ndarray
    trace: float
    points: np.ndarray | None = field(default=None)
    kernel: Kernel | None = field(default=None)

    def tail(self, count: int) -> float:
        """Return the sum of all eigenvalues after the first `count`."""
        count = check.integer("count", count, 0)
        return max(self.trace - float(self.values[:count].sum()), 0.0)

    def functions(self, x: np.ndarray) -> np.ndarray:
        """Return the eigenfunctions at new points (Nystrom's extension).

        Parameters
        ----------
        x : ndarray of shape (m, d)

        Returns
        -------
        ndarray of shape (m, k)
            ``mean_j kernel(x, x_j) e_i(x_j) / value_i``; zero if the eigenvalue is zero.
        """
        if self.kernel is None or self.points is None:
            raise ValueError("functions: expected a spectrum of a callable kernel on points, got a matrix's")
        weights = np.divide(
            self.vectors, self.values, out=np.zeros_like(self.vectors), where=self.values > 0
        ) / len(self.vectors)
        return kernel_operator(self.kernel, points("x", x), self.points) @ weights

    def __repr__(self) -> str:
        beyond = 100 * self.tail(len(self.values)) / self.trace if self.trace > 0 else 0.0
        return (
            f"Mercer spectrum of {len(self.vectors)} points: {len(self.values)} of {len(self.vectors)} "
            f"eigenvalues {_leading(self.values)}, trace {self.trace:.4g}, {beyond:.3g} % of it beyond them"
        )


@dataclass(frozen=True, repr=False)
class SchmidtSpectrum:
    """Singular values and functions of a relation, with means over points in place of integrals.

    Attributes
    ----------
    values : ndarray of shape (k,)
        Singular values of ``g -> mean_j relation(., y_j) g(y_j)``, largest first.
    left : ndarray of shape (n, k)
        Left functions at the points x, with mean square 1.
    right : ndarray of shape (m, k)
        Right functions at the points y, with mean square 1.
    squared_norm : float
        Mean of the relation's squares: the sum of the squares of all singular values; NaN if the
        relation was an operator.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.spectra import schmidt
    >>> print(schmidt(np.array([[0.0, 2.0], [-1.0, 0.0]])))
    Schmidt spectrum of 2 x 2 points: 2 of 2 singular values [1, 0.5]
    """

    values: np.ndarray
    left: np.ndarray
    right: np.ndarray
    squared_norm: float

    def tail(self, count: int) -> float:
        """Return the root mean square error of the relation truncated to `count` terms."""
        count = check.integer("count", count, 0)
        return float(np.sqrt(max(self.squared_norm - float((self.values[:count] ** 2).sum()), 0.0)))

    def __repr__(self) -> str:
        n, m = len(self.left), len(self.right)
        return (
            f"Schmidt spectrum of {n} x {m} points: {len(self.values)} of {min(n, m)} singular values "
            f"{_leading(self.values)}"
        )


def symmetric_matrix(kernel: Any, x: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Return the matrix of a symmetric kernel, the points, and the rounding threshold of its spectrum."""
    if _is_operator(kernel):
        check.fail("kernel", "a callable or a square matrix", "a linear operator")
    _not_a_map(kernel)
    if callable(kernel):
        if x is None:
            raise ValueError("x: expected points, as the kernel is a callable, got None")
        x = points("x", x)
        with check.naming("kernel"):
            raw = kernel(x, x)
        values = evaluate(lambda a, b: raw, x, x)
    else:
        raw = kernel
        values = check.numbers("kernel", kernel)
        if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
            check.fail("kernel", "a callable or a square matrix", f"shape {values.shape}")
        if not np.isfinite(values).all():
            check.fail("kernel", "finite values", "NaN or infinite ones")
    asymmetry = float(np.abs(values - values.T).max())
    if asymmetry > 1e-6 * max(float(np.abs(values).max()), 1e-300):
        check.fail("kernel", "a symmetric kernel", f"values that differ by {asymmetry:.3g} (see `schmidt`)")
    return (values + values.T) / 2, x, _rounding(raw)


def _not_a_map(kernel: Any) -> None:
    """Reject an MLP: it maps the rows of one array, while a kernel takes two."""
    if isinstance(kernel, MLP):
        raise TypeError(
            "kernel: expected a callable of two arrays, got MLP: use "
            "relkernels.as_linear_operator(x, phi=mlp), relkernels.RelationKernel(mlp) or "
            "lambda a, b: relkernels.relation_matrix(a, b, mlp)"
        )


def not_negative(values: np.ndarray, rounding: float) -> np.ndarray:
    """Set eigenvalues within rounding of zero to zero; raise if any is negative beyond rounding."""
    smallest, largest = float(values.min()), float(np.abs(values).max())
    if smallest < -rounding * largest:
        check.fail(
            "kernel",
            "a positive semi-definite kernel",
            f"one whose smallest eigenvalue is {smallest:.6g} (the largest: {float(values.max()):.6g})",
        )
    return np.maximum(values, 0.0)


def _is_operator(kernel: Any) -> bool:
    from scipy.sparse.linalg import LinearOperator

    return isinstance(kernel, LinearOperator)


def _count(k: int | None, most: int, whole: bool) -> int:
    if k is None:
        return most if whole else min(_DEFAULT_COUNT, most - 1)
    count = check.integer("k", k, 1)
    if count > most:
        check.fail("k", f"at most {most}", count)
    return count


def mercer(kernel: Any, x: np.ndarray | None = None, k: int | None = None) -> MercerSpectrum:
    """Return the Mercer spectrum of a kernel on points.

    On points drawn from a distribution its eigenvalues converge to those of the kernel's integral operator
    (Koltchinskii & Gine 2000), and Nystrom's extension gives the eigenfunctions elsewhere.

    Parameters
    ----------
    kernel : callable, ndarray of shape (n, n) or scipy.sparse.linalg.LinearOperator
        ``kernel(a, b)`` returns the values between the rows of two arrays; or the kernel matrix of the
        points; or an operator such as `relkernels.as_linear_operator` returns.
    x : ndarray of shape (n, d), optional
        The points; required if the kernel is a callable.
    k : int, optional
        Number of eigenvalues. By default all of them up to 2,048 points, else 50. Beyond 2,048 points, and
        for operators, they come from Lanczos iterations (`scipy.sparse.linalg.eigsh`) on products, and the
        matrix is never formed.

    Returns
    -------
    MercerSpectrum

    Raises
    ------
    ValueError
        If the kernel is not symmetric, or not positive semi-definite: the message gives the smallest
        eigenvalue (of those computed).

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.spectra import mercer
    >>> x = np.linspace(0, 1, 400)[:, None]
    >>> spectrum = mercer(lambda a, b: np.minimum(a, b.T), x)  # Brownian motion: 4 / (pi^2 (2i-1)^2)
    >>> spectrum.values[:3].round(3)
    array([0.405, 0.045, 0.016])
    """
    operator = kernel if _is_operator(kernel) else None
    _not_a_map(kernel)
    if isinstance(x, MLP) or (callable(x) and not hasattr(x, "shape")):
        raise TypeError(f"x: expected points, got {described(x)} (the kernel comes first: mercer(kernel, x))")
    x = None if x is None or operator is not None else points("x", x)
    if operator is None and (not callable(kernel) or (x is not None and len(x) <= _DENSE)):
        from scipy.linalg import eigh

        matrix, x, rounding = symmetric_matrix(kernel, x)
        n = len(matrix)
        count = _count(k, n, whole=True)
        values, vectors = eigh(matrix)
        values = not_negative(values, rounding)[::-1][:count] / n
        return MercerSpectrum(
            values,
            np.ascontiguousarray(vectors[:, ::-1][:, :count]) * np.sqrt(n),
            float(np.trace(matrix)) / n,
            x,
            kernel if callable(kernel) else None,
        )
    from scipy.sparse.linalg import eigsh

    if operator is None:
        if x is None:
            raise ValueError("x: expected points, as the kernel is a callable, got None")
        operator = kernel_operator(kernel, x)
    else:
        x = None
    n = operator.shape[0]
    if operator.shape != (n, n) or n < 2:
        check.fail("kernel", "a square operator of at least 2 points", f"shape {operator.shape}")
    count = _count(k, n - 1, whole=False)
    start = np.random.default_rng(0).standard_normal(n).astype(operator.dtype)
    values, vectors = eigsh(operator, k=count, which="LM", v0=start)
    values = not_negative(values.astype(np.float64), _rounding(operator if x is None else x))
    order = np.argsort(-values, kind="stable")
    trace = float("nan") if x is None else float(diagonal(kernel, x).mean())
    return MercerSpectrum(
        values[order] / n,
        vectors[:, order].astype(np.float64) * np.sqrt(n),
        trace,
        x,
        None if _is_operator(kernel) else kernel,
    )


def schmidt(
    relation: Any, x: np.ndarray | None = None, y: np.ndarray | None = None, k: int | None = None
) -> SchmidtSpectrum:
    """Return the Schmidt (singular) spectrum of a relation that need not be symmetric.

    Parameters
    ----------
    relation : callable, ndarray of shape (n, m) or scipy.sparse.linalg.LinearOperator
        ``relation(a, b)`` returns the values between the rows of two arrays; or the matrix; or an operator.
    x : ndarray of shape (n, d_x), optional
    y : ndarray of shape (m, d_y), optional
        The points, if the relation is a callable; `y` None means `x`.
    k : int, optional
        Number of singular values. By default all if the smaller number of points is at most 2,048, else
        50, by `scipy.sparse.linalg.svds` on products.

    Returns
    -------
    SchmidtSpectrum

    Raises
    ------
    ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.spectra import schmidt
    >>> x = np.linspace(0, 1, 500)[:, None]
    >>> before = schmidt(lambda a, b: (a < b.T).astype(float), x)  # "x before y": 2 / (pi (2i-1))
    >>> before.values[:3].round(3)
    array([0.636, 0.212, 0.127])
    """
    operator = relation if _is_operator(relation) else None
    if isinstance(relation, MLP):
        raise TypeError(
            "relation: expected a callable of two arrays, got MLP: use "
            "relkernels.as_linear_operator(x, y, phi, psi) or "
            "lambda a, b: relkernels.relation_matrix(a, b, phi, psi)"
        )
    matrix = None
    if operator is None and callable(relation):
        if x is None:
            raise ValueError("x: expected points, as the relation is a callable, got None")
        x = points("x", x)
        y = x if y is None else points("y", y)
        if min(len(x), len(y)) <= _DENSE:
            matrix = evaluate(relation, x, y, "relation")
        else:
            operator = kernel_operator(relation, x, y)
    elif operator is None:
        matrix = check.numbers("relation", relation)
        if matrix.ndim != 2 or not matrix.size:
            check.fail("relation", "a callable or a matrix", f"shape {matrix.shape}")
        if not np.isfinite(matrix).all():
            check.fail("relation", "finite values", "NaN or infinite ones")
    if matrix is not None:
        from scipy.linalg import svd

        n, m = matrix.shape
        count = _count(k, min(n, m), whole=True)
        u, s, vt = svd(matrix, full_matrices=False)
        norm = float(np.square(matrix).mean())
    else:
        from scipy.sparse.linalg import svds

        assert operator is not None
        n, m = operator.shape
        count = _count(k, min(n, m) - 1, whole=False)
        start = np.random.default_rng(0).standard_normal(min(n, m)).astype(operator.dtype)
        u, s, vt = svds(operator, k=count, v0=start)
        order = np.argsort(-s, kind="stable")
        u, s, vt, norm = u[:, order], s[order], vt[order], float("nan")
    return SchmidtSpectrum(
        s[:count].astype(np.float64) / np.sqrt(n * m),
        u[:, :count].astype(np.float64) * np.sqrt(n),
        vt[:count].T.astype(np.float64) * np.sqrt(m),
        norm,
    )
