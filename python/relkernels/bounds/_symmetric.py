"""Symmetric positive-definite relations: neurons for a given accuracy, from the kernel's spectrum.

Mercer: r(x, y) = sum_i lambda_i e_i(x) e_i(y). Keep d terms: Cauchy-Schwarz bounds the remainder by tau(d) =
sup_x sum_{i>d} lambda_i e_i(x)^2. Let g_i = sqrt(lambda_i) e_i, M_i = sup |g_i|, and phi_i a network within
delta_i of g_i. Then phi_i(x) phi_i(y) - g_i(x) g_i(y) is at most 2 M_i delta_i + delta_i^2, so

    sup |r - <phi, phi>| <= tau(d) + sum_{i<=d} (2 M_i delta_i + delta_i^2).

Suprema and tails may be those of a sample x_1..x_n: then so is the bound. P_d(x)^2 = r(x, x) - sum_{i<=d}
g_i(x)^2 is the squared distance of the section r_x to the span of g_1..g_d in the kernel's space, where each
g_i has norm 1. Both P_d and g_i therefore change by at most ||r_x - r_y|| from y to x. If every section on
the cube is within w of a section of the sample (`section_gap`), then on the cube

    tau(d) <= (tau_sample(d)^(1/2) + w)^2,    M_i <= M_i,sample + w.

With a bound in L2 (Barron's) the same holds in L2(mu x mu) with M_i = sqrt(lambda_i) and tau(d)^2 =
sum_{i>d} lambda_i^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..base import check
from ..spectra import MercerSpectrum, SphereSpectrum, mercer
from ..spectra.operators import diagonal
from ._one_layer import dimension_and_norms, one_layer_bound
from ._section_gap import in_cube
from ._split import cheapest
from .bound import Assumption, Bound, Constant, non_negative, positive

# At most this many harmonics of a spectrum on the sphere are used.
_MOST_HARMONICS = 5000


@dataclass(frozen=True)
class Mercer:
    """The properties of a kernel's leading functions g_i = sqrt(lambda_i) e_i that `symmetric` needs."""

    eigenvalues: np.ndarray  # (d,), decreasing
    sup: np.ndarray  # (d,): sup |g_i|
    mean: np.ndarray  # (d,): L1 norm of e_i, at most 1
    tails: np.ndarray  # (d + 1,): tau
    tails_l2: np.ndarray  # (d + 1,)
    checked: str | None  # how the data was checked
    n_points: int | None = None  # suprema and tails are those of this many points
    height: float = math.nan  # bound of |e_i|, if given

    def on_cube(self, gap: float) -> Mercer:
        """Return suprema and tails that hold where every section is within `gap` of one of the points."""
        return replace(
            self,
            sup=self.sup + gap,
            tails=(np.sqrt(self.tails) + gap) ** 2,
            checked=f"{self.checked}; extended to the cube by a gap of {gap:.3g}",
            n_points=None,
        )


def spectrum(name: str, values: Any) -> np.ndarray:
    """Check that eigenvalues or singular values are finite, >= 0 and decreasing; return them."""
    a = check.numbers(name, values)
    if a.ndim != 1 or len(a) == 0:
        check.fail(name, "at least one value, of shape (d,)", f"shape {a.shape}")
    if not np.isfinite(a).all():
        check.fail(name, "finite values", a[~np.isfinite(a)][0])
    if a.min() < 0:
        check.fail(name, "values >= 0", f"the smallest is {a.min():.6g}")
    if (np.diff(a) > 1e-12 * a[0]).any():
        at = int(np.argmax(np.diff(a)))
        check.fail(name, "decreasing values", f"{a[at]:.6g} before {a[at + 1]:.6g} at index {at}")
    return a


def tails_of(values: np.ndarray, rest: float) -> np.ndarray:
    """Return sum_{i>=d} values_i + rest for d = 0..len."""
    return np.append(np.cumsum(values[::-1])[::-1], 0.0) + rest


def _of_functions(found: MercerSpectrum) -> Mercer:
    """Suprema and tails of eigenfunctions on the points of their spectrum."""
    n = len(found.vectors)
    g = found.vectors * np.sqrt(found.values)
    if len(found.values) == n:
        trace = (g * g).sum(axis=1)
    elif found.kernel is not None and found.points is not None:
        trace = diagonal(found.kernel, found.points)
    else:
        check.fail("kernel", "a spectrum with its kernel and points, or with all eigenvalues", repr(found))
    kept = np.concatenate([np.zeros((n, 1)), np.cumsum(g * g, axis=1)], axis=1)
    tails = np.maximum(trace[:, None] - kept, 0).max(axis=0)
    if len(found.values) == n:
        tails[-1] = 0.0
    # The squares of the eigenvalues that were not computed sum to at most their sum times the last computed
    # one.
    rest = found.tail(len(found.values)) * found.values[-1] if len(found.values) < n else 0.0
    return Mercer(
        found.values,
        np.abs(g).max(axis=0),
        np.abs(found.vectors).mean(axis=0),
        np.minimum.accumulate(tails),
        np.sqrt(tails_of(found.values**2, rest)),
        f"spectrum, suprema and tails on {n} points; smallest eigenvalue {found.values[-1]:.3g}",
        n,
    )


def _of_sphere(found: SphereSpectrum) -> Mercer:
    """Use the addition theorem: the squares of the N_k harmonics of degree k sum to N_k everywhere.

    If only part of a degree is kept, the whole degree counts towards the tail.
    """
    order = np.argsort(-found.values, kind="stable")
    order = order[found.values[order] > 0]
    many = found.multiplicities[order]
    last = int(np.searchsorted(np.cumsum(many), _MOST_HARMONICS)) + 1
    order, many = order[:last], many[:last].astype(np.int64)
    masses = found.values[order] * many
    ends = found.trace - np.cumsum(masses)  # after each degree
    starts = ends + masses
    values, tails = np.repeat(found.values[order], many), np.append(np.repeat(starts, many), ends[-1])
    tails[np.cumsum(many)] = ends
    tails = np.maximum(tails, 0.0)
    # The squares of all eigenvalues sum to the squared norm of the kernel. Without it: degrees that were not
    # computed may have larger eigenvalues than those that were, but none is larger than their sum.
    known = found.squared_norm - float((values**2).sum())
    rest = float(tails[-1]) ** 2 if math.isnan(known) else min(max(known, 0.0), float(tails[-1]) ** 2)
    return Mercer(
        values,
        np.sqrt(np.repeat(masses, many)),
        np.ones_like(values),
        np.minimum.accumulate(tails),
        np.sqrt(tails_of(values**2, rest)),
        f"exact spectrum on the sphere, {len(order)} degrees",
    )


def mercer_of(kernel: Any, points: Any = None, eigenfunction_sup: Any = None, rest: float = 0.0) -> Mercer:
    """Return the functions of a kernel on points, of a spectrum, or of eigenvalues with bounded |e_i|.

    Without a bound of the eigenfunctions, suprema and uniform tails are NaN.
    """
    if isinstance(kernel, Mercer):
        return kernel
    if isinstance(kernel, SphereSpectrum):
        return _of_sphere(kernel)
    if isinstance(kernel, MercerSpectrum):
        return _of_functions(kernel)
    if callable(kernel):
        if points is None:
            check.fail("points", "points (n, d) to ask the kernel about", None)
        x = check.numbers("points", points)
        if x.ndim != 2 or len(x) == 0:
            check.fail("points", "shape (n, d), n >= 1", x.shape)
        return _of_functions(mercer(kernel, x))
    values = spectrum("kernel", kernel)
    height = sup_of_orthonormal("eigenfunction_sup", eigenfunction_sup)
    return Mercer(
        values,
        height * np.sqrt(values),
        np.ones_like(values),
        height**2 * tails_of(values, rest),
        np.sqrt(tails_of(values**2, rest**2)),
        None,
        height=height,
    )


def sup_of_orthonormal(name: str, value: Any) -> float:
    """Return a bound of functions with mean square 1, NaN if there is none."""
    if value is None:
        return math.nan
    height = positive(name, value)
    if height < 1:
        check.fail(name, "at least 1, since the functions have mean square 1", height)
    return height


def where(n_points: int | tuple[int, int] | None) -> str:
    """Return the set on which the accuracy holds, to be added to a quantity; empty for the whole cube."""
    if n_points is None:
        return ""
    count = f"{n_points[0]} x {n_points[1]}" if isinstance(n_points, tuple) else f"{n_points}"
    return f" on the {count} points given"


def height_constant(symbol: str, height: float) -> tuple[Constant, ...]:
    """Return the bound of orthonormal functions as a constant, if it was given."""
    return () if math.isnan(height) else (Constant(f"sup {symbol}", height, "given"),)


def height_assumption(functions: str, height: float) -> tuple[Assumption, ...]:
    """Return the assumption that this bound holds, if it was given."""
    text = f"{functions}, those beyond the values given included, is at most {height:.4g}"
    return () if math.isnan(height) else (Assumption(text),)


def symmetric(
    kernel: Any,
    eps: float,
    *,
    dimension: int,
    norm: Any,
    points: Any = None,
    eigenfunction_sup: float | None = None,
    section_gap: float | None = None,
    rest: float = 0.0,
    one_layer: str | Callable[[float, float], float] = "variation",
    radius: float | None = None,
    constant: float = 1.0,
) -> Bound:
    """Return the neurons with which <phi, phi> is within `eps` of a positive-definite relation.

    Parameters
    ----------
    kernel : callable, MercerSpectrum, SphereSpectrum or array-like
        ``kernel(A, B)`` returns the values between the rows of two arrays and requires `points`. Or the
        result of `relkernels.spectra.mercer` or `mercer_sphere`. Or the eigenvalues, decreasing and >= 0.
    eps : float
        Accuracy, > 0: uniform, or in L2 for ``one_layer="barron"``.
    dimension : int
        Dimension D of the inputs, which are in [-1, 1]^D.
    norm : float or array-like
        Norm of the kernel's sections x -> k(x, y), the largest over y, as returned by `kernel_norm`; the
        functions sqrt(lambda_i) e_i then have norm at most ``norm * mean|e_i| / sqrt(lambda_i)``. An array
        gives the norms of these functions directly. May be infinite: the bound is then vacuous.
    points : array-like of shape (n, D), optional
        Points of the cube at which the kernel is evaluated. Suprema and tails are over these points, and so
        is the accuracy, unless `section_gap` is given.
    eigenfunction_sup : float, optional
        Bound on all ``|e_i|``, >= 1; required if eigenvalues are given, for a uniform accuracy. For cosines
        it is sqrt(2).
    section_gap : float, optional
        With points: largest distance in the kernel's space of a section on the cube to the nearest section of
        the points, as returned by `section_gap`. The accuracy then holds on the whole cube.
    rest : float, default 0.0
        Sum of the eigenvalues beyond the given ones.
    one_layer : {"variation", "klusowski-barron", "barron"} or callable, default "variation"
        Derived uniform bound with explicit constant; Klusowski & Barron 2018; Barron 1993; or
        ``neurons(norm, delta)``.
    radius : float, optional
        Radius of Barron's ball; None means sqrt(D).
    constant : float, default 1.0
        The universal constant of Klusowski & Barron, which their theorem does not specify.

    Returns
    -------
    Bound
        `quantity` tells whether the accuracy holds on the cube or on the points. `value` is the total over
        all retained functions; `details` has the rank, the accuracy and the number of neurons of each, and
        the tail. The split of `eps` is the cheapest.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; for a kernel that is not positive semi-definite the message gives
        the smallest eigenvalue.

    Examples
    --------
    >>> from relkernels import bounds
    >>> bound = bounds.symmetric([0.5, 0.1, 0.001], 0.1, dimension=1, norm=1.0, eigenfunction_sup=2**0.5)
    >>> bound.details["rank"], bound.value
    (2, 457013.0)
    """
    accuracy = positive("eps", eps)
    D, (section,) = dimension_and_norms(dimension, (norm,))
    layer = one_layer_bound(one_layer, D, radius, constant)
    given = points if callable(kernel) else getattr(kernel, "points", None)
    if given is not None:
        in_cube("points", given, D)
    if isinstance(kernel, SphereSpectrum) and kernel.dimension != D:
        check.fail("dimension", f"{kernel.dimension}, that of the sphere's space", D)
    system = mercer_of(kernel, points, eigenfunction_sup, non_negative("rest", rest))
    uniform = layer.norm == "sup"
    if uniform and np.isnan(system.sup).any():
        check.fail("eigenfunction_sup", "a bound of all |e_i|, if eigenvalues are given", None)
    if section_gap is not None:
        gap = non_negative("section_gap", section_gap)
        if system.n_points is None or not uniform:
            check.fail("section_gap", "None unless points are given and the accuracy is uniform", gap)
        system = system.on_cube(gap)
    roots = np.sqrt(system.eigenvalues)
    if isinstance(section, float):
        with np.errstate(divide="ignore", invalid="ignore"):
            norms = np.where(roots > 0, section * system.mean / roots, 0.0 if section == 0 else np.inf)
    else:
        if len(section) != len(roots):
            check.fail("norm", f"{len(roots)} values, one for each eigenvalue", len(section))
        norms = section
    slopes = 2 * (system.sup if uniform else roots)
    tails = system.tails if uniform else system.tails_l2

    def neurons(deltas: np.ndarray, d: int) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            counts = layer.neurons(norms[:d], deltas)
        return np.where(norms[:d] == 0, 2.0, counts)

    split = cheapest(accuracy, tails, slopes, norms, layer.power, neurons)
    note = ""
    if split is None:
        note = f"the eigenvalues given leave a tail of {tails[-1]:.4g}: give more of them"
    elif split.total == math.inf:
        note = "the norm is infinite: this theorem says nothing about the relation"
    details: dict[str, Any] = {"one_layer": layer.name, "norm": layer.norm}
    if split is not None:
        details |= {
            "rank": split.rank,
            "tail": float(tails[split.rank]),
            "deltas": split.deltas,
            "neurons": split.neurons,
            "norms": norms[: split.rank],
            "sup": system.sup[: split.rank],
        }
    return Bound(
        "symmetric",
        f"neurons that suffice{where(system.n_points)}{layer.caveat}",
        math.inf if split is None else split.total,
        "sum_i n_i(delta_i), where tau(d) + sum_{i<=d} (2 M_i delta_i + delta_i^2) = eps",
        r"\min_{d,\delta} \sum_{i\le d} n_i(\delta_i) \text{ with } \tau(d) + \sum_{i\le d}"
        r"(2M_i\delta_i + \delta_i^2) = \varepsilon",
        source=f"derived: Mercer, Cauchy-Schwarz; each function by the one-layer bound '{layer.name}'",
        constants=(
            Constant("eps", accuracy, f"requested accuracy, {'uniform' if uniform else 'in L2'}"),
            Constant("d", details.get("rank", math.inf), "rank, minimised over"),
            Constant("tau(d)", details.get("tail", float(tails[-1])), "truncation error"),
            *height_constant("|e_i|", system.height),
            *layer.constants,
        ),
        assumptions=(
            Assumption("the relation is continuous, symmetric and positive semi-definite", system.checked),
            Assumption("inputs lie in [-1, 1]^D", None),
            Assumption("the norm given bounds that of the kernel's sections (or of each function)", None),
            *height_assumption("every eigenfunction", system.height),
        ),
        cited=layer.cited,
        note=note,
        details=details,
        arguments={
            "kernel": system,
            "eps": eps,
            "dimension": dimension,
            "norm": norm,
            "one_layer": one_layer,
            "radius": radius,
            "constant": constant,
        },
        function=symmetric,
    )
