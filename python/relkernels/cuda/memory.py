"""Memory of one call on a device: arrays of the caller's kind from its allocator, and their stand-ins."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..arrays.half import HALVES
from ..arrays.stand_ins import StandIn, stand_in

if TYPE_CHECKING:
    from .libraries import Kind

T = TypeVar("T")
_MOST_BYTES = 2**63 - 1


class DeviceMemory:
    """Allocates for one call on one device, on the current stream of the caller's library.

    Parameters
    ----------
    extension : module
        The kernels.
    operation : str
        The public function that was called.
    kind : Kind
        Of the arrays.
    device : int
    """

    __slots__ = ("context", "device", "extension", "kept", "kind", "operation", "stream")

    def __init__(self, extension: Any, operation: str, kind: Kind, device: int) -> None:
        self.extension, self.operation = extension, operation
        self.kind, self.device = kind, device
        self.stream = kind.stream(device)
        # Workspaces of the running kernel. The context must not refer to this object, which refers to it:
        # memory would wait for the garbage collector.
        self.kept: list[Any] = []
        self.context = extension.Context(device, self.stream, _allocator(operation, kind, device, self.kept))

    def stand_in(self, a: Any) -> StandIn:
        """Return the stand-in for an array of the kind."""
        return stand_in(self, a, *self.kind.describe(a))

    def array(self, a: StandIn) -> Any:
        """Return the array that a stand-in represents: the array itself or a view of it."""
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
        if isinstance(value, (list, tuple)):
            return type(value)(map(self.argument, value))
        return value

    def upload(self, a: np.ndarray) -> StandIn:
        """Return the stand-in for a copy of an array in main memory, with strides of 0 where it has them.

        A stand-in is returned as it is.
        """
        if isinstance(a, StandIn):
            return a
        self.refuse_capture("an argument in main memory is copied to")
        once = a[tuple(slice(1) if step == 0 else slice(None) for step in a.strides)]
        copied = self.within_memory(
            f"{self.operation}: a copy of an argument", once.nbytes, self.kind.upload, once, self.device
        )
        broadcast: Any = np.broadcast_to(self.stand_in(copied), a.shape)
        return broadcast

    def any_nan(self, a: StandIn) -> bool:
        """Return whether any element is NaN, which waits for the device."""
        self.refuse_capture("a threshold is checked on")
        return self.kind.any_nan(self.array(a))

    def read(self, a: np.ndarray) -> np.ndarray:
        """Return a copy of an array in main memory, where checks read it. One that is there is returned."""
        if not isinstance(a, StandIn):
            return a
        self.refuse_capture("an argument is read from")
        return self.kind.download(self.array(a))

    def least(self, a: StandIn) -> float:
        """Return the least element, which waits for the device."""
        self.refuse_capture("an argument is checked on")
        return self.kind.least(self.array(a))

    def refuse_capture(self, what: str) -> None:
        """Raise a RuntimeError if a graph captures the current stream."""
        if self.kind.capturing(self.device):
            raise RuntimeError(
                f"relkernels.{self.operation}: {what} cuda:{self.device} and waited for, which a graph "
                "cannot capture"
            )

    def allocate_array(self, what: str, shape: tuple[int, ...], element: str) -> Any:
        """Return an uninitialized array of the kind, or raise a MemoryError that names the bytes."""
        itemsize = 2 if element in HALVES else np.dtype(element).itemsize
        nbytes = math.prod(shape) * itemsize
        described = f"{what}: the output of shape {shape}"
        return self.within_memory(described, nbytes, self.kind.empty, shape, element, self.device)

    def within_memory(self, what: str, nbytes: int, make: Callable[..., T], *arguments: Any) -> T:
        """Call `make`; raise a MemoryError that states the size if allocation fails."""
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
    """Return the allocator of workspaces: kept until `kept` is cleared, then reused in stream order."""

    def allocate(nbytes: int) -> int:
        shape = (max(nbytes, 1),)
        what = f"{operation}: the workspace"
        kept.append(_within_memory(kind, device, what, nbytes, kind.empty, shape, "uint8", device))
        return kind.describe(kept[-1]).address

    return allocate
