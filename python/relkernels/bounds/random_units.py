"""Random units a(w.x + b) on the unit sphere: their parts by degree, and what N of them leave of a function.

w is normal with variance weight_std^2 / n, b normal with variance bias_std^2, x uniform on S^(n-1), and all
norms are those of L2(x). The part of degree k of a unit is its Funk-Hecke coefficient c_k(|w|, b) times a
zonal harmonic, with square norm c_k^2 N_k, N_k harmonics of degree k.

*What N draws leave.* Let P be the projection onto the units drawn (and the constant, if there are biases).
The distribution of the draws does not change under rotations, so E(I - P) commutes with them and multiplies
degree k by a number p_k(N): for every f with parts f_k,

    E ||f - P f||^2 = sum_k p_k(N) ||f_k||^2.

p_k(0) = 1. With Q = I - P before a draw, the draw u subtracts Q u u'Q / (u'Q u), whose trace on degree k is
||Pi_k Q u||^2 / (u'Q u) >= x^2 / (c_k^2 N_k y), x = <Q u, u_k>, y = <Q u, u>. Over directions of w,
E x = c_k^2 tr(Pi_k Q) and E y = sum_j c_j^2 tr(Pi_j Q). x^2 / y is convex in both, so (Jensen)

    p_k(N + 1) <= p_k - E[c_k^2 / S] p_k^2,    S = sum_j c_j^2 N_j p_j, the mean over |w| and b.

The right side increases with every p_j, so upper bounds of p_j can be put there: q_k(0) = 1 and the same
recursion bounds p_k(N) for all N. For N = 1 and fixed |w| it is exact. Degrees beyond those computed keep
q = 1: their share of S is the rest of E a^2. As S decreases, 1/q_k grows by at least E[c_k^2 / S] a draw with
S of an earlier draw, which takes many draws in one step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..base import check
from ..maps.activations import Activation, resolve
from ..maps.mlp import MLP
from ..spectra import multiplicity
from ..spectra.gegenbauer import polynomials, quadrature

# Degrees computed, and nodes for |w| and for the bias.
DEGREES, _LENGTHS, _BIASES = 200, 32, 16
# Draws taken one by one; afterwards this part of them in one step.
_SINGLE, _STEP = 100, 0.01
# Beyond, the quadrature over angles is not exact.
_DIMENSIONS = 500


def named(activation: Any) -> Activation:
    """Return the activation: step or one of `MLP`."""
    step = isinstance(activation, str) and activation == "step"
    if step or (isinstance(activation, Activation) and activation.name == "step"):
        return Activation("step")
    return resolve(activation)


def smooth_or_homogeneous(activation: Any, bias_std: float) -> Activation:
    """Return the activation if the quadratures resolve its units: smooth, or a kink at 0 and no biases."""
    with check.naming("kernel"):
        found = named(activation)
    kinked = order(found) is not None and found.name != "identity"
    if found.name == "sigma_1" or (kinked and bias_std > 0):
        got = found.name + (f" with bias_std = {bias_std:g}" if kinked else "")
        check.fail("kernel", "a smooth activation, or one with a kink at 0 and bias_std = 0", got)
    return found


def values(activation: Activation, z: np.ndarray) -> np.ndarray:
    """Return a(z)."""
    if activation.name == "step":
        return (z > 0).astype(np.float64)
    one = np.ones((1, 1))
    return MLP([one, one], activation=activation)(z.reshape(-1, 1)).reshape(z.shape)


def order(activation: Activation) -> float | None:
    """Return r if a(s z) = s^r a(z) for s > 0, otherwise None."""
    if activation.name == "relu_power":
        return activation.parameter
    return {"relu": 1.0, "leaky_relu": 1.0, "identity": 1.0, "step": 0.0}.get(activation.name)


def coefficients(
    activation: Activation, dimension: int, lengths: np.ndarray, biases: np.ndarray, degrees: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return c_k(|w|, b) of each unit, shape (units, degrees), and the mean of its square."""
    breaks = () if order(activation) is None else (0.0,)
    t, weights = quadrature(dimension, breaks, 2 * degrees + 64)
    a = values(activation, np.multiply.outer(lengths, t) + biases[:, None])
    P = np.stack(list(polynomials(t, dimension, degrees)))
    return (a * weights) @ P.T, a**2 @ weights


@dataclass(frozen=True)
class RandomUnits:
    """The distribution of a random unit, by nodes (|w|, b) with probabilities.

    Attributes
    ----------
    probabilities : ndarray of shape (nodes,)
    parts : ndarray of shape (nodes, degrees)
        c_k.
    squares : ndarray of shape (nodes,)
        E_x a^2.
    many : ndarray of shape (degrees,)
        N_k.
    kernel : ndarray of shape (degrees,)
        Eigenvalues of the NNGP kernel, weight_std^2 E c_k^2 (and bias_std^2 for the constant).
    trace : float
        Their sum with multiplicities, of all degrees.
    constant : bool
        Whether the constant is a feature.
    """

    probabilities: np.ndarray
    parts: np.ndarray
    squares: np.ndarray
    many: np.ndarray
    kernel: np.ndarray
    trace: float
    constant: bool

    def left(self, n_units: int | None = None) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield counts N, q(N), and the growth of 1/q a draw up to the next count; end at `n_units`."""
        q = np.ones(len(self.many))
        if self.constant:
            q[0] = 0.0
        rest = np.maximum(self.squares - self.parts**2 @ self.many, 0.0)
        count = 0
        while True:
            S = self.parts**2 @ (self.many * q) + rest
            share = np.divide(self.probabilities, S, out=np.zeros_like(S), where=S > 0) @ self.parts**2
            yield count, q, share
            if n_units is not None and count >= n_units:
                return
            if count < _SINGLE:
                q, count = np.maximum(q - share * q * q, 0.0), count + 1
            else:
                step = math.ceil(_STEP * count)
                step = step if n_units is None else min(step, n_units - count)
                q, count = q / (1 + step * share * q), count + step

    def enough(self, level: float) -> float:
        """Return the least N found with mu_k q_k(N) <= level for every k; infinite beyond those computed."""
        if self.beyond() > level:
            return math.inf
        before, q, share = 0, np.ones(0), np.ones(0)
        for count, now, growth in self.left():
            if float((self.kernel * now).max()) <= level:
                break
            before, q, share = count, now, growth
        while count - before > 1:
            middle = (before + count) // 2
            fits = float((self.kernel * q / (1 + (middle - before) * share * q)).max()) <= level
            count = middle if fits else count
            if not fits:
                q, before = q / (1 + (middle - before) * share * q), middle
        return float(count)

    def beyond(self) -> float:
        """Return an upper bound of the eigenvalues of degrees that were not computed."""
        rest = max(self.trace - float(self.many @ self.kernel), 1e-15 * self.trace)
        return rest / float(self.many[-1])


def drawn_coefficients(
    activation: Activation, dimension: int, lengths: np.ndarray, biases: np.ndarray, degrees: int
) -> np.ndarray:
    """Return c_k of units that were drawn; those of a homogeneous activation are computed once."""
    r = order(activation)
    if r is None or biases.any():
        return coefficients(activation, dimension, lengths, biases, degrees)[0]
    one = coefficients(activation, dimension, np.ones(1), np.zeros(1), degrees)[0]
    return np.multiply.outer(lengths**r, one[0])


@lru_cache(maxsize=16)
def random_units(
    activation: Activation, dimension: int, weight_std: float, bias_std: float, degrees: int = DEGREES
) -> RandomUnits:
    """Return the parts by degree of random units on S^(dimension - 1)."""
    from scipy.special import roots_genlaguerre

    n, r = dimension, order(activation)
    scale = weight_std / math.sqrt(n)
    if r is not None and bias_std == 0:
        # All lengths give the same function up to a factor: one with E |w|^(2r).
        log = r * math.log(2) + math.lgamma(n / 2 + r) - math.lgamma(n / 2)
        lengths, biases = np.array([scale * (math.exp(log / (2 * r)) if r else 1.0)]), np.zeros(1)
        probabilities = np.ones(1)
    else:
        # |w|^2 / 2 in units of the variance has a gamma distribution.
        half, p = roots_genlaguerre(_LENGTHS, n / 2 - 1)
        kept = p > 0
        lengths, probabilities = scale * np.sqrt(2 * half[kept]), p[kept] / p.sum()
        biases = np.zeros(len(lengths))
        if bias_std > 0:
            z, w = np.polynomial.hermite_e.hermegauss(_BIASES)
            biases = np.tile(bias_std * z, len(lengths))
            lengths = np.repeat(lengths, len(z))
            probabilities = np.outer(probabilities, w / w.sum()).ravel()
    parts, squares = coefficients(activation, n, lengths, biases, degrees)
    many = np.array([float(multiplicity(n, k)) for k in range(degrees)])
    kernel = weight_std**2 * (probabilities @ parts**2)
    kernel[0] += bias_std**2
    trace = weight_std**2 * float(probabilities @ squares) + bias_std**2
    return RandomUnits(probabilities, parts, squares, many, kernel, trace, bias_std > 0)


def checked_dimension(dimension: Any) -> int:
    """Return n of S^(n-1)."""
    return check.integer("dimension", dimension, 2, _DIMENSIONS)
