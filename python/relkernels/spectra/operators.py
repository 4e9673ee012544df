"""Kernels as linear operators: products with vectors, without forming the matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..base import check
from ..base.describe import described

# Kernel values held at a time: 32 MiB of float64.
_BLOCK_VALUES = 1 << 22

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def kernel_operator(kernel: Kernel, x: np.ndarray, y: np.ndarray | None = None) -> Any:
    """Return a kernel between the rows of `x` and `y` as a SciPy linear operator.

    Each product evaluates the kernel again in blocks of rows, so that the matrix is never formed. For a
    relation, `relkernels.as_linear_operator` does the same with compiled kernels.

    Parameters
    ----------
    kernel : callable
        ``kernel(a, b)`` returns the matrix of values between the rows of two arrays.
    x : ndarray of shape (n, d_x)
    y : ndarray of shape (m, d_y), optional
        None means `x`.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator of shape (n, m)

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the kernel returns an array of the wrong shape.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> from relkernels.spectra import kernel_operator
    >>> operator = kernel_operator(lambda a, b: rk.nngp_kernel(a, b, depth=2), np.eye(4))
    >>> (operator @ np.ones(4)).round(3)
    array([1.241, 1.241, 1.241, 1.241])
    """
    from scipy.sparse.linalg import LinearOperator

    if not callable(kernel):
        raise TypeError(f"kernel: expected a callable, got {described(kernel)}")
    x = points("x", x)
    other = x if y is None else points("y", y)
    block = max(1, _BLOCK_VALUES // max(len(other), 1))

    def forward(v: np.ndarray) -> np.ndarray:
        parts = [evaluate(kernel, x[i : i + block], other) @ v for i in range(0, len(x), block)]
        return np.concatenate(parts)

    def backward(u: np.ndarray) -> np.ndarray:
        return sum(
            evaluate(kernel, x[i : i + block], other).T @ u[i : i + block] for i in range(0, len(x), block)
        )

    return LinearOperator(
        (len(x), len(other)),
        matvec=forward,
        matmat=forward,
        rmatvec=backward,
        rmatmat=backward,
        dtype=np.float64,
    )


def points(name: str, x: Any) -> np.ndarray:
    """Return an array of points, one per row."""
    found = x if type(x) is np.ndarray and x.dtype.char in "fd" else check.numbers(name, x)
    if found.ndim != 2 or 0 in found.shape:
        check.fail(name, "points, one a row and at least one", f"shape {found.shape}")
    x = found
    if not np.isfinite(x).all():
        check.fail(name, "finite points", "NaN or infinite values")
    return x


def evaluate(kernel: Kernel, a: np.ndarray, b: np.ndarray, name: str = "kernel") -> np.ndarray:
    """Return kernel(a, b) as float64, checked for shape and finite values."""
    with check.naming(name):
        values = check.numbers(name, kernel(a, b))
    if values.shape != (len(a), len(b)):
        check.fail(name, f"values of shape {(len(a), len(b))}", values.shape)
    if not np.isfinite(values).all():
        check.fail(name, "finite values", "NaN or infinite ones")
    return values


def diagonal(kernel: Kernel, x: np.ndarray) -> np.ndarray:
    """Return kernel(x_i, x_i), from small square blocks."""
    block = 32
    parts = [np.diag(evaluate(kernel, x[i : i + block], x[i : i + block])) for i in range(0, len(x), block)]
    return np.concatenate(parts)
