"""The extension `_cuda` and the GPUs it finds, or in plain words what is missing."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import re
from typing import Any

from .._core import build_info

# Kernels are compiled for compute capability 8.0 and newer.
LEAST_CAPABILITY = (8, 0)
_LIBRARIES = {"cupy": "CuPy", "torch": "PyTorch"}


@functools.cache
def extension() -> Any:
    """Return the module of the kernels, or None where it was not built or does not load."""
    try:
        return importlib.import_module("relkernels._cuda")
    except ImportError:
        return None


def _not_built() -> str | None:
    if extension() is not None:
        return None
    if importlib.util.find_spec("relkernels._cuda") is None:
        reason = build_info().get("cuda_not_built", "no reason was recorded")
        return f"not built: {reason}; to build it: pip install . -Ccmake.define.RELKERNELS_CUDA=ON"
    try:
        importlib.import_module("relkernels._cuda")
    except ImportError as error:
        return f"the CUDA kernels do not load: {error}"
    return None


def _no_gpu() -> str | None:
    if extension().device_count() > 0:
        return None
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver: libcuda.so.1 does not load"
    return "no GPU that the driver shows to this process"


def libraries() -> list[str]:
    """Return the array libraries that are installed, by name; none of them is imported."""
    return [name for module, name in _LIBRARIES.items() if importlib.util.find_spec(module) is not None]


def why_not() -> str | None:
    """Return in words what is missing for computing on a GPU, or None.

    Returns
    -------
    str or None

    Examples
    --------
    >>> from relkernels import cuda
    >>> cuda.available() == (cuda.why_not() is None)
    True
    """
    missing = _not_built() or _no_gpu()
    if missing is None and not libraries():
        missing = "no arrays: neither CuPy nor PyTorch is installed"
    return missing


def available() -> bool:
    """Return whether arrays on a GPU can be computed with here.

    Returns
    -------
    bool

    Examples
    --------
    >>> from relkernels import cuda
    >>> isinstance(cuda.available(), bool)
    True
    """
    return why_not() is None


def require(operation: str, device: int) -> Any:
    """Return the extension, if it can compute on a device; else raise a RuntimeError that says why."""
    missing = _not_built() or _missing_on(device, extension())
    if missing is not None:
        raise RuntimeError(f"relkernels.{operation}: cannot compute on cuda:{device}: {missing}")
    return extension()


@functools.cache  # every call checks, and the driver is slow to answer
def _missing_on(device: int, extension: Any) -> str | None:
    return _no_gpu() or _no_kernels(device)


def _no_kernels(device: int) -> str | None:
    named = extension().device_info(device)["compute_capability"]
    major, minor = (int(part) for part in named.split("."))
    if (major, minor) < LEAST_CAPABILITY:
        least = ".".join(map(str, LEAST_CAPABILITY))
        return f"its compute capability is {named}, the kernels need {least} or newer"
    built = extension().build_info()["architectures"]
    if any(_runs(kernels, (major, minor)) for kernels in built):
        return None
    wanted = "90a" if (major, minor) == (9, 0) else f"{major}{minor}"
    return (
        f"its compute capability is {named}, the kernels are built for {', '.join(built)}; to build them: "
        "pip install . -Ccmake.define.RELKERNELS_CUDA=ON "
        f"-Ccmake.define.CMAKE_CUDA_ARCHITECTURES={wanted}-real"
    )


def _runs(kernels: str, capability: tuple[int, int]) -> bool:
    """Return whether kernels for an architecture, such as "sm_80", run on a GPU.

    Machine code (sm) runs on its major version from its minor version on, with the suffix "a" on that
    version alone; the driver compiles PTX (compute) without a suffix for all newer ones. Of CMake's "native"
    and "all" nothing is known.
    """
    named = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", kernels)
    if named is None:
        return True
    kind, major, minor, suffix = named.groups()
    built = int(major), int(minor)
    if suffix == "a":
        return built == capability
    return built <= capability and (built[0] == capability[0] or (kind == "compute" and not suffix))


def state() -> str:
    """Return the line of `show_config`: the GPUs, or what is missing."""
    missing = _not_built()
    if missing is not None:
        return missing
    build = extension().build_info()
    kernels = f"kernels for {', '.join(build['architectures'])}, CUDA {build['toolkit']}"
    missing = why_not()
    if missing is not None:
        return f"{missing} ({kernels})"
    infos = [extension().device_info(i) for i in range(extension().device_count())]
    gpus = ", ".join(
        f"{info['name']} (compute capability {info['compute_capability']}, "
        f"{info['memory'] / 2**30:.0f} GiB, {info['multiprocessors']} multiprocessors)"
        for info in infos
    )
    return f"{gpus}; {kernels}; arrays of {' and '.join(libraries())}"
