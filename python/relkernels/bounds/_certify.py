"""`certify`: a rigorous bound of the largest error of a network over a box.

On a pair of cells (a + delta, |delta_i| <= h_i; b + eta, |eta_j| <= k_j) let

    r(x, y) = v + g.delta + g'.eta + rest,           |rest| <= R             (`certificates.relations`)
    phi(x)  = c + G delta + sum_u rho_u A_u,         |rho_u| <= kappa_u      (`certificates.maps`)
    psi(y)  = c' + H eta + sum_v sigma_v B_v,        |sigma_v| <= kappa'_v.

Multiplied out, with phi' = c + G delta the affine part of phi,

    |r - <phi, psi>| <= |v - <c, c'>| + sum_i h_i |g_i - <G_i, c'>| + sum_j k_j |g'_j - <c, H_j>| + R
                        + (sum_i h_i |G_i|) (sum_j k_j |H_j|)
                        + sum_u kappa_u sup_y |<A_u, psi(y)>| + sum_v kappa'_v sup_x |<phi'(x), B_v>|,

and the suprema of the last line are bounded for each cell: |<A_u, c'>| + sum_j k_j |<A_u, H_j>| +
sum_v kappa'_v |<A_u, B_v>|. The maximum over any set of pairs of cells that covers both boxes bounds the
error; `certificates.pairs` cuts the pairs with the largest bounds first. A pair costs 1 + D_x + D_y inner
products of features and one of 2 N + 1 numbers; its bound exceeds the error by a multiple of h.

Second order: for smooth activations and the Gaussian kernel,
phi(x) = c + G delta + sum_u (gamma_u (g_u.delta)^2 / 2 + rho_u) A_u, and r is expanded to second order as
well. The second derivatives of r less those of <quadratic, c'>, of its mirror image and of <G delta, H eta>
replace R and the product of norms. The quadratic terms are in the last line only with what psi moves, and R
is of third order.

Rounding: let E_i bound the error of feature i in float64, from sums of absolute values over the box. Values,
slopes and kinks are sums of such terms, so the bound grows by 8 sum_i (E_i |psi_i| + |phi_i| E'_i + E_i E'_i)
for all of them, by the rounding of r, and by 1e-9 of itself for sums of positive terms.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base import check
from ..base.describe import described
from ..maps.mlp import MLP
from .bound import non_negative
from .certificates.chords import UNIT
from .certificates.maps import MapOnCells
from .certificates.pairs import PairsOfCells
from .certificates.progress import progress_bar
from .certificates.relations import point, relation_on_cells
from .certificates.trees import CellTree

# Relative distance from the largest error found at which a search without eps ends.
_CLOSE = 0.01
_SUMS = 1e-9


@dataclass(frozen=True)
class Certificate:
    """A bound of the largest error of a network over a box.

    Attributes
    ----------
    upper : float
        The error is nowhere larger than this.
    found : float
        The largest error that was found.
    at : tuple of ndarray
        The pair (x, y) at which it was found.
    eps : float or None
        The accuracy that was to be certified.
    certified : bool
        Whether `upper` is at most `eps`; without `eps`, whether it is within 1 % of `found`.
    n_pairs : int
        Pairs of cells that were bounded.
    rounding : float
        `upper` holds for the maps in exact arithmetic and in float64. Values that are computed in the dtype
        of the maps, as `relation_matrix` does, differ by at most this.
    """

    upper: float
    found: float
    at: tuple[np.ndarray, np.ndarray]
    eps: float | None
    certified: bool
    n_pairs: int
    rounding: float

    @property
    def ratio(self) -> float:
        """`upper` over `found`."""
        return self.upper / self.found if self.found > 0 else (1.0 if self.upper == 0 else math.inf)

    def __str__(self) -> str:
        verdict = "certified" if self.certified else "not certified"
        goal = "" if self.eps is None else f", eps {self.eps:.4g} {verdict}"
        return (
            f"error at most {self.upper:.4g}{goal}; largest found {self.found:.4g} at "
            f"x = {point(self.at[0])}, y = {point(self.at[1])}; {self.n_pairs:,} pairs of cells"
        )


def _maps(phi: Any, psi: Any) -> tuple[MLP, MLP]:
    """Return the maps of both sides: those given, or a fitted estimator's."""
    pair = phi if isinstance(phi, tuple) and len(phi) == 2 and psi is None else (phi, psi)
    if not isinstance(pair[0], MLP) and hasattr(phi, "phi_"):
        if psi is not None:
            check.fail("psi", "None for an estimator, which has its own maps", described(psi))
        pair = (phi.phi_, getattr(phi, "psi_", None))
    first, second = pair[0], pair[0] if pair[1] is None else pair[1]
    for name, m in (("phi", first), ("psi", second)):
        if not isinstance(m, MLP):
            raise TypeError(f"{name}: expected an MLP or an estimator with fitted maps, got {described(m)}")
        if getattr(m, "normalize", False):
            check.fail(name, "a map that does not normalize its features", "normalize=True")
    if first.widths[-1] != second.widths[-1]:
        check.fail("psi", f"{first.widths[-1]} features, as phi", second.widths[-1])
    return first, second


def boxes_of(box: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes of x and y, arrays of shape (D, 2)."""
    box = check.sequence("box", box, "pairs of bounds, one per coordinate")
    if len(box) == 2 and all(
        hasattr(part, "__len__") and len(part) and np.ndim(part[0]) == 1 for part in box
    ):
        sides = check.numbers("box[0]", box[0]), check.numbers("box[1]", box[1])
    else:
        sides = (check.numbers("box", box),) * 2
    for side in sides:
        if side.ndim != 2 or side.shape[1:] != (2,) or len(side) == 0:
            check.fail("box", "pairs of bounds (low, high), one per coordinate", f"shape {side.shape}")
        wrong = ~(np.isfinite(side).all(axis=1) & (side[:, 0] <= side[:, 1]))
        if wrong.any():
            i = int(wrong.argmax())
            check.fail("box", "finite bounds with low <= high", f"({side[i, 0]:g}, {side[i, 1]:g}) at {i}")
    return sides


def _rounding(
    sides: list[MapOnCells], boxes: tuple[np.ndarray, np.ndarray], units: tuple[float, float]
) -> float:
    """Return a bound of the error of <phi, psi> over the boxes, in arithmetic of these units."""
    E, F = (s.rounding(b[:, 0], b[:, 1], u) for s, b, u in zip(sides, boxes, units, strict=True))
    phi, psi = (s.sizes(b[:, 0], b[:, 1]) for s, b in zip(sides, boxes, strict=True))
    return float(E @ psi + phi @ F + E @ F + (len(phi) + 1) * max(units) * (phi @ psi))


def certify(
    phi: Any,
    relation: Any,
    box: Any,
    *,
    psi: MLP | None = None,
    lipschitz: float | tuple[float, float] | None = None,
    curvature: float | None = None,
    eps: float | None = None,
    max_seconds: float | None = None,
    max_pairs: int = 1 << 27,
    verbose: bool = False,
    **parameters: Any,
) -> Certificate:
    """Return a rigorous bound of ``sup |r(x, y) - <phi(x), psi(y)>|`` over a box.

    Parameters
    ----------
    phi : MLP, pair of MLP, or fitted estimator
        A pair and an estimator have both maps.
    relation : str or callable
        "gaussian", "matern32", "laplace", "periodic" or "polynomial", as in `kernel_norm`; or a function
        r(A, B) of rows (n, D_x) and (m, D_y) that returns values of shape (n, m) in float64.
    box : array-like of shape (D, 2), or a pair of them
        Lower and upper bound of each coordinate: of x and y, or of x, then of y.
    psi : MLP, optional
        The map of y; None means `phi`.
    lipschitz : float or pair of float, optional
        For a function: a bound of its slope (in the Euclidean norm) along x and along y.
    curvature : float, optional
        For a function, instead: a bound of the norm of its second derivatives, a matrix of D_x + D_y rows.
    eps : float, optional
        Stop when the bound is at most `eps`, or when a larger error is found. Without it, the search stops
        when the bound is within 1 % of the largest error found.
    max_seconds : float, optional
        Stop after this time. The bound is valid whenever the search stops.
    max_pairs : int, default 2**27
        Stop after this many pairs of cells; the result is then the same on every machine.
    verbose : bool, default False
        Show the bound and the largest error found on standard error.
    **parameters
        Of the kernel: `length_scale`, `degree`, `offset`, `period`, as in `kernel_norm`.

    Returns
    -------
    Certificate

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, weights are not finite, or values of the function contradict
        `lipschitz` or `curvature`; the message then has the point.

    Examples
    --------
    >>> import numpy as np, relkernels as rk
    >>> from relkernels import bounds
    >>> phi = rk.MLP([np.array([[1.0, -1.0]]), np.array([[1.0], [-1.0]])])  # relu(x) - relu(-x) = x
    >>> found = bounds.certify(phi, "polynomial", [(-1, 1)], degree=2, offset=0.5)
    >>> round(found.found, 4), found.ratio < 1.02  # (x y + 1/2)^2 - x y = (x y)^2 + 1/4
    (1.25, True)
    """
    maps, boxes = _maps(phi, psi), boxes_of(box)
    sides = [MapOnCells(name, m, len(b)) for name, m, b in zip(("phi", "psi"), maps, boxes, strict=True)]
    promised = relation_on_cells(
        "relation", relation, (len(boxes[0]), len(boxes[1])), lipschitz, curvature, parameters
    )
    goal = None if eps is None else non_negative("eps", eps)
    deadline = (
        math.inf if max_seconds is None else time.monotonic() + non_negative("max_seconds", max_seconds)
    )
    most = check.integer("max_pairs", max_pairs, 1)

    curved = promised.curved and all(side.is_curved for side in sides)
    trees = [
        CellTree(b[:, 0].copy(), b[:, 1].copy(), side, other.last, first, curved)
        for b, side, other, first in zip(boxes, sides, sides[::-1], (True, False), strict=True)
    ]
    twins = maps[0] is maps[1] and promised.symmetric and np.array_equal(*boxes)
    pairs = PairsOfCells(promised, trees[0], trees[1], twins)
    of_maps = 8 * _rounding(sides, boxes, (UNIT, UNIT))
    units = [UNIT if m.dtype == np.float64 else 2.0**-24 for m in maps]
    own = _rounding(sides, boxes, (units[0], units[1]))

    with progress_bar(check.switch("verbose", verbose)) as show:
        while True:
            slack = of_maps + promised.rounding(*boxes)
            # The largest error found is itself off by the rounding.
            wanted = goal if goal is not None else max(pairs.found * (1 + _CLOSE), 2 * slack)
            enough = max(wanted - slack, 0.0) / (1 + _SUMS)
            stopped = pairs.n_pairs >= most or time.monotonic() >= deadline
            failed = goal is not None and pairs.found > goal + slack
            # The first step, which bounds the whole boxes, is always made.
            if pairs.n_pairs and (pairs.upper <= enough or stopped or failed):
                break
            pairs.step(enough)
            show(pairs.upper, pairs.found, pairs.n_pairs)
    upper = max(pairs.upper * (1 + _SUMS) + slack, pairs.found)
    return Certificate(upper, pairs.found, pairs.at, goal, upper <= wanted, pairs.n_pairs, own)
