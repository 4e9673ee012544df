"""Zonal networks sum_j a_j relu(x.y_j)^r on the sphere S^q: how well N of them approximate.

Let f = sum_k f_k be the expansion in spherical harmonics, ||f||_s^2 = sum_k (1 + k)^(2s) ||f_k||^2, and
G(t) = max(t, 0)^r with Funk-Hecke coefficients c_k. Take a positive quadrature y_j, w_j that is exact to
degree M, m <= M/2, and P = sum_{k<=m} f_k / c_k. The network sum_j w_j P(y_j) G(x.y_j) reproduces f_k for
k <= m; the degrees m < k <= M - m vanish by exactness; the others contribute at most
||P||^2 sum_{k>M-m} c_k^2 N_k, by sum_j w_j P(y_j)^2 = ||P||^2 and the addition theorem, where N_k is the
number of harmonics of degree k. So, in L2,

    ||f - network|| <= ||f||_s [(m + 2)^(-s) + max_{k<=m} (1 + k)^(-s)/|c_k| (sum_{k>M-m} c_k^2 N_k)^(1/2)].

The product of Gauss rules is such a quadrature with (M + 1) ceil((M + 1)/2)^(q-1) points. The coefficients
decay like k^(-r-(q+1)/2), so for s <= r + (q+1)/2 the best m gives N^(-(s/q) (r + 1/2)/(r + (q+1)/2)). For
larger s the maximum over k is no longer at k = m, and the exponent stays at (r + 1/2)/q. If r is an integer,
c_k = 0 for k > r with k - r even: f must have no such components.
"""

from __future__ import annotations

import math

import numpy as np

from ..base import check
from ..maps.activations import Activation, resolve
from .bound import Assumption, Bound, Constant, non_negative, positive
from .funk_hecke import funk_hecke_of_relu_power, gauss_points, n_harmonics


def _tails(r: float, q: int, top: int) -> np.ndarray:
    """(sum_{k>m} c_k^2 N_k)^(1/2) for m = 0..top."""
    last = 8 * top + 2000
    k = np.arange(last + 1)
    terms = funk_hecke_of_relu_power(r, q, k) ** 2 * n_harmonics(q, k)
    # Terms beyond `last` decay like k^(-2r-2); twice the integral of the last pair covers pre-asymptotic
    # terms.
    beyond = 2 * max(terms[-1], terms[-2]) * last / (2 * r + 1)
    sums = np.cumsum(terms[::-1])[::-1] + beyond
    return np.sqrt(sums[1 : top + 2])


def zonal(
    smoothness: float,
    dimension: int,
    n_neurons: int,
    activation: str | Activation = "relu",
    *,
    norm: float = 1.0,
) -> Bound:
    """Return the degree of approximation by `n_neurons` zonal units on the sphere.

    Parameters
    ----------
    smoothness : float
        Order s > 0 of the Sobolev norm.
    dimension : int
        Dimension q >= 1 of the sphere S^q, in R^(q+1).
    n_neurons : int
        At least 1.
    activation : str or Activation, default "relu"
        "relu" or ``relkernels.relu_power(r)``, r > 0 not necessarily an integer.
    norm : float, default 1.0
        Sobolev norm of the function, ``||f||_s^2 = sum_k (1 + k)^(2s) ||f_k||^2``; may be infinite.

    Returns
    -------
    Bound
        `value` is an L2 error (under the uniform distribution) that some network with that many units
        does not exceed; `details` has the exponents of the derived and of the expected rate, for smoothness
        up to `saturation` = r + (q + 1)/2, beyond which neither improves.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import relkernels as rk
    >>> from relkernels import bounds
    >>> bound = bounds.zonal(1.0, 2, 1000, rk.relu_power(1.5))
    >>> round(bound.value, 4), bound.details["degree"], bound.details["cited_exponent"]
    (0.1352, 8, 0.5)
    """
    s = positive("smoothness", smoothness)
    q = check.integer("dimension", dimension, 1)
    count = check.integer("n_neurons", n_neurons, 1)
    size = non_negative("norm", norm, finite=False)
    resolved = resolve(activation)
    if resolved.name == "relu":
        r = 1.0
    elif resolved.name == "relu_power" and resolved.parameter is not None:
        r = resolved.parameter
    else:
        check.fail("activation", "relu or relu_power(r)", repr(resolved.name))
    exact = 0
    while gauss_points(exact + 1, q) <= count:
        exact += 1
    m = np.arange(exact // 2 + 1)
    with np.errstate(divide="ignore"):
        inverse = (1.0 + m) ** -s / np.abs(funk_hecke_of_relu_power(r, q, m))
    inverse[np.isinf(inverse)] = 0.0  # f has no such component
    # The first degree beyond m at which f may have a component: m + 1, in (1 + k)^(-s).
    errors = (m + 2.0) ** -s + np.maximum.accumulate(inverse) * _tails(r, q, exact)[exact - m]
    best = int(np.argmin(errors))
    value = min(float(errors[best]), 1.0)  # the zero network
    note = ""
    if size == math.inf:
        note = "the function is not that smooth: the bound says nothing about it"
    elif errors[best] > 1:
        note = "no better than the zero network at this size"
    # Smoothness beyond that of the activation does not help.
    saturation = r + (q + 1) / 2
    effective = min(s, saturation)
    derived_exponent = effective / q * (r + 0.5) / saturation
    parity = r == round(r)
    return Bound(
        "zonal",
        f"L2 error that {count} units need not exceed",
        math.inf if size == math.inf else size * value,
        "||f||_s min_m [(m + 2)^(-s) + max_{k<=m} (1 + k)^(-s)/|c_k| (sum_{k>M-m} c_k^2 N_k)^(1/2)]",
        r"\|f\|_s \min_m \left[(m+2)^{-s} + \max_{k\le m}\frac{(1+k)^{-s}}{|c_k|}\Big(\sum_{k>M-m} c_k^2 "
        r"N_k\Big)^{1/2}\right]",
        source="derived: Funk-Hecke formula and a positive quadrature of degree M",
        constants=(
            Constant("M", exact, "degree of the product Gauss rule with that many points"),
            Constant("m", best, "degree reproduced, minimised over"),
            Constant("r", r, "exponent of the activation"),
            Constant("||f||_s", size, "given"),
        ),
        assumptions=(
            Assumption("f has the Sobolev norm given"),
            Assumption(
                "f has no part of degree k > r with k - r even, where integer powers vanish"
                if parity
                else "none on parity: r is not an integer"
            ),
            Assumption("centres at the points of the quadrature, weights of the construction or better"),
        ),
        cited=f"expected after Mhaskar, arXiv 2305.03890: order N^(-s/q) up to logarithms for s up to "
        f"{saturation:.4g}, here N^-{effective / q:.4g}; the derived bound decays like "
        f"N^-{derived_exponent:.4g}",
        note=note,
        details={
            "degree": best,
            "exactness": exact,
            "derived_exponent": derived_exponent,
            "cited_exponent": effective / q,
            "saturation": saturation,
        },
        arguments={
            "smoothness": smoothness,
            "dimension": dimension,
            "n_neurons": n_neurons,
            "activation": activation,
            "norm": norm,
        },
        function=zonal,
    )
