"""The operations on NVIDIA GPUs: kernels of the extension `_cuda` over the arrays of CuPy, PyTorch and JAX.

The functions of the package take arrays on a CUDA device as they take NumPy's, and return their kind, on
their device. Work goes to the kind's current stream there and nothing waits for it; memory comes from the
kind's allocator. See `call`, and docs/cuda.md for streams, graphs and precision.

Data flows one way: `calls` sorts arguments by place and makes stand-ins for them (`arrays.stand_ins`); the
functions of `ops` and `gradients` check these and have an `engine` allocate outputs and run kernels.
`libraries` knows each array library, `devices` the extension and the GPUs, `mlps` the weights already there.
"""

from __future__ import annotations

from .calls import call
from .devices import available, why_not
from .engine import KERNELS

# Names of the operations with kernels for devices.
OPERATIONS = tuple(KERNELS)

__all__ = ["OPERATIONS", "available", "call", "why_not"]
