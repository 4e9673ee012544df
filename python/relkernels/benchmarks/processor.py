"""The CPU as a device of benchmarks: numbers of threads, ceilings, memory, and facts about the machine."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence
from typing import Any

from ..config import configuration
from . import ceilings, peers, timing
from .memory import Meter
from .workload import Workload

# Libraries read these: a setting forgotten in a shell changes a peer's speed.
SETTINGS = ("OPENBLAS_", "OMP_", "GOMP_", "MKL_", "GOTO_", "BLIS_", "ATEN_", "RELKERNELS_")


class Processor:
    """Runs workloads on the CPU; a context manager.

    Parameters
    ----------
    threads
        Numbers of threads; targets and memory are for the most.
    quick
        Whether to compare results without measuring times.
    """

    def __init__(self, threads: Sequence[int], quick: bool = False) -> None:
        self.threads = threads
        self._quick = quick
        self._meter = Meter(max(threads))

    def __enter__(self) -> Processor:
        if not self._quick:
            self._meter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if not self._quick:
            self._meter.__exit__(*error)

    def ceilings(self, threads: int) -> dict[str, float | None]:
        """Return the rate of each ceiling on this many threads."""
        return ceilings.measure(threads, 0.5)

    def libraries(self) -> list[dict[str, Any]]:
        """Return the BLAS libraries that the workloads have loaded."""
        return peers.blas_in_use()

    def time_left(self) -> bool:
        """Return True."""
        return True

    def run(self, workload: Workload) -> Iterator[tuple[int, timing.Race]]:
        """Yield the results from most to fewest threads; then measure memory with the most."""
        if self._quick:
            yield from timing.compare(workload, self.threads)
            return
        races = []
        for n, race in timing.run(workload, self.threads, 0.15, 3):
            races.append(race)
            yield n, race
        for who, found in races[0].timings.items():
            if found.median <= timing.TOO_LONG:
                races[0].memory[who] = self._meter.peak(workload, who)


def describe_machine() -> dict[str, Any]:
    """Return the configuration, and other facts that determine a machine's speed."""
    memory = None
    with contextlib.suppress(ValueError, OSError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    load = None
    with contextlib.suppress(OSError):
        load = os.getloadavg()[0]
    return configuration() | {
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "memory": memory,
        "last_level_cache": ceilings.last_level_cache(),
        "load": load,
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)},
    }
