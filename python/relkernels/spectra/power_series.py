"""Sphere spectra of power series k(t) = sum_j a_j t^j with a_j >= 0, without cancellation.

The part of degree k of t^j has the eigenvalue (n is the dimension of the space)

    j! G(n/2) / (2^j ((j - k)/2)! G((j + k + n)/2)),   j - k even and >= 0,

so that mu_k is a sum of positive terms. The first, j = k, is prod_{i=1..k} i / (n + 2i - 2); from j to j + 2
they grow by (j + 1)(j + 2) / ((j - k + 2)(j + k + n)). Relative errors are j roundings.
"""

from __future__ import annotations

import math

import numpy as np

from ..base import check
from .sphere import SphereSpectrum, mean_square, multiplicity


def mercer_sphere_series(coefficients: np.ndarray, dimension: int, degrees: int) -> SphereSpectrum:
    """Return the Mercer spectrum on the sphere of a kernel given by its power series.

    Unlike the quadrature of `mercer_sphere`, it keeps the relative accuracy of eigenvalues however small
    they are. By Schoenberg's theorem, positive definite kernels of <x, y> that exist on the spheres of every
    dimension have coefficients >= 0; for an NNGP kernel of one layer they are squares of Hermite
    coefficients.

    Parameters
    ----------
    coefficients : array-like of shape (terms,)
        a_j >= 0 of k(t) = sum_j a_j t^j, j = 0, 1, ...: as many as matter.
    dimension : int
        Dimension of the ambient space, n >= 2.
    degrees : int
        Number of degrees, starting at 0.

    Returns
    -------
    SphereSpectrum

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import math
    >>> from relkernels.spectra import mercer_sphere_series
    >>> exponential = [1 / math.factorial(j) for j in range(60)]
    >>> mercer_sphere_series(exponential, 3, 25).values[[0, 1, 24]]  # exp(t): Bessel functions
    array([1.17520119e+00, 3.67879441e-01, 1.72813513e-32])
    """
    a = check.numbers("coefficients", coefficients)
    if a.ndim != 1 or not len(a):
        check.fail("coefficients", "one dimension", f"shape {a.shape}")
    wrong = ~(np.isfinite(a) & (a >= 0))
    if wrong.any():
        check.fail("coefficients", "finite numbers >= 0", f"{float(a[wrong][0])!r} at {int(wrong.argmax())}")
    n = check.integer("dimension", dimension, 2, 1_000_000)
    count = check.integer("degrees", degrees, 1, 1_000_000)
    values = np.zeros(count)
    first = 1.0
    for k in range(min(count, len(a))):
        if k:
            first *= k / (n + 2 * k - 2)
        j = np.arange(k, len(a) - 2, 2.0)
        growth = (j + 1) * (j + 2) / ((j - k + 2) * (j + k + n))
        values[k] = a[k::2] @ (first * np.cumprod(np.append(1.0, growth)))
    many = np.array([float(multiplicity(n, k)) for k in range(count)])
    square = mean_square(lambda t: np.polynomial.polynomial.polyval(t, a), n, (), 2 * count + 64)
    return SphereSpectrum(n, values, many, math.fsum(a), square)
