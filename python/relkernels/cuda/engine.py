"""The engine of one call on a device: outputs of the caller's kind, kernels on the caller's stream.

Everything is put on the kind's current stream in the order in which it is asked for, memory included, and
nothing waits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .. import _check
from .._engine import Engine
from . import mlps
from .stand_ins import HALVES, StandIn, stand_in

if TYPE_CHECKING:
    from ..mlp import MLP
    from .kinds import Kind

T = TypeVar("T")

# How many of a kernel's last arguments it writes; a kernel with nothing to write is not started.
_OUTPUTS = {
    "feature_map": 1,
    "relation_matrix": 1,
    "attention_scores": 1,
    "attention": 2,
    "retrieve": 2,
    "relation_matvec": 1,
    "feature_map_vjp": 3,
    "relation_matrix_vjp": 3,
    "attention_vjp": 4,
}
_MOST_BYTES = 2**63 - 1


@functools.lru_cache(64)  # NumPy makes the name anew each time, which takes microseconds
def _name(dtype: np.dtype) -> str:
    return dtype.name


class CudaEngine(Engine):
    """Computes one call on one device.

    Parameters
    ----------
    extension : module
        The kernels.
    operation : str
        The public function that was called.
    kind : Kind
        Of the arrays.
    device : int
    element : str
        Dtype of the call's floating-point arrays.
    """

    __slots__ = ("context", "device", "element", "extension", "kept", "kind", "operation", "stream")

    def __init__(self, extension: Any, operation: str, kind: Kind, device: int, element: str) -> None:
        self.extension, self.operation = extension, operation
        self.kind, self.device, self.element = kind, device, element
        self.stream = kind.stream(device)
        # Workspaces of the kernel that runs. The context must not refer to the engine, which refers to
        # it: memory would wait for the garbage collector.
        self.kept: list[Any] = []
        self.context = extension.Context(device, self.stream, _allocator(operation, kind, device, self.kept))

    # What the checks and outputs of `ops` and `gradients` ask for.

    def empty(self, what: str, shape: tuple[int, ...], dtype: np.dtype) -> StandIn:
        """Return an output of the arrays' own dtype where `dtype` is that of their stand-ins."""
        half = self.element in HALVES and dtype == np.float32
        return self.stand_in(self.allocate_array(what, shape, self.element if half else _name(dtype)))

    def empty_sums(self, what: str, shape: tuple[int, ...], dtype: np.dtype) -> StandIn:
        """Return an output of float32 for 16-bit arrays."""
        return self.stand_in(self.allocate_array(what, shape, _name(dtype)))

    def empty_parts(  # type: ignore[override]
        self, what: str, shape: tuple[int, ...], dtype: np.dtype
    ) -> StandIn:
        """Return an output in the arrays' dtype."""
        return self.empty(what, shape, dtype)

    def total(self, parts: StandIn) -> StandIn:  # type: ignore[override]
        """Return the sum as an array of shape (), since reading it would wait for the device."""
        total: Any = self.sum(parts, tuple(range(parts.ndim))).reshape(())
        return total

    def empty_like(self, a: StandIn) -> StandIn:  # type: ignore[override]
        """Return a packed array of the shape and dtype of an output."""
        return self.stand_in(self.allocate_array("out", a.shape, a.element))

    def precision(self, value: str | None, dtype: np.dtype) -> str:
        """Return the arithmetic of the kernels."""
        return _check.arithmetic(value, self.element if self.element in HALVES else _name(dtype))

    def packed(self, phi: MLP | None, precision: str | None = None) -> Any:  # type: ignore[override]
        """Return the weights of a map on this device."""
        return None if phi is None else mlps.packed(self, phi, precision or self.element)

    def run(self, name: str, *arguments: Any) -> None:  # type: ignore[override]
        """Start a kernel unless all that it would write is empty."""
        outputs = arguments[-_OUTPUTS[name] :]
        if all(isinstance(out, np.ndarray) and out.size == 0 for out in outputs if out is not None):
            return
        if name == "feature_map_vjp" and arguments[-1] is None:
            arguments = (*arguments[:-1], [])  # a map without biases has none to write
        try:
            getattr(self.extension, name)(self.context, *map(self.argument, arguments))
        finally:
            self.kept.clear()

    def copy(self, out: StandIn, a: StandIn) -> None:  # type: ignore[override]
        """Copy by the kind's own means, as also fill, add and sum."""
        self.kind.copy(self.array(out), self.array(a))

    def fill(self, out: StandIn, value: float) -> None:  # type: ignore[override]
        """Set all elements of an array to a number."""
        self.kind.fill(self.array(out), value)

    def add(self, a: StandIn, b: StandIn) -> StandIn:  # type: ignore[override]
        """Return the sum of two arrays."""
        return self.stand_in(
            self.within_memory("a sum", a.nbytes, self.kind.add, self.array(a), self.array(b))
        )

    def sum(self, a: StandIn, axes: tuple[int, ...]) -> StandIn:  # type: ignore[override]
        """Return the sum over axes, which stay as ones."""
        return self.stand_in(self.within_memory("a sum", a.nbytes, self.kind.sum, self.array(a), axes))

    # Between arrays of the kind, stand-ins and what kernels take.

    def stand_in(self, a: Any) -> StandIn:
        """Return the stand-in for an array of the kind."""
        return stand_in(self, a, *self.kind.describe(a))

    def array(self, a: StandIn) -> Any:
        """Return the array of the kind that a stand-in stands for: the very one, or a view of it."""
        whole = self.kind.describe(a.owner)
        if whole.address == a.address and whole.shape == a.shape and whole.steps == a.steps:
            return a.owner
        if a.size == 0:
            return self.kind.empty(a.shape, a.element, self.device)
        itemsize = a.itemsize // 2 if a.element in HALVES else a.itemsize
        return self.kind.view(a.owner, a.shape, a.steps, (a.address - whole.address) // itemsize)

    def argument(self, value: Any) -> Any:
        """Return an argument as the extension takes it."""
        if isinstance(value, StandIn):
            return self.extension.Array(value.address, value.shape, value.steps, value.element)
        if isinstance(value, list):
            return [self.argument(item) for item in value]
        return value

    def allocate_array(self, what: str, shape: tuple[int, ...], element: str) -> Any:
        """Return an uninitialized array of the kind, or raise a MemoryError that names the bytes."""
        itemsize = 2 if element in HALVES else np.dtype(element).itemsize
        nbytes = math.prod(shape) * itemsize
        described = f"{what}: the output of shape {shape}"
        return self.within_memory(described, nbytes, self.kind.empty, shape, element, self.device)

    def within_memory(self, what: str, nbytes: int, make: Callable[..., T], *arguments: Any) -> T:
        """Return what `make` makes; a MemoryError that names the bytes where it finds no memory."""
        return _within_memory(self.kind, self.device, what, nbytes, make, *arguments)


def _within_memory(
    kind: Kind, device: int, what: str, nbytes: int, make: Callable[..., T], *arguments: Any
) -> T:
    error: BaseException | None = None
    if nbytes <= _MOST_BYTES:
        try:
            return make(*arguments)
        except kind.memory_errors() as caught:
            error = caught
    raise MemoryError(
        f"{what} needs {nbytes} bytes ({nbytes / 2**30:.1f} GiB), which cuda:{device} has not"
    ) from error


def _allocator(operation: str, kind: Kind, device: int, kept: list[Any]) -> Callable[[int], int]:
    """Return what gives kernels workspace: kept until `kept` is cleared, then reused in stream order."""

    def allocate(nbytes: int) -> int:
        shape = (max(nbytes, 1),)
        what = f"{operation}: the workspace"
        kept.append(_within_memory(kind, device, what, nbytes, kind.empty, shape, "uint8", device))
        return kind.describe(kept[-1]).address

    return allocate
