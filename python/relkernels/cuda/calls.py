"""A call with arrays on a device: arrays replaced by stand-ins, results returned as the caller's kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from ..arrays.dispatch import OFFSETS, OPERATIONS, Operation, labelled, replaced
from ..arrays.half import HALVES
from ..arrays.stand_ins import StandIn, stand_in
from ..base.check import FLOATS
from ..base.result import rebuilt
from . import devices, libraries
from .engine import KERNELS, CudaEngine
from .libraries import Description

# Dtypes that have a stand-in: NumPy's numbers, and 16-bit floats.
_KNOWN = {np.dtype(code).name for code in "?" + np.typecodes["AllInteger"] + "fdFD"}.union(HALVES)

# Masks are boolean; a second output holds indices or sums, which stay as they are.
_NOT_FLOATS = ("mask", "out[1]")


def call(name: str, arguments: Mapping[str, Any]) -> Any:
    """Return what the public function `name` returns for arrays on a CUDA device.

    Parameters
    ----------
    name : str
        A function of the package: feature_map, normalize, relation_matrix, attention_scores, attention,
        relational_attention, retrieve, retrieve_above, relation_matvec, feature_map_vjp, normalize_vjp,
        relation_matrix_vjp, relation_matvec_vjp, attention_vjp, attention_scores_vjp,
        relational_attention_vjp or relation_loss.
    arguments : mapping
        Its arguments by name; those left out take their defaults. Arrays are of one kind (CuPy's, PyTorch's
        or JAX's) and on one device. Offsets of ragged batches may also be NumPy's; on the device they are
        read, which waits for it.

    Returns
    -------
    array, tuple of arrays, or as the function returns
        Arrays of the caller's kind, on its device. Work was put on that library's current stream;
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
    if name in KERNELS:
        return run(OPERATIONS[name], given)
    first = next(iter(_on_devices(dict(_arrays(given, tuple(given))))), None)
    if first is None:
        raise TypeError(f"relkernels.{name}: expected an array on a CUDA device, got none")
    _not_on_devices(name, *first)


def run(operation: Operation, given: dict[str, Any]) -> Any:
    """Compute an operation with arrays on a device; `given` are its arguments by name."""
    name = operation.name
    arrays = dict(_arrays(given, operation.names))
    first = next(iter(_on_devices(arrays)), None)
    if first is None:
        raise TypeError(f"relkernels.{name}: expected an array on a CUDA device, got none")
    leader, a = first
    if name not in KERNELS:
        _not_on_devices(name, leader, a)
    kind, device = libraries.kind_of(a), libraries.device_of(a)
    assert kind is not None
    assert device is not None
    in_memory = {n: a for n, a in arrays.items() if n in OFFSETS and isinstance(a, np.ndarray)}
    arrays = {label: a for label, a in arrays.items() if label not in in_memory}
    for label, other in arrays.items():
        if (libraries.kind_of(other), libraries.device_of(other)) != (kind, device):
            expected, got = libraries.place(a), libraries.place(other)
            raise TypeError(f"{label}: expected {expected}, as {leader} is, got {got}")
    if kind.through is not None:
        return kind.through(call, name, given, tuple(arrays))
    extension = devices.require(name, device)
    with kind.guard(device):
        for label in OFFSETS:
            if label in arrays:
                given[label] = _read(name, label, kind, arrays.pop(label), device)
        found = {label: kind.describe(kind.readable(label, part)) for label, part in arrays.items()}
        engine = CudaEngine(extension, name, kind, device, _element(name, found))
        exclude = given.get("exclude")
        lists = libraries.kind_of(exclude)
        if lists is not None and lists.device(exclude) is not None:
            engine.refuse_capture("exclude is read from")
            given["exclude"] = lists.download(exclude)  # lists are checked and sorted in main memory
        standing = {label: stand_in(engine, part, *found[label]) for label, part in arrays.items()}
        for n in operation.names:
            if n in given:
                given[n] = replaced(n, given[n], lambda label, part: standing.get(label, part))
        return _of_the_kind(operation.call(**given), engine)


def _read(name: str, label: str, kind: libraries.Kind, offsets: Any, device: int) -> np.ndarray:
    """Return offsets on the device as an array in main memory, where they are checked."""
    if kind.capturing(device):
        raise RuntimeError(
            f"relkernels.{name}: {label} on cuda:{device} would be read, which a graph cannot capture: "
            "pass a NumPy array"
        )
    return kind.download(offsets)


def _arrays(given: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the arrays among the arguments, and what messages call them."""
    for name in names:
        for label, part in labelled(name, given.get(name)):
            if isinstance(part, np.ndarray) or libraries.kind_of(part) is not None:
                yield label, part


def _on_devices(arrays: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((label, a) for label, a in arrays.items() if libraries.device_of(a) is not None)


def _not_on_devices(name: str, label: str, a: Any) -> NoReturn:
    where = libraries.place(a)
    raise TypeError(
        f"{label}: expected an array in main memory, where relkernels.{name} computes, got {where}"
    )


def _element(name: str, found: Mapping[str, Description]) -> str:
    """Return the dtype of a call's arrays, which are one where any is of 16 bits."""
    for n, a in found.items():
        if a.element not in _KNOWN:
            _not_floats(n, f"{FLOATS}, bfloat16 or float16", a)
    floats = {n: a for n, a in found.items() if n not in _NOT_FLOATS}
    if not floats:
        return "float32"
    first = next(iter(floats))
    wanted = floats[first].element
    if any(a.element in HALVES for a in floats.values()):
        for n, a in floats.items():
            if (name.endswith("_vjp") or name == "relation_loss") and a.element in HALVES:
                _not_floats(n, FLOATS, a)
            if a.element != wanted:
                raise TypeError(f"{n}: expected {wanted}, the dtype of {first}, got {a.element}")
    return wanted


def _not_floats(name: str, expected: str, a: Description) -> NoReturn:
    raise TypeError(f"{name}: expected {expected}, got an array of dtype {a.element} and shape {a.shape}")


def _of_the_kind(result: Any, engine: CudaEngine) -> Any:
    """Return a result with arrays in place of their stand-ins."""
    if isinstance(result, StandIn):
        return engine.array(result)
    if isinstance(result, list):
        return [_of_the_kind(part, engine) for part in result]
    if isinstance(result, tuple):
        return rebuilt(lambda part: _of_the_kind(part, engine), result)
    return result
