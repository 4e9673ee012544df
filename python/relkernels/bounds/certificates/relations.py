"""Relations on pairs of cells: value and slopes at the centres, and a bound of the remainder.

On the cells a + delta, |delta_i| <= h_i, and b + eta, |eta_j| <= k_j, with zeta the vector (delta, eta),

    r(a + delta, b + eta) = v + g.delta + g'.eta + rest,   |rest| <= R.

Kernels of x - y (`gaussian`, `matern32`, `laplace`, `periodic`): v and the slopes are exact. x - y moves
by at most s_i = h_i + k_i, so R = K |s|^2 / 2 with K the largest norm of the Hessian on the cells. For
f(rho), rho = |x - y| / l, its eigenvalues are f''(rho) / l^2 and, across x - y, f'(rho) / (rho l^2); rho
moves by at most |s| / l. Where the range of the kernel on the cells is narrower, v is the middle of that
range, the slopes are 0 and R is its half-width: near the kink of `laplace`, and on large cells.

`polynomial`: q(z), z = x.y moves by D = |a|.k + |b|.h + h.k, R = |q'| h.k + max|q''| D^2 / 2.

A function with a Lipschitz bound L per side: no slopes, R = L_x |h| + L_y |k|. With a bound C of the norm of
its Hessian: slopes by central differences of step h_i, which are off by at most C h_i / 2, so that
R = C (|h|^2 + |k|^2) / 2 (Taylor) + C (sum h_i^2 + sum k_j^2) / 2 = C (|h|^2 + |k|^2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...base import check
from ..bound import non_negative, positive
from .chords import UNIT

Array = np.ndarray
RADIAL = ("gaussian", "matern32", "laplace")


class Local(NamedTuple):
    """A relation on p blocks of s x t pairs of cells.

    Attributes
    ----------
    exact : ndarray of shape (p, s, t)
        r at the centres.
    value, rest : ndarray of shape (p, s, t)
        v and R.
    slopes_x, slopes_y : sequence of ndarray of shape (p, s, t)
        One array per coordinate; empty if they are 0.
    bends : sequence of ndarray of shape (p, s, t)
        For kernels of x - y to second order: the second derivatives along i <= j.
    """

    exact: Array
    value: Array
    slopes_x: list[Array]
    slopes_y: list[Array]
    rest: Array
    bends: Sequence[Array] = ()


class RelationOnCells(Protocol):
    """A relation with a bound of its variation on cells."""

    symmetric: bool
    # Whether `on_cells` can go to second order.
    curved: bool

    def at(self, x: Array, y: Array) -> Array:
        """Return r of x (..., n, D) and y (..., m, D)."""

    def rounding(self, x: Array, y: Array) -> float:
        """Return a bound of the rounding of r and of the terms of its expansion, on boxes (D, 2)."""

    def on_cells(self, a: Array, b: Array, h: Array, k: Array, curved: bool = False) -> Local:
        """Return r on cells of centres (p, s, D) and (p, t, D), to second order if `curved`."""


def _differences(a: Array, b: Array) -> list[Array]:
    return [a[..., :, None, i] - b[..., None, :, i] for i in range(a.shape[-1])]


class Radial:
    """f(|x - y| / length)."""

    symmetric = True

    def __init__(self, name: str, length: float) -> None:
        self.name, self.length = name, length
        self.curved = name == "gaussian"

    def _f(self, rho: Array) -> Array:
        if self.name == "gaussian":
            return np.exp(rho * rho * -0.5)
        if self.name == "laplace":
            return np.exp(-rho)
        z = math.sqrt(3) * rho
        return (1 + z) * np.exp(-z)

    def at(self, x: Array, y: Array) -> Array:
        """Return r of x (..., n, D) and y (..., m, D)."""
        square = np.zeros((*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-2]))
        for d in _differences(x, y):
            square += d * d
        return self._f(np.sqrt(square) / self.length)

    def rounding(self, x: Array, y: Array) -> float:
        """Return a bound of the rounding of r and of its expansion."""
        return 64 * (len(x) + 4) * UNIT

    def on_cells(self, a: Array, b: Array, h: Array, k: Array, curved: bool = False) -> Local:
        """Return r on cells of centres (p, s, D) and (p, t, D)."""
        d = _differences(a, b)
        square = d[0] * d[0]
        for other in d[1:]:
            square += other * other
        l2 = self.length**2
        moved = float(np.linalg.norm(h + k)) * (1 + 1e-12) / self.length
        rho = np.sqrt(square)
        rho /= self.length
        low = np.maximum(rho - moved, 0.0)
        f, f_low = self._f(rho), self._f(low)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.name == "gaussian":
                # |f''| <= |f' / rho| = f up to rho = sqrt 2; beyond, (rho^2 - 1) f has its peak at sqrt 3.
                w = f
                K = np.where(low * low > 3, (low * low - 1) * f_low, np.maximum(f_low, 2 * math.exp(-1.5)))
            elif self.name == "matern32":
                # f'' = -3 (1 - z) exp(-z), z = sqrt(3) rho, has its other peak at z = 2.
                z = math.sqrt(3) * low
                w, e = 3 * np.exp(-math.sqrt(3) * rho), np.exp(-z)
                K = 3 * np.where(z > 2, (z - 1) * e, np.maximum(e, math.exp(-2)))
            else:
                w = np.where(rho > 0, f / rho, 0.0)
                K = np.where(low > 0, f_low if len(d) == 1 else np.maximum(f_low, f_low / low), np.inf)
        if curved:
            # Third derivatives: |z^3 - 3 z| f, |z| <= rho; largest at z^2 = 3 - sqrt 6, where f is largest.
            high = rho + moved
            K = np.minimum(f_low * (high * high + 3) * high, 1.3802) * (moved / 3)
        rest, value = K * (moved * moved / 2), f
        if self.name == "laplace" or moved > 0.25:
            half = (f_low - self._f(rho + moved)) / 2
            narrow = half < rest
            value, rest = np.where(narrow, f_low - half, f), np.where(narrow, half, rest)
            w = np.where(narrow, 0.0, w)
        w = w / -l2
        slopes = [w * each for each in d]
        bends = []
        if curved:
            for i, j in combinations_with_replacement(range(len(d)), 2):
                bends.append(slopes[i] * (d[j] / -l2) + (w if i == j else 0.0))
        return Local(f, value, slopes, [-g for g in slopes], rest, bends)


class Periodic:
    """exp(-2 sum_i sin(pi (x_i - y_i) / period)^2 / length^2).

    v_i = -(2 pi / (p l^2)) sin(2 pi d_i / p) is the slope of log r, and the Hessian r (v v' + diag(w)) with
    |w_i| <= W = 4 pi^2 / (p^2 l^2) has a norm of at most max r (max |v|^2 + W).
    """

    symmetric = True
    curved = False

    def __init__(self, length: float, period: float) -> None:
        self.length, self.period = length, period

    def at(self, x: Array, y: Array) -> Array:
        """Return r of x (..., n, D) and y (..., m, D)."""
        total = np.zeros((*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-2]))
        for d in _differences(x, y):
            total += np.sin(math.pi / self.period * d) ** 2
        return np.exp(total * (-2 / self.length**2))

    def rounding(self, x: Array, y: Array) -> float:
        """Return a bound of the rounding of r and of its expansion."""
        return 64 * (len(x) + 4) * UNIT

    def on_cells(self, a: Array, b: Array, h: Array, k: Array, curved: bool = False) -> Local:
        """Return r on cells of centres (p, s, D) and (p, t, D)."""
        moved = (h + k) * (1 + 1e-12)
        steepest = 2 * math.pi / (self.period * self.length**2)
        bend = 2 * math.pi / self.period * steepest
        zero = np.zeros((len(a), a.shape[1], b.shape[1]))
        log, total, squares, slopes = zero, zero, zero, []
        for d, s in zip(_differences(a, b), moved, strict=True):
            v = -steepest * np.sin(2 * math.pi / self.period * d)
            log = log - 2 / self.length**2 * np.sin(math.pi / self.period * d) ** 2
            largest = np.minimum(np.abs(v) + bend * s, steepest)
            total, squares = total + np.minimum(np.abs(v) + bend * s / 2, steepest) * s, squares + largest**2
            slopes.append(v)
        f = np.exp(log)
        top, bottom = np.exp(np.minimum(log + total, 0.0)), np.exp(log - total)
        rest, half = top * (squares + bend) * (float(moved @ moved) / 2), (top - bottom) / 2
        narrow = half < rest
        w = np.where(narrow, 0.0, f)
        slopes = [w * v for v in slopes]
        return Local(
            f,
            np.where(narrow, bottom + half, f),
            slopes,
            [-g for g in slopes],
            np.where(narrow, half, rest),
        )


class Polynomial:
    """(offset + x.y)^degree."""

    symmetric = True
    curved = False

    def __init__(self, degree: int, offset: float) -> None:
        self.degree, self.offset = degree, offset

    def at(self, x: Array, y: Array) -> Array:
        """Return r of x (..., n, D) and y (..., m, D)."""
        found: Array = (self.offset + x @ np.swapaxes(y, -1, -2)) ** self.degree
        return found

    def rounding(self, x: Array, y: Array) -> float:
        """Return a bound of the rounding of r and of its expansion."""
        largest = (self.offset + float(np.abs(x).max(axis=1) @ np.abs(y).max(axis=1))) ** self.degree
        return 16 * (self.degree + 1) * (len(x) + 4) * UNIT * largest

    def on_cells(self, a: Array, b: Array, h: Array, k: Array, curved: bool = False) -> Local:
        """Return r on cells of centres (p, s, D) and (p, t, D)."""
        p = self.degree
        z = self.offset + a @ np.swapaxes(b, -1, -2)
        moved = (np.abs(a) @ k)[..., :, None] + (np.abs(b) @ h)[..., None, :] + float(h @ k)
        slope = p * z ** (p - 1)
        bend = p * (p - 1) * (np.abs(z) + moved) ** (p - 2) if p > 1 else 0.0
        rest = np.abs(slope) * float(h @ k) + bend * moved * moved / 2
        value = z**p
        return Local(
            value,
            value,
            [slope * b[..., None, :, i] for i in range(len(h))],
            [slope * a[..., :, None, i] for i in range(len(k))],
            rest,
        )


class Function:
    """A function r(A, B) with a promise: bounds of its slopes, or of its second derivatives."""

    symmetric = False
    curved = False

    def __init__(
        self,
        label: str,
        function: Callable[[Array, Array], Any],
        slopes: tuple[float, float] | None,
        bend: float | None,
    ) -> None:
        self.label, self.function, self.slopes, self.bend = label, function, slopes, bend
        # Largest |r| so far, for the rounding of what the function returns.
        self.largest = 0.0

    def at(self, x: Array, y: Array) -> Array:
        """Return r of x (..., n, D) and y (..., m, D)."""
        lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        found = np.empty((*lead, x.shape[-2], y.shape[-2]))
        for at in np.ndindex(*lead):
            found[at] = self._values(x[at], y[at])
        return found

    def _values(self, x: Array, y: Array) -> Array:
        with check.naming(self.label):
            values = check.numbers(self.label, self.function(x, y))
        if values.shape != (len(x), len(y)):
            check.fail(self.label, f"values of shape ({len(x)}, {len(y)})", values.shape)
        if not np.isfinite(values).all():
            i, j = np.argwhere(~np.isfinite(values))[0]
            check.fail(self.label, "finite values", f"{values[i, j]} at {point(x[i])}, {point(y[j])}")
        self.largest = max(self.largest, float(np.abs(values).max(initial=0.0)))
        return values

    def rounding(self, x: Array, y: Array) -> float:
        """Return a bound of the rounding of r and of its expansion."""
        return 64 * UNIT * self.largest

    def on_cells(self, a: Array, b: Array, h: Array, k: Array, curved: bool = False) -> Local:
        """Return r on cells of centres (p, s, D) and (p, t, D)."""
        value = self.at(a, b)
        if self.slopes is not None:
            L_x, L_y = self.slopes
            self._check_slopes("x", value, a, b, L_x)
            self._check_slopes("y", np.swapaxes(value, -1, -2), b, a, L_y)
            rest = L_x * float(np.linalg.norm(h)) + L_y * float(np.linalg.norm(k))
            return Local(value, value, [], [], np.full_like(value, rest))
        C = self.bend
        assert C is not None
        slopes_x = [self._slope("x", value, a, b, h, i, C) for i in range(len(h))]
        slopes_y = [self._slope("y", value, a, b, k, j, C) for j in range(len(k))]
        rest = C * float(h @ h + k @ k)
        return Local(value, value, slopes_x, slopes_y, np.full_like(value, rest))

    def _slope(self, side: str, value: Array, a: Array, b: Array, step: Array, i: int, C: float) -> Array:
        """Return the central difference along one coordinate, whose second difference is checked."""
        move = np.zeros(len(step))
        move[i] = step[i] * (1 - 1e-9)  # inside the box
        if side == "x":
            up, down = self.at(a + move, b), self.at(a - move, b)
        else:
            up, down = self.at(a, b + move), self.at(a, b - move)
        excess = np.abs(up + down - 2 * value) - C * step[i] ** 2 * (1 + 1e-9) - 1e-14 * self.largest
        if (excess > 0).any():
            at = np.unravel_index(int(excess.argmax()), excess.shape)
            second = float(np.abs(up + down - 2 * value)[at]) / step[i] ** 2
            x, y = a[(*at[:-2], at[-2])], b[(*at[:-2], at[-1])]
            check.fail(
                "curvature",
                f"a bound of the second derivatives ({C:g})",
                f"{second:.4g} along {side}[{i}] at x = {point(x)}, y = {point(y)}",
            )
        return (up - down) / (2 * step[i])

    def _check_slopes(self, side: str, value: Array, rows: Array, others: Array, L: float) -> None:
        """Raise if |r| changes by more than L times the distance between neighbouring rows."""
        distance = np.linalg.norm(np.diff(rows, axis=-2), axis=-1)[..., None]
        excess = np.abs(np.diff(value, axis=-2)) - L * distance * (1 + 1e-9) - 1e-14 * self.largest
        if (excess > 0).any():
            *lead, i, j = np.unravel_index(int(excess.argmax()), excess.shape)
            first, second = rows[(*lead, i)], rows[(*lead, i + 1)]
            slope = abs(value[(*lead, i + 1, j)] - value[(*lead, i, j)]) / np.linalg.norm(second - first)
            other = "y" if side == "x" else "x"
            check.fail(
                "lipschitz",
                f"a bound of the slope along {side} ({L:g})",
                f"{slope:.4g} between {side} = {point(first)} and {point(second)} at {other} = "
                f"{point(others[(*lead, j)])}",
            )


def point(x: Array) -> str:
    """Return a point as text."""
    shown = ", ".join(f"{v:.6g}" for v in x[:8])
    return f"({shown}{', ...' if len(x) > 8 else ''})"


def relation_on_cells(
    label: str,
    relation: Any,
    dimensions: tuple[int, int],
    lipschitz: Any,
    curvature: Any,
    parameters: dict[str, Any],
) -> RelationOnCells:
    """Return the kernel of this name, or a function with its bounds; `label` names the argument."""
    if callable(relation):
        if parameters:
            name = next(iter(parameters))
            raise TypeError(f"{name}: expected no parameters for a function")
        if (lipschitz is None) == (curvature is None):
            got = "neither" if lipschitz is None else "both"
            check.fail("lipschitz", "a bound of the slope, or curvature, for a function", got)
        if curvature is not None:
            return Function(label, relation, None, non_negative("curvature", curvature))
        pair = lipschitz if isinstance(lipschitz, (tuple, list)) else (lipschitz, lipschitz)
        if len(pair) != 2:
            check.fail("lipschitz", "a number, or one for x and one for y", lipschitz)
        slopes = non_negative("lipschitz", pair[0]), non_negative("lipschitz", pair[1])
        return Function(label, relation, slopes, None)
    name = check.choice(label, relation, (*RADIAL, "periodic", "polynomial"))
    for promise, given in (("lipschitz", lipschitz), ("curvature", curvature)):
        if given is not None:
            check.fail(promise, f"None, since those of {name} are known", given)
    if dimensions[0] != dimensions[1]:
        check.fail(
            "box", f"as many coordinates of x as of y for {name}", f"{dimensions[0]} and {dimensions[1]}"
        )
    of_kernel = {"polynomial": ("degree", "offset"), "periodic": ("length_scale", "period")}
    allowed = of_kernel.get(name, ("length_scale",))
    for given in parameters:
        if given not in allowed:
            raise TypeError(f"{given}: expected a parameter of {name} ({', '.join(allowed)})")
    if name == "polynomial":
        degree = check.integer("degree", parameters.get("degree", 2), 1)
        return Polynomial(degree, non_negative("offset", parameters.get("offset", 1.0)))
    length = positive("length_scale", parameters.get("length_scale", 1.0))
    if name == "periodic":
        return Periodic(length, positive("period", parameters.get("period", 2.0)))
    return Radial(name, length)
