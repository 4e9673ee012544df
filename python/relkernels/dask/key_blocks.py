"""Dask arrays whose blocks are `relkernels.Keys`."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from .. import ops
from ..base import check
from ..maps.mlp import MLP
from .arrays import array, value


class OfKeys(np.ndarray):
    """The type of the meta array of a Dask array whose blocks are `Keys`."""


def keys(keys: Any, psi: MLP | None = None, *, dtype: Any = None) -> da.Array:
    """Return keys for `retrieve`, each block prepared once: `relkernels.Keys` block by block.

    Parameters
    ----------
    keys : dask.array.Array of shape (m, d_k)
        Of float32, float64, float16 or bfloat16.
    psi : MLP, optional
        Feature map of the keys; None for the identity.
    dtype : {"float32", "float64", "float16", "bfloat16"}, optional
        Dtype in which the features are stored; None for that of the features.

    Returns
    -------
    dask.array.Array of shape (m, d)
        Only for `retrieve`: its blocks are `Keys`, not arrays. ``persist()`` prepares them, and leaves each
        in the memory of the worker that did; otherwise every search prepares them again.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or has unknown chunks; the message names it.

    Examples
    --------
    >>> import dask.array as da, numpy as np, relkernels as rk
    >>> import relkernels.dask as rd
    >>> psi = rk.MLP.random([8, 16], random_state=0)
    >>> x = da.ones((1000, 8), chunks=(250, 8), dtype=np.float32)
    >>> kept = rd.keys(x, psi).persist()
    >>> values, indices = rd.retrieve(np.ones((3, 16), np.float32), kept, 2)
    >>> indices.compute()[0]
    array([0, 1])
    """
    rows = array("keys", keys)
    if rows.ndim != 2:
        check.fail("keys", "shape (rows, features)", rows.shape)
    # The checks of a block, on no rows.
    like = ops.Keys(np.empty((0, rows.shape[1]), rows.dtype), psi, dtype=dtype)
    rows = rows.rechunk({1: -1}) if rows.numblocks[1] > 1 else rows
    searched = np.dtype(np.float64 if like.dtype == "float64" else np.float32)
    return da.map_blocks(
        partial(ops.Keys, dtype=like.dtype),
        rows,
        psi=value(psi),
        chunks=(rows.chunks[0], (like.dim,)),
        meta=np.empty((0, 0), searched).view(OfKeys),
        token="keys",
    )
