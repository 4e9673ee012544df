"""Attention that selects the preferred item: the sharpness it needs, and its error.

n items with utilities u_j and values v_j; K is the set of the best, and D_j = u_* - u_j the gap of item j.
Scores s_j are within eta of u_j. The weights are a = softmax(beta s). Then

    sum_{others} exp(beta s_j) <= exp(beta (u_* + eta)) sum_{others} exp(-beta D_j),
    sum_{best}   exp(beta s_j) >= exp(beta (u_* - eta)) sum_{best} exp(-beta D_j),

so the mass of the others is at most t / (1 + t) with t = S / B,

    S = sum_{others} exp(-beta (D_j - 2 eta)),    B = sum_{best} exp(-beta D_j).

If k items share the largest utility, B = k; of items that share it up to a tie, one has it, so B >= 1. If
only the margin m = min_{others} D_j is known, S <= (n - k) exp(-beta (m - 2 eta)). The output sum_j a_j v_j
is a mixture of a point of the convex hull of the best values and one of the hull of the others, so its
distance from the former is at most diam(V) t / (1 + t). With one best item the hull is its value.

Smallest beta: log S is convex in beta, so Newton's method from beta = 0 rises to the first root of t = eps /
(diam - eps), or finds that there is none.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..base import check
from .bound import Assumption, Bound, Constant, non_negative, positive
from .margins import Margin, others_of

_SOURCE = "derived: softmax mass outside the best items; existence of the utility: Debreu's theorem"
_CITED = (
    "inner-product attention approximates selection by any continuous preorder to any accuracy "
    "(Altabaa & Lafferty, arXiv 2402.08856, Theorem 5.1); the published statement has no explicit beta"
)
_WRONG_ORDER = "scores off by half the margin may rank another item first"
_PROFILE = "S = sum_{others} exp(-beta (D_j - 2 eta)), B = number of best, largest over the sets"
_PROFILE_LATEX = r"S = \sum_{\mathrm{others}} e^{-\beta(D_j - 2\eta)},\quad B = |\mathrm{best}|"


def _arguments(
    margin: Any, n: Any, diameter: Any, relation_error: Any, n_best: Any
) -> tuple[float, int, float, float, int]:
    diam = non_negative("diameter", diameter)
    eta = non_negative("relation_error", relation_error)
    m = positive("margin", margin, finite=False)
    if isinstance(margin, Margin):
        most, fewest = int(margin.sizes.max()), int(margin.n_best.min())
        if n is not None and check.integer("n", n, 1, 2**63 - 1) != most:
            check.fail("n", f"None or {most}, the size of the largest set measured", n)
        if n_best is not None and check.integer("n_best", n_best, 1) > fewest:
            check.fail("n_best", f"None or at most {fewest}, the fewest best items measured", n_best)
        return m, most, diam, eta, fewest
    if n is None:
        check.fail("n", "the number of items, unless margin has been measured", None)
    items = check.integer("n", n, 1, 2**63 - 1)
    best = 1 if n_best is None else check.integer("n_best", n_best, 1)
    if best > items:
        check.fail("n_best", f"at most n = {items}", best)
    return m, items, diam, eta, best


def _stated(margin: Any, m: float, n: int, diam: float, eta: float, k: int) -> dict[str, Any]:
    measured = isinstance(margin, Margin)
    how = f"measured by margin_of on {len(margin)} sets" if measured else None
    largest = "largest number" if measured else "number"
    assumptions = [
        Assumption("every other item is lower than the best by at least m", how),
        Assumption("scores lie within eta of the utility, up to a constant per query"),
        Assumption("values lie within diam of one another"),
    ]
    if measured:
        assumptions.append(Assumption("sets with the gaps of those measured"))
    return {
        "constants": (
            Constant("m", m, "margin between the best items and the others"),
            Constant("n", n, f"{largest} of items"),
            Constant("k", k, f"{'least number' if measured else 'number'} of best items"),
            Constant("diam", diam, "diameter of the values"),
            Constant("eta", eta, "largest error of the scores"),
        ),
        "assumptions": tuple(assumptions),
        "source": _SOURCE,
        "cited": _CITED,
    }


def _several_best(margin: Any) -> str:
    """Return a note if the error is not the distance from one value."""
    if isinstance(margin, Margin) and margin.n_best.max() > 1:
        return "some sets have several best items: the error is the distance from the hull of their values"
    return ""


def others_mass(margin: Margin, beta: float, eta: float = 0.0) -> np.ndarray:
    """Return the largest attention (b,) that items other than the best of each set can get."""
    from scipy.special import expit, logsumexp

    gaps, counts, weight = others_of(margin)
    lead = gaps - 2 * eta
    with np.errstate(invalid="ignore", divide="ignore"):
        exponents = np.where((lead == 0) | (beta == 0), 0.0, -beta * lead) + np.log(counts)
        return expit(logsumexp(exponents, axis=1) - np.log(weight))


def temperatures(margin: Margin, fraction: float, eta: float = 0.0) -> np.ndarray:
    """Return for each set (b,) the least beta with at most this fraction of attention outside the best items.

    Infinite if there is none.
    """
    gaps, counts, weight = others_of(margin)
    beta = np.zeros(len(margin))
    if fraction >= 1:
        return beta
    target = math.log(fraction) - math.log1p(-fraction)
    active = np.flatnonzero(counts.sum(axis=1) > 0)
    for _ in range(200):
        if not len(active):
            break
        gap, count, b = gaps[active], counts[active], beta[active]
        # The least gap is taken out of the sum.
        least = np.where(count > 0, gap, np.inf).min(axis=1)
        terms = count * np.exp(-b[:, None] * np.maximum(gap - least[:, None], 0))
        total = terms.sum(axis=1)
        excess = np.log(total) - b * (least - 2 * eta) - np.log(weight[active]) - target
        slope = 2 * eta - (terms * gap).sum(axis=1) / total
        near, stuck = excess <= 1e-13, (slope >= 0) & (excess > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.where(near, np.where((b > 0) & (slope < 0), -2e-13 / slope, 0.0), -excess / slope)
        beta[active] = np.where(stuck, np.inf, b + step)
        active = active[~(near | stuck)]
    return beta


def attention(
    margin: float | Margin,
    n: int | None,
    diameter: float,
    eps: float,
    relation_error: float = 0.0,
    *,
    n_best: int | None = None,
) -> Bound:
    """Return the inverse temperature with which attention is within `eps` of the preferred value.

    Parameters
    ----------
    margin : float or Margin
        Least difference of utility between the best items and the others, > 0. Or the result of `margin_of`:
        the bound then holds for each of its sets and uses all of their gaps, which requires less.
    n : int or None
        Number of items, at least 1. None with a `Margin`, which contains it.
    diameter : float
        Largest distance between two values, >= 0.
    eps : float
        Accuracy, > 0.
    relation_error : float, default 0.0
        Largest error of the scores as utilities, >= 0. If 2 * relation_error >= margin, a temperature may not
        exist: the value is then infinite.
    n_best : int, optional
        Number of items that share the largest utility, by default 1 or as measured. With more than one, the
        error is the distance from the convex hull of their values.

    Returns
    -------
    Bound
        `value` is beta; attention with ``scale=beta`` on these scores has error at most `eps`. With a
        `Margin`, ``details["per_set"]`` has the value for each set.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Notes
    -----
    Derived: the mass outside the best items is at most t / (1 + t), t = ((n - k)/k) exp(-beta (m -
    2 eta)) or the sum over the gaps; require diam t / (1 + t) <= eps and solve for beta.

    Examples
    --------
    >>> from relkernels import bounds
    >>> bounds.attention(margin=1.0, n=3, diameter=1.0, eps=0.5).value  # log 2
    0.6931471805599453
    >>> margin = bounds.margin_of([[3.0, 2.0, 0.0, 0.0, 0.0]])  # three of the others are farther below
    >>> by_gaps = bounds.attention(margin, None, diameter=1.0, eps=0.01).value
    >>> by_margin = bounds.attention(1.0, 5, diameter=1.0, eps=0.01).value
    >>> round(by_gaps, 2), round(by_margin, 2)
    (4.6, 5.98)
    """
    m, items, diam, eta, best = _arguments(margin, n, diameter, relation_error, n_best)
    accuracy = positive("eps", eps)
    gap, note = m - 2 * eta, ""
    details: dict[str, Any] = {}
    if items == best or accuracy >= diam:
        beta, note = 0.0, "every weighting is that accurate"
        if isinstance(margin, Margin):
            details["per_set"] = np.zeros(len(margin))
    elif isinstance(margin, Margin):
        details["per_set"] = temperatures(margin, accuracy / diam, eta)
        beta = float(details["per_set"].max())
        note = f"{_WRONG_ORDER}: no beta is sure to help" if beta == math.inf else _several_best(margin)
    else:
        # log(diam/eps - 1) without overflow for tiny eps.
        numerator = math.log((items - best) / best) + math.log(diam - accuracy) - math.log(accuracy)
        if gap > 0:
            beta = max(0.0, numerator / gap)
        elif numerator <= 0:
            beta, note = 0.0, "uniform weights are that accurate"
        else:
            beta, note = math.inf, f"{_WRONG_ORDER}: no beta helps"
    stated = _stated(margin, m, items, diam, eta, best)
    stated["constants"] += (Constant("eps", accuracy, "requested accuracy"),)
    measured = isinstance(margin, Margin)
    return Bound(
        "attention",
        "inverse temperature beta that suffices",
        beta,
        f"least beta with diam S / (B + S) <= eps, {_PROFILE}"
        if measured
        else "beta = max(0, [log((n - k)/k) + log(diam/eps - 1)] / (m - 2 eta))",
        rf"\operatorname{{diam}}V\,\frac{{S}}{{B + S}} \le \varepsilon,\quad {_PROFILE_LATEX}"
        if measured
        else r"\beta = \max\left(0, \frac{\log\frac{n-k}{k} + \log\left(\frac{\operatorname{diam}V}"
        r"{\varepsilon} - 1\right)}{m - 2\eta}\right)",
        note=note,
        details=details,
        arguments={
            "margin": margin,
            "n": n,
            "diameter": diameter,
            "eps": eps,
            "relation_error": relation_error,
            "n_best": n_best,
        },
        function=attention,
        **stated,
    )


def attention_error(
    margin: float | Margin,
    n: int | None,
    diameter: float,
    beta: float,
    relation_error: float = 0.0,
    *,
    n_best: int | None = None,
) -> Bound:
    """Return the error that attention at inverse temperature `beta` cannot exceed.

    Parameters
    ----------
    margin : float or Margin
        Least difference of utility between the best items and the others, > 0. Or the result of `margin_of`:
        the bound then holds for each of its sets and uses all of their gaps, which makes it smaller.
    n : int or None
        Number of items, at least 1. None with a `Margin`, which contains it.
    diameter : float
        Largest distance between two values, >= 0.
    beta : float
        Inverse temperature, >= 0; may be infinite.
    relation_error : float, default 0.0
        Largest error of the scores as utilities, >= 0.
    n_best : int, optional
        Number of items that share the largest utility, by default 1 or as measured.

    Returns
    -------
    Bound
        `value` is the largest distance between attention's output and the convex hull of the best values
        (with one best item: its value). With a `Margin`, ``details["per_set"]`` has the value for each set.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Notes
    -----
    Derived as for `attention`; it holds for every sign of m - 2 eta.

    Examples
    --------
    >>> from relkernels import bounds
    >>> bounds.attention_error(margin=1.0, n=2, diameter=1.0, beta=0.0).value
    0.5
    """
    m, items, diam, eta, best = _arguments(margin, n, diameter, relation_error, n_best)
    inverse_temperature = non_negative("beta", beta, finite=False)
    gap, note = m - 2 * eta, ""
    details: dict[str, Any] = {}
    if isinstance(margin, Margin):
        details["per_set"] = diam * others_mass(margin, inverse_temperature, eta)
        error, note = float(details["per_set"].max()), _several_best(margin)
    elif items == best:
        error, note = 0.0, "there is no other item"
    else:
        # 1 / (1 + 1/t), stable for every t; 0 * inf is 0 here: no sharpening without beta.
        product = 0.0 if inverse_temperature == 0 or gap == 0 else inverse_temperature * gap
        log_t = math.log((items - best) / best) - product
        mass = 1 / (1 + math.exp(-log_t)) if log_t > -700 else 0.0 if log_t == -math.inf else math.exp(log_t)
        error = diam * mass
    if gap <= 0 and items > best:
        note = f"{_WRONG_ORDER}: a larger beta does not help"
    stated = _stated(margin, m, items, diam, eta, best)
    stated["constants"] += (Constant("beta", inverse_temperature, "inverse temperature used"),)
    measured = isinstance(margin, Margin)
    return Bound(
        "attention_error",
        "largest error of attention",
        error,
        f"error <= diam S / (B + S), {_PROFILE}"
        if measured
        else "error <= diam t / (1 + t), t = ((n - k)/k) exp(-beta (m - 2 eta))",
        rf"\left\|\sum_j a_j v_j - v_*\right\| \le \operatorname{{diam}}V\,\frac{{S}}{{B + S}},\quad "
        rf"{_PROFILE_LATEX}"
        if measured
        else r"\left\|\sum_j a_j v_j - v_*\right\| \le \operatorname{diam}V\,\frac{t}{1 + t},\quad "
        r"t = \frac{n-k}{k}\, e^{-\beta(m - 2\eta)}",
        note=note,
        details=details,
        arguments={
            "margin": margin,
            "n": n,
            "diameter": diameter,
            "beta": beta,
            "relation_error": relation_error,
            "n_best": n_best,
        },
        function=attention_error,
        **stated,
    )
