"""Activations on an interval [z - t, z + t]: a chord or a parabola, and how far the function is from it.

Let beta be the slope of the chord. Where the slope a' is between s0 and s1, the difference a - chord is 0 at
both ends and has slopes between s0 - beta and s1 - beta, so that

    |a - chord| <= 2 t (s1 - beta) (beta - s0) / (s1 - s0),

which relu attains: (t^2 - z^2) / (2 t). Where a'' is between m and M, Green's function of the interval gives

    -max(M, 0) t^2 / 2 <= a - chord <= max(-m, 0) t^2 / 2,

so the difference has one sign where a is convex or concave. The smaller of both bounds is taken on each side,
and the chord is moved to the middle of what is left: a(z + s) = alpha + beta s + rho with |rho| <= kappa. A
relu whose kink is at the centre has kappa = t / 4; a smooth activation has about |a''| t^2 / 4.

With gamma = (m + M) / 2 the second derivative of a - gamma s^2 / 2 is at most (M - m) / 2 in size, so that
this function differs from its chord by at most (M - m) t^2 / 4, about |a'''| t^3 / 2:
a(z + s) = alpha + beta s + gamma s^2 / 2 + rho. This is used where it is closer by half, if a parabola is
`allowed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...base import check
from ...maps.activations import Activation

# Half the distance from 1 to the next number of float64.
UNIT = 2.0**-53
# Absolute error of the slopes and second derivatives below, which are at most 2.
_ERROR = 1e-14
_ROOT_HALF_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715

Function = Callable[[np.ndarray], np.ndarray]


class Curve(NamedTuple):
    """An activation with two derivatives, and the points at which the derivatives have extrema."""

    value: Function
    slope: Function
    bend: Function
    slope_extrema: tuple[float, ...]
    bend_extrema: tuple[float, ...]


def _sigmoid(z: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    found: np.ndarray = expit(z)
    return found


def _bell(z: np.ndarray) -> np.ndarray:
    """Return s (1 - s), the slope of the sigmoid, without cancellation."""
    e = np.exp(-np.abs(z))
    return e / (1 + e) ** 2


def _erf(z: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    found: np.ndarray = erf(z)
    return found


def _normal(z: np.ndarray) -> np.ndarray:
    """Return the distribution function of the standard normal law."""
    from scipy.special import ndtr

    found: np.ndarray = ndtr(z)
    return found


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _gate(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the argument p of the sigmoid in gelu_tanh = z s(p), and two derivatives of p."""
    p = 2 * _ROOT_HALF_PI * (z + _CUBIC * z**3)
    return p, 2 * _ROOT_HALF_PI * (1 + 3 * _CUBIC * z * z), 12 * _ROOT_HALF_PI * _CUBIC * z


def _gelu_tanh_slope(z: np.ndarray) -> np.ndarray:
    z = np.clip(z, -30, 30)  # beyond, the slope is 0 or 1 to the last bit
    p, d, _ = _gate(z)
    return _sigmoid(p) + z * _bell(p) * d


def _gelu_tanh_bend(z: np.ndarray) -> np.ndarray:
    z = np.clip(z, -30, 30)
    p, d, dd = _gate(z)
    return _bell(p) * (2 * d + z * (dd - np.tanh(p / 2) * d * d))


_SMOOTH = {
    "tanh": Curve(
        np.tanh,
        lambda z: 4 * _bell(2 * z),
        lambda z: -8 * np.tanh(z) * _bell(2 * z),
        (0.0,),
        (-0.65847894846240835, 0.65847894846240835),
    ),
    "sigmoid": Curve(
        _sigmoid,
        _bell,
        lambda z: -_bell(z) * np.tanh(z / 2),
        (0.0,),
        (-1.3169578969248167, 1.3169578969248167),
    ),
    "softplus": Curve(lambda z: np.logaddexp(0.0, z), _sigmoid, _bell, (), (0.0,)),
    "silu": Curve(
        lambda z: z * _sigmoid(z),
        lambda z: _sigmoid(z) + z * _bell(z),
        lambda z: _bell(z) * (2 - z * np.tanh(z / 2)),
        (-2.3993572805154677, 2.3993572805154677),
        (-3.4358409935351107, 0.0, 3.4358409935351107),
    ),
    "gelu": Curve(
        lambda z: z * _normal(z),
        lambda z: _normal(z) + z * _density(z),
        lambda z: (2 - z * z) * _density(z),
        (-math.sqrt(2), math.sqrt(2)),
        (-2.0, 0.0, 2.0),
    ),
    "gelu_tanh": Curve(
        lambda z: z * _sigmoid(_gate(z)[0]),
        _gelu_tanh_slope,
        _gelu_tanh_bend,
        (-1.4185040087908284, 1.4185040087908284),
        (-2.0134807246242579, 0.0, 2.0134807246242579),
    ),
    "erf": Curve(
        _erf,
        lambda z: 2 / math.sqrt(math.pi) * np.exp(-z * z),
        lambda z: -4 / math.sqrt(math.pi) * z * np.exp(-z * z),
        (0.0,),
        (-math.sqrt(0.5), math.sqrt(0.5)),
    ),
    "gaussian": Curve(
        lambda z: np.exp(-z * z / 2),
        lambda z: -z * np.exp(-z * z / 2),
        lambda z: (z * z - 1) * np.exp(-z * z / 2),
        (-1.0, 1.0),
        (-math.sqrt(3), 0.0, math.sqrt(3)),
    ),
}


def _between(f: Function, extrema: tuple[float, ...], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the least and the largest value of `f`, monotone between its extrema, on [low, high]."""
    a, b = f(low), f(high)
    least, largest = np.minimum(a, b), np.maximum(a, b)
    for at in extrema:
        inside, value = (low <= at) & (at <= high), float(f(np.array(at)))
        least = np.where(inside, np.minimum(least, value), least)
        largest = np.where(inside, np.maximum(largest, value), largest)
    return np.stack([least - _ERROR, largest + _ERROR])


def _cosine_between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the least and the largest cosine on [low, high]."""
    a, b = np.cos(low), np.cos(high)
    slack = 1e-9  # a multiple of pi this close to the interval counts as inside
    top = np.floor((high + slack) / (2 * math.pi)) >= np.ceil((low - slack) / (2 * math.pi))
    bottom = np.floor((high + slack) / (2 * math.pi) - 0.5) >= np.ceil((low - slack) / (2 * math.pi) - 0.5)
    return np.stack(
        [
            np.where(bottom, -1.0, np.minimum(a, b)) - _ERROR,
            np.where(top, 1.0, np.maximum(a, b)) + _ERROR,
        ]
    )


def _kinked(below: float, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranges of slope and second derivative of slope `below` z < 0 and 1 above."""
    left, right = low < 0, high > 0
    slopes = np.where(left, below, 1.0), np.where(right, 1.0, below)
    kink, none = np.where(left & right, math.copysign(math.inf, 1 - below), 0.0), np.zeros(low.shape)
    if below <= 1:
        return np.stack(slopes), np.stack([none, kink])
    return np.stack(slopes[::-1]), np.stack([kink, none])


def _step(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranges of slope and second derivative of relu(z) - relu(z - 1)."""
    flat = (low < 0) | (high > 1)
    slopes = np.stack([np.where(flat, 0.0, 1.0), np.where((high > 0) & (low < 1), 1.0, 0.0)])
    up, down = (low < 0) & (high > 0), (low < 1) & (high > 1)
    return slopes, np.stack([np.where(down, -math.inf, 0.0), np.where(up, math.inf, 0.0)])


def _power(r: float, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranges of slope and second derivative of max(z, 0)^r."""

    def ends(f: Function, at_zero: float) -> np.ndarray:
        """Return the range of a function that is monotone on z > 0, `at_zero` at 0+, and 0 below."""
        with np.errstate(divide="ignore", invalid="ignore"):
            a = np.where(low > 0, f(low), np.where(high > 0, at_zero, 0.0))
            b = np.where(high > 0, f(high), 0.0)
        zero = np.where(low <= 0, 0.0, a)
        return np.stack([np.minimum(np.minimum(a, b), zero), np.maximum(np.maximum(a, b), zero)])

    def limit(p: float) -> float:
        return 0.0 if p > 0 else (1.0 if p == 0 else math.inf)

    slopes = ends(lambda z: r * z ** (r - 1), r * limit(r - 1))
    second = r * (r - 1)
    bends = ends(lambda z: second * z ** (r - 2), second * limit(r - 2) if second else 0.0)
    bends[0][(low < 0) & (high > 0) & (r < 1)] = -math.inf  # the slope falls from infinity
    bends[1][(low < 0) & (high > 0) & (r <= 1)] = math.inf  # after it has jumped up
    for found in (slopes, bends):
        found *= 1 + 1e-12 * np.sign(found) * np.array([[-1.0], [1.0]]).reshape((2,) + (1,) * low.ndim)
    return slopes, bends


def _pieces(
    activation: Activation, low: np.ndarray, high: np.ndarray
) -> tuple[Function, np.ndarray, np.ndarray]:
    """Return the function, and on [low, high] the ranges of its slope and of its second derivative."""
    name, parameter = activation.name, activation.parameter
    if name in _SMOOTH:
        curve = _SMOOTH[name]
        slopes = _between(curve.slope, curve.slope_extrema, low, high)
        return curve.value, slopes, _between(curve.bend, curve.bend_extrema, low, high)
    if name == "sin":
        return (
            np.sin,
            _cosine_between(low, high),
            -_cosine_between(low - math.pi / 2, high - math.pi / 2)[::-1],
        )
    if name == "cos":
        sines = _cosine_between(low - math.pi / 2, high - math.pi / 2)
        return np.cos, -sines[::-1], -_cosine_between(low, high)[::-1]
    if name == "relu_power" and parameter is not None:
        return lambda z: np.maximum(z, 0.0) ** parameter, *_power(parameter, low, high)
    if name == "sigma_1":
        return lambda z: np.clip(z, 0.0, 1.0), *_step(low, high)
    below = {"identity": 1.0, "relu": 0.0, "leaky_relu": parameter}.get(name)
    if below is None:
        check.fail("phi", f"an activation with a chord: {', '.join(KNOWN)}", repr(name))
    return lambda z: np.where(z < 0, below * z, z), *_kinked(below, low, high)


KNOWN = (*_SMOOTH, "sin", "cos", "identity", "relu", "leaky_relu", "relu_power", "sigma_1")


def is_curved(activation: Activation) -> bool:
    """Tell whether parabolas are closer than chords, on small intervals."""
    return activation.name in _SMOOTH or activation.name in ("sin", "cos", "relu_power")


def value_of(activation: Activation, z: np.ndarray) -> np.ndarray:
    """Return the activation of z in float64."""
    return _pieces(activation, z, z)[0](z)


def largest(activation: Activation, z: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of |a| on [-z, z], and of how far an error of z takes it."""
    alpha, beta, _, kappa = enclose(activation, np.zeros_like(z), z)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        slopes = np.abs(_pieces(activation, -z, z)[1]).max(axis=0)
        moved = slopes * error
        if activation.name == "relu_power" and activation.parameter is not None and activation.parameter < 1:
            moved = error**activation.parameter  # |a^r - b^r| <= |a - b|^r
    return np.abs(alpha) + np.abs(beta) * z + kappa, np.where(error > 0, moved, 0.0)


class Enclosure(NamedTuple):
    """The activation at z + s, |s| <= t, is alpha + beta s + gamma s^2 / 2 up to kappa."""

    alpha: np.ndarray
    beta: np.ndarray
    gamma: np.ndarray
    kappa: np.ndarray


def enclose(activation: Activation, z: np.ndarray, t: np.ndarray, allowed: bool = False) -> Enclosure:
    """Return a chord of the activation, or a parabola where one is `allowed` and closer."""
    low, high = z - t, z + t
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        f, slopes, bends = _pieces(activation, low, high)
        first, last = f(low), f(high)
        beta = (last - first) / (high - low)
        beta = np.where(np.isfinite(beta), beta, slopes[0])  # t = 0
        beta = np.clip(beta, slopes[0], slopes[1])
        spread = slopes[1] - slopes[0]
        by_slope = 2 * t * (beta - slopes[0])
        finite = np.isfinite(spread)
        by_slope *= np.where(finite, np.where(spread > 0, (slopes[1] - beta) / spread, 0.0), 1.0)
        above = np.fmin(by_slope, np.maximum(-bends[0], 0) * t * t / 2)
        below = np.fmin(by_slope, np.maximum(bends[1], 0) * t * t / 2)
        alpha = (first + last) / 2 + (above - below) / 2
        rounding = 16 * UNIT * (np.abs(first) + np.abs(last) + np.abs(beta) * (np.abs(z) + t))
        kappa, gamma = (above + below) / 2, np.zeros_like(alpha)
        if allowed:
            off = (bends[1] - bends[0]) * t * t / 4
            closer = off < kappa / 2
            gamma = np.where(closer, (bends[0] + bends[1]) / 2, 0.0)
            alpha = np.where(closer, (first + last) / 2 - gamma * t * t / 2, alpha)
            kappa = np.where(closer, off, kappa)
        return Enclosure(alpha, beta, gamma, kappa + rounding)
