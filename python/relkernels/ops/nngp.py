"""Kernels of infinitely wide random networks: NNGP and NTK."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arrays import Array, operation
from ..arrays.engine import PROCESSOR
from ..arrays.outputs import Destination
from ..base import check, shapes
from ..maps.activations import Activation
from .dual import Dual, dual
from .sides import Sides, spread

KINDS = ("nngp", "ntk")


@operation("x", "y", "out")
def nngp_kernel(
    x: Array,
    y: Array | None = None,
    *,
    depth: int = 1,
    activation: str | Activation = "relu",
    weight_std: float = math.sqrt(2),
    bias_std: float = 0.0,
    kind: str = "nngp",
    out: Array | None = None,
) -> Array:
    """Return the kernel of an infinitely wide random network, between the rows of `x` and of `y`.

    With weights of variance ``weight_std**2 / width`` and biases of variance ``bias_std**2``, the outputs of
    a random network of `depth` hidden layers tend to a Gaussian process as its layers widen (Neal 1996; Lee
    et al. 2018). Its covariance is K(depth), where D is the number of features and::

        K(0)(x, y) = bias_std**2 + weight_std**2 * <x, y> / D
        K(l+1)(x, y) = bias_std**2 + weight_std**2 * E[a(u) a(v)],
        (u, v) normal with covariance [[K(l)(x, x), K(l)(x, y)], [K(l)(x, y), K(l)(y, y)]]

    The neural tangent kernel (Jacot et al. 2018), which governs training by gradient descent, is
    ``T(0) = K(0), T(l+1) = K(l+1) + weight_std**2 * E[a'(u) a'(v)] * T(l)``.

    Parameters
    ----------
    x : ndarray of shape (..., n, D)
        Float32 or float64.
    y : ndarray of shape (..., m, D), optional
        None stands for `x`: half of the kernel is computed, and it equals its transpose to the last bit.
    depth : int, default 1
        Hidden layers: applications of the recursion, at least 0.
    activation : str or Activation, default "relu"
        Any activation of `MLP`, or "step", which is 1 for z > 0 and 0 otherwise.
    weight_std : float, default sqrt(2)
        Finite, greater than 0.
    bias_std : float, default 0.0
        Finite, not negative.
    kind : {"nngp", "ntk"}, default "nngp"
    out : ndarray of shape (..., n, m), optional
        Where to write the result; may not overlap `x` or `y`.

    Returns
    -------
    ndarray of shape (..., n, m)
        Each value depends only on its two points, to the last bit. Values are computed in float64 and
        rounded to the dtype of `x`; pairs with NaN or infinities are NaN.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it. Also for the NTK of "step" and of relu_power(r)
        with r <= 1/2, which is infinite, and for gelu_tanh if a point's variance K(l)(x, x) is above 107 (75
        for the NTK).
    MemoryError
        If the output would not fit in memory.

    Notes
    -----
    identity, relu, leaky_relu, relu_power(2), step (Cho & Saul 2009), erf (Williams 1997), gelu, gaussian,
    sin and cos have closed forms; of relu_power(r) a table over the angle is made once, and sigma_1 is a sum
    over the angle. The other activations go by Mehler's expansion
    E[a(u) a(v)] = sum_k h_k(K(x, x)) h_k(K(y, y)) rho**k, whose coefficients are made once a point and layer,
    by quadrature; its tail is below 1e-14 of the kernel at correlation 1 and smaller elsewhere. From a
    variance of 36 on (25 for the NTK), tanh is a mixture of 14 error functions instead (Stefanski 1991), to
    1e-14 of the kernel, with 196 arcsines a pair; sigmoid, softplus and silu likewise, from four times that
    variance or more. Angles between nearly parallel points are taken from the points' difference, so that
    kernels keep their digits up to correlation +-1. The NTK of sigma_1 with two layers or more is less
    exact for points whose angle in a layer is small but not zero: its error is about 1e-16 over that angle.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> rk.nngp_kernel(x).round(4)
    array([[1.    , 0.3183],
           [0.3183, 1.    ]])
    >>> rk.nngp_kernel(x, depth=2, activation="erf", kind="ntk").round(4)
    array([[3.3259, 0.    ],
           [0.    , 3.3259]])
    """
    sides = Sides(x, y, None, None)
    recursion = Recursion(depth, activation, weight_std, bias_std, kind)
    lead = sides.leading()
    shape = shapes.relation(lead, sides.x.shape[-2], sides.y.shape[-2])
    terms = recursion.terms(sides.x)
    if not sides.same_points:
        terms = max(terms, recursion.terms(sides.y))
    to = Destination(sides.engine, "nngp_kernel", shape, sides.dtype, out, *sides.named)
    columns = None if sides.same_points else spread(sides.y, lead, 2)
    sides.engine.run("nngp_kernel", spread(sides.x, lead, 2), columns, *recursion.arguments, terms, to.array)
    return to.result()


def checked_stds(weight_std: float, bias_std: float) -> tuple[float, float]:
    """Return the standard deviations of weights and biases, if they are such."""
    weight, bias = check.real("weight_std", weight_std), check.real("bias_std", bias_std)
    if not (weight > 0 and 0 < weight * weight < math.inf):
        check.fail("weight_std", "a number > 0 with a finite variance > 0", repr(weight_std))
    if not (bias >= 0 and bias * bias < math.inf):
        check.fail("bias_std", "a number >= 0 with a finite variance", repr(bias_std))
    return weight, bias


class Recursion:
    """The checked arguments of `nngp_kernel`."""

    def __init__(
        self, depth: int, activation: str | Activation, weight_std: float, bias_std: float, kind: str
    ) -> None:
        self.depth = check.integer("depth", depth, 0, 1_000_000)
        if not isinstance(activation, (str, Activation)):
            check.choice("activation", activation, ())
        weight, bias = checked_stds(weight_std, bias_std)
        self.weight_variance, self.bias_variance = weight**2, bias**2
        self.ntk = check.choice("kind", kind, KINDS) == "ntk"
        self.dual: Dual = dual(activation, self.ntk)

    @property
    def arguments(self) -> tuple[Any, float, float, int, bool]:
        """What the compiled functions take, in their order."""
        return self.dual.handle, self.weight_variance, self.bias_variance, self.depth, self.ntk

    def terms(self, x: np.ndarray) -> int:
        """Return how many terms of the series the points need; 0 without a series."""
        if not self.dual.rate or not x.size:
            return 0
        variance = np.empty(x.shape[:-1], x.dtype)
        first = (self.dual.handle, self.weight_variance, self.bias_variance, 0, False)
        PROCESSOR.run("nngp_diagonal", x, *first, 0, variance)
        finite = variance[np.isfinite(variance)]
        return self.dual.terms(
            float(finite.max()) if finite.size else 0.0,
            weight_variance=self.weight_variance,
            bias_variance=self.bias_variance,
            depth=self.depth,
        )

    def diagonal(self, x: np.ndarray) -> np.ndarray:
        """Return the kernel of each row with itself."""
        out = np.empty(x.shape[:-1], x.dtype)
        PROCESSOR.run("nngp_diagonal", x, *self.arguments, self.terms(x), out)
        return out
