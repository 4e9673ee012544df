"""The engine of one call on a device: kernels on the caller's stream, outputs of the caller's kind.

All work, allocation included, is put on the current stream of the caller's library, in the order of the calls
here; nothing waits.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.engine import Engine, Map
from ..arrays.half import HALVES
from ..arrays.stand_ins import StandIn
from ..base import check
from ..base.describe import option
from . import mlps
from .memory import DeviceMemory

if TYPE_CHECKING:
    from .libraries import Kind

# Operations with kernels for devices, and how many of their last positional arguments they write. A kernel
# with nothing to write is not started. What `retrieve_above` writes is allocated when its size is known.
KERNELS = {
    "feature_map": 1,
    "normalize": 1,
    "relation_matrix": 1,
    "attention_scores": 1,
    "attention": 2,
    "relational_attention": 3,
    "retrieve": 2,
    "retrieve_above": 1,
    "relation_matvec": 1,
    "feature_map_vjp": 3,
    "normalize_vjp": 1,
    "relation_matrix_vjp": 3,
    "relation_matvec_vjp": 4,
    "attention_vjp": 5,
    "attention_scores_vjp": 4,
    "relational_attention_vjp": 3,
    "relation_loss": 4,
}


# Operations of ragged batches: the segments are the last argument of their kernels, None without.
_RAGGED = ("attention", "attention_vjp")


@functools.lru_cache(64)  # NumPy makes the name anew each time, which takes microseconds
def _name(dtype: np.dtype) -> str:
    return dtype.name


# (dtype, precision) of arrays on a device -> how factors are multiplied there.
_ARITHMETIC = {
    ("float32", None): "float32",
    ("float32", "tf32"): "tf32",
    ("float32", "bf16"): "bfloat16",
    ("float64", None): "float64",
    ("bfloat16", None): "bfloat16",
    ("bfloat16", "bf16"): "bfloat16",
    ("float16", None): "float16",
}


def _arithmetic(value: str | None, dtype: str) -> str:
    """Return how arrays of `dtype` on a device are multiplied with a precision."""
    if value is not None and (not isinstance(value, str) or value not in ("bf16", "tf32")):
        check.fail("precision", "None, 'bf16' or 'tf32'", option(value))
    try:
        return _ARITHMETIC[dtype, value]
    except KeyError:
        check.fail("precision", f"None for {dtype} arrays ('bf16' and 'tf32' are for float32)", option(value))


class CudaEngine(DeviceMemory, Engine[StandIn]):
    """Computes one call on one device.

    Parameters
    ----------
    extension, operation, kind, device
        As of `DeviceMemory`.
    element : str
        Dtype of the call's floating-point arrays.
    """

    __slots__ = ("element",)

    def __init__(self, extension: Any, operation: str, kind: Kind, device: int, element: str) -> None:
        super().__init__(extension, operation, kind, device)
        self.element = element

    def empty(self, what: str, shape: tuple[int, ...], dtype: np.dtype) -> StandIn:
        """Return an output of the arrays' own dtype where `dtype` is that of their stand-ins."""
        half = self.element in HALVES and dtype == np.float32
        return self.stand_in(self.allocate_array(what, shape, self.element if half else _name(dtype)))

    def empty_sums(self, what: str, shape: tuple[int, ...], dtype: np.dtype) -> StandIn:
        """Return an output of float32 for 16-bit arrays."""
        return self.stand_in(self.allocate_array(what, shape, _name(dtype)))

    def empty_parts(self, what: str, shape: tuple[int, ...], dtype: np.dtype) -> StandIn:
        """Return an output in the arrays' dtype."""
        return self.empty(what, shape, dtype)

    def total(self, parts: StandIn) -> StandIn:
        """Return the sum as an array of shape (), since reading it would wait for the device."""
        total: Any = self.sum(parts, tuple(range(parts.ndim))).reshape(())
        return total

    def empty_like(self, a: StandIn) -> StandIn:
        """Return a packed array of the shape and dtype of an output."""
        return self.stand_in(self.allocate_array("out", a.shape, a.element))

    def precision(self, value: str | None, dtype: np.dtype) -> str:
        """Return the arithmetic of the kernels."""
        return _arithmetic(value, self.element if self.element in HALVES else _name(dtype))

    def packed(self, phi: Map | None, precision: str | None = None) -> Any:
        """Return the weights of a map on this device."""
        return None if phi is None else mlps.packed(self, phi, precision or self.element)

    def available(self) -> None:
        """Return None: the arrays' library says so if memory is short."""

    def run(self, name: str, *arguments: Any, **options: Any) -> FoundPairs | None:
        """Start a kernel unless all that it would write is empty."""
        if name == "retrieve_above":
            return FoundPairs(self, arguments[:-1], options)  # without the limit: nothing is stored yet
        ragged: tuple[Any, ...] = ()
        if name in _RAGGED:
            *rest, last = arguments
            arguments, ragged = (tuple(rest), (last,)) if isinstance(last, tuple) else (arguments, (None,))
        outputs = arguments[-KERNELS[name] :]
        if all(isinstance(out, np.ndarray) and out.size == 0 for out in outputs if out is not None):
            return None
        if name == "feature_map_vjp" and arguments[-1] is None:
            arguments = (*arguments[:-1], [])  # a map without biases has none to write
        self.started(name, (*arguments, *ragged), options)
        return None

    def started(
        self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        """Start a kernel and return what the extension returns, and the workspaces."""
        named = {option: self.argument(value) for option, value in options.items()}
        try:
            handle = getattr(self.extension, name)(self.context, *map(self.argument, arguments), **named)
            return handle, self.kept.copy()
        finally:
            self.kept.clear()

    def copy(self, out: StandIn, a: StandIn) -> None:
        """Copy by the kind's own means, as also fill, add and sum."""
        self.kind.copy(self.array(out), self.array(a))

    def fill(self, out: StandIn, value: float) -> None:
        """Set all elements of an array to a number."""
        self.kind.fill(self.array(out), value)

    def add(self, a: StandIn, b: StandIn) -> StandIn:
        """Return the sum of two arrays."""
        return self.stand_in(
            self.within_memory("a sum", a.nbytes, self.kind.add, self.array(a), self.array(b))
        )

    def row_sums(self, a: StandIn) -> np.ndarray:
        """Return the sums in the arrays' dtype, in main memory."""
        sums: np.ndarray = self.read(self.sum(a, (1,)))[:, 0].astype(np.float64)
        return sums

    def sum(self, a: StandIn, axes: tuple[int, ...]) -> StandIn:
        """Return the sum over axes, which stay as ones."""
        return self.stand_in(self.within_memory("a sum", a.nbytes, self.kind.sum, self.array(a), axes))


class FoundPairs:
    """What `retrieve_above` found on a device, until it is written to arrays of the right size.

    Parameters
    ----------
    engine : CudaEngine
    arguments, options
        Of the kernel that counts the pairs, which is waited for.

    Attributes
    ----------
    total : int
        The number of pairs.
    """

    __slots__ = ("_engine", "_handle", "_workspaces", "total")

    def __init__(self, engine: CudaEngine, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        engine.refuse_capture("pairs are counted on")
        total = engine.empty_sums(engine.operation, (1,), np.dtype(np.int64))
        self._engine = engine
        self._handle, self._workspaces = engine.started("retrieve_above", (*arguments, total), options)
        self.total = int(engine.kind.download(engine.array(total))[0])

    def write(self, *outputs: StandIn) -> None:
        """Start the kernel that writes offsets, indices and values; once."""
        self._handle.write(*map(self._engine.argument, outputs))
        self._workspaces.clear()
