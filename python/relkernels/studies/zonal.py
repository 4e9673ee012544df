"""Zonal networks: the L2 rate of relu^r for functions of known smoothness on the sphere."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .. import bounds
from ..bounds.funk_hecke import funk_hecke_of_relu_power, n_harmonics
from ..estimators import ZonalFeatures
from ..maps.activations import relu_power
from .study import Criterion, Row, Verdict, groups, listed, slope

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plot.panels import Panel

CLAIM = (
    "On S^q, functions of smoothness s are approximated by N units relu(x.y_j)^r, r not necessarily an "
    "integer, with an error in L2 of order N^(-s/q) up to logarithms (expected, after Mhaskar, arXiv "
    "2305.03890); the derived bound, also in L2 and with explicit constants, is never exceeded."
)
POWERS = (0.5, 1.0, 1.5, 2.0, 3.0)
SMOOTHNESS = 1.5
TOP = 120  # degrees of the functions


def pieces(quick: bool) -> list[Row]:
    """Return powers, dimensions and neurons."""
    dimensions, neurons = (
        ((2, 3), [16, 64, 256]) if quick else ((2, 3, 4, 5), [16, 32, 64, 128, 256, 512, 1024])
    )
    points, draws = (2000, 1) if quick else (8000, 3)
    return [
        {"power": r, "dimension": q, "neurons": n, "points": points, "draws": draws}
        for q in dimensions
        for r in POWERS
        for n in neurons
    ]


def target(x: np.ndarray, q: int, r: float, seed: int) -> tuple[np.ndarray, float]:
    """Return sum_k +-(1 + k)^(-s-1/2) Y_k at x and its norm of order s, without degrees that relu^r lacks.

    Y_k = sqrt(N_k) P_k(x.z_k) has norm 1; P_k is computed by its recurrence.
    """
    rng = np.random.default_rng(seed)
    k = np.arange(TOP + 1)
    size = (1.0 + k) ** -(SMOOTHNESS + 0.5) * rng.choice([-1.0, 1.0], TOP + 1)
    size[funk_hecke_of_relu_power(r, q, k) == 0] = 0
    poles = rng.standard_normal((TOP + 1, q + 1))
    poles /= np.linalg.norm(poles, axis=1, keepdims=True)
    roots = np.sqrt(n_harmonics(q, k))
    values = np.zeros(len(x))
    for degree in k[size != 0]:
        values += size[degree] * roots[degree] * _gegenbauer(x @ poles[degree], int(degree), q)
    return values, math.sqrt(float((size**2 * (1.0 + k) ** (2 * SMOOTHNESS)).sum()))


def _gegenbauer(t: np.ndarray, degree: int, q: int) -> np.ndarray:
    """Return P_k(t) with P_k(1) = 1: (k + q - 1) P_(k+1) = (2k + q - 1) t P_k - k P_(k-1)."""
    before, now = np.ones_like(t), t
    if degree == 0:
        return before
    for k in range(1, degree):
        before, now = now, ((2 * k + q - 1) * t * now - k * before) / (k + q - 1)
    return now


def measure(piece: Row) -> list[Row]:
    """Fit the last layer by least squares; return the error on fresh points with the bound."""
    from scipy.linalg import lstsq

    r, q, n, m = (piece[k] for k in ("power", "dimension", "neurons", "points"))
    squares = []
    for draw in range(piece["draws"]):
        rng = np.random.default_rng([draw, q])
        x = rng.standard_normal((2 * m, q + 1))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        y, norm = target(x, q, r, draw)
        h = ZonalFeatures(n, relu_power(r), random_state=draw).fit_transform(x)
        a = lstsq(h[:m], y[:m], cond=1e-11, lapack_driver="gelsy")[0]
        squares.append(np.mean((h[m:] @ a - y[m:]) ** 2))
    bound = bounds.zonal(SMOOTHNESS, q, n, relu_power(r), norm=norm)
    return [
        {
            "error": float(np.sqrt(np.mean(squares))),
            "bound": bound.value,
            "cited_exponent": bound.details["cited_exponent"],
            "derived_exponent": bound.details["derived_exponent"],
        }
    ]


def judge(rows: list[Row]) -> Verdict:
    """Compare exponents of L2 errors with the expected rate, and the errors with the bound.

    N random centres leave gaps of the order (log N / N)^(1/q), N optimal centres gaps of N^(-1/q): this costs
    a logarithm. Over the fitted widths it lowers the exponent s/q by a known factor.
    """
    by_dimension, plain, lowered, lines = [], [], [], 0
    for (q,), some in groups(rows, "dimension").items():
        exponents = []
        for (r,), line in groups(some, "power").items():
            n = np.array([row["neurons"] for row in line], float)
            exponents.append(-slope(n, [row["error"] for row in line]))
            lines += 1
            rate = SMOOTHNESS / q
            name = f"q = {q}, r = {r:g}: {exponents[-1]:.2f}"
            if exponents[-1] < rate:
                plain.append(f"{name} < {rate:.2f}")
            if exponents[-1] < (least := -rate * slope(n, np.log(n) / n)):
                lowered.append(f"{name} < {least:.2f}")
        shown = ", ".join(f"{e:.2f}" for e in exponents)
        by_dimension.append(f"q = {q}: {shown} (expected {some[0]['cited_exponent']:.2f})")
    ratios = [r["error"] / r["bound"] for r in rows]
    worst = max(ratios)
    powers = ", ".join(f"{r:g}" for r in POWERS)
    return Verdict(
        f"Exponents of N for r = {powers} at s = {SMOOTHNESS:g}: {'; '.join(by_dimension)}.",
        [
            Criterion(
                "The L2 error is at most the derived bound.",
                f"{min(ratios):.2g} to {worst:.3g} of the bound",
                worst <= 1,
            ),
            Criterion(
                "Each fitted exponent is at least that of (log N / N)^(s/q), the expected rate with the "
                "logarithm that random centres cost.",
                f"{lines - len(lowered)} of {lines}" + (f"; below: {listed(lowered)}" if lowered else ""),
                not lowered,
            ),
            Criterion(
                "Each fitted exponent is at least s/q, the expected rate without a logarithm.",
                f"{lines - len(plain)} of {lines}" + (f"; below: {listed(plain)}" if plain else ""),
                not plain,
            ),
        ],
    )


def panels(rows: list[Row]) -> list[Panel]:
    """Return panels of the error against neurons, one per dimension."""
    from ..plot import error_against_width
    from ..plot.panels import Panel
    from ..plot.style import INK, finish

    def errors(ax: Axes, q: int, some: list[Row]) -> None:
        for (r,), line in groups(some, "power").items():
            neurons, errors, limits = ([x[k] for x in line] for k in ("neurons", "error", "bound"))
            error_against_width(
                neurons, errors, bound=limits, label=f"r = {r:g}", slope=False, ylabel="rms error", ax=ax
            )
        n = np.array(neurons, float)
        rate = 0.5 * some[0]["error"] * (n / n[0]) ** (-SMOOTHNESS / q)
        ax.plot(n, rate, color=INK, linestyle="-.", linewidth=1, label="rate N^(-s/q)")
        finish(ax, "neurons", "rms error")

    return [
        Panel(f"Sphere S^{q}, smoothness s = {SMOOTHNESS:g}", partial(errors, q=q, some=some))
        for (q,), some in groups(rows, "dimension").items()
    ]
