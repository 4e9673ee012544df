"""Funk-Hecke coefficients of max(t, 0)^r, numbers of harmonics and of quadrature points on the sphere S^q."""

from __future__ import annotations

import math

import numpy as np

from ..spectra import multiplicity


def funk_hecke_of_relu_power(r: float, q: int, degrees: np.ndarray) -> np.ndarray:
    """Coefficients c_k of max(t, 0)^r on S^q, for the normalised measure.

    From int_0^1 t^r P_k(t) (1 - t^2)^(q/2-1) dt (Gradshteyn & Ryzhik 7.311) and the duplication formula:
    c_k = G((q+1)/2) G(r+1) / (2^(r+1) G((r-k)/2+1) G((r+k+q+1)/2)), G the gamma function.
    """
    from scipy.special import gammaln, gammasgn

    k = np.asarray(degrees, np.float64)
    a = (r - k) / 2 + 1
    pole = (a <= 0) & (a == np.round(a))
    safe = np.where(pole, 1.0, a)
    log = (
        gammaln((q + 1) / 2)
        + gammaln(r + 1)
        - (r + 1) * math.log(2)
        - gammaln(safe)
        - gammaln((r + k + q + 1) / 2)
    )
    return np.where(pole, 0.0, gammasgn(safe) * np.exp(log))


def n_harmonics(q: int, degrees: np.ndarray) -> np.ndarray:
    """Return the number of spherical harmonics of each degree on S^q."""
    return np.array([float(multiplicity(q + 1, int(k))) for k in degrees])


def gauss_points(degree: int, q: int) -> int:
    """Return the number of points of the product of Gauss rules on S^q that is exact to this degree."""
    return (degree + 1) * math.ceil((degree + 1) / 2) ** (q - 1)
