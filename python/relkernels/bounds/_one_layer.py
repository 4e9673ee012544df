"""One hidden layer: the number of neurons for one function, by a choice of theorem.

``variation`` (derived, uniform, explicit constant). Let f(x) = a + c.x + int s(w, b) relu(w.x - b) dmu on the
cube [-1, 1]^D with ||w||_1 <= 1, |b| <= 1, and let V = int |s| dmu be its variation norm. Draw N units from
|s| mu / V. Symmetrisation (factor 2), contraction (relu is 1-Lipschitz and 0 at 0; factor 2), and
E ||sum_i e_i w_i||_1 <= sqrt(D N), E |sum_i e_i b_i| <= sqrt(N) for independent signs e_i give a draw with

    sup |f - f_N| <= 4 V (sqrt(D) + 1) N^(-1/2).

The affine part costs two more units. For f(x) = int exp(i w.x) F(w) dw, Taylor's formula

    exp(iz) - iz - 1 = - int_0^c [relu(z - u) e^(iu) + relu(-z - u) e^(-iu)] du,   |z| <= c = ||w||_1,

shows V <= 2 v, v = int ||w||_1^2 |F(w)| dw.

``klusowski-barron`` (cited, uniform): c v max(sqrt(D), sqrt(log N)) N^(-1/2 - 1/D), c not explicit.
``barron`` (cited, in L2 of a measure on a ball of radius rho): 2 rho C N^(-1/2), C = int ||w|| |F(w)| dw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base import check
from .bound import Constant, positive

ONE_LAYER = ("variation", "klusowski-barron", "barron")
KERNELS = ("gaussian", "matern32", "laplace", "periodic", "polynomial")


@dataclass(frozen=True)
class OneLayer:
    """A one-layer bound: neurons for functions of given norms and given accuracies.

    `power` is the p of N ~ (norm / accuracy)^p that determines the split of the accuracy among functions;
    `norm` is "sup" or "l2", the norm in which the accuracy holds. `caveat` is what "neurons that suffice"
    must add.
    """

    name: str
    neurons: Callable[[np.ndarray, np.ndarray], np.ndarray]
    power: float
    norm: str
    constants: tuple[Constant, ...]
    cited: str
    caveat: str = ""


def one_layer_bound(
    choice: str | Callable[[float, float], float], dimension: int, radius: float | None, constant: float
) -> OneLayer:
    """Return the bound of this name, or one that uses the caller's function."""
    if callable(choice):
        function = choice

        def own(norms: np.ndarray, deltas: np.ndarray) -> np.ndarray:
            with check.naming("one_layer"):
                return np.array(
                    [float(function(float(v), float(d))) for v, d in zip(norms, deltas, strict=True)]
                )

        return OneLayer("the caller's own", own, 2.0, "sup", (), "the caller's own")
    name = check.choice("one_layer", choice, ONE_LAYER)
    D = dimension
    if name == "variation":
        factor = 4 * (math.sqrt(D) + 1)

        def derived(norms: np.ndarray, deltas: np.ndarray) -> np.ndarray:
            return np.ceil((factor * norms / deltas) ** 2) + 2

        return OneLayer(
            name,
            derived,
            2.0,
            "sup",
            (Constant("4 (sqrt(D) + 1)", factor, "derived: symmetrisation and contraction"),),
            "Klusowski & Barron 2018: order v max(sqrt(D), sqrt(log N)) N^(-1/2 - 1/D), uniform",
        )
    if name == "barron":
        rho = math.sqrt(D) if radius is None else positive("radius", radius)

        def barron(norms: np.ndarray, deltas: np.ndarray) -> np.ndarray:
            return np.ceil((2 * rho * norms / deltas) ** 2)

        return OneLayer(
            name,
            barron,
            2.0,
            "l2",
            (Constant("2 rho", 2 * rho, "cited: Barron 1993, sigmoidal units on a ball of radius rho"),),
            "Barron 1993: 2 rho C N^(-1/2) in L2",
        )
    c = positive("constant", constant)
    decay = 0.5 + 1 / D

    def klusowski(norms: np.ndarray, deltas: np.ndarray) -> np.ndarray:
        ratio = np.log(deltas) - np.log(c * norms)  # want log(max(...)) - decay log N <= ratio

        def excess(log_n: np.ndarray) -> np.ndarray:
            return np.log(np.maximum(np.sqrt(D), np.sqrt(log_n))) - decay * log_n - ratio

        low, high = np.zeros_like(ratio), np.full_like(ratio, 1.0)
        while (excess(high) > 0).any():
            high = np.where(excess(high) > 0, 2 * high, high)
            if high.max() > 1e6:
                break
        for _ in range(80):
            middle = (low + high) / 2
            fits = excess(middle) <= 0
            low, high = np.where(fits, low, middle), np.where(fits, middle, high)
        return np.ceil(np.exp(np.minimum(high, 700.0)) * (1 - 1e-12))

    return OneLayer(
        name,
        klusowski,
        1 / decay,
        "sup",
        (Constant("c", c, "universal but not explicit in the theorem: the value is up to this factor"),),
        "Klusowski & Barron 2018: c v max(sqrt(D), sqrt(log N)) N^(-1/2 - 1/D), uniform",
        f" if the theorem's constant, which is not known, is at most {c:.4g}",
    )


def kernel_norm(
    kernel: str,
    dimension: int,
    *,
    length_scale: float = 1.0,
    norm: str = "variation",
    degree: int = 2,
    offset: float = 1.0,
    period: float = 2.0,
) -> float:
    """Return the norm of x -> k(x, y), the largest over y, that a one-layer bound requires.

    For k(x, y) = int exp(i w.(x - y)) dF(w) the norm is a moment of the spectral measure F. For every
    Mercer eigenfunction e, lambda e = int k(., y) e(y) dmu(y), so norm(e) <= norm(k) / lambda.

    Parameters
    ----------
    kernel : {"gaussian", "matern32", "laplace", "periodic", "polynomial"}
        ``exp(-|h|^2 / (2 l^2))``; ``(1 + sqrt(3) |h| / l) exp(-sqrt(3) |h| / l)``; ``exp(-|h| / l)``;
        ``exp(-2 sum_j sin(pi h_j / p)^2 / l^2)``; ``(offset + x.y)^degree``; with h = x - y.
    dimension : int
    length_scale : float, default 1.0
    norm : {"variation", "klusowski-barron", "barron"}, default "variation"
        2 v (for the polynomial kernel the variation norm of its sections on [-1, 1]^D), v or C; for the
        theorems see `symmetric`.
    degree : int, default 2
    offset : float, default 1.0
        Offset of the polynomial kernel, >= 0.
    period : float, default 2.0

    Returns
    -------
    float
        Infinite for the Laplace kernel, whose spectral measure is a Cauchy law: the bounds are vacuous.

    Examples
    --------
    >>> from relkernels import bounds
    >>> bounds.kernel_norm("gaussian", 1, length_scale=0.5)  # 2 E w^2 = 2 / 0.5^2
    8.0
    >>> bounds.kernel_norm("laplace", 1)
    inf
    """
    name = check.choice("kernel", kernel, KERNELS)
    D = check.integer("dimension", dimension, 1, 10**9)
    scale = positive("length_scale", length_scale)
    kind = check.choice("norm", norm, ONE_LAYER)
    if name == "laplace":
        return math.inf
    if name == "polynomial":
        if kind != "variation":
            check.fail("norm", "'variation' for the polynomial kernel, which has no Fourier transform", norm)
        p = check.integer("degree", degree, 1)
        c = check.real("offset", offset)
        if not 0 <= c < math.inf:
            check.fail("offset", "a finite number >= 0", repr(c))
        # q(z) = (c + |y|_1 z)^p on [-1, 1]: V <= int |q''|, the variation of q', largest at |y|_1 = D.
        low = abs(c - D) ** (p - 1)
        return p * D * ((c + D) ** (p - 1) + (low if c < D else -low)) if p > 1 else 0.0
    absolute, square = _moments(name, scale, positive("period", period))
    tail = 3.0 if name == "matern32" else 1.0  # E[3 / chi^2_3] of the multivariate t distribution
    if kind == "barron":
        if name == "periodic":
            return math.sqrt(D * square)  # E|w| <= sqrt(E|w|^2)
        mean_norm = math.sqrt(2) * math.exp(math.lgamma((D + 1) / 2) - math.lgamma(D / 2)) / scale
        mean_factor = math.sqrt(3) / (math.sqrt(2) * math.gamma(1.5)) if name == "matern32" else 1.0
        return mean_norm * mean_factor
    v = tail * (D * square + D * (D - 1) * absolute**2)
    return 2 * v if kind == "variation" else v


def _moments(name: str, scale: float, period: float) -> tuple[float, float]:
    """E|w_1| and E w_1^2 of the spectral measure (Matern: of its normal mixture component)."""
    if name == "periodic":
        from scipy.special import ive

        top = 64 + int(8 / scale**2)
        k = np.arange(-top, top + 1)
        weights = ive(np.abs(k), 1 / scale**2)
        w = np.abs(2 * math.pi * k / period)
        return float((weights * w).sum()), float((weights * w * w).sum())
    return math.sqrt(2 / math.pi) / scale, 1 / scale**2


def dimension_and_norms(
    dimension: Any, norms: Any, names: tuple[str, ...] = ("norm",)
) -> tuple[int, tuple[float | np.ndarray, ...]]:
    """Check the dimension and the named norms of sections (numbers) or of functions (arrays)."""
    D = check.integer("dimension", dimension, 1, 10**9)
    checked: list[float | np.ndarray] = []
    for name, value in zip(names, norms, strict=True):
        a = check.numbers(name, value)
        if a.ndim > 1 or a.size == 0:
            check.fail(name, "a number or one number for each function", f"shape {a.shape}")
        if not (a >= 0).all():
            check.fail(name, "numbers >= 0", value)
        checked.append(float(a) if a.ndim == 0 else a)
    return D, tuple(checked)
