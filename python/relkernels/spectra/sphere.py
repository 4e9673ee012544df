"""Zonal kernels k(<x, y>) on the unit sphere: exact spectra by the Funk-Hecke theorem."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..base import check
from ..base.describe import described
from .gegenbauer import polynomials, quadrature

# Eigenvalues within this fraction of the kernel's largest value are the quadrature's rounding.
_ROUNDING = 1e-14
# Degrees, dimensions and nodes beyond which the quadrature would need hours and gigabytes.
_MOST = 1_000_000
# Nodes a piece at which the quadrature of the squared norm stops.
_MOST_NODES = 1024


@dataclass(frozen=True, repr=False)
class SphereSpectrum:
    """Eigenvalues of a zonal kernel by degree, under the uniform distribution on the sphere.

    Attributes
    ----------
    dimension : int
        Dimension of the ambient space: the sphere consists of the unit vectors with this many coordinates.
    values : ndarray of shape (degrees,)
        Eigenvalue of the spherical harmonics of degree 0, 1, ...
    multiplicities : ndarray of shape (degrees,)
        Number of independent harmonics of each degree (floats: they grow beyond 2^63).
    trace : float
        k(1), the sum of all eigenvalues with their multiplicities.
    squared_norm : float
        Mean of k(t)^2, the sum of the squares of all eigenvalues with their multiplicities; NaN if unknown.

    Examples
    --------
    >>> from relkernels.spectra import mercer_sphere
    >>> print(mercer_sphere(lambda t: 1 + 2 * t, 3, 3))
    Spectrum on the sphere in 3 dimensions: degrees 0..2, eigenvalues [1, 0.6667, 0] (times 1, 3, 5), trace 3
    """

    dimension: int
    values: np.ndarray
    multiplicities: np.ndarray
    trace: float
    squared_norm: float = field(default=math.nan)

    def expanded(self, count: int) -> np.ndarray:
        """Return the first `count` eigenvalues, each repeated by its multiplicity, largest first."""
        count = check.integer("count", count, 1, 2**62)
        order = np.argsort(-self.values, kind="stable")
        repeats = np.minimum(self.multiplicities[order], count).astype(np.int64)
        return np.repeat(self.values[order], repeats)[:count]

    def tail(self, degrees: int) -> float:
        """Return the sum of all eigenvalues of degree `degrees` and above."""
        degrees = check.integer("degrees", degrees, 0)
        head = float((self.values * self.multiplicities)[:degrees].sum())
        return max(self.trace - head, 0.0)

    def __repr__(self) -> str:
        shown = ", ".join(f"{v:.4g}" for v in self.values[:5])
        times = ", ".join(f"{m:.0f}" for m in self.multiplicities[:5])
        more = ", ..." if len(self.values) > 5 else ""
        return (
            f"Spectrum on the sphere in {self.dimension} dimensions: degrees 0..{len(self.values) - 1}, "
            f"eigenvalues [{shown}{more}] (times {times}{more}), trace {self.trace:.4g}"
        )


def multiplicity(dimension: int, degree: int) -> int:
    """Return the number of independent spherical harmonics of a degree.

    Parameters
    ----------
    dimension : int
        Dimension of the ambient space, at least 2.
    degree : int
        At least 0.

    Returns
    -------
    int
        The dimension of the homogeneous polynomials of this degree, minus that of degree - 2, whose products
        with ``|x|^2`` are not harmonic: ``C(degree + n - 1, n - 1) - C(degree + n - 3, n - 1)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> from relkernels.spectra import multiplicity
    >>> [multiplicity(3, k) for k in range(4)]
    [1, 3, 5, 7]
    """
    n = check.integer("dimension", dimension, 2, _MOST)
    k = check.integer("degree", degree, 0, _MOST)
    lower = math.comb(k + n - 3, n - 1) if k >= 2 else 0
    return math.comb(k + n - 1, n - 1) - lower


def funk_hecke(
    profile: Callable[[np.ndarray], np.ndarray],
    dimension: int,
    degrees: int,
    *,
    breaks: Sequence[float] = (),
    n_nodes: int | None = None,
) -> np.ndarray:
    """Return the coefficients, of either sign, of a zonal function on the sphere.

    The operator ``f -> mean over y of profile(<x, y>) f(y)`` multiplies spherical harmonics of degree k by::

        mu_k = |S^(n-2)| / |S^(n-1)| * integral of profile(t) P_k(t) (1 - t^2)^((n-3)/2) over -1 < t < 1

    with P_k the Gegenbauer polynomial normalised to P_k(1) = 1 (Funk 1916, Hecke 1918). The integral is taken
    over the angle, in which kernels of wide networks are smooth, by Gauss-Legendre between `breaks`.

    Parameters
    ----------
    profile : callable
        Function of t in [-1, 1], on arrays.
    dimension : int
        Dimension of the ambient space, n >= 2.
    degrees : int
        Number of coefficients, for degrees 0 to degrees - 1.
    breaks : sequence of float, optional
        Values of t between -1 and 1 where the profile or a derivative jumps.
    n_nodes : int, optional
        Nodes per piece; by default 2 * degrees + 64.

    Returns
    -------
    ndarray of shape (degrees,)
        Absolute errors are a few 1e-15 of the profile's largest value, if it is smooth between breaks.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the profile is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.spectra import funk_hecke
    >>> funk_hecke(lambda t: np.maximum(t, 0), 3, 4, breaks=[0.0]).round(6)
    array([0.25    , 0.166667, 0.0625  , 0.      ])
    """
    if not callable(profile):
        raise TypeError(f"profile: expected a callable of an array, got {described(profile)}")
    n, count = check.integer("dimension", dimension, 2, _MOST), check.integer("degrees", degrees, 1, _MOST)
    nodes = 2 * count + 64 if n_nodes is None else check.integer("n_nodes", n_nodes, 2, _MOST)
    t, weights = quadrature(n, breaks, nodes)
    with check.naming("profile"):
        values = check.numbers("profile", profile(t))
    if values.shape != t.shape:
        check.fail("profile", f"values of shape {t.shape}", f"shape {values.shape}")
    if not np.isfinite(values).all():
        check.fail("profile", "finite values between -1 and 1", "NaN or infinite ones")
    weighted = values * weights
    return np.array([weighted @ P for P in polynomials(t, n, count)])


def _mean_square(
    profile: Callable[[np.ndarray], np.ndarray], dimension: int, breaks: Sequence[float], nodes: int
) -> float:
    """Return the mean of profile(<x, y>)^2 over the sphere.

    The nodes are doubled until two values agree; the difference of the last two is added.
    """
    nodes, before = min(max(nodes, 128), _MOST_NODES // 2), math.inf
    while True:
        t, weights = quadrature(dimension, breaks, nodes)
        square = float(weights @ np.square(check.numbers("profile", profile(t))))
        change = abs(square - before)
        if change <= 1e-12 * square:
            return square
        if 2 * nodes > _MOST_NODES:
            return square + (change if change < math.inf else 0.0)
        nodes, before = 2 * nodes, square


def mercer_sphere(
    profile: Callable[[np.ndarray], np.ndarray],
    dimension: int,
    degrees: int,
    *,
    breaks: Sequence[float] = (),
    n_nodes: int | None = None,
) -> SphereSpectrum:
    """Return the exact Mercer spectrum of a zonal kernel k(<x, y>) on the unit sphere.

    Parameters
    ----------
    profile : callable
        The kernel as a function of t = <x, y> in [-1, 1], on arrays.
    dimension : int
        Dimension of the ambient space, n >= 2.
    degrees : int
        Number of degrees, starting at 0.
    breaks, n_nodes
        As for `funk_hecke`.

    Returns
    -------
    SphereSpectrum
        Eigenvalues below 1e-14 times the kernel's largest value are rounding, and are set to 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or an eigenvalue is negative: the message gives the smallest.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> from relkernels.spectra import mercer_sphere
    >>> def arccosine(t):  # nngp_kernel between unit vectors at angle arccos(t)
    ...     x = np.column_stack([t, np.sqrt(1 - t * t)])
    ...     return rk.nngp_kernel(x, np.array([[1.0, 0.0]]), depth=1)[:, 0]
    >>> mercer_sphere(arccosine, 3, 4).values.round(4)
    array([0.375 , 0.1667, 0.0234, 0.    ])
    """
    values = funk_hecke(profile, dimension, degrees, breaks=breaks, n_nodes=n_nodes)
    n = check.integer("dimension", dimension, 2)
    top = float(check.numbers("profile", profile(np.array([1.0]))).reshape(-1)[0])
    smallest, rounding = float(values.min()), _ROUNDING * max(abs(top), float(np.abs(values).max()))
    if smallest < -rounding:
        check.fail(
            "profile",
            "a positive semi-definite kernel",
            f"one whose smallest eigenvalue is {smallest:.6g}, of degree {int(values.argmin())}",
        )
    many = np.array([float(multiplicity(n, k)) for k in range(len(values))])
    square = _mean_square(profile, n, breaks, 2 * degrees + 64 if n_nodes is None else n_nodes)
    return SphereSpectrum(n, np.where(values > rounding, values, 0.0), many, top, square)
