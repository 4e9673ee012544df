"""Outputs, and the refusal of those that would not fit in memory."""

from __future__ import annotations

import math
import os

import numpy as np

# Smaller outputs are not worth aligning (two microseconds), nor the look at /proc (some 20 microseconds).
_MEDIUM, _LARGE = 1 << 20, 64 << 20


def _limit_of_cgroup() -> int | None:
    """Bytes left under the memory limit of this control group (version 2), if it has one."""
    try:
        with open("/sys/fs/cgroup/memory.max") as f:
            limit = f.read().strip()
        with open("/sys/fs/cgroup/memory.current") as f:
            used = int(f.read())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used, 0)


def _limit_of_address_space() -> int | None:
    """Bytes left under RLIMIT_AS, if it is set."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    with open("/proc/self/statm") as f:
        used = int(f.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return max(soft - used, 0)


def available() -> int | None:
    """Bytes that an allocation may still take; None where the system does not say."""
    limits: list[int | None] = []
    try:
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    limits.append(int(line.split()[1]) * 1024)
                    break
        limits.append(_limit_of_address_space())
    except OSError:
        return None
    limits.append(_limit_of_cgroup())
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def _refusal(what: str, shape: tuple[int, ...], nbytes: int, left: int | None) -> MemoryError:
    have = "" if left is None else f"; {left} bytes ({left / 2**30:.1f} GiB) are available"
    return MemoryError(
        f"{what}: the output of shape {shape} needs {nbytes} bytes ({nbytes / 2**30:.1f} GiB){have}"
    )


def _on_cache_lines(shape: tuple[int, ...], nbytes: int, dtype: np.dtype) -> np.ndarray:
    """Return an uninitialized array that begins on a 64-byte boundary, as kernels that stream need it."""
    memory = np.empty(nbytes + 64, np.uint8)
    skew = -memory.ctypes.data % 64
    return memory[skew : skew + nbytes].view(dtype).reshape(shape)


def empty(what: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an uninitialized array, or raise a MemoryError that names the bytes before any is taken."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes <= _MEDIUM:
        return np.empty(shape, dtype)
    if nbytes <= _LARGE:
        return _on_cache_lines(shape, nbytes, dtype)
    left = available()
    if left is not None and nbytes > left:
        raise _refusal(what, shape, nbytes, left)
    try:
        return _on_cache_lines(shape, nbytes, dtype)
    except (MemoryError, ValueError):  # ValueError: more bytes than an address can hold
        raise _refusal(what, shape, nbytes, left) from None
