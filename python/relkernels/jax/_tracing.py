"""Shapes of results and errors of arguments, where JAX traces: arrays without values.

The public functions run over stand-ins, with an engine that allocates stand-ins and computes nothing. So
calls are refused with the same messages as those on NumPy arrays, before they are compiled.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ..arrays.dispatch import OPERATIONS
from ..arrays.engine import Processor
from ..arrays.stand_ins import StandIn, stand_in


class _Shapes(Processor):
    """Allocates stand-ins for the results and runs no kernel."""

    __slots__ = ()

    @staticmethod
    def empty(what: str, shape: tuple[int, ...], dtype: np.dtype) -> StandIn:
        """Return a stand-in."""
        return _standing(shape, dtype)

    empty_sums = empty

    @staticmethod
    def run(name: str, *arguments: Any) -> None:
        """Compute nothing."""


_SHAPES = _Shapes()


def _standing(shape: tuple[int, ...], dtype: Any) -> StandIn:
    steps = [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]
    return stand_in(_SHAPES, None, 0, tuple(shape), steps, np.dtype(dtype).name)


def result_of(name: str, arrays: dict[str, Any], **options: Any) -> Any:
    """Return the shapes and dtypes of what a public function returns; raise what it raises.

    Parameters
    ----------
    name : str
        One of the functions whose checks read no elements.
    arrays : dict
        Its arrays by name, or None.
    **options
        Its other arguments.
    """
    standing = {n: None if a is None else _standing(a.shape, a.dtype) for n, a in arrays.items()}
    result = OPERATIONS[name].call(**standing, **options)
    if isinstance(result, tuple):
        return tuple(jax.ShapeDtypeStruct(a.shape, index_dtype(a.dtype)) for a in result)
    return jax.ShapeDtypeStruct(result.shape, result.dtype)


def index_dtype(dtype: Any) -> Any:
    """Return the dtype that JAX gives to results of `dtype`: int32 for int64, unless it has 64-bit types."""
    return jax.dtypes.canonicalize_dtype(dtype)
