"""Functions on NumPy arrays as operations of JAX: callbacks, with batches and derivatives.

`jax.pure_callback` copies arguments and results once. Under `jax.vmap` the batch becomes leading dimensions,
which the kernels broadcast, or, where an argument has no leading dimensions or the result is a gradient, a
loop over the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# Function of NumPy arrays (or None) and options by name.
Host = Callable[..., Any]


def call(
    host: Host, result: Any, leading: tuple[int | None, ...], arrays: tuple[Any, ...], **options: Any
) -> Any:
    """Return what ``host(*arrays, **options)`` does, of the shapes and dtypes in `result`.

    `leading` has the number of dimensions that follow the leading ones of each array, or None for an array
    without any; with a None for an array that is batched, the batch is a loop.
    """
    ndims = tuple(None if a is None else a.ndim for a in arrays)
    function = functools.partial(_on_host, functools.partial(host, **options), result, ndims, leading)
    return jax.pure_callback(function, result, *arrays, vmap_method="expand_dims")


def _on_host(
    host: Host, result: Any, ndims: tuple[int | None, ...], leading: tuple[int | None, ...], *given: Any
) -> Any:
    arrays = [None if a is None else np.asarray(a) for a in given]
    extra = max(a.ndim - n for a, n in zip(arrays, ndims, strict=True) if a is not None and n is not None)
    if extra == 0:
        return _as(result, host(*arrays))
    batch = np.broadcast_shapes(*(a.shape[:extra] for a in arrays if a is not None))
    whole = [None if a is None else np.broadcast_to(a, (*batch, *a.shape[extra:])) for a in arrays]
    is_batched = [a is not None and any(size > 1 for size in a.shape[:extra]) for a in arrays]
    if any(after is None and batched for after, batched in zip(leading, is_batched, strict=True)):
        items = [_as(result, host(*(None if a is None else a[i] for a in whole))) for i in np.ndindex(*batch)]
        return jax.tree.map(
            lambda like, *each: np.reshape(np.array(each, like.dtype), (*batch, *like.shape)), result, *items
        )
    own = [
        None if a is None or after is None else a.ndim - extra - after
        for a, after in zip(whole, leading, strict=True)
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
    found = host(*aligned)
    return _as(jax.tree.map(lambda s: jax.ShapeDtypeStruct((*batch, *s.shape), s.dtype), result), found)


def _as(result: Any, found: Any) -> Any:
    """Return what a function found as arrays of the expected shapes and dtypes."""
    if isinstance(result, tuple):
        return tuple(_as(like, a) for like, a in zip(result, found, strict=True))
    return np.asarray(found, result.dtype).reshape(result.shape)


def at_least(ndim: int, a: Any) -> Any:
    """Return an array, or None, with leading dimensions of 1 up to `ndim` dimensions."""
    return a if a is None or a.ndim >= ndim else a.reshape((*(1,) * (ndim - a.ndim), *a.shape))


def like(*arrays: Any) -> tuple[Any, ...]:
    """Return the shapes and dtypes of arrays, those of their gradients."""
    return tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays)


def differentiable(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``forward(options, *arrays)`` with the gradients ``backward(options, arrays, out, grad)``.

    `options` are hashable; `backward` returns a gradient for each array, None for zero.
    """
    # By name: a mock of jax, with which the documentation may be built, returns functions as decorators do.
    operator = jax.custom_vjp(fun=forward, nondiff_argnums=(0,))

    def save(options: Any, *arrays: Any) -> Any:
        out = forward(options, *arrays)
        return out, (arrays, out)

    operator.defvjp(save, lambda options, kept, grad: tuple(backward(options, *kept, grad)))
    return operator
