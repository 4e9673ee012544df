"""JAX's arrays: by DLPack, without a copy, to PyTorch or CuPy and back.

JAX orders its own work before the stream that takes an array over, and after it the stream that gives it
back; it has no current stream and no out=.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy
import numpy as np

from ...base.result import rebuilt
from . import Kind


class _Jax:
    name = "JAX"

    def array_class(self) -> type:
        return jax.Array

    def device(self, a: Any) -> int | None:
        if isinstance(a, jax.core.Tracer):
            raise TypeError(
                "relkernels computes with arrays: it cannot be traced by jax.jit, jax.grad or jax.vmap"
            )
        if len(a.devices()) > 1:
            raise TypeError(f"expected an array on one device, got one on {a.devices()}")
        (device,) = a.devices()
        return device.local_hardware_id if device.platform in ("gpu", "cuda") else None

    def download(self, a: Any) -> np.ndarray:
        return np.asarray(a)

    def through(self, call: Callable[..., Any], name: str, arguments: dict[str, Any], arrays: Any) -> Any:
        if arguments.get("out") is not None:
            raise TypeError("out: expected None for arrays of JAX, which cannot be written to")
        for n in arrays:
            arguments[n] = _to_library(arguments[n])
        return _from_library(call(name, arguments))


def _to_library(a: Any) -> Any:
    if importlib.util.find_spec("torch") is not None:
        import torch

        return torch.from_dlpack(a)
    if importlib.util.find_spec("cupy") is not None:
        import cupy

        return cupy.from_dlpack(a)
    raise RuntimeError("arrays of JAX on a CUDA device need PyTorch or CuPy beside JAX")


def _from_library(result: Any) -> Any:
    if isinstance(result, list):
        return [_from_library(part) for part in result]
    if isinstance(result, tuple):
        return rebuilt(_from_library, result)
    return jax.numpy.from_dlpack(result) if hasattr(result, "__dlpack__") else result


KIND: Kind = _Jax()  # type: ignore[assignment]
