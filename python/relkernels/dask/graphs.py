"""The graphs of pairs of blocks: a grid of tiles, or states merged in a tree along the columns.

States are computed by a blockwise layer: if Dask fuses layers, a block (read from a file, for example) is
created inside the task that needs it, once per block of rows. The walk over pairs within a process
(csrc/walk/pairs.hpp) does the same with its super-blocks. If Dask does not fuse, a block of columns is
created once and kept until all blocks of rows have used it. By default Dask would finish one block of rows
first, and keep all columns; therefore the states of a group of columns are merged only after all rows have
used them.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.layers import ArrayBlockwiseDep

from .arrays import FEATURES, Axes, lead_names

# Number of states merged by one task.
FAN_IN = 8


class _Starts(ArrayBlockwiseDep):
    """The index of the first element of each chunk of an axis, as a blockwise argument."""

    def __init__(self, cut: tuple[int, ...]) -> None:
        super().__init__((cut,))
        self.first = list(itertools.accumulate(cut, initial=0))

    def __getitem__(self, place: tuple[int, ...]) -> int:
        return self.first[place[0]]


def tree_of_states(
    what: str,
    accept: Callable[..., Any],
    state: Any,
    operands: Sequence[tuple[da.Array, Axes]],
    chunks: dict[str, Any],
    maps: tuple[Any, Any],
    outputs: Sequence[tuple[tuple[int, ...], np.dtype]],
    needed: Callable[[int, int, int, int], bool] = lambda i, n, j, m: True,
) -> list[da.Array]:
    """Return the arrays of the finished states of all blocks of rows.

    Parameters
    ----------
    what : str
        Name of the operation.
    accept : callable
        ``accept(*blocks, first_row, first_column, state=, phi=, psi=)``: the state of a pair of blocks.
    state : object
        With ``merge(a, b)`` and ``finish(state)`` (`relkernels.states`).
    operands, chunks
        As `aligned` returns them.
    maps : pair of Delayed or None
    outputs : sequence of (last axes, dtype)
        The results; their first axes are the leading ones and the rows.
    needed : callable
        ``needed(first row, rows, first column, columns)``: False for pairs of blocks that can be skipped.
    """
    lead = _lead(operands)
    rows, columns = chunks["i"], chunks["j"]
    first_row, first_column = _Starts(rows), _Starts(columns)
    features = tuple(sorted({a for _, axes in operands for a in axes if a in FEATURES}))
    token = tokenize(what, accept, state, [(a.name, axes) for a, axes in operands], maps)
    # Feature axes remain axes of the states, with one block each, so that blockwise contracts and
    # concatenates nothing.
    pairs = da.blockwise(
        partial(accept, state=state),
        (*lead, "i", "j", *features),
        *(x for operand in operands for x in operand),
        *(first_row, ("i",), first_column, ("j",)),
        phi=maps[0],
        psi=maps[1],
        name=f"{what}-accept-{token}",
        align_arrays=False,
        meta=np.empty((0,) * (len(lead) + 2 + len(features)), operands[0][0].dtype),
    )
    places = list(itertools.product(*(range(len(chunks[name])) for name in lead), range(len(rows))))
    used = {
        place: [
            j
            for j, m in enumerate(columns)
            if j == 0 or needed(first_row.first[place[-1]], rows[place[-1]], first_column.first[j], m)
        ]
        for place in places
    }
    finished = f"{what}-finish-{token}"
    layer: dict[Any, Any] = {}
    passed = None
    if len(places) > 1 and len(columns) > 1 and _by_columns(operands):
        passed = f"{what}-passed-{token}"
        _wait_for_rows(layer, pairs.name, used, passed, len(features))
    for place, js in used.items():
        keys = [(pairs.name, *place, j, *(0 for _ in features)) for j in js]
        after = [(passed, j) for j in js] if passed else []
        last = _join(layer, f"{what}-merge-{token}", state, place, keys, after)
        layer[(finished, *place)] = (state.finish, last)
    graph = HighLevelGraph.from_collections(finished, layer, dependencies=[pairs])
    results = []
    for number, (tail, dtype) in enumerate(outputs):
        name = f"{what}-{number}-{token}"
        pick: dict[Any, Any] = {
            (name, *place, *(0 for _ in tail)): (operator.getitem, (finished, *place), number)
            for place in places
        }
        cut = (*(chunks[axis] for axis in lead), rows, *((size,) for size in tail))
        layers: Any = {**graph.layers, name: pick}
        full = HighLevelGraph(layers, {**graph.dependencies, name: {finished}})
        results.append(da.Array(full, name, cut, meta=np.empty((0,) * len(cut), dtype)))
    return results


def _wait_for_rows(
    layer: dict[Any, Any], pairs: str, used: dict[Any, list[int]], passed: str, features: int
) -> None:
    """Add the tasks (passed, j), which finish when all rows that use block j of the columns have done so."""
    taken: dict[int, list[Any]] = {}
    for place, js in used.items():
        for j in js:
            layer[(f"{passed}-by", *place, j)] = (_nothing, (pairs, *place, j, *(0 for _ in range(features))))
            taken.setdefault(j, []).append((f"{passed}-by", *place, j))
    layer.update({(passed, j): (_nothing, keys) for j, keys in taken.items()})


def _join(
    layer: dict[Any, Any], name: str, state: Any, place: tuple[int, ...], keys: list[Any], after: list[Any]
) -> Any:
    """Add the merges of states and return the key of the last; the first merges also wait for `after`."""
    for depth in itertools.count():
        if len(keys) == 1:
            return keys[0]
        joined = []
        for g, at in enumerate(range(0, len(keys), FAN_IN)):
            joined.append((name, depth, *place, g))
            layer[joined[-1]] = (_merge, state, keys[at : at + FAN_IN], after[at : at + FAN_IN])
        keys, after = joined, []


def _merge(state: Any, parts: list[Any], after: list[None]) -> Any:
    """Merge the states of adjacent ranges, left to right, once all rows have used these columns."""
    return reduce(state.merge, parts)


def _nothing(after: Any) -> None:
    """Mark the end of other tasks: one on the worker with its result, many without moving their results."""


def _by_columns(operands: Sequence[tuple[da.Array, Axes]]) -> bool:
    """Return whether the columns are the larger side, whose blocks should not be kept."""
    size = {
        axis: sum(a.nbytes for a, axes in operands if axis in axes and not {"i", "j"} <= {*axes})
        for axis in "ij"
    }
    return size["i"] <= size["j"]


def _lead(operands: Sequence[tuple[da.Array, Axes]]) -> Axes:
    """Return the names of the leading axes of the broadcast operands."""
    return lead_names(max(sum(axis.startswith("lead") for axis in axes) for _, axes in operands))


def grid(
    what: str,
    tile: Callable[..., np.ndarray],
    operands: Sequence[tuple[da.Array, Axes]],
    chunks: dict[str, Any],
    new_axis: tuple[int, ...] = (),
) -> da.Array:
    """Return the matrix of tiles between all blocks of rows of one or two arrays.

    Parameters
    ----------
    what : str
        Name of the operation.
    tile : callable
        ``tile(x, y)`` of two blocks, or ``tile(x)`` of one with itself.
    operands, chunks
        As `aligned` returns them; a single operand is used for both sides, and tiles below the diagonal are
        then transposed copies of those above.
    new_axis : tuple of int
        Size of an additional axis of the tiles before their last two, if any.
    """
    lead = _lead(operands)
    x, y = operands[0], operands[-1]
    symmetric = len(operands) == 1
    rows = chunks["i"]
    columns = rows if symmetric else chunks["j"]
    name = f"{what}-{tokenize(what, tile, [(a.name, axes) for a, axes in operands])}"
    new = (0,) * len(new_axis)
    layer: dict[Any, Any] = {}
    for place in itertools.product(*(range(len(chunks[axis])) for axis in lead)):
        where = dict(zip(lead, place, strict=True))
        for i, j in itertools.product(range(len(rows)), range(len(columns))):
            key = (name, *place, *new, i, j)
            if not symmetric:
                layer[key] = (tile, _block(x, {**where, "i": i}), _block(y, {**where, "j": j}))
            elif i == j:
                layer[key] = (tile, _block(x, {**where, "i": i}))
            elif i < j:
                layer[key] = (tile, _block(x, {**where, "i": i}), _block(x, {**where, "i": j}))
            else:
                layer[key] = (np.swapaxes, (name, *place, *new, j, i), -1, -2)
    cut = (*(chunks[axis] for axis in lead), *((size,) for size in new_axis), rows, columns)
    sources: list[Any] = [a for a, _ in operands]
    graph = HighLevelGraph.from_collections(name, layer, dependencies=sources)
    return da.Array(graph, name, cut, meta=np.empty((0,) * len(cut), x[0].dtype))


def _block(operand: tuple[da.Array, Axes], where: dict[str, int]) -> tuple[Any, ...]:
    """Return the key of a block; axes of one block broadcast, and feature axes have only one."""
    a, axes = operand
    numbers = (min(where.get(axis, 0), blocks - 1) for axis, blocks in zip(axes, a.numblocks, strict=True))
    return (a.name, *numbers)
