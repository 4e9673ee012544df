"""The peak rates that times are compared with, and their measurement on the CPU.

There they are measured by loops of the engine (csrc/processor/ceilings.cpp), on a GPU by `cuda`.
"""

from __future__ import annotations

import contextlib
import glob

from .. import _core
from ..arrays.allocate import available

# For each device, name: description, and the unit of 1e9 per second.
NAMES = {
    "cpu": {
        "fma_float32": ("multiply-adds, float32", "GFLOP/s"),
        "fma_float64": ("multiply-adds, float64", "GFLOP/s"),
        "bf16_dot": ("products of bfloat16 (AVX512_BF16)", "GFLOP/s"),
        "read": ("reads of memory", "GB/s"),
        "write": ("writes to memory", "GB/s"),
        "stream": ("writes past the cache", "GB/s"),
    },
    "cuda": {
        "copy": ("copies in memory, reads and writes", "GB/s"),
        "bfloat16": ("products of bfloat16", "GFLOP/s"),
        "float16": ("products of float16", "GFLOP/s"),
        "tf32": ("products of float32 in TF32", "GFLOP/s"),
        "float32": ("multiply-adds, float32", "GFLOP/s"),
    },
}
_LEAST_BUFFER = 256 << 20


def last_level_cache() -> int:
    """Return the size of the largest cache in bytes; 0 if unknown."""
    sizes = [0]
    for path in glob.glob("/sys/devices/system/cpu/cpu0/cache/index*/size"):
        with contextlib.suppress(OSError, ValueError), open(path) as f:
            text = f.read().strip()
            sizes.append(int(text.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1))
    return max(sizes)


def buffer_size() -> int:
    """Return the size in bytes of the bandwidth test: four times the last-level cache, if memory suffices."""
    wanted = max(_LEAST_BUFFER, 4 * last_level_cache())
    left = available()
    return wanted if left is None else min(wanted, left // 2)


def measure(threads: int, seconds: float) -> dict[str, float | None]:
    """Return the rate of each ceiling on this many threads; None if the processor lacks it."""
    size = buffer_size()
    return {name: _core.measure_ceiling(name, threads, size, seconds) for name in NAMES["cpu"]}
