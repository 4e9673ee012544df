"""Weights of MLPs on devices: packed once for each device and arithmetic, and freed with the MLP.

A map's first call on a device uploads its weights, packs them and waits for that, so that later calls find
them on every stream and thread. No other call waits.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import Any

from ..arrays.engine import Map
from .memory import DeviceMemory


class _Packed:
    """Packed weights, their memory, and the streams that have read it."""

    __slots__ = ("device", "handle", "kind", "memory", "streams")

    def __init__(self, engine: DeviceMemory, handle: Any, memory: Any) -> None:
        self.handle, self.memory = handle, memory
        self.kind, self.device, self.streams = engine.kind, engine.device, {engine.stream}

    def __del__(self) -> None:
        # The allocator orders the next use of this memory after the stream that it was taken on, and
        # knows of no other.
        if len(self.streams) > 1 and not sys.is_finalizing():
            self.kind.synchronize(self.device)


_lock = threading.Lock()
_packed: weakref.WeakKeyDictionary[Map, dict[tuple[str, int, str], _Packed]] = weakref.WeakKeyDictionary()


def packed(engine: DeviceMemory, phi: Map, arithmetic: str) -> Any:
    """Return the packed weights of a map for the device and the arrays of an engine."""
    key = (engine.kind.name, engine.device, arithmetic)
    with _lock:
        of_map = _packed.setdefault(phi, {})
        found = of_map.get(key)
        if found is None:
            found = of_map[key] = _pack(engine, phi, arithmetic)
        found.streams.add(engine.stream)
    return found.handle


def _pack(engine: DeviceMemory, phi: Map, arithmetic: str) -> _Packed:
    kind, device = engine.kind, engine.device
    if kind.capturing(device):
        raise RuntimeError(
            f"relkernels.{engine.operation}: the weights of an MLP are brought to cuda:{device} by the first "
            "call with it, which a graph cannot capture: make the call once before the capture"
        )
    size = engine.extension.Mlp.bytes(list(phi.widths), arithmetic)
    memory = engine.allocate_array(f"the weights of {phi!r}", (size,), "uint8")
    layers = [*phi.weights, *(phi.biases or ())]
    uploaded = [
        engine.within_memory("a copy of the weights of an MLP", a.nbytes, kind.upload, a, device)
        for a in layers
    ]
    arrays = [engine.argument(engine.stand_in(a)) for a in uploaded]
    handle = engine.extension.Mlp(
        engine.context,
        kind.describe(memory).address,
        arrays[: len(phi.weights)],
        arrays[len(phi.weights) :],
        phi.activation.name,
        phi.activation.parameter or 0.0,
        phi.normalize,
        arithmetic,
    )
    kind.synchronize(device)
    return _Packed(engine, handle, memory)
