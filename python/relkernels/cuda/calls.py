"""A call with arrays on a device: arguments sorted by place, results given back as their kind."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .. import _check
from .._result import rebuilt
from . import devices, kinds
from .engine import CudaEngine
from .kinds import Description
from .stand_ins import HALVES, StandIn, stand_in

# Operations that have kernels for devices: module, and which arguments are arrays, or tuples of arrays.
OPERATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "feature_map": ("ops", ("x", "out")),
    "relation_matrix": ("ops", ("x", "y", "out")),
    "attention_scores": ("ops", ("q", "k", "mask", "out")),
    "attention": ("ops", ("q", "k", "v", "mask", "out")),
    "retrieve": ("ops", ("q", "keys", "mask", "out")),
    "relation_matvec": ("ops", ("x", "y", "v", "out")),
    "feature_map_vjp": ("gradients", ("x", "grad", "out")),
    "relation_matrix_vjp": ("gradients", ("x", "y", "grad", "out")),
    "attention_vjp": ("gradients", ("q", "k", "v", "grad", "mask", "out")),
}

# Dtypes that have a stand-in: NumPy's numbers, and 16-bit floats.
_KNOWN = {np.dtype(code).name for code in "?" + np.typecodes["AllInteger"] + "fdFD"}.union(HALVES)


@functools.cache
def _function(operation: str) -> Callable[..., Any]:
    """Return the function itself, without what sorts arrays in main memory."""
    module = importlib.import_module(f"relkernels.{OPERATIONS[operation][0]}")
    return inspect.unwrap(getattr(module, operation))


def call(name: str, arguments: Mapping[str, Any]) -> Any:
    """Return what the public function `name` returns for arrays on a CUDA device.

    Parameters
    ----------
    name : str
        A function of the package: feature_map, relation_matrix, attention_scores, attention, retrieve,
        relation_matvec, feature_map_vjp, relation_matrix_vjp or attention_vjp.
    arguments : mapping
        Its arguments by name; those left out take their defaults. Arrays are of one kind (CuPy's, PyTorch's
        or JAX's) and lie on one device.

    Returns
    -------
    array, tuple of arrays, or as the function returns
        Arrays of the kind that came in, on its device. Work was put on the kind's current stream there;
        nothing waited for it.

    Raises
    ------
    TypeError, ValueError
        As on the CPU; also for arrays of several kinds or devices.
    MemoryError
        If the device has no memory for an output or a workspace; it stays usable.
    RuntimeError
        If the CUDA kernels or a driver are missing, or a CUDA call fails; the message names the function.

    Examples
    --------
    >>> import cupy, relkernels as rk  # doctest: +SKIP
    >>> x = cupy.random.standard_normal((1000, 64), dtype="float32")  # doctest: +SKIP
    >>> rk.cuda.call("relation_matrix", {"x": x, "precision": "tf32"}).shape  # doctest: +SKIP
    (1000, 1000)
    """
    given = dict(arguments)
    names = OPERATIONS[name][1] if name in OPERATIONS else tuple(given)
    arrays = dict(_arrays(given, names))
    places = {n: (kinds.kind_of(a), kinds.device_of(a)) for n, a in arrays.items()}
    first = next((n for n, (_, device) in places.items() if device is not None), None)
    if first is None:
        raise TypeError(f"relkernels.{name}: expected an array on a CUDA device, got none")
    if name not in OPERATIONS:
        _check.not_on_devices(name, first, kinds.place(arrays[first]))
    kind, device = places[first]
    for n, place in places.items():
        if place != (kind, device):
            _check.same_place(first, kinds.place(arrays[first]), n, kinds.place(arrays[n]))
    assert kind is not None
    assert device is not None
    if kind.through is not None:
        return kind.through(call, name, given, tuple(arrays))
    extension = devices.require(name, device)
    with kind.guard(device):
        found = {n: kind.describe(kind.readable(n, a)) for n, a in arrays.items()}
        engine = CudaEngine(extension, name, kind, device, _element(name, found))
        standing = {n: stand_in(engine, a, *found[n]) for n, a in arrays.items()}
        given.update({n: _replaced(n, given.get(n), standing) for n in names if n in given})
        return _of_the_kind(_function(name)(**given), engine)


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) or kinds.kind_of(value) is not None


def _arrays(given: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the arrays among the arguments, and what messages call them."""
    for name in names:
        value = given.get(name)
        for label, part in _parts(name, value) if isinstance(value, tuple) else [(name, value)]:
            if _is_array(part):
                yield label, part


def _parts(name: str, value: tuple[Any, ...]) -> list[tuple[str, Any]]:
    return [(f"{name}[{i}]", part) for i, part in enumerate(value)]


def _replaced(name: str, value: Any, standing: Mapping[str, Any]) -> Any:
    """Return an argument with stand-ins for its arrays."""
    if isinstance(value, tuple):
        return tuple(standing.get(label, part) for label, part in _parts(name, value))
    return standing.get(name, value)


def _element(name: str, found: Mapping[str, Description]) -> str:
    """Return the dtype of a call's arrays, which are one where any is of 16 bits."""
    for n, a in found.items():
        if a.element not in _KNOWN:
            _check.not_floats(n, f"{_check.FLOATS}, bfloat16 or float16", a.element, a.shape)
    # Masks are boolean; a second output holds indices or sums, which stay as they are.
    floats = {n: a for n, a in found.items() if n not in ("mask", "out[1]")}
    if not floats:
        return "float32"
    first = next(iter(floats))
    wanted = floats[first].element
    if any(a.element in HALVES for a in floats.values()):
        for n, a in floats.items():
            if name.endswith("_vjp") and a.element in HALVES:
                _check.not_floats(n, _check.FLOATS, a.element, a.shape)
            if a.element != wanted:
                raise TypeError(f"{n}: expected {wanted}, the dtype of {first}, got {a.element}")
    return wanted


def _of_the_kind(result: Any, engine: CudaEngine) -> Any:
    """Return a result with the arrays that its stand-ins stand for."""
    if isinstance(result, StandIn):
        return engine.array(result)
    if isinstance(result, list):
        return [_of_the_kind(part, engine) for part in result]
    if isinstance(result, tuple):
        return rebuilt(lambda part: _of_the_kind(part, engine), result)
    return result
