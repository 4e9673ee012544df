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
SETTINGS = (
    "OPENBLAS_", "OMP_", "GOMP_", "MKL_", "GOTO_", "BLIS_", "ATEN_", "ONEDNN_", "FAISS_", "NPY_",
    "RELKERNELS_",
)  # fmt: skip
# Hold us, PyTorch, oneDNN, MKL, OpenBLAS, Faiss and NumPy to AVX2. They read these when they are loaded, so a
# race on AVX2 needs a separate process. KeOps compiles for the processor it runs on and is not held.
HELD_TO_AVX2 = {
    "RELKERNELS_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "FAISS_OPT_LEVEL": "avx2",
    # By the names of NumPy 2.4 and of earlier versions, each of which ignores those of the other.
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512CD AVX512_SKX",
}


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
        "virtual": _virtual(),
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)},
    }


def _virtual() -> bool:
    """Return whether the processor tells that it is one of a virtual machine; False where it cannot tell."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        return any(line.startswith("flags") and "hypervisor" in line.split() for line in f)
    return False


def more_than_avx2() -> bool:
    """Return whether the instruction set was chosen by us and has AVX2 as a smaller one."""
    found = configuration()
    chosen = "RELKERNELS_ISA" not in os.environ
    return chosen and "avx2" in found["available_isas"] and found["isa"] != "avx2"
