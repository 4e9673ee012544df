"""The norm of a function in a kernel's RKHS, from samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base import check
from .points import not_negative, symmetric_matrix


@dataclass(frozen=True)
class RKHSNorm:
    """The norm of a function in the RKHS of a kernel, estimated from samples.

    Attributes
    ----------
    value : float
        Norm of the minimum-norm interpolant: a lower bound that increases with the number of samples.
    residual : float
        Fraction of the samples that the kernel cannot represent: the root mean square of the component along
        eigenvectors whose eigenvalues are rounding. Unless it is small, the function is not known to be in
        the RKHS.
    rank : int
        Number of eigenvalues of the kernel above rounding.
    n_samples : int

    Examples
    --------
    >>> from relkernels.spectra import RKHSNorm
    >>> print(RKHSNorm(2.0, 0.0, 3, 3))
    RKHS norm >= 2 (3 samples, rank 3, residual 0)
    """

    value: float
    residual: float
    rank: int
    n_samples: int

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return (
            f"RKHS norm >= {self.value:.6g} ({self.n_samples} samples, rank {self.rank}, residual "
            f"{self.residual:.2g})"
        )


def rkhs_norm(kernel: Any, f: np.ndarray, x: np.ndarray | None = None) -> RKHSNorm:
    """Return the norm of a function in the reproducing kernel Hilbert space, from samples.

    Among all functions with these samples, the minimum-norm interpolant has norm ``sqrt(f K^-1 f)``.

    Parameters
    ----------
    kernel : callable or ndarray of shape (n, n)
        As for `mercer`.
    f : ndarray of shape (n,)
        Values of the function at the points.
    x : ndarray of shape (n, d), optional
        The points; required if the kernel is a callable.

    Returns
    -------
    RKHSNorm

    Raises
    ------
    ValueError
        If the kernel is not symmetric, or not positive semi-definite: the message gives the smallest
        eigenvalue.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.spectra import rkhs_norm
    >>> x = np.linspace(-1, 1, 21)[:, None]
    >>> gauss = lambda a, b: np.exp(-((a - b.T) ** 2) / 2)
    >>> print(rkhs_norm(gauss, gauss(x, np.array([[0.3]]))[:, 0], x))  # norm of k(., 0.3) is 1
    RKHS norm >= 1 (21 samples, rank 12, residual ...)
    """
    from scipy.linalg import eigh

    matrix, _, rounding = symmetric_matrix(kernel, x)
    f = check.numbers("f", f)
    if f.shape != (len(matrix),):
        check.fail("f", f"{len(matrix)} values, one for each point", f"shape {f.shape}")
    if not np.isfinite(f).all():
        check.fail("f", "finite values", "NaN or infinite ones")
    values, vectors = eigh(matrix)
    values = not_negative(values, rounding)
    parts = vectors.T @ f
    noise = rounding if rounding > 1e-10 else len(f) * np.finfo(np.float64).eps
    known = values > noise * max(float(values[-1]), 1e-300)
    size = float(np.linalg.norm(f))
    lost = float(np.linalg.norm(parts[~known]))
    return RKHSNorm(
        float(np.sqrt((parts[known] ** 2 / values[known]).sum())),
        lost / size if size else 0.0,
        int(known.sum()),
        len(f),
    )
