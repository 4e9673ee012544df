"""Asymmetric relations: neurons of two maps for a given accuracy, from the singular spectrum.

Schmidt: r(x, y) = sum_i sigma_i u_i(x) v_i(y) in L2(mu x nu). Let a_i = sqrt(sigma_i) u_i, b_i =
sqrt(sigma_i) v_i, A_i = sup |a_i|, B_i = sup |b_i|, tau(d) = sup |r - sum_{i<=d} a_i b_i|, and phi_i, psi_i
networks within delta_i of a_i and b_i. Then

    sup |r - <phi, psi>| <= tau(d) + sum_{i<=d} ((A_i + B_i) delta_i + delta_i^2).

The series converges in L2. For a relation that is only continuous it need not converge uniformly (for r(x -
y) on the circle it is a Fourier series, which may diverge), so tau(d) need not tend to 0: then the bound is
infinite at every rank, although two maps approximate the relation.
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
from ._section_gap import in_cube
from ._split import cheapest
from ._symmetric import height_assumption, height_constant, spectrum, sup_of_orthonormal, tails_of, where
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
    n_points: tuple[int, int] | None = None  # suprema and tails are those of this many points
    height: float = math.nan  # bound of |u_i| and |v_i|, if given


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
        (n, m),
    )


def schmidt_of(relation: Any, points: Any = None, function_sup: Any = None, rest: float = 0.0) -> Schmidt:
    """Return the pairs of functions of a relation on points, of a spectrum, or of bounded functions.

    Without a bound of the functions, suprema and uniform tails are NaN.
    """
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
    height = sup_of_orthonormal("function_sup", function_sup)
    sup, ones = height * np.sqrt(s), np.ones_like(s)
    tails_l2 = np.sqrt(tails_of(s**2, rest**2))
    return Schmidt(s, sup, sup, ones, ones, height**2 * tails_of(s, rest), tails_l2, None, height=height)


def asymmetric(
    relation: Any,
    eps: float,
    *,
    dimensions: tuple[int, int],
    norms: tuple[Any, Any],
    points: Any = None,
    function_sup: float | None = None,
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
        Points of the cubes at which the relation is evaluated, of shapes (n, d_x) and (m, d_y). Suprema and
        tails are over these points, and so is the accuracy.
    function_sup : float, optional
        Bound on all ``|u_i|`` and ``|v_i|``, >= 1; required if singular values are given, for a uniform
        accuracy.
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
    >>> values, options = [0.5, 0.1, 0.001], {"dimensions": (1, 1), "norms": (1.0, 1.0)}
    >>> bound = bounds.asymmetric(values, 0.1, function_sup=2**0.5, **options)
    >>> bound.details["rank"], bound.value
    (2, 914026.0)
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
    if callable(relation):
        for i, D in enumerate(dimensions):
            in_cube(f"points[{i}]", points[i], D)
    if layers[0].norm == "sup" and np.isnan(system.sup_x).any():
        check.fail("function_sup", "a bound of all |u_i| and |v_i|, if singular values are given", None)
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
        f"neurons that suffice, both maps{where(system.n_points)}{layers[0].caveat}",
        math.inf if split is None else split.total,
        "sum_i n_i(delta_i) + n'_i(delta_i), tau(d) + sum_{i<=d} ((A_i + B_i) delta_i + delta_i^2) = eps",
        r"\min_{d,\delta} \sum_{i\le d} n_i(\delta_i) + n'_i(\delta_i) \text{ with } \tau(d) + \sum_{i\le d}"
        r"\left((A_i+B_i)\delta_i + \delta_i^2\right) = \varepsilon",
        source=f"derived: Schmidt decomposition; each function by the one-layer bound '{layers[0].name}'",
        constants=(
            Constant("eps", accuracy, f"requested accuracy, {'uniform' if uniform else 'in L2'}"),
            Constant("d", details.get("rank", math.inf), "rank, minimised over"),
            Constant("tau(d)", details.get("tail", float(tails[-1])), "truncation error"),
            *height_constant("|u_i|, |v_i|", system.height),
            *layers[0].constants,
        ),
        assumptions=(
            Assumption("the relation is continuous", system.checked),
            Assumption("inputs lie in cubes [-1, 1]^D", None),
            Assumption("the norms given bound those of the relation's sections (or of each function)", None),
            *height_assumption("every singular function", system.height),
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
