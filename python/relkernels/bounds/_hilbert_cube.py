"""The number of Hilbert-cube coordinates needed for a given accuracy.

F(x) = (h_1(x), h_2(x), ...), coordinates in [0, 1], weights w_k with sum w_k^2 < inf, distance d(x, x')^2 =
sum_k w_k^2 (h_k(x) - h_k(x'))^2, and a target g of F with modulus of continuity omega: |g(p) - g(p')| <=
omega(d(p, p')). Replace the coordinates beyond N by 1/2. Each moves by at most 1/2, so the point moves by at
most t_N / 2, t_N = (sum_{k>N} w_k^2)^(1/2), and the truncation costs at most omega(t_N / 2).

The truncated point is in the cube, but need not be F(x') for any x'. So omega must hold on the cube, or on
the image of F only and be nondecreasing and subadditive: then g extends to the cube with the same omega
(McShane).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..base import check
from .bound import Assumption, Bound, Constant, positive
from .weights import tail_of_weights

# The search stops at this many coordinates.
_MOST = 10**9
# Distances of the grid on which a modulus is checked.
_GRID = 32


def hilbert_cube(
    encoder: Any,
    modulus_of_continuity: Callable[[float], float] | float | tuple[float, float],
    eps: float,
) -> Bound:
    """Return the number of coordinates to which a target can be truncated with an error of at most `eps`.

    Parameters
    ----------
    encoder : HilbertCubeEncoder, str or array-like
        The encoder, or its weights: "geometric" (2^-k), "harmonic" (1/k) or numbers.
    modulus_of_continuity : callable, float or pair of float
        omega(t), nondecreasing and subadditive (omega(s + t) <= omega(s) + omega(t), as every concave omega
        is), which is checked on a grid; a Lipschitz constant L; or (L, a) for omega(t) = L t^a, 0 < a <= 1.
        It refers to the distance (sum_k w_k^2 (h_k - h'_k)^2)^(1/2).
    eps : float
        Accuracy, > 0.

    Returns
    -------
    Bound
        `value` is the number of coordinates, infinite if no number suffices.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> from relkernels import bounds
    >>> bounds.hilbert_cube("geometric", 1.0, 1e-3).value
    9.0
    """
    accuracy = positive("eps", eps)
    tail, size, weights = tail_of_weights(getattr(encoder, "weights", encoder), "encoder")
    omega, formula = _modulus(modulus_of_continuity)

    def cost(n: int) -> float:
        with check.naming("modulus_of_continuity"):
            value = float(omega(tail(n) / 2))
        if not value >= 0:
            check.fail("modulus_of_continuity", "values >= 0", value)
        return value

    if callable(modulus_of_continuity):
        _check_subadditive(omega, tail(0))
    note = ""
    high = size if size else 1
    while not size and cost(high) > accuracy and high < _MOST:
        high *= 2
    if cost(high) > accuracy:
        value, note = math.inf, f"the modulus is still {cost(high):.4g} after {high} coordinates"
    else:
        low = -1  # too few
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if cost(middle) <= accuracy else (middle, high)
        value = float(high)
    return Bound(
        "hilbert_cube",
        "coordinates that suffice",
        value,
        "N with omega((sum_{k>N} w_k^2)^(1/2) / 2) <= eps",
        r"\omega\left(\tfrac12\Big(\sum_{k>N} w_k^2\Big)^{1/2}\right) \le \varepsilon",
        source="derived: coordinates in [0, 1] beyond N are replaced by 1/2",
        constants=(
            Constant("eps", accuracy, "requested accuracy"),
            Constant("w_1", tail(0), f"norm of all weights, {weights}"),
        ),
        assumptions=(
            Assumption(f"the target has modulus of continuity {formula} in the weighted distance"),
            Assumption(
                "the modulus is nondecreasing and subadditive, so that the target extends to the cube",
                "on a grid" if callable(modulus_of_continuity) else "by its form",
            ),
            Assumption("the functionals separate the objects and take values in [0, 1]"),
        ),
        cited="Galimberti, arXiv 2406.09310: networks on the first N coordinates are universal on compact "
        "sets as N grows; no rate",
        note=note,
        details={"cost": cost(int(value)) if value < math.inf else math.nan},
        arguments={"encoder": encoder, "modulus_of_continuity": modulus_of_continuity, "eps": eps},
        function=hilbert_cube,
    )


def _check_subadditive(omega: Callable[[float], float], widest: float) -> None:
    """Check omega(s + t) <= omega(s) + omega(t) and monotony at distances up to the diameter of the cube."""
    scales = [widest * 2.0**-k for k in range(40)]
    pairs = [(t / 2, t / 2) for t in scales]
    pairs += [
        (widest * i / _GRID, widest * j / _GRID) for i in range(1, _GRID) for j in range(1, _GRID - i + 1)
    ]
    at: dict[float, float] = {}

    def value(t: float) -> float:
        if t not in at:
            with check.naming("modulus_of_continuity"):
                at[t] = float(omega(t))
        return at[t]

    for s, t in pairs:
        whole, parts = value(s + t), (value(s), value(t))
        slack = 1e-9 * abs(whole)
        if whole > sum(parts) + slack:
            check.fail(
                "modulus_of_continuity",
                "a subadditive function, such as a concave one",
                f"omega({s + t:.4g}) = {whole:.4g} > omega({s:.4g}) + omega({t:.4g}) = {sum(parts):.4g}",
            )
        if whole < max(parts) - slack:
            check.fail(
                "modulus_of_continuity",
                "a nondecreasing function",
                f"omega({s + t:.4g}) = {whole:.4g} < {max(parts):.4g} at a smaller distance",
            )


def _modulus(given: Any) -> tuple[Callable[[float], float], str]:
    if callable(given):
        return given, "as given"
    if isinstance(given, (tuple, list)):
        if len(given) != 2:
            check.fail("modulus_of_continuity", "a pair (L, a)", f"{len(given)} numbers")
        constant, exponent = (positive("modulus_of_continuity", v) for v in given)
        if exponent > 1:
            check.fail("modulus_of_continuity", "an exponent of at most 1", exponent)
        return lambda t: constant * t**exponent, f"{constant:.4g} t^{exponent:.4g}"
    lipschitz = positive("modulus_of_continuity", given)
    return lambda t: lipschitz * t, f"{lipschitz:.4g} t"
