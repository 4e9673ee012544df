"""A substitute for the CUDA kernels that records their arguments and the order of calls."""

from dataclasses import dataclass, field

import numpy as np
from cuda_arrays import EmulatedDevice
from relkernels.cuda.engine import KERNELS

F4 = np.float32


@dataclass(frozen=True)
class Array:
    pointer: int
    shape: tuple
    strides: tuple
    dtype: str


@dataclass(frozen=True)
class Context:
    device: int
    stream: int
    allocate: object


@dataclass(frozen=True)
class Mlp:
    context: Context
    memory: int
    weights: list
    biases: list
    activation: str
    parameter: float
    normalize: bool
    arithmetic: str

    @staticmethod
    def bytes(widths, arithmetic):
        return 64 * len(widths)


@dataclass
class Recorder:
    """An extension that records its calls."""

    calls: list = field(default_factory=list)
    workspace: int = 0
    error: Exception | None = None
    capability: str = "9.0"
    architectures: tuple = ("sm_80", "sm_90a")
    devices: int = 2
    Array, Context, Mlp = Array, Context, Mlp

    def __getattr__(self, name):
        def kernel(context, *arguments, **options):
            if self.workspace:
                assert context.allocate(self.workspace) % 256 == 0
            if self.error is not None:
                raise self.error
            self.calls.append((name, context, (*arguments, *options.values())))

        if name not in KERNELS:
            raise AttributeError(name)
        return kernel

    def device_count(self):
        return self.devices

    def device_info(self, index):
        memory, processors = 141 << 30, 132
        return {
            "name": "NVIDIA H200",
            "compute_capability": self.capability,
            "memory": memory,
            "multiprocessors": processors,
        }

    def build_info(self):
        return {"toolkit": "13.0", "architectures": list(self.architectures)}

    __hash__ = object.__hash__


put = EmulatedDevice().put


def ones(*shape, dtype=F4, index=0):
    return put(np.ones(shape, dtype), index)
