"""A GPU as a device of benchmarks: time by CUDA events, ceilings, memory, and a description of the machine.

PyTorch provides the arrays, the events and the peers; it is imported when a GPU is first used.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from .. import cuda
from ..config import configuration
from . import timing
from .workload import Workload

ROUNDS_OF_WARMING = 3
MOST_SAMPLES = 30
LEAST_SAMPLES = 2
LEAST_SECONDS = 1.5  # of samples per contestant, if time permits


class Clock(Protocol):
    """What measures calls."""

    def sample(self, call: Callable[[], Any]) -> float:
        """Return the seconds of one call."""

    def peak(self, call: Callable[[], Any]) -> int:
        """Return the bytes that a call allocates at its peak, including its result."""

    def clear(self) -> None:
        """Return cached memory to the device."""


class Events:
    """Measures calls by CUDA events, after the L2 cache was overwritten, and by PyTorch's allocator."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        size = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 1 << 26)
        self._elsewhere = torch.empty(max(4 * size, 1 << 28), dtype=torch.uint8, device="cuda")

    def sample(self, call: Callable[[], Any]) -> float:
        """Return the seconds of one call."""
        begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._elsewhere.random_()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def peak(self, call: Callable[[], Any]) -> int:
        """Return the bytes that a call allocates at its peak, including its result."""
        memory = self._torch.cuda
        memory.synchronize()
        memory.reset_peak_memory_stats()
        before = memory.memory_allocated()
        call()
        memory.synchronize()
        return memory.max_memory_allocated() - before

    def clear(self) -> None:
        """Return cached memory to the device."""
        gc.collect()
        self._torch.cuda.empty_cache()


class Cuda:
    """Runs workloads on a GPU; a context manager.

    Parameters
    ----------
    seconds
        Start no workload, and no round of samples after the first, once this time has passed.
    clock
        Measures the calls.
    """

    threads = (1,)

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._until = time.monotonic() + seconds
        self._clock = clock

    def __enter__(self) -> Cuda:
        return self

    def __exit__(self, *_: Any) -> None:
        self._clock.clear()

    def ceilings(self, threads: int) -> dict[str, float | None]:
        """Return the rate of each ceiling."""
        return measure_ceilings(self._clock)

    def libraries(self) -> list[dict[str, Any]]:
        """Return none: the contestants' are part of PyTorch and CuPy."""
        return []

    def time_left(self) -> bool:
        """Return whether the seconds have not passed."""
        return time.monotonic() <= self._until

    def run(self, workload: Workload) -> Iterator[tuple[int, timing.Race]]:
        """Compare the contestants, then measure memory and time of those that agree."""
        self._clock.clear()
        entries, race = timing.check(workload, workload.data())
        calls = {who: entry.call for who, entry in entries.items()}
        for who, call in calls.items():
            race.memory[who] = self._clock.peak(call)
        race.timings = alternate(calls, self._clock, self.time_left)
        yield 1, race


def alternate(
    calls: Mapping[str, Callable[[], Any]], clock: Clock, time_left: Callable[[], bool]
) -> dict[str, timing.Timing]:
    """Time the calls alternately, by rounds of one sample of each.

    Calls are first warmed up, slow ones once. Rounds end at MOST_SAMPLES, when there are LEAST_SAMPLES that
    took LEAST_SECONDS per contestant on average, or when no time is left.
    """
    for call in calls.values():
        slow = clock.sample(call) > timing.SLOW
        for _ in range(0 if slow else ROUNDS_OF_WARMING - 1):
            call()
    samples: dict[str, list[float]] = {who: [] for who in calls}
    for rounds in range(1, MOST_SAMPLES + 1):
        for who, call in calls.items():
            samples[who].append(clock.sample(call))
        spent = sum(map(sum, samples.values()))
        if (spent > LEAST_SECONDS * len(calls) and rounds >= LEAST_SAMPLES) or not time_left():
            break
    return timing.summaries(samples)


_FMA = r"""
extern "C" __global__ void multiply_add(float* out, int rounds) {
    float a[16];
    for (int i = 0; i < 16; ++i) a[i] = threadIdx.x + i;
    const float x = 1.0f - 1e-7f * threadIdx.x, y = 1e-7f * blockIdx.x;
    for (int r = 0; r < rounds; ++r)
        for (int i = 0; i < 16; ++i) a[i] = fmaf(a[i], x, y);
    float sum = 0;
    for (int i = 0; i < 16; ++i) sum += a[i];
    if (sum == 12345.678f) out[0] = sum;
}
"""


def measure_ceilings(clock: Clock) -> dict[str, float | None]:
    """Return the best measured rates per second: bytes of copies, operations of each arithmetic."""
    import torch

    def best(call: Callable[[], Any], work: float) -> float:
        call()
        return work / min(clock.sample(call) for _ in range(10))

    nbytes = 2**32
    source = torch.randint(0, 255, (nbytes,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    rates: dict[str, float | None] = {"copy": best(functools.partial(target.copy_, source), 2 * nbytes)}
    del source, target
    n = 8192
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("float16", torch.float16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
        rates[name] = best(functools.partial(torch.matmul, a, b), 2.0 * n**3)
    torch.backends.cuda.matmul.allow_tf32 = False
    try:  # a loop of multiply-adds is a fairer ceiling of float32 than any product
        rates["float32"] = max(rates["float32"] or 0.0, _multiply_adds(best))
    except Exception as error:  # CuPy is optional
        print(f"... multiply-adds not measured: {error}", file=sys.stderr)
    return rates


def _multiply_adds(best: Callable[[Callable[[], Any], float], float]) -> float:
    """Return the rate of a loop of multiply-adds in float32."""
    import cupy
    import torch

    kernel = cupy.RawKernel(_FMA, "multiply_add")
    blocks, threads, rounds = 132 * 16, 256, 4096
    out = cupy.zeros(1, np.float32)
    with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
        return best(lambda: kernel((blocks,), (threads,), (out, rounds)), 32.0 * blocks * threads * rounds)


def describe_machine(tests: dict[str, Any] | None) -> dict[str, Any]:
    """Return a description of the GPU and of the program; `tests` is a summary of its tests there."""
    import torch

    found = torch.cuda.get_device_properties(0)
    return {
        "gpu": found.name,
        "memory": found.total_memory,
        "multiprocessors": found.multi_processor_count,
        "compute_capability": f"{found.major}.{found.minor}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "version": configuration()["version"],
        "cuda": configuration()["cuda"],
        "tests": tests,
    }


def versions() -> dict[str, str]:
    """Return the versions of the libraries whose arrays and contestants are used."""
    import torch

    found = {"torch": torch.__version__, "CUDA of torch": str(torch.version.cuda)}
    with contextlib.suppress(ImportError):
        import cupy

        found["cupy"] = cupy.__version__
    return found


def why_not() -> str | None:
    """Return the reason why nothing can be measured here, or None."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed, whose arrays and peers the benchmark uses"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    return cuda.why_not()
