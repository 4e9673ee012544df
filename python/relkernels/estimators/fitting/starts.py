"""Maps that a solver starts from where `init` asks for other ones than random maps: given, or constructed.

A constructed map of one column is the network of `bounds.constructions.knots`: it interpolates the values of
the relation between equally spaced knots, one hidden unit per interval, which trained networks of the same
width often do not reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from ...base import check
from ...base.describe import described
from ...bounds.constructions import knots
from ...maps.activations import Activation, resolve
from ...maps.mlp import MLP

CONSTRUCTED = "constructed"


def checked_init(value: Any, n_maps: int) -> str | list[MLP]:
    """Return "auto", "constructed" or the list of maps."""
    if isinstance(value, str):
        return check.choice("init", value, ("auto", CONSTRUCTED))
    maps = [value] if isinstance(value, MLP) else value
    wanted = "an MLP" if n_maps == 1 else "a pair of MLPs"
    if not isinstance(maps, (list, tuple)) or not all(isinstance(m, MLP) for m in maps):
        raise TypeError(f"init: expected 'auto', 'constructed' or {wanted}, got {described(value)}")
    if len(maps) != n_maps:
        check.fail("init", wanted, f"{len(maps)} of them")
    if maps[0].widths[-1] != maps[-1].widths[-1]:
        check.fail("init", "maps with equally many features", [m.widths[-1] for m in maps])
    return list(maps)


def check_maps(
    argument: str,
    maps: Mapping[str, MLP],
    widths: Sequence[tuple[int, ...]],
    activation: str | Activation,
    dtype: np.dtype,
    settings: Mapping[str, Any],
) -> None:
    """Refuse maps that a fit with these parameters cannot start from."""
    for (name, mlp), each in zip(maps.items(), widths, strict=False):
        if settings["auto_hidden"]:
            each = (each[0], *mlp.widths[1:-1], each[-1])
        if settings["auto_features"]:
            each = (*each[:-1], mlp.widths[-1])
        wanted = each, resolve(activation), dtype, settings["normalize"]
        if (mlp.widths, mlp.activation, mlp.dtype, mlp.normalize) != wanted:
            normalized = ", normalized" if settings["normalize"] else ""
            hint = "" if argument == "init" else "; fit a clone to begin anew"
            check.fail(
                argument,
                f"parameters and tables that {name} fits, {mlp!r}",
                f"widths {each}, {wanted[1]}, {dtype}{normalized}{hint}",
            )


def trainable(mlp: MLP, dtype: np.dtype) -> MLP:
    """Return the map with weights of this dtype and with biases."""
    biases = mlp.biases or [np.zeros(w.shape[1]) for w in mlp.weights]
    return MLP(
        [w.astype(dtype) for w in mlp.weights],
        [b.astype(dtype) for b in biases],
        mlp.activation,
        normalize=mlp.normalize,
    )


def check_constructed(
    settings: Mapping[str, Any], activation: str | Activation, tables: Sequence[Any], gives_values: bool
) -> None:
    """Refuse parameters and samples for which no map is constructed."""
    if settings["init"] != CONSTRUCTED:
        return
    if not gives_values:
        check.fail("init", "'auto' or maps without a kernel or a dense matrix of values", "'constructed'")
    for table in tables:
        if sparse.issparse(table) or table.shape[1] != 1:
            check.fail(
                "init",
                "'auto' or maps for tables other than one dense column (bounds.neurons builds maps)",
                f"'constructed' for shape {table.shape}",
            )
    if settings["loss"] != "squared":
        check.fail("loss", "'squared' with init='constructed'", repr(settings["loss"]))
    if resolve(activation).name != "relu":
        check.fail("activation", "'relu' with init='constructed'", repr(activation))
    if any(len(widths) != 1 for widths in settings["hidden_widths"]):
        check.fail("hidden_widths", "one hidden layer with init='constructed'", settings["hidden_widths"])
    if settings["normalize"]:
        check.fail("normalize", "False with init='constructed'", True)


def constructed_map(start: MLP, x: np.ndarray, arguments: np.ndarray, values: Any) -> MLP:
    """Return a map of the widths of `start` that interpolates a symmetric relation.

    `values` are a matrix for the rows of x, or a kernel of rows of `arguments`: x before it was scaled.
    """
    width, n_features = start.widths[1:]
    if callable(values):
        s = np.linspace(x.min(), x.max(), width + 1, dtype=np.float64)
        ends = arguments.min(), arguments.max()
        places = np.linspace(*ends, width + 1, dtype=arguments.dtype)[:, None]
        R = np.asarray(values(places, places), np.float64)
    else:
        rows = _knots(x, width)
        s, R = x[rows, 0].astype(np.float64), values[np.ix_(rows, rows)].astype(np.float64)
    if not s[-1] > s[0]:
        check.fail("X", "at least two different values with init='constructed'", f"only {s[0]:g}")
    return _like(start, knots.through(s, s, R, True, n_features)[0])


def constructed_maps(starts: Sequence[MLP], x: np.ndarray, y: np.ndarray, values: np.ndarray) -> list[MLP]:
    """Return maps of the widths of `starts` that interpolate a matrix of values."""
    phi, psi = starts
    rows, columns = _knots(x, phi.widths[1]), _knots(y, psi.widths[1])
    R = values[np.ix_(rows, columns)].astype(np.float64)
    s, t = x[rows, 0].astype(np.float64), y[columns, 0].astype(np.float64)
    found = knots.through(s, t, R, False, phi.widths[-1])
    return [_like(phi, found[0]), _like(psi, found[1])]


def _knots(x: np.ndarray, n: int) -> np.ndarray:
    """Return the rows of n + 1 different values of one column, spaced as equally as there are values."""
    values, rows = np.unique(x[:, 0], return_index=True)
    if len(values) <= n:
        check.fail(
            "hidden_widths",
            f"at most {len(values) - 1} units with init='constructed' and {len(values)} different values",
            n,
        )
    each = np.arange(n + 1)
    nearest = np.searchsorted((values[1:] + values[:-1]) / 2, np.linspace(values[0], values[-1], n + 1))
    before = np.minimum(np.maximum.accumulate(nearest - each), len(values) - 1 - n)
    found: np.ndarray = rows[np.maximum(before, 0) + each]
    return found


def _like(start: MLP, built: MLP) -> MLP:
    """Return the built map in the dtype of `start`, with as many features: those that are missing are 0."""
    missing = start.widths[-1] - built.widths[-1]
    assert built.biases is not None
    last = np.pad(built.weights[1], ((0, 0), (0, missing)))
    bias = np.pad(built.biases[1], (0, missing))
    return trainable(MLP([built.weights[0], last], [built.biases[0], bias]), start.dtype)
