"""Feature maps on cells: an affine or quadratic map, and how far the features are from it.

A cell is the box of the points a + delta with |delta_i| <= h_i. Layer by layer, its pre-activations are

    z(a + delta) = z + G delta + r,   |r_u| <= e_u,   |z(a + delta)_u - z_u| <= t_u = sum_i |G_ui| h_i + e_u.

The activation is its chord on [z_u - t_u, z_u + t_u] up to kappa_u (`chords`), so the next layer has
z = alpha W + b, G = W' diag(beta) G and e = |W|' (|beta| e + kappa). The errors rho of the last hidden layer
are not summed:

    phi(a + delta) = c + G delta + sum_u (gamma_u (g_u.delta)^2 / 2 + rho_u) A_u,
    |rho_u| <= |beta_u| e_u + kappa_u + |gamma_u| (t_u e_u + e_u^2 / 2),

A_u the row u of the last weights, because <A_u, psi> is much smaller than |A_u| |psi|.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from ...base import check
from ...maps.mlp import MLP
from .chords import UNIT, enclose, is_curved, largest, value_of


class Cells(NamedTuple):
    """Maps on n cells of D coordinates, with N units before the last of d features.

    Attributes
    ----------
    centre : ndarray of shape (n, D)
    features : ndarray of shape (n, d)
        c, the features of the affine map at the centre.
    slopes : ndarray of shape (n, D, d)
        G, transposed.
    errors : ndarray of shape (n, N)
        Bounds of |rho_u|.
    bends : ndarray of shape (n, T, d)
        sum_u gamma_u g_ui g_uj A_u for i <= j; T is 0 without parabolas.
    quads : ndarray of shape (n, N)
        Bounds of |gamma_u| (g_u.delta)^2 / 2.
    """

    centre: np.ndarray
    features: np.ndarray
    slopes: np.ndarray
    errors: np.ndarray
    bends: np.ndarray
    quads: np.ndarray


class MapOnCells:
    """An MLP, or None for the identity, in float64."""

    def __init__(self, name: str, mlp: MLP | None, width: int) -> None:
        self.mlp = mlp
        self.weights = [] if mlp is None else [w.astype(np.float64) for w in mlp.weights]
        self.biases = [np.zeros(w.shape[1]) for w in self.weights]
        if mlp is not None and mlp.biases is not None:
            self.biases = [b.astype(np.float64) for b in mlp.biases]
        for kind, arrays in (("weights", self.weights), ("biases", self.biases)):
            for i, a in enumerate(arrays):
                if not np.isfinite(a).all():
                    at = tuple(int(k) for k in np.argwhere(~np.isfinite(a))[0])
                    check.fail(f"{name}.{kind}[{i}]", "finite numbers", f"{a[at]} at {at}")
        if mlp is not None and mlp.widths[0] != width:
            check.fail("box", f"one pair of bounds per input of {name} ({mlp.widths[0]})", f"{width} pairs")
        self.width = width if mlp is None else mlp.widths[-1]
        # A_u: none for maps without a hidden layer, which are affine.
        self.last = self.weights[-1] if len(self.weights) > 1 else np.zeros((0, self.width))
        self.is_curved = mlp is not None and len(self.weights) > 1 and is_curved(mlp.activation)

    def __call__(self, centre: np.ndarray, half: np.ndarray, curved: bool = False) -> Cells:
        """Enclose the map on the cells of these centres (n, D), all of half-widths `half` (D,)."""
        n, D = centre.shape
        z, error, quads = centre, np.zeros((n, 0)), np.zeros((n, len(self.last)))
        bends = np.zeros((n, D * (D + 1) // 2 if curved else 0, self.width))
        slopes = np.broadcast_to(np.eye(D), (n, D, D))
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = z @ weight + bias
            slopes = np.broadcast_to(weight, (n, *weight.shape)) if i == 0 else slopes @ weight
            if i == len(self.weights) - 1:
                break
            error = error @ np.abs(weight) if i else np.zeros_like(z)
            moved = np.einsum("i,niu->nu", half, np.abs(slopes)) * (1 + 64 * UNIT)
            assert self.mlp is not None
            parabola = curved and i == len(self.weights) - 2
            z, beta, gamma, kappa = enclose(
                self.mlp.activation, z, (moved + error) * (1 + 64 * UNIT), parabola
            )
            if parabola:
                for k, (a, b) in enumerate(combinations_with_replacement(range(D), 2)):
                    bends[:, k] = (gamma * slopes[:, a] * slopes[:, b]) @ self.last
                quads = np.abs(gamma) * moved * moved / 2
                kappa = kappa + np.abs(gamma) * error * (moved + error / 2)
            error = np.abs(beta) * error + kappa
            slopes = beta[:, None, :] * slopes
        return Cells(centre, z, np.ascontiguousarray(slopes), error, bends, quads)

    def values(self, x: np.ndarray) -> np.ndarray:
        """Return the features of points in float64."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight + bias
            if i < len(self.weights) - 1:
                assert self.mlp is not None
                x = value_of(self.mlp.activation, x)
        return x

    def sizes(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return a bound of |phi_i| over a box."""
        found = self(((low + high) / 2)[None], (high - low) / 2)
        rest = found.errors @ np.abs(self.last)
        reach = np.einsum("i,niu->nu", (high - low) / 2, np.abs(found.slopes))
        values: np.ndarray = (np.abs(found.features) + reach + rest)[0] * (1 + 1e-9)
        return values

    def rounding(self, low: np.ndarray, high: np.ndarray, unit: float) -> np.ndarray:
        """Return a bound over a box of the error of each feature in arithmetic of this unit.

        A layer of n inputs is off by gamma(n + 2) (|W|' |x| + |b|) and an activation by 4 units of its value
        (docs/accuracy.md); an error passes a layer times |W| and an activation times its largest slope.
        """
        size, error = np.maximum(np.abs(low), np.abs(high)), np.zeros_like(low)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            w = np.abs(weight)
            # The features are summed too, in inner products.
            total, n = size @ w + np.abs(bias), (max(len(weight), self.width) + 2) * unit
            error = error @ w + n / (1 - n) * total
            size = total + error
            if i < len(self.weights) - 1:
                assert self.mlp is not None
                size, error = largest(self.mlp.activation, size, error)
                error = error + 4 * unit * size
        return error
