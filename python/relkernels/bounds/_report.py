"""`report`: the measured error of a fitted model beside every bound that applies to it.

The theorems bound the error over a region, so the search for the largest error is not limited to the given
pairs: it is maximised over the bounding box of the data, from the worst of these pairs and of random ones. No
search is sure to find the largest; where the smoothness of the target is known, `certify` bounds it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base import check
from ..spectra import mercer
from ._asymmetric import asymmetric, schmidt_of
from ._certify import Certificate, certify
from ._symmetric import mercer_of, symmetric, tails_of
from ._symmetric_floor import symmetric_floor
from .bound import Assumption, Bound, Constant
from .certificates.relations import relation_on_cells
from .models import Relation, relation_of

# Pairs from which the error is maximised, at least this fraction of the box apart in some coordinate.
_STARTS, _APART = 12, 0.05
# Random points per side, all pairs of which are candidates.
_SAMPLE = 128
# Pairs of cells of the certificate: a few seconds.
_CELLS = 1 << 22
# Objects on which spectra are computed.
_MOST = 512


@dataclass(frozen=True)
class Comparison:
    """A bound and the measured value; an upper bound holds if `ratio` <= 1, a lower bound if `ratio` >= 1."""

    bound: Bound
    side: str  # "upper" or "lower"
    measured: float

    @property
    def ratio(self) -> float:
        """Measured error over the bound."""
        value = self.bound.value
        if value == 0:
            return 1.0 if self.measured == 0 else math.inf
        return self.measured / value

    @property
    def holds(self) -> bool:
        """Tell whether the measurement is on the right side of the bound, up to rounding."""
        slack = 1e-9
        if self.side == "upper":
            return self.measured <= self.bound.value * (1 + slack)
        return self.measured >= self.bound.value * (1 - slack)


@dataclass(frozen=True)
class Report:
    """Errors of a fitted model, and the bounds that apply.

    Attributes
    ----------
    found : float
        Largest error found, over the bounding boxes of X and Y if the target is a function or a kernel.
    sup_on_pairs : float
        Largest error on the pairs given.
    l2 : float
        Root mean square error on the pairs given.
    worst : tuple of ndarray
        The pair (x, y) at which it was found.
    n_neurons : int or None
        Hidden units of the model, if known.
    comparisons : tuple of Comparison
    certificate : Certificate or None
        Bound of the error over these boxes, if the smoothness of the target is known.
    """

    found: float
    sup_on_pairs: float
    l2: float
    worst: tuple[np.ndarray, np.ndarray]
    n_neurons: int | None
    comparisons: tuple[Comparison, ...]
    certificate: Certificate | None = None

    @property
    def sup(self) -> float:
        """The largest error found, under its deprecated name: use `found`."""
        warnings.warn("Report.sup is deprecated: use found", FutureWarning, stacklevel=2)
        return self.found

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Reports that were pickled before `sup` was renamed.
        state = {"found" if name == "sup" else name: value for name, value in state.items()}
        self.__dict__.update({"certificate": None, **state})

    def _summary(self) -> str:
        largest = f"largest error found {self.found:.4g} (on the pairs given {self.sup_on_pairs:.4g})"
        certain = "" if self.certificate is None else f", certainly at most {self.certificate.upper:.4g}"
        return f"{largest}{certain}, rms error {self.l2:.4g}"

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        return [
            (
                c.bound.name,
                f"{c.side}: {c.bound.quantity}",
                f"{c.bound.value:.4g}",
                f"{c.measured:.4g}",
                f"{c.ratio:.3g}",
            )
            for c in self.comparisons
        ]

    def __str__(self) -> str:
        lines = [self._summary()]
        for name, quantity, value, measured, ratio in self._rows():
            lines.append(f"  {name}: {quantity} {value}, measured {measured}, ratio {ratio}")
        return "\n".join(lines)

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=self._summary(), title_justify="left")
        for column in ("bound", "what", "value", "measured", "ratio"):
            table.add_column(column, justify="left" if column in ("bound", "what") else "right")
        for row in self._rows():
            table.add_row(*row)
        return table


def _starts(
    relation: Relation, target: Relation, X: np.ndarray, Y: np.ndarray, error: np.ndarray, same: bool
) -> np.ndarray:
    """Return the worst of the given pairs and of random pairs in the boxes, apart from each other."""
    rng = np.random.default_rng(0)

    def sample(a: np.ndarray) -> np.ndarray:
        low, high = a.min(axis=0), a.max(axis=0)
        points = low + (high - low) * rng.uniform(-0.1, 1.1, (_SAMPLE, a.shape[1]))
        return np.clip(points, low, high).astype(a.dtype)

    A = sample(X)
    B = A if same else sample(Y)
    sampled = np.abs(np.asarray(relation(A, B), np.float64) - np.asarray(target(A, B), np.float64))
    candidates, values = [], []
    for a, b, e in ((X, Y, error), (A, B, sampled)):
        i, j = np.unravel_index(np.argsort(e, axis=None)[::-1][: 64 * _STARTS], e.shape)
        candidates.append(np.concatenate([a[i], b[j]], axis=1).astype(np.float64))
        values.append(e[i, j])
    pairs = np.concatenate(candidates)[np.argsort(-np.concatenate(values))]
    box = np.concatenate([np.ptp(X, axis=0), np.ptp(Y, axis=0)])
    unit = pairs / np.where(box > 0, box, 1)
    kept: list[int] = []
    for k in range(len(pairs)):
        if len(kept) < _STARTS and all(np.abs(unit[k] - unit[other]).max() > _APART for other in kept):
            kept.append(k)
    return pairs[kept]


def _refined(
    relation: Relation, target: Relation, X: np.ndarray, Y: np.ndarray, error: np.ndarray, same: bool
) -> tuple[float, np.ndarray, np.ndarray]:
    """Maximise |relation - target| over the boxes of X and Y from several pairs."""
    from scipy.optimize import minimize

    low = np.concatenate([X.min(axis=0), Y.min(axis=0)]).astype(np.float64)
    high = np.concatenate([X.max(axis=0), Y.max(axis=0)]).astype(np.float64)
    width, dtype = X.shape[1], X.dtype
    step = (1e-6 if dtype == np.float64 else 1e-3) * np.maximum(high - low, 1e-12)

    def signed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = a.astype(dtype), b.astype(dtype)
        return np.asarray(relation(a, b), np.float64) - np.asarray(target(a, b), np.float64)

    def objective(z: np.ndarray, sign: float) -> tuple[float, np.ndarray]:
        x, y = z[None, :width], z[None, width:]
        moved_x = np.concatenate([x, x + np.diag(step[:width]), x - np.diag(step[:width])])
        moved_y = np.concatenate([y + np.diag(step[width:]), y - np.diag(step[width:])])
        along_x, along_y = signed(moved_x, y)[:, 0], signed(x, moved_y)[0]
        n, m = width, len(z) - width
        gradient = np.concatenate([along_x[1 : n + 1] - along_x[n + 1 :], along_y[:m] - along_y[m:]])
        return -sign * along_x[0], -sign * gradient / (2 * step)

    i, j = np.unravel_index(int(error.argmax()), error.shape)
    best = (float(error[i, j]), X[i].copy(), Y[j].copy())
    for pair in _starts(relation, target, X, Y, error, same):
        start = np.clip(pair, low, high)
        sign = float(np.sign(signed(start[None, :width], start[None, width:])[0, 0])) or 1.0
        found = minimize(
            objective,
            start,
            args=(sign,),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(low, high, strict=True)),
            options={"maxiter": 50},
        )
        # Re-evaluate the error at the end point, in the model's dtype, instead of using the optimiser's
        # value.
        x, y = found.x[:width].astype(dtype), found.x[width:].astype(dtype)
        value = float(abs(signed(x[None], y[None])[0, 0]))
        if value > best[0]:
            best = (value, x, y)
    return best


def _guaranteed(bound_at: Callable[[float], Bound], neurons: int, zero_error: float) -> Bound:
    """Return the bound at the smallest eps for which at most `neurons` neurons suffice, as a bound on eps."""
    low, high = zero_error * 1e-9, zero_error * (1 + 1e-9)  # at `high` the zero network suffices
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if bound_at(middle).value <= neurons else (middle, high)
    bound = bound_at(high)
    return Bound(
        bound.name,
        f"error on these points that {neurons} neurons need not exceed",
        high,
        bound.formula,
        bound.latex,
        bound.source,
        bound.constants,
        (*bound.assumptions, Assumption("weights as good as those of the proof: fitting is not part of it")),
        bound.cited,
        bound.note,
        bound.details,
    )


def _rank_floor(values: np.ndarray, rank: int, checked: str) -> Bound:
    """Eckart & Young: no <phi, psi> with this many features has a smaller L2 error."""
    singular = np.linalg.svd(values / math.sqrt(values.size), compute_uv=False)
    tails = np.sqrt(tails_of(singular**2, 0.0))
    return Bound(
        "rank",
        f"rms error that {rank} features cannot go below",
        float(tails[min(rank, len(singular))]),
        "(sum_{i>d} sigma_i^2)^(1/2)",
        r"\Big(\sum_{i>d}\sigma_i^2\Big)^{1/2}",
        "derived: Eckart & Young 1936, Mirsky 1960",
        (Constant("d", rank, "features of the model"),),
        (Assumption("on the pairs given", checked),),
    )


def report(
    model: Any,
    X: np.ndarray,
    Y: np.ndarray | None = None,
    target: Any = None,
    *,
    norm: Any = None,
    lipschitz: Any = None,
    curvature: float | None = None,
    **parameters: Any,
) -> Report:
    """Return the measured error of a fitted model beside every bound that applies.

    Parameters
    ----------
    model : MLP, pair of MLP, or estimator
        <phi, phi>, <phi, psi>, or anything with ``relation_matrix(A, B)``.
    X : ndarray of shape (n, d_x)
    Y : ndarray of shape (m, d_y), optional
        None means X.
    target : str, callable or array-like of shape (n, m)
        The relation: a kernel of `kernel_norm`, a function, or values. For kernels and functions the error
        is maximised over the bounding boxes of X and Y.
    norm : float or pair of float, optional
        Norm of the target's sections as in `symmetric` or, as a pair, in `asymmetric`. If given, the bounds
        include the error that the theorems guarantee for the model's number of neurons. Inputs must then
        be in [-1, 1]^D, which is checked.

    lipschitz, curvature : float, optional
        Bound of the slope or of the second derivatives of a function, as in `certify`. With either, and for
        kernels, the report has a certificate if the model consists of MLPs.
    **parameters
        Of the kernel, such as `length_scale`.

    Returns
    -------
    Report
        Lower bounds (no model of this kind can do better): rank, and for <phi, phi> the floor of
        `symmetric_floor`. Upper bounds if `norm` is given.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> from relkernels import bounds
    >>> x = np.linspace(-1, 1, 20)[:, None]
    >>> phi = rk.MLP([np.ones((1, 1))])
    >>> found = bounds.report(phi, x, target=lambda a, b: a @ b.T + 0.5)
    >>> round(found.found, 6), [c.holds for c in found.comparisons]
    (0.5, [True, True, True])
    """
    X = check.floats("X", X, 2, exact=True)
    other = X if Y is None else check.floats("Y", Y, 2, exact=True)
    if len(X) == 0 or len(other) == 0:
        check.fail("X" if len(X) == 0 else "Y", "at least one row", (X if len(X) == 0 else other).shape)
    relation, is_symmetric, neurons, features = relation_of(model)
    shape = (len(X), len(other))
    if target is None:
        check.fail("target", "a kernel, a function of two arrays or a matrix of values", None)
    kernel = None
    if isinstance(target, str) or lipschitz is not None or curvature is not None or parameters:
        if not isinstance(target, str) and not callable(target):
            check.fail("target", "a kernel or a function, to which lipschitz and curvature apply", shape)
        sides = (X.shape[1], other.shape[1])
        kernel = relation_on_cells("target", target, sides, lipschitz, curvature, parameters)
    function = (
        target if kernel is None else lambda a, b: kernel.at(a.astype(np.float64), b.astype(np.float64))
    )
    with check.naming("target"):
        truth = check.numbers("target", function(X, other) if callable(function) else function)
    if truth.shape != shape:
        check.fail("target", f"values of shape {shape}", truth.shape)
    if not np.isfinite(truth).all():
        check.fail("target", "finite values", "NaN or infinity")
    with check.naming("model"):
        error = np.abs(np.asarray(relation(X, other), np.float64) - truth)
    on_pairs, l2 = float(error.max()), float(np.sqrt(np.mean(error**2)))
    i, j = np.unravel_index(int(error.argmax()), shape)
    found, worst = on_pairs, (X[i].copy(), other[j].copy())
    if callable(function):
        found, *pair = _refined(relation, function, X, other, error, Y is None)
        worst = (pair[0], pair[1])
    certificate = None
    if kernel is not None and features is not None:
        boxes = [np.stack([a.min(axis=0), a.max(axis=0)], axis=1) for a in (X, other)]
        promise = {"lipschitz": lipschitz, "curvature": curvature, **parameters}
        certificate = certify(model, target, boxes, max_pairs=_CELLS, **promise)
        x, y = (a[None].astype(X.dtype) for a in certificate.at)
        value = float(np.abs(relation(x, y) - function(x, y))[0, 0])
        if value > found:
            found, worst = value, (x[0], y[0])

    rows = slice(0, min(_MOST, *shape)) if Y is None else slice(0, _MOST)
    # Lower bounds compare errors on the same pairs.
    sub_error = error[rows, rows]
    sub_l2, checked = float(np.sqrt(np.mean(sub_error**2))), f"{sub_error.shape[0]} x {sub_error.shape[1]}"
    comparisons = []
    if features is not None:
        comparisons.append(Comparison(_rank_floor(truth[rows, rows], features, checked), "lower", sub_l2))
    if is_symmetric and Y is None:
        for kind, measured in (("sup", float(sub_error.max())), ("l2", sub_l2)):
            comparisons.append(Comparison(symmetric_floor(truth[rows, rows], kind), "lower", measured))
    if norm is not None and neurons is not None:
        for name, a in (("X", X), ("Y", other)):
            if np.abs(a).max() > 1 + 1e-6:
                check.fail(name, "inputs in [-1, 1]^D where norm is given", f"{np.abs(a).max():.4g}")
        values = truth[rows, rows]
        if is_symmetric:
            system = mercer_of(mercer(values))
            upper = _guaranteed(
                lambda eps: symmetric(system, eps, dimension=X.shape[1], norm=norm),
                neurons,
                float(np.abs(truth).max()),
            )
        else:
            schmidt = schmidt_of(lambda a, b: values, (X[rows], other[rows]))
            upper = _guaranteed(
                lambda eps: asymmetric(
                    schmidt, eps, dimensions=(X.shape[1], other.shape[1]), norms=tuple(norm)
                ),
                neurons,
                float(np.abs(truth).max()),
            )
        # The spectrum is that of the points: so is the bound.
        comparisons.append(Comparison(upper, "upper", float(sub_error.max())))
    return Report(found, on_pairs, l2, worst, neurons, tuple(comparisons), certificate)
