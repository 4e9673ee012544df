"""Arrays of any library: which library, which device, and how NumPy reads them.

Arrays of any library that supports DLPack (PyTorch, JAX, CuPy, array-api-strict, ...) are read as NumPy views
of their memory, without a copy, and results are returned as arrays of the same library.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..base import check
from ..base.describe import advice, described
from ..base.result import rebuilt
from .dlpack import taken
from .half import HALVES, narrow
from .sparse import is_sparse
from .stored import as_stored

R = TypeVar("R")
# An array of any kind, in annotations: all of a call and its result are of one.
Array = TypeVar("Array")

# Device types of DLPack: the host, also where its memory is pinned; CUDA.
CPU, _HOST, CUDA = 1, (1, 3, 11), (2, 13)


class Kind(NamedTuple):
    """The library of an array.

    Attributes
    ----------
    name : str
        "numpy", "torch", "jax", "cupy", "array_api_strict", ...
    namespace : module or None
        Its functions, `from_dlpack` among them; None where the library has no such function.
    """

    name: str
    namespace: Any


NUMPY = Kind("numpy", np)


@functools.cache
def _library(kind: type) -> Kind:
    """Return the kind of arrays without a method `__array_namespace__`."""
    if issubclass(kind, np.ndarray):
        return NUMPY
    for base in kind.__mro__:  # of a subclass in the user's own module, too
        module = sys.modules.get(base.__module__.partition(".")[0])
        if module is not None and hasattr(module, "from_dlpack"):
            return Kind(module.__name__, module)
    return Kind(kind.__module__.partition(".")[0], None)


def kind_of(a: Any) -> Kind:
    """Return the kind of an array.

    Parameters
    ----------
    a : array
        Of NumPy, or of a library that speaks DLPack.

    Returns
    -------
    Kind

    Raises
    ------
    TypeError
        If `a` is no such array.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels.arrays import kind_of
    >>> kind_of(np.ones(3)).name
    'numpy'
    """
    if not is_array(a):
        raise TypeError(f"a: expected an array that speaks DLPack, got {described(a)}")
    if not isinstance(a, np.ndarray) and hasattr(a, "__array_namespace__"):
        namespace = a.__array_namespace__()
        return Kind(namespace.__name__.partition(".")[0], namespace)
    library: Callable[[Any], Kind] = _library
    return library(type(a))


def is_array(a: Any) -> bool:
    """Return whether this is an array of NumPy, or of a library that speaks DLPack."""
    return isinstance(a, np.ndarray) or (hasattr(a, "__dlpack__") and not isinstance(a, type))


class Place(NamedTuple):
    """Kind and device of an array; all arrays of a call have one."""

    kind: str
    device: tuple[int, int]

    def __str__(self) -> str:
        number, at = self.device
        if number == CPU:
            return f"{self.kind} on cpu"
        return f"{self.kind} on " + (f"cuda:{at}" if number == CUDA[0] else f"DLPack device {number}:{at}")


def place_of(name: str, a: Any) -> Place:
    """Return where an array is, if an operation can have it from there."""
    if is_sparse(a):
        return Place("numpy", (CPU, 0))
    kind = kind_of(a).name
    if kind == "numpy":
        return Place(kind, (CPU, 0))
    if kind == "torch":
        if a.requires_grad:
            raise TypeError(
                f"{name}: expected a tensor without gradient, got one with requires_grad=True: use "
                f"relkernels.torch, whose operations have gradients, or {name}.detach()"
            )
        if a.is_neg():
            raise TypeError(
                f"{name}: expected a tensor as it lies in memory, got one to be negated when it is read: use "
                f"{name}.resolve_neg()"
            )
    if kind == "jax" and not hasattr(a, "__dlpack_device__"):
        raise TypeError(
            f"{name}: expected an array with values, got one that a transformation of JAX traces: call "
            f"relkernels by way of jax.pure_callback"
        )
    number, at = _shared(name, kind, lambda: a.__dlpack_device__())
    number = int(number)
    if number in _HOST:
        return Place(kind, (CPU, 0))
    return Place(kind, (CUDA[0] if number in CUDA else number, int(at)))


def _shared(name: str, kind: str, ask: Callable[[], R]) -> R:
    """Call a library; if it does not share an array, raise an error that names the argument."""
    try:
        return ask()
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        got = f"{type(error).__name__}: " + str(error).partition("\n")[0]
        raise TypeError(f"{name}: expected an array that {kind} shares by DLPack, got {got}") from error


class HostView(NamedTuple):
    """An array as NumPy sees it: bfloat16 of other libraries is seen as its bits."""

    view: np.ndarray
    dtype: str


def host_view(name: str, a: Any) -> HostView:
    """View an array in the host's memory."""
    kind = kind_of(a).name
    if kind == "numpy":
        return HostView(a, a.dtype.name)
    tensor = _shared(name, kind, lambda: taken(a))
    view = _shared(name, kind, tensor.numpy)
    # If the library exported a copy, writing to it would not change the caller's array. JAX arrays are
    # immutable.
    if kind == "jax" or tensor.copied:
        view.flags.writeable = False
    return HostView(view, tensor.dtype)


def host(name: str, a: Any) -> Any:
    """Return an array in the host's memory as NumPy array, without a copy, and anything else as it is.

    For functions that take arrays of every kind and give none back.
    """
    if isinstance(a, np.ndarray) or not is_array(a):
        return a
    place = place_of(name, a)
    if place.device[0] != CPU:
        raise TypeError(f"{name}: expected an array in the host's memory, got one of {place}")
    view, dtype = host_view(name, a)
    if dtype == "bfloat16":
        raise TypeError(f"{name}: expected {check.FLOATS}, got a {place.kind} array of bfloat16")
    return view


class OnHost(NamedTuple):
    """An array of any kind in the host's memory, as the functions on NumPy arrays take it.

    Attributes
    ----------
    values : numpy.ndarray
        A view; of floats of 16 bits a stand-in of float32, for `relkernels.retrieve` and the like.
    dtype : str
        That of the array itself.
    kind : Kind
    view : numpy.ndarray
        Of the array itself; bfloat16 of other libraries is seen as its bits.
    """

    values: np.ndarray
    dtype: str
    kind: Kind
    view: np.ndarray

    def like(self, a: np.ndarray) -> Any:
        """Return a result as an array of this kind, floats in this dtype."""
        half = self.dtype if self.dtype in HALVES else None
        return as_kind(a if half is None else narrowed(a, half, self.view.dtype), self.kind, half)


def check_returnable(name: str, kind: Kind) -> None:
    """Refuse arrays of a library that cannot be given results."""
    if not hasattr(kind.namespace, "from_dlpack"):
        raise TypeError(
            f"{name}: expected an array of a library with a function from_dlpack, which makes the result, "
            f"got one of {kind.name}, which has none"
        )


def in_main_memory(name: str, a: Any) -> HostView:
    """View an array of any kind in main memory; TypeError for anything else, naming the argument."""
    if not is_array(a):
        raise TypeError(f"{name}: expected an array, got {described(a)}{advice(name, a)}")
    place = place_of(name, a)
    if place.device[0] != CPU:
        raise TypeError(f"{name}: expected an array in the host's memory, got one of {place}")
    return host_view(name, a)


def on_host(name: str, a: Any) -> OnHost:
    """Return the view of `in_main_memory`, as kernels take it if it has 16 bits, with the array's kind."""
    view, dtype = in_main_memory(name, a)
    return OnHost(as_stored(view, dtype) if dtype in HALVES else view, dtype, kind_of(a), view)


def as_kind(a: np.ndarray, kind: Kind, half: str | None) -> Any:
    """Return an array of this kind that shares the memory of `a`, as far as its library does."""
    if kind is NUMPY:
        return a
    if half == "bfloat16" and a.dtype == np.uint16:
        return kind.namespace.from_dlpack(a).view(kind.namespace.bfloat16)
    return kind.namespace.from_dlpack(a)


def narrowed(result: Any, half: str, like: np.dtype) -> Any:
    """Return the float32 arrays of a result in 16 bits; gradients of maps stay in the maps' dtype."""
    if isinstance(result, tuple) and not hasattr(result, "_fields"):
        return rebuilt(lambda part: narrowed(part, half, like), result)
    if isinstance(result, np.ndarray) and result.dtype == np.float32:
        values = narrow(result, half)
        return values.view(like) if half == "bfloat16" else values.astype(like, copy=False)  # byte order
    return result
