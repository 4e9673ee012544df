"""Dual activations E[a(u) a(v)] for `nngp_kernel`: which one is computed how, and the tables that takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .. import _core
from ..base import check
from ..maps.activations import Activation, resolve

# Activations that go by a series of Hermite coefficients: a(z) = constant + linear z + a part of one parity;
# the constant of a'; and the terms a variance takes for a tail below 3e-15, of the kernel and of its NTK.
# The tails were measured: terms = _BASE + rate * variance bounds them for variances from 0 to _MOST / rate.
_SERIES = {
    "tanh": (0.0, 0.0, 0.0, True, 56.0, 80.0),
    "sigmoid": (0.5, 0.0, 0.0, True, 13.5, 20.0),
    "softplus": (0.0, 0.5, 0.5, False, 9.0, 13.5),
    "silu": (0.0, 0.5, 0.5, False, 13.5, 18.5),
    "gelu_tanh": (0.0, 0.5, 0.5, False, 19.0, 27.0),
}
_BASE = 12
_MOST = 2048
# Those that a mixture of error functions replaces where a variance is beyond the series' reach.
_MIXTURES = ("tanh", "sigmoid", "softplus", "silu")
# The trapezoidal rule on the half line under the normal density: step for polynomials of degree 2 * _MOST
# (of wave number 64) times functions analytic as far as tanh at the largest variance; the density at the end
# is 1e-35.
_STEP, _END = 1 / 40, 12.65


def _reach(rate: float) -> float:
    """Return the largest variance of a series."""
    return (_MOST - _BASE) / rate


@dataclass(frozen=True)
class Dual:
    """How a kernel with a given activation is computed."""

    handle: Any
    activation: Activation
    rate: float = 0.0  # of terms; 0 without a series

    def terms(self, p: float, *, weight_variance: float, bias_variance: float, depth: int) -> int:
        """Return the terms that points need whose largest variance in layer 0 is `p`."""
        if not self.rate:
            return 0
        reach = _reach(self.rate)
        largest = p
        for layer in range(depth):
            if p > reach:
                if self.activation.name in _MIXTURES:
                    return _MOST
                raise ValueError(
                    f"x: expected points whose variance K(x, x) in layer {layer} is at most {reach:.3g}, as "
                    f"far as the series for {self.activation.name} goes, got {p:.3g}; scale x or lower "
                    "weight_std and bias_std"
                )
            largest = max(largest, p)
            p = bias_variance + weight_variance * _square_mean(self.activation.name, p)
        needed = math.ceil(_BASE + self.rate * largest * (1 + 1e-5)) + 1
        return min(-(-needed // 4) * 4, _MOST)


@lru_cache(maxsize=64)
def dual(activation: str | Activation, ntk: bool) -> Dual:
    """Return the dual of an activation: those of `MLP`, and "step"."""
    if isinstance(activation, str) and activation == "step":
        if ntk:
            check.fail("kind", "'nngp' with activation 'step', whose derivative is no function", "'ntk'")
        return Dual(_core.Dual.closed_form("step", 0.0), Activation("step"))
    a = resolve(activation)
    if a.name in _SERIES:
        constant, linear, slope_constant, odd, rate, slope_rate = _SERIES[a.name]
        if ntk:
            rate = slope_rate
        reach = _reach(rate) if a.name in _MIXTURES else math.inf
        handle = _core.Dual.series(
            a.name, constant**2, linear**2, slope_constant**2, odd, *_hermite(), _BASE, rate, reach
        )
        return Dual(handle, a, rate)
    if a.name == "identity":
        return Dual(_core.Dual.closed_form("leaky_relu", 1.0), a)
    if a.name != "relu_power":
        return Dual(_core.Dual.closed_form(a.name, a.parameter or 0.0), a)
    r = a.parameter
    assert r is not None
    if r in (1.0, 2.0):
        return Dual(_core.Dual.closed_form("relu" if r == 1 else "relu_squared", 0.0), a)
    if ntk and r <= 0.5:
        check.fail("activation", "relu_power(r) with r > 1/2 for kind='ntk' (E[a'^2] is infinite else)", r)
    eta_slope = np.zeros_like(eta(r)) if r <= 0.5 else eta(r - 1)
    slope = 0.0 if r <= 0.5 else r * r * _square_of_power(r - 1)
    return Dual(_core.Dual.relu_power(r, _square_of_power(r), slope, eta(r), eta_slope), a)


# ---- relu_power: tables over the angle -------------------------------------------------------------------


def _square_of_power(s: float) -> float:
    """E[relu(z)^(2 s)] for a standard normal z, s > -1/2."""
    return 2.0 ** (s - 1) * math.gamma(s + 0.5) / math.sqrt(math.pi)


def power_mean(a: float, angle: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """E[relu(u)^a relu(v)^a] at unit variances, a > -1, for an angle and `rest` = pi - angle.

    In polar coordinates ``Gamma(a+1) 2^a / pi * integral of (sin y sin(y + angle))^a over 0 < y < rest/2``.
    With y = rest / 2 / (1 + e^x) the integrand is analytic for |Im x| < pi and vanishes exponentially: the
    trapezoidal rule with step 1/4 errs by exp(-8 pi^2) times what grows with a. Where it falls slowly, the
    sum ends at x = 600, from where on the terms are geometric.
    """
    step = 0.25
    x = np.arange(-44.0, min(44.0 / (1.0 + min(a, 0.0)), 600.0), step)
    share = 1 / (1 + np.exp(x))
    y = rest[:, None] / 2 * share
    far = np.sin(np.where(angle[:, None] < rest[:, None], y + angle[:, None], rest[:, None] - y))
    integrand = (np.sin(y) * far) ** a * (step * share / (1 + np.exp(-x)))
    integral = (integrand.sum(axis=1) + integrand[:, -1] / math.expm1((1 + a) * step)) * rest / 2
    return math.gamma(a + 1) * 2.0**a / math.pi * integral


@lru_cache(maxsize=64)
def eta(s: float) -> np.ndarray:
    """Coefficients of 1 - E(angle) / E(0), E the mean of powers s > -1/2, on octaves (dual.hpp).

    For s > 0 it is the integral of its derivative s^2 E_(s-1) sin / E(0) (Price's theorem), which is
    positive: small values have small errors.
    """
    from numpy.polynomial import chebyshev

    octaves, terms = _core.angle_octaves, _core.angle_terms
    total = _square_of_power(s)
    nodes = np.cos(np.pi * (np.arange(terms) + 0.5) / terms)
    table = np.zeros((2, octaves, terms))
    for side in (0, 1):
        below = 0.0
        for octave in range(octaves):
            low = 2.0 ** (octave - octaves + 1)
            near = low * (1.5 + nodes / 2)
            rest = np.pi - near
            angle, other = (near, rest) if side == 0 else (rest, near)
            if s > 0:
                density = s * s / total * power_mean(s - 1, angle, other) * np.sin(near)
                series = chebyshev.chebfit(nodes, density, terms - 1)
                if octave == 0:  # from 0: a power of the angle
                    order = min(2.0, 2 * s + 1) if side == 0 else 2 * s + 1
                    below = low / order * float(chebyshev.chebval(-1, series))
                series = chebyshev.chebint(series, lbnd=-1, scl=low / 2)[:terms]
                series[0] += below
                below = float(chebyshev.chebval(1, series))
            else:
                series = chebyshev.chebfit(nodes, power_mean(s, angle, other) / total, terms - 1)
                if side == 0:
                    series = -series
                    series[0] += 1
            if side == 1:
                series = -series
                series[0] += 1
            table[side, octave] = np.pad(chebyshev.cheb2poly(series), (0, terms))[:terms]
    return np.ascontiguousarray(table.ravel())


# ---- series: nodes and polynomials ------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _hermite() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes z >= 0, and weights times the orthonormal Hermite polynomials of even and of odd degree there.

    The part of `a` of one parity is integrated over the half line, doubled. For integrands that are analytic
    in a strip, as these are, the trapezoidal rule converges geometrically, as Gauss-Hermite does (Trefethen &
    Weideman 2014), and its nodes do not bunch where the density is nothing.
    """
    z = np.arange(int(_END / _STEP) + 1) * _STEP
    weight = np.exp(-z * z / 2) * (2 * _STEP / math.sqrt(2 * math.pi))
    weight[0] /= 2
    even, odd = np.empty((_MOST, z.size)), np.empty((_MOST, z.size))
    before, now = np.zeros_like(z), weight
    for k in range(2 * _MOST):
        (odd if k % 2 else even)[k // 2] = now
        before, now = now, (z * now - math.sqrt(k) * before) / math.sqrt(k + 1)
    return z, np.ascontiguousarray(even.T), np.ascontiguousarray(odd.T)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(z / 2)) / 2


_VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "softplus": lambda z: np.logaddexp(0, z),
    "silu": lambda z: z * _sigmoid(z),
    "gelu_tanh": lambda z: z * _sigmoid(math.sqrt(8 / math.pi) * (z + 0.044715 * z**3)),
}


def _square_mean(name: str, p: float) -> float:
    """E[a(sqrt(p) z)^2] for an activation with a series: how variances grow, to count terms."""
    z = np.arange(-_END, _END, _STEP)
    squares = _VALUES[name](math.sqrt(p) * z) ** 2
    return float(np.sum(squares * np.exp(-z * z / 2)) * _STEP / math.sqrt(2 * math.pi))
