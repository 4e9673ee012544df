"""Sides of a relation that are mapped before the walk over pairs, among them all sparse ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays.sparse import is_sparse
from ..base import check
from ..base.describe import described
from ..maps.mlp import MLP, check_mlp, feature_map, mapped_width, sparse_features


def mapped_sides(
    x: Any,
    y: Any,
    phi: MLP | None,
    psi: MLP | None,
    precision: str | None,
    names: tuple[str, str] = ("x", "y"),
    least_ndim: int = 2,
) -> tuple[Any, Any, MLP | None, MLP | None]:
    """Return the features of both sides, and no maps, if either side is sparse; else the arguments.

    The arguments are those of `Sides`. Results do not depend on where points are mapped, to the last bit.
    """
    if not (is_sparse(x) or is_sparse(y)):
        return x, y, phi, psi
    x_name, y_name = names
    check_mlp("phi", phi)
    check_mlp("psi", psi)
    if phi is not None:
        check.same_dtype(("phi", phi), ("psi", psi))
    f = mapped_points(x_name, x, "phi", phi, precision, least_ndim)
    if y is None:
        if psi is None or psi is phi:
            return f, None, None, None
        y, y_name = x, x_name
    psi_name, psi = ("phi", phi) if psi is None else ("psi", psi)
    g = mapped_points(y_name, y, psi_name, psi, precision, 2)
    check.same_width(x_name, x, f.shape[-1], y_name, y, g.shape[-1])
    return f, g, None, None


def mapped_points(
    name: str, a: Any, map_name: str, phi: MLP | None, precision: str | None, ndim: int
) -> np.ndarray:
    """Return the features of points, sparse or not, through a map; messages use the names."""
    if not is_sparse(a):
        points = check.features(name, a, ndim)
        if phi is None:
            return points
        check.same_dtype((name, points), (map_name, phi))
        mapped_width(name, points, map_name, phi)
        return feature_map(points, phi, precision=precision)
    if phi is None:
        raise TypeError(
            f"{name}: expected an array where {map_name} is None, got {described(a)}: use {name}.toarray()"
        )
    return sparse_features(name, a, map_name, phi, precision)
