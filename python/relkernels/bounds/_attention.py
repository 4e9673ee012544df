"""Attention that selects the preferred item: the sharpness it needs, and its error.

n items with utilities u_j and values v_j; the k best have the largest utility, and every other is lower by at
least the margin m > 0. Scores s_j are within eta of u_j. The weights are a = softmax(beta s). Then

    sum_{others} exp(beta s_j) <= (n - k) exp(beta (u_* - m + eta)),
    sum_{best}   exp(beta s_j) >=       k exp(beta (u_* - eta)),

so the mass of the others is at most t / (1 + t) with t = ((n - k)/k) exp(-beta (m - 2 eta)). The output
sum_j a_j v_j is a mixture of a point of the convex hull of the best values and one of the hull of the
others, so its distance from the former is at most diam(V) t / (1 + t). With one best item (k = 1) the hull
is its value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base import check
from ..base.describe import described
from .bound import Assumption, Bound, Constant, non_negative, positive

_SOURCE = "derived: softmax mass outside the best items; existence of the utility: Debreu's theorem"
_CITED = (
    "inner-product attention approximates selection by any continuous preorder to any accuracy "
    "(Altabaa & Lafferty, arXiv 2402.08856); the published statement has no explicit beta"
)


def _arguments(
    margin: Any, n: Any, diameter: Any, relation_error: Any, n_best: Any
) -> tuple[float, int, float, float, int]:
    m = positive("margin", margin, finite=False)
    items = check.integer("n", n, 1, 2**63 - 1)
    diam = non_negative("diameter", diameter)
    eta = non_negative("relation_error", relation_error)
    best = check.integer("n_best", n_best, 1)
    if best > items:
        check.fail("n_best", f"at most n = {items}", best)
    return m, items, diam, eta, best


def _stated(m: float, n: int, diam: float, eta: float, k: int, measured: bool) -> dict[str, Any]:
    how = "measured by margin_of on the sets given" if measured else None
    return {
        "constants": (
            Constant("m", m, "margin between the best items and the others"),
            Constant("n", n, "number of items"),
            Constant("k", k, "number of best items"),
            Constant("diam", diam, "diameter of the values"),
            Constant("eta", eta, "largest error of the scores"),
        ),
        "assumptions": (
            Assumption("every other item is lower than the best by at least m", how),
            Assumption("scores lie within eta of the utility, up to a constant per query"),
            Assumption("values lie within diam of one another"),
        ),
        "source": _SOURCE,
        "cited": _CITED,
    }


def attention(
    margin: float | Margin,
    n: int,
    diameter: float,
    eps: float,
    relation_error: float = 0.0,
    *,
    n_best: int = 1,
) -> Bound:
    """Return the inverse temperature with which attention is within `eps` of the preferred value.

    Parameters
    ----------
    margin : float or Margin
        Least difference of utility between the best items and the others, > 0; see `margin_of`.
    n : int
        Number of items, at least 1.
    diameter : float
        Largest distance between two values, >= 0.
    eps : float
        Accuracy, > 0.
    relation_error : float, default 0.0
        Largest error of the scores as utilities, >= 0. If 2 * relation_error >= margin, no
        temperature suffices and the value is infinite.
    n_best : int, default 1
        Number of items that share the largest utility. With more than one, the error is the distance
        from the convex hull of their values.

    Returns
    -------
    Bound
        `value` is beta; attention with ``scale=beta`` on these scores has error at most `eps`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Notes
    -----
    Derived: the mass outside the best items is at most t / (1 + t), t = ((n - k)/k) exp(-beta (m -
    2 eta)); require diam t / (1 + t) <= eps and solve for beta.

    Examples
    --------
    >>> from relkernels import bounds
    >>> bounds.attention(margin=1.0, n=3, diameter=1.0, eps=0.5).value  # log 2
    0.6931471805599453
    """
    m, items, diam, eta, best = _arguments(margin, n, diameter, relation_error, n_best)
    accuracy = positive("eps", eps)
    gap, note = m - 2 * eta, ""
    if items == best or accuracy >= diam:
        beta, note = 0.0, "every weighting is that accurate"
    else:
        # log(diam/eps - 1) without overflow for tiny eps.
        numerator = math.log((items - best) / best) + math.log(diam - accuracy) - math.log(accuracy)
        if gap > 0:
            beta = max(0.0, numerator / gap)
        elif numerator <= 0:
            beta, note = 0.0, "uniform weights are that accurate"
        else:
            beta, note = math.inf, "scores off by half the margin may rank another item first: no beta helps"
    stated = _stated(m, items, diam, eta, best, isinstance(margin, Margin))
    stated["constants"] += (Constant("eps", accuracy, "requested accuracy"),)
    return Bound(
        "attention",
        "inverse temperature beta that suffices",
        beta,
        "beta = max(0, [log((n - k)/k) + log(diam/eps - 1)] / (m - 2 eta))",
        r"\beta = \max\left(0, \frac{\log\frac{n-k}{k} + \log\left(\frac{\operatorname{diam}V}"
        r"{\varepsilon} - 1\right)}{m - 2\eta}\right)",
        note=note,
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
    n: int,
    diameter: float,
    beta: float,
    relation_error: float = 0.0,
    *,
    n_best: int = 1,
) -> Bound:
    """Return the error that attention at inverse temperature `beta` cannot exceed.

    Parameters
    ----------
    margin : float or Margin
        Least difference of utility between the best items and the others, > 0; see `margin_of`.
    n : int
        Number of items, at least 1.
    diameter : float
        Largest distance between two values, >= 0.
    beta : float
        Inverse temperature, >= 0; may be infinite.
    relation_error : float, default 0.0
        Largest error of the scores as utilities, >= 0.
    n_best : int, default 1
        Number of items that share the largest utility.

    Returns
    -------
    Bound
        `value` is the largest distance between attention's output and the convex hull of the best values
        (with one best item: its value).

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
    if items == best:
        mass, note = 0.0, "there is no other item"
    else:
        # 1 / (1 + 1/t), stable for every t; 0 * inf is 0 here: no sharpening without beta.
        product = 0.0 if inverse_temperature == 0 or gap == 0 else inverse_temperature * gap
        log_t = math.log((items - best) / best) - product
        mass = 1 / (1 + math.exp(-log_t)) if log_t > -700 else 0.0 if log_t == -math.inf else math.exp(log_t)
        if gap <= 0:
            note = "scores off by half the margin may rank another item first: a larger beta does not help"
    stated = _stated(m, items, diam, eta, best, isinstance(margin, Margin))
    stated["constants"] += (Constant("beta", inverse_temperature, "inverse temperature used"),)
    return Bound(
        "attention_error",
        "largest error of attention",
        diam * mass,
        "error <= diam t / (1 + t), t = ((n - k)/k) exp(-beta (m - 2 eta))",
        r"\left\|\sum_j a_j v_j - v_*\right\| \le \operatorname{diam}V\,\frac{t}{1+t},\quad "
        r"t = \frac{n-k}{k}\, e^{-\beta(m - 2\eta)}",
        note=note,
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


@dataclass(frozen=True)
class Margin:
    """Margins measured on sets of items; accepted as a number (the smallest margin).

    Attributes
    ----------
    value : float
        The least of `per_set`.
    per_set : ndarray of shape (b,)
        Margin of each set; infinite if all its items are best.
    n_best : ndarray of shape (b,)
        Number of best items in each set.
    sizes : ndarray of shape (b,)
        Items in each set.
    """

    value: float
    per_set: np.ndarray
    n_best: np.ndarray
    sizes: np.ndarray

    def __float__(self) -> float:
        return self.value


def margin_of(
    utility: Callable[..., Any] | Sequence[Any] | np.ndarray,
    sets: Sequence[Any] | np.ndarray | None = None,
    queries: Sequence[Any] | np.ndarray | None = None,
    *,
    tie: float = 0.0,
) -> Margin:
    """Return the margin between the best and the other items, measured on sets of items.

    Parameters
    ----------
    utility : callable or array-like
        ``utility(items)``, or ``utility(query, items)`` if `queries` are given, returns the utilities
        of the items of one set, shape (n,). Or the utilities themselves: an array of shape (b, n), or b
        sequences of any lengths.
    sets : array-like of shape (b, n, d), or b arrays of shape (n_i, d), optional
        The sets; required if `utility` is callable.
    queries : array-like of b queries, optional
    tie : float, default 0.0
        Utilities within this distance of the largest count as largest.

    Returns
    -------
    Margin
        Its `value` is the least margin over all sets, infinite if all items of every set are best.

    Raises
    ------
    TypeError, ValueError
        If there are no sets, a set is empty, or utilities are not finite or not one per item.

    Examples
    --------
    >>> from relkernels import bounds
    >>> margin = bounds.margin_of([[0.0, 1.0, 0.25], [2.0, 2.0]])
    >>> margin.value, margin.per_set, margin.n_best
    (0.75, array([0.75,  inf]), array([1, 2]))
    """
    width = non_negative("tie", tie)
    for name, given in (("utility", utility), ("sets", sets), ("queries", queries)):
        if given is not None and not (name == "utility" and callable(given)):
            check.sequence(name, given)
    if utility is None:
        raise TypeError("utility: expected a callable or the utilities of each set, got None")
    if callable(utility):
        if sets is None:
            check.fail("sets", "the sets of items that utility is asked about", None)
        if queries is not None and len(queries) != len(sets):
            check.fail("queries", f"{len(sets)} queries, one for each set", len(queries))
        function = utility
        rows: Sequence[Any] | np.ndarray = [
            function(items) if queries is None else function(queries[i], items)
            for i, items in enumerate(sets)
        ]
        expected: list[int] | None = [len(items) for items in sets]
    else:
        rows = utility
        expected = (
            None if sets is None else [len(check.sequence(f"sets[{i}]", s)) for i, s in enumerate(sets)]
        )
        if queries is not None:
            check.fail("queries", "None where utility is not a callable", described(queries))
    if len(rows) == 0:
        check.fail("sets", "at least one set", "none")
    if expected is not None and len(expected) != len(rows):
        check.fail("sets", f"{len(rows)} sets, one for each row of utility", len(expected))
    margins, best, sizes = [], [], []
    for i, row in enumerate(rows):
        u = check.numbers(f"utility of set {i}", row)
        if u.ndim != 1 or len(u) == 0 or (expected is not None and len(u) != expected[i]):
            wanted = "(n,), n >= 1" if expected is None else f"({expected[i]},), one utility an item"
            check.fail(f"utility of set {i}", f"shape {wanted}", u.shape)
        if not np.isfinite(u).all():
            check.fail(f"utility of set {i}", "finite values", u[~np.isfinite(u)][0])
        top = u.max()
        others = u[u < top - width]
        margins.append(top - others.max() if len(others) else math.inf)
        best.append(len(u) - len(others))
        sizes.append(len(u))
    per_set = np.array(margins)
    return Margin(float(per_set.min()), per_set, np.array(best), np.array(sizes))
