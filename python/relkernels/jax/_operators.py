"""Functions on NumPy arrays as operations of JAX, with batches and derivatives.

On the CPU, XLA calls them with arrays over its own memory, by its foreign function interface: arguments are
not copied, and results are written in place or, by functions that return new arrays, copied once. On other
devices, and if the interface has a version that is not known here, `jax.pure_callback` copies both.

Under `jax.vmap` the batch becomes leading dimensions, which the kernels broadcast, or, where an argument has
no leading dimensions or the result is a gradient, a loop over the batch.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from .. import _core
from ._host import compute, computed, described

_TARGET = "relkernels"


def _version() -> tuple[int, int] | None:
    """Return the version of XLA's interface, which only the header in jaxlib tells; None without it."""
    try:
        header = Path(f"{jax.ffi.include_dir()}/xla/ffi/api/c_api.h").read_text()
    except OSError:
        return None
    major, minor = (re.search(rf"#define XLA_FFI_API_{part} (\d+)", header) for part in ("MAJOR", "MINOR"))
    return (int(major[1]), int(minor[1])) if major and minor else None


def _registered(version: tuple[int, int] | None) -> bool:
    """Return whether XLA has our handler; one of another version would keep JAX from using the CPU at all."""
    handler = _core.xla_handler(compute, *version) if version else None
    if handler is None:
        words = f"version {version[0]}.{version[1]}" if version else "the version"
        warnings.warn(
            f"relkernels.jax copies the arrays of each call: {words} of XLA's foreign function interface"
            " is not known",
            stacklevel=2,
        )
        return False
    jax.ffi.register_ffi_target(_TARGET, handler, platform="cpu")
    return True


_IN_PLACE = _registered(_version())


def call(
    name: str, result: Any, leading: tuple[int | None, ...], arrays: tuple[Any, ...], /, **options: Any
) -> Any:
    """Return what the function `name` of `hosted` computes, of the shapes and dtypes in `result`.

    `leading` has the number of dimensions that follow the leading ones of each array, or None for an array
    without any; with a None for an array that is batched, the batch is a loop.
    """
    ndims = tuple(None if a is None else a.ndim for a in arrays)
    given = tuple(a for a in arrays if a is not None)
    text = described(name, ndims, leading, options)
    if isinstance(result, tuple):
        return _called(text, result, *given)
    return _called(text, (result,), *given)[0]


# Compiled, so that calls outside of `jit` are neither traced nor compiled again.
@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _called(text: str, shapes: tuple[Any, ...], *given: Any) -> Any:
    def copied(*given: Any) -> Any:
        function = functools.partial(computed, text, shapes)
        return jax.pure_callback(function, shapes, *given, vmap_method="expand_dims")

    def in_place(*given: Any) -> Any:
        return jax.ffi.ffi_call(_TARGET, shapes, vmap_method="expand_dims")(*given, call=text)

    return jax.lax.platform_dependent(*given, cpu=in_place, default=copied) if _IN_PLACE else copied(*given)


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
