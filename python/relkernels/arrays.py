"""Arrays of every kind: what came in, and what goes out.

The public operations compute on NumPy arrays. What this module adds around them:

- Arrays of any library that speaks DLPack (PyTorch, JAX, CuPy, array-api-strict, ...) come in as views of
  their memory, without a copy, and results go out as arrays of the same library.
- Arrays on a CUDA device go, as they came, to the operation of the same name in `relkernels.cuda`.
- All arrays of one call are of one kind and on one device.
- Floats of 16 bits are computed in float32 and results rounded back to them.

A call on NumPy arrays of float32 or float64 pays a look at its first argument.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from . import _check
from ._dlpack import Tensor, from_dlpack, taken
from ._half import HALVES, narrow, widen
from ._result import rebuilt

__all__ = ["Array", "Kind", "Tensor", "from_dlpack", "host", "kind_of", "operation"]

P = ParamSpec("P")
R = TypeVar("R")
# An array of any kind, in annotations: all of a call and its result are of one.
Array = TypeVar("Array")

# Device types of DLPack: the host, also where its memory is pinned; CUDA.
_CPU, _HOST, _CUDA = 1, (1, 3, 11), (2, 13)


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


_NUMPY = Kind("numpy", np)


@functools.cache
def _library(kind: type) -> Kind:
    """Return the kind of arrays that do not tell their namespace."""
    if issubclass(kind, np.ndarray):
        return _NUMPY
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
        raise TypeError(f"a: expected an array that speaks DLPack, got {_check._kind(a)}")
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
        if number == _CPU:
            return f"{self.kind} on cpu"
        return f"{self.kind} on " + (f"cuda:{at}" if number == _CUDA[0] else f"DLPack device {number}:{at}")


def _place(name: str, a: Any) -> Place:
    """Return where an array is, if an operation can have it from there."""
    kind = kind_of(a).name
    if kind == "numpy":
        return Place(kind, (_CPU, 0))
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
        return Place(kind, (_CPU, 0))
    return Place(kind, (_CUDA[0] if number in _CUDA else number, int(at)))


def _shared(name: str, kind: str, ask: Callable[[], R]) -> R:
    """Return what a library answers; where it does not share an array, say which it was."""
    try:
        return ask()
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        got = f"{type(error).__name__}: " + str(error).partition("\n")[0]
        raise TypeError(f"{name}: expected an array that {kind} shares by DLPack, got {got}") from error


class _Seen(NamedTuple):
    """An array as NumPy sees it: bfloat16 of other libraries is seen as its bits."""

    view: np.ndarray
    dtype: str


def _seen(name: str, a: Any) -> _Seen:
    """View an array in the host's memory."""
    kind = kind_of(a).name
    if kind == "numpy":
        return _Seen(a, a.dtype.name)
    tensor = _shared(name, kind, lambda: taken(a))
    view = _shared(name, kind, tensor.numpy)
    # What the library copied to share it would not show what is written there; JAX's arrays never change.
    if kind == "jax" or tensor.copied:
        view.flags.writeable = False
    return _Seen(view, tensor.dtype)


def host(name: str, a: Any) -> Any:
    """Return an array in the host's memory as NumPy array, without a copy, and anything else as it is.

    For functions that take arrays of every kind and give none back.
    """
    if isinstance(a, np.ndarray) or not is_array(a):
        return a
    place = _place(name, a)
    if place.device[0] != _CPU:
        raise TypeError(f"{name}: expected an array in the host's memory, got one of {place}")
    view, dtype = _seen(name, a)
    if dtype == "bfloat16":
        raise TypeError(f"{name}: expected {_check.FLOATS}, got a {place.kind} array of bfloat16")
    return view


class OnHost(NamedTuple):
    """An array of any kind in the host's memory, as the functions on NumPy arrays take it.

    Attributes
    ----------
    values : numpy.ndarray
        A view; of floats of 16 bits a copy in float32.
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
        return _made(a if half is None else _rounded(a, half, self.view.dtype), self.kind, half)


def check_returnable(name: str, kind: Kind) -> None:
    """Refuse arrays of a library that cannot be given results."""
    if not hasattr(kind.namespace, "from_dlpack"):
        raise TypeError(
            f"{name}: expected an array of a library with a function from_dlpack, which makes the result, "
            f"got one of {kind.name}, which has none"
        )


def on_host(name: str, a: Any) -> OnHost:
    """View an array of any kind in the host's memory; TypeError for anything else, naming the argument."""
    if not is_array(a):
        raise TypeError(f"{name}: expected an array, got {type(a).__name__}")
    place = _place(name, a)
    if place.device[0] != _CPU:
        raise TypeError(f"{name}: expected an array in the host's memory, got one of {place}")
    view, dtype = _seen(name, a)
    return OnHost(widen(view, dtype) if dtype in HALVES else view, dtype, kind_of(a), view)


def operation(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a function on NumPy arrays take arrays of every kind, and return what it was given.

    `names` are its array parameters, the first the one whose dtype the others share. A parameter may be a
    tuple of arrays. Results are arrays, tuples and lists of them; what the caller gave as `out` is returned.
    With bfloat16, ``precision="bf16"`` is meant where the function has it: products are then exact.
    """
    first_name = names[0]

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters
        order = tuple(name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY)
        about = _Function(function, order, names, "precision" in parameters)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            first = args[0] if args else kwargs.get(first_name)
            if type(first) is np.ndarray and first.dtype.char in "fd":
                try:
                    return function(*args, **kwargs)
                except TypeError:
                    # Of another kind than the first, or of 16 bits? That is the better message; nothing is
                    # written yet.
                    found = _given(about, args, kwargs)
                    if found is not None and found.place.kind == "numpy":
                        _common_half(found.arrays, {name: _seen(name, a) for name, a in found.arrays.items()})
                    raise
            return _any_kind(about, args, kwargs)

        return call

    return decorate


def _arrays(arguments: dict[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the arrays among the arguments, and what to call them in a message."""
    for name in names:
        value = arguments.get(name)
        if isinstance(value, tuple):
            for i, part in enumerate(value):
                if is_array(part):
                    yield f"{name}[{i}]", part
        elif is_array(value):
            yield name, value


class _Function(NamedTuple):
    """A function on NumPy arrays, its parameters that may go by position, and those that are arrays."""

    call: Callable[..., Any]
    order: tuple[str, ...]
    names: tuple[str, ...]
    has_precision: bool


class _Given(NamedTuple):
    """The arguments of a call, and the arrays among them, which are all in one place."""

    arguments: dict[str, Any]
    arrays: dict[str, Any]
    place: Place


def _given(function: _Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Given | None:
    """Find the arrays of a call; None where there is none, or an argument too many."""
    arguments = dict(zip(function.order, args, strict=False)) | kwargs
    arrays = dict(_arrays(arguments, function.names))
    if not arrays or len(arguments) < len(args) + len(kwargs):
        return None
    places = {name: _place(name, a) for name, a in arrays.items()}
    leader, place = next(iter(places.items()))
    for name, other in places.items():
        if other != place:
            raise TypeError(
                f"{name}: expected an array of {place}, the kind and device of {leader}, got one of {other}"
            ) from None
    return _Given(arguments, arrays, place)


def _any_kind(function: _Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function on views of the arrays, or on the device where they are."""
    found = _given(function, args, kwargs)
    if found is None:
        return function.call(*args, **kwargs)  # which says what is wrong
    given, arrays, place = found
    leader = next(iter(arrays))
    if place.device[0] == _CUDA[0]:
        return import_module(".cuda", __package__).call(function.call.__name__, given)
    if place.device[0] != _CPU:
        raise TypeError(f"{leader}: expected an array on the CPU or on a CUDA device, got one of {place}")
    kind = kind_of(arrays[leader])
    check_returnable(leader, kind)
    seen = {name: _seen(name, a) for name, a in arrays.items()}
    half = _common_half(arrays, seen)
    if half is None and place.kind == "numpy":
        return function.call(*args, **kwargs)
    like = seen[leader].view.dtype

    def as_seen(name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(as_seen(f"{name}[{i}]", part) for i, part in enumerate(value))
        if name not in seen:
            return value
        view, dtype = seen[name]
        return widen(view, dtype) if dtype == half and name.partition("[")[0] != "out" else view

    arguments = {name: as_seen(name, value) for name, value in given.items()}
    out = arguments.get("out")
    if half is not None:
        arguments.pop("out", None)
        if half == "bfloat16" and function.has_precision and arguments.get("precision") is None:
            arguments["precision"] = "bf16"
    result = function.call(**arguments)
    if half is not None:
        result = _rounded(result, half, like)
    if out is None:
        return _map(lambda a: _made(a, kind, half), result)
    if half is not None:
        _fill(out, result)
    return given["out"]


def _common_half(arrays: dict[str, Any], seen: dict[str, _Seen]) -> str | None:
    """Return the dtype of 16 bits that the floats of a call have, if they have one.

    The first of the arrays is the one whose dtype the others must have.
    """
    leader = next(iter(arrays))
    floats = {name: dtype for name, (_, dtype) in seen.items() if "float" in dtype}
    if not any(dtype in HALVES for dtype in floats.values()):
        return None
    wanted = seen[leader].dtype
    if "float" not in wanted:
        return None  # the function will say so
    for name, dtype in floats.items():
        if dtype != wanted:
            _check.different_dtype(name, arrays[name], leader, wanted, dtype)
    return wanted


def _map(change: Callable[[np.ndarray], Any], result: Any) -> Any:
    """Change the arrays of a result."""
    if isinstance(result, np.ndarray):
        return change(result)
    if isinstance(result, list):
        return [_map(change, part) for part in result]
    if isinstance(result, tuple):
        return rebuilt(functools.partial(_map, change), result)
    return result


def _rounded(result: Any, half: str, like: np.dtype) -> Any:
    """Return the float32 arrays of a result in 16 bits; gradients of maps stay in the maps' dtype."""
    if isinstance(result, tuple) and not hasattr(result, "_fields"):
        return rebuilt(lambda part: _rounded(part, half, like), result)
    if isinstance(result, np.ndarray) and result.dtype == np.float32:
        return narrow(result, half).view(like)
    return result


def _fill(out: Any, result: Any) -> None:
    """Write a result that was computed in another dtype than that of `out`."""
    if isinstance(result, tuple):
        outs = _check.output_pair(out, "(one for each result)", tuple((a.shape, a.dtype) for a in result))
        for to, a in zip(outs, result, strict=True):
            to[...] = a
    else:
        _check.output(out, result.shape, result.dtype)[...] = result


def _made(a: np.ndarray, kind: Kind, half: str | None) -> Any:
    """Return an array of this kind that shares the memory of `a`, as far as its library does."""
    if kind is _NUMPY:
        return a
    if half == "bfloat16" and a.dtype == np.uint16:
        return kind.namespace.from_dlpack(a).view(kind.namespace.bfloat16)
    return kind.namespace.from_dlpack(a)
