"""The decorator `operation`: a function on NumPy arrays also takes arrays of other libraries and devices.

- All arrays of one call are of one kind and on one device.
- Arrays on a registered device (`engine.register_device`) are passed on unchanged, with the `Operation`.
- Floats of 16 bits are computed in float32, and results rounded back to them. Kernels read them as they are
  stored (`stored.py`); for functions whose kernels do not, they are widened first.
- Ordinary calls are taken whole by the extension (`csrc/bindings/register_ordinary.cpp`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from .. import _core
from ..base import check
from ..base.result import rebuilt
from .engine import device_call
from .half import HALVES, widen
from .kinds import (
    CPU,
    HostView,
    Place,
    as_kind,
    check_returnable,
    host_view,
    is_array,
    kind_of,
    narrowed,
    place_of,
)
from .outputs import output, output_pair
from .sparse import is_sparse
from .stored import READ_AS_STORED, as_stored

P = ParamSpec("P")
R = TypeVar("R")


class Operation(NamedTuple):
    """A function on NumPy arrays, with the roles of its parameters.

    Attributes
    ----------
    call : callable
        The function itself.
    order : tuple of str
        Parameters that may be passed by position.
    names : tuple of str
        Parameters that are arrays or tuples of arrays. The first has the dtype that the others share.
    has_precision : bool
        Whether it has a parameter `precision`.
    """

    call: Callable[..., Any]
    order: tuple[str, ...]
    names: tuple[str, ...]
    has_precision: bool

    @property
    def name(self) -> str:
        """Return the public name."""
        return self.call.__name__


# Offsets of ragged batches, which may be in main memory where the other arrays are on a device.
OFFSETS = ("q_offsets", "k_offsets")

# Every operation of the package by its public name.
OPERATIONS: dict[str, Operation] = {}


def operation(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a function on NumPy arrays take arrays of every kind, and return that kind.

    `names` are its array parameters, the first the one whose dtype the others share. A parameter may be a
    tuple of arrays. Results are arrays, tuples and lists of them; the caller's `out` is returned.
    Bfloat16 arrays imply ``precision="bf16"`` where the function has it: products are then exact.
    """
    first_name = names[0]

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters
        order = tuple(name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY)
        about = Operation(function, order, names, "precision" in parameters)
        OPERATIONS[about.name] = about

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            first = args[0] if args else kwargs.get(first_name)
            if type(first) is np.ndarray and first.dtype.char in "fd":
                try:
                    return function(*args, **kwargs)
                except TypeError:
                    # If another array is of a different kind, or of 16 bits, that is the better message;
                    # nothing is written yet.
                    given = _given(about, args, kwargs)
                    if given is not None and given.place.kind == "numpy":
                        _common_half(given.arrays, _views(given.arrays))
                    raise
            return _any_kind(about, args, kwargs)

        ordinary = _core.ordinary(about.name)
        if ordinary is None:
            return call

        @functools.wraps(function)
        def short(*args: P.args, **kwargs: P.kwargs) -> R:
            result = ordinary(*args, **kwargs)
            return call(*args, **kwargs) if result is NotImplemented else result

        return short

    return decorate


def labelled(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of an argument, which may be a tuple, and what messages call them."""
    if isinstance(value, tuple):
        for i, part in enumerate(value):
            yield f"{name}[{i}]", part
    else:
        yield name, value


def replaced(name: str, value: Any, change: Callable[[str, Any], Any]) -> Any:
    """Return an argument with ``change(label, part)`` for its parts, which `labelled` yields."""
    if isinstance(value, tuple):
        return tuple(change(label, part) for label, part in labelled(name, value))
    return change(name, value)


class _Given(NamedTuple):
    """The arguments of a call by name, the arrays among them by label, and their common place."""

    arguments: dict[str, Any]
    arrays: dict[str, Any]
    place: Place


def _given(about: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Given | None:
    """Find the arrays of a call; None if there are none, or too many arguments."""
    arguments = dict(zip(about.order, args, strict=False)) | kwargs
    found = {
        label: part
        for name in about.names
        for label, part in labelled(name, arguments.get(name))
        if is_array(part) or is_sparse(part)
    }
    arrays = {label: part for label, part in found.items() if not is_sparse(part)}
    if not arrays or len(arguments) < len(args) + len(kwargs):
        return None
    places = {name: place_of(name, a) for name, a in found.items()}
    leader, place = next(iter(places.items()))
    for name, other in places.items():
        if other != place and not (
            name in OFFSETS and place.device[0] != CPU and isinstance(arrays[name], np.ndarray)
        ):
            raise TypeError(
                f"{name}: expected an array of {place}, the kind and device of {leader}, got one of {other}"
            ) from None
    return _Given(arguments, arrays, place)


def _any_kind(about: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function on views of the arrays, or on the device that holds them."""
    given = _given(about, args, kwargs)
    if given is None:
        return about.call(*args, **kwargs)  # which raises the error
    arguments, arrays, place = given
    leader = next(iter(arrays))
    if place.device[0] != CPU:
        on_device = device_call(place.device[0])
        if on_device is None:
            raise TypeError(f"{leader}: expected an array on the CPU or on a CUDA device, got one of {place}")
        return on_device(about, arguments)
    kind = kind_of(arrays[leader])
    check_returnable(leader, kind)
    views = _views(arrays)
    half = _common_half(arrays, views)
    if half is not None:
        for name in about.names:
            if is_sparse(arguments.get(name)):
                check.different_dtype(name, leader, half, str(arguments[name].dtype), None)
    if half is None and place.kind == "numpy":
        return about.call(*args, **kwargs)
    like = views[leader].view.dtype
    from_half = as_stored if about.name in READ_AS_STORED else widen

    def viewed(label: str, value: Any) -> Any:
        if label not in views:
            return value
        view, dtype = views[label]
        return from_half(view, dtype) if dtype == half and label.partition("[")[0] != "out" else view

    on_host = {name: replaced(name, value, viewed) for name, value in arguments.items()}
    out = on_host.get("out")
    if half is not None:
        on_host.pop("out", None)
        if half == "bfloat16" and about.has_precision and on_host.get("precision") is None:
            on_host["precision"] = "bf16"
    result = about.call(**on_host)
    if half is not None:
        result = narrowed(result, half, like)
    if out is None:
        return _map(lambda a: as_kind(a, kind, half), result)
    if half is not None:
        _fill(out, result)
    return arguments["out"]


def _views(arrays: dict[str, Any]) -> dict[str, HostView]:
    return {name: host_view(name, a) for name, a in arrays.items()}


def _common_half(arrays: dict[str, Any], views: dict[str, HostView]) -> str | None:
    """Return the 16-bit dtype that the floats of a call have, if any.

    The first of the arrays is the one whose dtype the others must have.
    """
    leader = next(iter(arrays))
    floats = {name: dtype for name, (_, dtype) in views.items() if "float" in dtype}
    if not any(dtype in HALVES for dtype in floats.values()):
        return None
    wanted = views[leader].dtype
    if "float" not in wanted:
        return None  # the function raises the error
    for name, dtype in floats.items():
        if dtype != wanted:
            cast = f"{name}.astype(np.{wanted})" if isinstance(arrays[name], np.ndarray) else None
            check.different_dtype(name, leader, wanted, dtype, cast)
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


def _fill(out: Any, result: Any) -> None:
    """Write a result that was computed in another dtype than that of `out`."""
    if isinstance(result, tuple):
        outs = output_pair(out, "(one for each result)", tuple((a.shape, a.dtype) for a in result))
        for to, a in zip(outs, result, strict=True):
            to[...] = a
    else:
        output(out, result.shape, result.dtype)[...] = result
