"""Functions of NumPy arrays that compiled programs call by name, with batches.

A program holds a text that describes the call: the function's name, its options and the dimensions of its
arrays. The text has the same meaning in every process, so programs can be cached, exported and loaded.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# Function of NumPy arrays (or None) and of options by name. One that computes in place writes its results to
# `out`, an array or, for several results, a tuple; any other returns them.
Host = Callable[..., Any]
Arrays = tuple[np.ndarray, ...]

_HOSTS: dict[str, tuple[Host, bool]] = {}


def hosted(name: str, *, in_place: bool = False) -> Callable[[Host], Host]:
    """Return a decorator that makes a function known to programs by `name`."""

    def known(function: Host) -> Host:
        _HOSTS[name] = function, in_place
        return function

    return known


class _Call(NamedTuple):
    function: Host
    in_place: bool
    ndims: tuple[int | None, ...]
    leading: tuple[int | None, ...]
    options: dict[str, Any]

    def compute(self, arrays: tuple[Any, ...], results: Arrays) -> None:
        if self.in_place:
            self.function(*arrays, out=results if len(results) > 1 else results[0], **self.options)
            return
        found = self.function(*arrays, **self.options)
        for result, a in zip(results, found if isinstance(found, tuple) else (found,), strict=True):
            result[...] = np.reshape(a, result.shape)

    def batch(self, given: Arrays) -> tuple[int, ...]:
        """Return the dimensions that `vmap` has put before those of each array."""
        ndims = (n for n in self.ndims if n is not None)
        return np.broadcast_shapes(*(a.shape[: a.ndim - n] for a, n in zip(given, ndims, strict=True)))


def described(
    name: str, ndims: tuple[int | None, ...], leading: tuple[int | None, ...], options: dict[str, Any]
) -> str:
    """Return the text of a call; options are numbers, strings, None and tuples of them."""
    return repr((name, ndims, leading, options))


@functools.lru_cache(4096)
def _parsed(text: str) -> _Call:
    name, ndims, leading, options = ast.literal_eval(text)
    return _Call(*_HOSTS[name], ndims, leading, options)


def compute(text: str, given: Arrays, results: Arrays) -> None:
    """Compute a call with the arrays that it is given, those that are not None, into `results`."""
    call = _parsed(text)
    rest = iter(given)
    arrays = [None if n is None else next(rest) for n in call.ndims]
    batch = call.batch(given)
    extra = len(batch)
    if extra == 0:
        return call.compute(tuple(arrays), results)
    if 0 in batch:
        return None
    whole = [None if a is None else np.broadcast_to(a, (*batch, *a.shape[extra:])) for a in arrays]
    is_batched = [a is not None and any(size > 1 for size in a.shape[:extra]) for a in arrays]
    if any(after is None and batched for after, batched in zip(call.leading, is_batched, strict=True)):
        for i in np.ndindex(*batch):
            item = (*i, ...)  # with the dots, the only element of an item is an array too
            call.compute(
                tuple(None if a is None else a[item] for a in whole), tuple(r[item] for r in results)
            )
        return None
    own = [
        None if a is None or after is None else a.ndim - extra - after
        for a, after in zip(whole, call.leading, strict=True)
    ]
    most = max(n for n in own if n is not None)
    aligned: list[Any] = []
    for a, n, first in zip(whole, own, arrays, strict=True):
        if a is None or first is None:
            aligned.append(None)
        elif n is None:
            aligned.append(first.reshape(first.shape[extra:]))
        else:
            aligned.append(a.reshape((*batch, *(1,) * (most - n), *a.shape[extra:])))
    return call.compute(tuple(aligned), results)


def computed(text: str, shapes: tuple[Any, ...], *given: Any) -> Arrays:
    """Return the results of a call in new arrays, of the shapes and dtypes in `shapes` after its batch."""
    arrays = tuple(np.asarray(a) for a in given)
    batch = _parsed(text).batch(arrays)
    results = tuple(np.empty((*batch, *s.shape), s.dtype) for s in shapes)
    compute(text, arrays, results)
    return results
