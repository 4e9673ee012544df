"""Asymmetric relations: neurons of two maps for a given accuracy, from the singular spectrum.

Schmidt: r(x, y) = sum_i sigma_i u_i(x) v_i(y) in L2(mu x nu). Let a_i = sqrt(sigma_i) u_i, b_i =
sqrt(sigma_i) v_i, A_i = sup |a_i|, B_i = sup |b_i|, tau(d) = sup |r - sum_{i<=d} a_i b_i|, and phi_i, psi_i
networks within delta_i of a_i and b_i. Then

    sup |r - <phi, psi>| <= tau(d) + sum_{i<=d} ((A_i + B_i) delta_i + delta_i^2).

`symmetric_floor` bounds the error of a symmetric network on an asymmetric relation from below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base import check
from ..base.describe import described
from ..spectra import SchmidtSpectrum, schmidt
from ..spectra.operators import evaluate
from ._one_layer import dimension_and_norms, one_layer_bound
from ._split import cheapest
from ._symmetric import spectrum, tails_of
from .bound import Assumption, Bound, Constant, non_negative, positive


@dataclass(frozen=True)
class Schmidt:
    """The properties of a relation's leading pairs of functions that `asymmetric` needs."""

    singular_values: np.ndarray  # (d,), decreasing
    sup_x: np.ndarray  # (d,): sup |a_i|
    sup_y: np.ndarray
    mean_x: np.ndarray  # (d,): L1 norm of u_i
    mean_y: np.ndarray
    tails: np.ndarray  # (d + 1,)
    tails_l2: np.ndarray
    checked: str | None


def _of_values(values: np.ndarray, found: SchmidtSpectrum) -> Schmidt:
    s = found.values
    a, b = found.left * np.sqrt(s), found.right * np.sqrt(s)
    residual, tails = values.copy(), [np.abs(values).max()]
    for i in range(len(s)):
        residual -= np.outer(a[:, i], b[:, i])
        tails.append(np.abs(residual).max())
    n, m = values.shape
    return Schmidt(
        s,
        np.abs(a).max(axis=0),
        np.abs(b).max(axis=0),
        np.abs(found.left).mean(axis=0),
        np.abs(found.right).mean(axis=0),
        np.array(tails),
        np.sqrt(tails_of(s**2, float((residual**2).mean()))),
        f"singular values, suprema and tails on {n} x {m} points",
    )


def schmidt_of(relation: Any, points: Any, function_sup: Any, rest: float) -> Schmidt:
    """Return the pairs of functions of a relation on points, of a spectrum, or of bounded functions."""
    if isinstance(relation, Schmidt):
        return relation
    if isinstance(relation, SchmidtSpectrum):
        n, m = len(relation.left), len(relation.right)
        if len(relation.values) < min(n, m):
            check.fail("relation", f"a spectrum of all {min(n, m)} singular values", len(relation.values))
        return _of_values((relation.left * relation.values) @ relation.right.T, relation)
    if callable(relation):
        if points is None:
            check.fail("points", "a pair of arrays (n, d_x) and (m, d_y) to ask the relation about", None)
        if not isinstance(points, (tuple, list)) or len(points) != 2:
            check.fail("points", "a pair of arrays (n, d_x) and (m, d_y)", type(points).__name__)
        x, y = (check.numbers(f"points[{i}]", p) for i, p in enumerate(points))
        values = evaluate(relation, x, y)
        if values.size == 0:
            check.fail("points", "at least one point on each side", values.shape)
        return _of_values(values, schmidt(values))
    s = spectrum("relation", relation)
    height = positive("function_sup", function_sup)
    sup, ones = height * np.sqrt(s), np.ones_like(s)
    tails_l2 = np.sqrt(tails_of(s**2, rest**2))
    return Schmidt(s, sup, sup, ones, ones, height**2 * tails_of(s, rest), tails_l2, None)


def asymmetric(
    relation: Any,
    eps: float,
    *,
    dimensions: tuple[int, int],
    norms: tuple[Any, Any],
    points: Any = None,
    function_sup: float = 1.0,
    rest: float = 0.0,
    one_layer: str | Callable[[float, float], float] = "variation",
    radius: float | None = None,
    constant: float = 1.0,
) -> Bound:
    """Return the neurons, of both maps together, with which <phi, psi> is within `eps` of a relation.

    Parameters
    ----------
    relation : callable, SchmidtSpectrum or array-like
        ``relation(A, B)`` returns the values between the rows of two arrays and requires `points`. Or the
        result of `relkernels.spectra.schmidt`. Or the singular values, decreasing and >= 0.
    eps : float
        Accuracy, > 0: uniform, or in L2 for ``one_layer="barron"``.
    dimensions : pair of int
        Dimensions of x and of y, which are in cubes [-1, 1]^D.
    norms : pair of float or array-like
        Norm of x -> r(x, y), the largest over y, and of y -> r(x, y), the largest over x; or the norms of
        the functions a_i and of the b_i. May be infinite: the bound is then vacuous.
    points : pair of array-like, optional
        Points at which the relation is evaluated, of shapes (n, d_x) and (m, d_y).
    function_sup : float, default 1.0
        Bound on all ``|u_i|`` and ``|v_i|``, if singular values are given.
    rest : float, default 0.0
        Sum of the singular values beyond the given ones.
    one_layer, radius, constant
        As in `symmetric`.

    Returns
    -------
    Bound
        `value` is the total of both maps; `details` is as in `symmetric`, with ``neurons`` of phi and of psi.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> from relkernels import bounds
    >>> bound = bounds.asymmetric([0.5, 0.1, 0.001], 0.1, dimensions=(1, 1), norms=(1.0, 1.0))
    >>> bound.details["rank"], bound.value
    (2, 476958.0)
    """
    accuracy = positive("eps", eps)
    if not isinstance(dimensions, (tuple, list)) or len(dimensions) != 2:
        check.fail("dimensions", "a pair of integers", described(dimensions))
    for i, D in enumerate(dimensions):
        check.integer(f"dimensions[{i}]", D, 1)
    if not isinstance(norms, (tuple, list)) or len(norms) != 2:
        check.fail("norms", "a pair: for x and for y", repr(norms))
    sides = [
        dimension_and_norms(D, (n,), (name,))
        for D, n, name in zip(dimensions, norms, ("norms[0]", "norms[1]"), strict=True)
    ]
    layers = [one_layer_bound(one_layer, D, radius, constant) for D, _ in sides]
    system = schmidt_of(relation, points, function_sup, non_negative("rest", rest))
    roots = np.sqrt(system.singular_values)
    functions = []
    for (_, (section,)), mean, name in zip(
        sides, (system.mean_y, system.mean_x), ("norms[0]", "norms[1]"), strict=True
    ):
        if isinstance(section, float):
            with np.errstate(divide="ignore", invalid="ignore"):
                functions.append(np.where(roots > 0, section * mean / roots, 0.0 if section == 0 else np.inf))
        elif len(section) == len(roots):
            functions.append(section)
        else:
            check.fail(name, f"{len(roots)} values, one for each singular value", len(section))
    uniform = layers[0].norm == "sup"
    slopes = system.sup_x + system.sup_y if uniform else 2 * roots
    tails = system.tails if uniform else system.tails_l2
    power = max(layer.power for layer in layers)
    costs = (functions[0] ** power + functions[1] ** power) ** (1 / power)

    def counts(deltas: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
        sides = []
        for layer, f in zip(layers, functions, strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                n = layer.neurons(f[:d], deltas)
            sides.append(np.where(f[:d] == 0, 2.0, n))
        return sides[0], sides[1]

    split = cheapest(accuracy, tails, slopes, costs, power, lambda deltas, d: np.add(*counts(deltas, d)))
    note = ""
    if split is None:
        note = f"the singular values given leave a tail of {tails[-1]:.4g}: give more of them"
    elif split.total == math.inf:
        note = "a norm is infinite: this theorem says nothing about the relation"
    details: dict[str, Any] = {"one_layer": layers[0].name, "norm": layers[0].norm}
    if split is not None:
        finite = split.total < math.inf and split.rank > 0
        details |= {
            "rank": split.rank,
            "tail": float(tails[split.rank]),
            "deltas": split.deltas,
            "neurons": counts(split.deltas, split.rank) if finite else (split.neurons, split.neurons),
            "sup": (system.sup_x[: split.rank], system.sup_y[: split.rank]),
        }
    return Bound(
        "asymmetric",
        "neurons that suffice, both maps",
        math.inf if split is None else split.total,
        "sum_i n_i(delta_i) + n'_i(delta_i), tau(d) + sum_{i<=d} ((A_i + B_i) delta_i + delta_i^2) = eps",
        r"\min_{d,\delta} \sum_{i\le d} n_i(\delta_i) + n'_i(\delta_i) \text{ with } \tau(d) + \sum_{i\le d}"
        r"\left((A_i+B_i)\delta_i + \delta_i^2\right) = \varepsilon",
        source=f"derived: Schmidt decomposition; each function by the one-layer bound '{layers[0].name}'",
        constants=(
            Constant("eps", accuracy, f"requested accuracy, {'uniform' if uniform else 'in L2'}"),
            Constant("d", details.get("rank", math.inf), "rank, minimised over"),
            Constant("tau(d)", details.get("tail", float(tails[-1])), "truncation error"),
            *layers[0].constants,
        ),
        assumptions=(
            Assumption("the relation is continuous", system.checked),
            Assumption("inputs lie in cubes [-1, 1]^D", None),
            Assumption("the norms given bound those of the relation's sections (or of each function)", None),
        ),
        cited=layers[0].cited,
        note=note,
        details=details,
        arguments={
            "relation": system,
            "eps": eps,
            "dimensions": dimensions,
            "norms": norms,
            "one_layer": one_layer,
            "radius": radius,
            "constant": constant,
        },
        function=asymmetric,
    )


def symmetric_floor(values: Any, norm: str = "sup") -> Bound:
    """Return a lower bound on the error of every symmetric network <phi, phi> on a relation.

    Parameters
    ----------
    values : array-like of shape (n, n)
        Relation values r(x_i, x_j).
    norm : {"sup", "l2"}, default "sup"
        Largest error, or root mean square over all pairs.

    Returns
    -------
    Bound

    Raises
    ------
    ValueError
        If `values` is not a square matrix of finite numbers.

    Notes
    -----
    Derived. s(x, y) = <phi(x), phi(y)> is symmetric, so
    ``|r(x, y) - s| + |r(y, x) - s| >= |r(x, y) - r(y, x)|``, and one of the two errors is at least half of
    that; on the diagonal s >= 0, so the error is at least -r(x, x). In L2 the antisymmetric and symmetric
    parts are orthogonal, and s is positive semi-definite, so the squares add.

    Examples
    --------
    >>> from relkernels import bounds
    >>> bounds.symmetric_floor([[0.0, 1.0], [-1.0, 0.0]]).value
    1.0
    """
    r = check.numbers("values", values)
    if r.ndim != 2 or r.shape[0] != r.shape[1] or r.size == 0:
        check.fail("values", "a square matrix", f"shape {r.shape}")
    if not np.isfinite(r).all():
        check.fail("values", "finite values", "NaN or infinity")
    kind = check.choice("norm", norm, ("sup", "l2"))
    skew = (r - r.T) / 2
    eigenvalues = np.linalg.eigvalsh((r + r.T) / 2)
    negative = np.minimum(eigenvalues, 0)
    if kind == "sup":
        floor = max(np.abs(skew).max(), -np.diag(r).min(), 0.0)
    else:
        floor = math.sqrt((skew**2).sum() + (negative**2).sum()) / len(r)
    return Bound(
        "symmetric_floor",
        "error that no symmetric network can go below",
        floor,
        "max(sup |r(x,y) - r(y,x)| / 2, sup -r(x,x))"
        if kind == "sup"
        else "sqrt(||antisymmetric part||^2 + ||negative part||^2) / n",
        r"\max\left(\tfrac12\sup|r(x,y)-r(y,x)|,\ \sup -r(x,x)\right)"
        if kind == "sup"
        else r"\tfrac1n\sqrt{\|r_-\|_F^2 + \sum_{\lambda_i<0}\lambda_i^2}",
        source="derived: <phi, phi> is symmetric positive semi-definite, so these parts remain",
        constants=(
            Constant("antisymmetric", float(np.abs(skew).max()), "largest |r(x,y) - r(y,x)| / 2"),
            Constant("lambda_min", float(eigenvalues[0]), "smallest eigenvalue of the symmetric part"),
        ),
        assumptions=(Assumption("values on the pairs given", f"{len(r)} x {len(r)} pairs"),),
        arguments={"values": r, "norm": norm},
        function=symmetric_floor,
    )
