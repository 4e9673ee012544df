"""Dask arrays as arguments: checks, common chunks, and maps as values of the graph."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import normalize_token, tokenize

from ..arrays.half import HALVES
from ..maps.mlp import MLP
from ..ops.links import LINKS_OF_DISTANCE
from ..states.blocks import NpyBlocks

# Axes of features and of lists of indices, always in one chunk; the other axes are rows and columns of the
# relation, and leading ones.
FEATURES = ("d", "e", "f", "g")
Axes = tuple[str, ...]


@normalize_token.register(MLP)
def _token_of_mlp(mlp: MLP) -> tuple[Any, ...]:
    """Give equal maps equal tokens, so that equal calls build equal graphs."""
    parts = (mlp.weights, mlp.biases, mlp.activation.name, mlp.activation.parameter, mlp.normalize)
    return "relkernels.MLP", normalize_token(parts)


def from_npy(path: str | os.PathLike[str], rows: int | None = None, *, dtype: Any = None) -> da.Array:
    """Return a Dask array of the rows of a ``.npy`` file, in blocks of `rows`.

    Tasks contain only the path, and map the rows of their block when they run: every worker must see the file
    under that path. The token depends on the file's path, size and modification time.

    Parameters
    ----------
    path : path-like
        Two dimensions, C order, float32, float64, float16 or bfloat16.
    rows : int, optional
        Rows per block; None means blocks of about 32 MiB.
    dtype : {"bfloat16"}, optional
        Required for bfloat16, as for `relkernels.NpyBlocks`.

    Returns
    -------
    dask.array.Array of shape (n, d)

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError, TypeError
        If it is not such a file, or shorter than its header says; the message names it. Tasks check again.

    Examples
    --------
    >>> import os, tempfile, numpy as np
    >>> from relkernels.dask import from_npy
    >>> path = os.path.join(tempfile.mkdtemp(), "keys.npy")
    >>> np.save(path, np.arange(20.0).reshape(10, 2))
    >>> from_npy(path, rows=4).chunks
    ((4, 4, 2), (2,))
    """
    blocks = NpyBlocks(path, rows, dtype=dtype)
    return da.from_array(
        blocks, chunks=(blocks.rows, blocks.shape[1]), asarray=False, inline_array=True, meta=_meta(blocks)
    )


def _meta(a: Any) -> np.ndarray:
    return np.empty((0,) * a.ndim, a.dtype)


def array(name: str, a: Any) -> da.Array:
    """Return a Dask array of NumPy blocks with known chunks; turn a NumPy array into one block."""
    if isinstance(a, np.ndarray):
        return da.from_array(a, chunks=-1)
    if not isinstance(a, da.Array) or not isinstance(a._meta, np.ndarray):
        got = type(a).__name__ if not isinstance(a, da.Array) else f"one of {type(a._meta).__name__} blocks"
        raise TypeError(f"{name}: expected a Dask array of NumPy blocks (or a NumPy array), got {got}")
    if any(math.isnan(size) for size in a.shape):
        raise ValueError(
            f"{name}: expected known chunks, got shape {a.shape} and chunks {a.chunks}; "
            f"call {name}.compute_chunk_sizes() first"
        )
    return a


def optional_array(name: str, a: Any) -> da.Array | None:
    """Return None for None, else the result of `array`."""
    return None if a is None else array(name, a)


def array_of_pairs(name: str, a: Any) -> da.Array | None:
    """Return None for None, else an array with two last axes, of length 1 where `a` has none.

    By indexing: Dask's `reshape` loses the blocks of an array that also has empty ones.
    """
    pairs = optional_array(name, a)
    return pairs if pairs is None else pairs[(None,) * (2 - pairs.ndim)]


def stand_in(a: da.Array | None) -> Any:
    """Return a NumPy array of this shape and dtype for the checks: one element, strides of 0."""
    return None if a is None else np.broadcast_to(np.zeros((), a.dtype), a.shape)


def widened(
    precision: str | None, *named: tuple[str, da.Array]
) -> tuple[list[da.Array], np.dtype, str | None]:
    """Return arrays of 16-bit floats as float32, the dtype of the results, and the precision.

    The rules are those of `relkernels.arrays` for arrays in memory: bfloat16 implies precision "bf16", and
    results are rounded to the inputs' dtype.
    """
    first_name, first = named[0]
    if first.dtype.name not in HALVES:
        return [a for _, a in named], first.dtype, precision
    for name, a in named[1:]:
        if a.dtype != first.dtype:
            raise TypeError(f"{name}: expected {first.dtype}, the dtype of {first_name}, got {a.dtype}")
    wide = [a.astype(np.float32) for _, a in named]
    return wide, first.dtype, "bf16" if first.dtype.name == "bfloat16" else precision


def own_precision(precision: str | None, dtype: np.dtype, link: Any) -> str | None:
    """Return the precision that `widened` gave, but None where bfloat16 arrays imply it for distances."""
    return None if dtype.name == "bfloat16" and link in LINKS_OF_DISTANCE else precision


def value(phi: MLP | None) -> Any:
    """Return a map as one value of the graph, which tasks refer to."""
    if phi is None:
        return None
    return dask.delayed(phi, name=f"relkernels-mlp-{tokenize(phi)}", traverse=False)


def aligned(operands: Sequence[tuple[da.Array, Axes]]) -> tuple[list[tuple[da.Array, Axes]], dict[str, Any]]:
    """Rechunk the arrays to match, each axis like the first array that has it.

    Parameters
    ----------
    operands : sequence of (array, names of its last axes)
        Leading axes are named from the last one backwards. Axes of size 1 broadcast, and are unchanged.

    Returns
    -------
    operands : list of (array, names of all axes)
    chunks : dict
        Chunks of every axis, by name.
    """
    named = []
    for a, core in operands:
        lead = a.ndim - len(core)
        named.append((a, tuple(f"lead{lead - axis}" for axis in range(lead)) + core))
    chunks: dict[str, Any] = {}
    for a, names in named:
        for name, cut in zip(names, a.chunks, strict=True):
            if name in FEATURES:
                chunks[name] = (sum(cut),)
            elif sum(chunks.get(name, (1,))) == 1 and (name not in chunks or sum(cut) != 1):
                chunks[name] = cut
    chunks = {name: (1,) if sum(cut) == 1 else cut for name, cut in chunks.items()}
    result = []
    for a, names in named:
        wanted = tuple((1,) if size == 1 else chunks[name] for name, size in zip(names, a.shape, strict=True))
        result.append((a if a.chunks == wanted else _rechunked(a, wanted), names))
    return result, chunks


def _rechunked(a: da.Array, chunks: tuple[tuple[int, ...], ...]) -> da.Array:
    """Return an array with these chunks. Dask's `rechunk` ignores them if all axes have length 0."""
    return a.rechunk(chunks) if any(a.shape) else da.empty(a.shape, dtype=a.dtype, chunks=chunks)


def lead_names(count: int) -> Axes:
    """Return the names that `aligned` gives to `count` leading axes."""
    return tuple(f"lead{count - axis}" for axis in range(count))
