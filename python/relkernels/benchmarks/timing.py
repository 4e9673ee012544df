"""Comparisons: contestants are checked for equal results, then timed alternately in one process.

`check` is for every device; `run` and `alternate` time on the CPU, and `cuda` on a GPU.
"""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import peers
from .workload import OURS, AbsentError, Entry, Workload

# A sample lasts at least this long, because the clock and the loop cost some 100 ns.
SHORTEST_SAMPLE = 50e-6
TURNS = 3
# Elements that are compared at a time, because results may occupy most of the memory.
PIECE = 2**22
# Threads of OpenBLAS and OpenMP spin after a call, on processors that the next contestant needs; those of
# OpenBLAS were observed to spin for between 30 and 100 ms.
REST = 0.1  # seconds
SLOW, TOO_LONG = 1.0, 10.0  # seconds


@dataclass
class Timing:
    """Seconds per call: median, quartiles and number of samples."""

    median: float
    lower_quartile: float
    upper_quartile: float
    samples: int


@dataclass
class Race:
    """The result of a workload: timings, and the reason if a contestant has none."""

    timings: dict[str, Timing] = field(default_factory=dict)
    # Peak memory of a call in bytes; None if it cannot be measured.
    memory: dict[str, int | None] = field(default_factory=dict)
    # ||a - b|| / ||b|| from ours, or from the first contestant if ours is absent.
    differences: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    unequal: dict[str, float] = field(default_factory=dict)


def difference(arrays: Sequence[Any], reference: Sequence[Any]) -> float:
    """Return the largest ||a - b|| / ||b|| of the arrays of two results; inf if shapes differ.

    Arrays are NumPy arrays, or tensors on one device, where the difference is then computed.
    """
    if len(arrays) != len(reference):
        return float("inf")
    return max((_distance(a, b) for a, b in zip(arrays, reference, strict=True)), default=0.0)


def _distance(a: Any, b: Any) -> float:
    if a.shape != b.shape:
        return float("inf")
    a, b = a.reshape(-1), b.reshape(-1)
    above = below = 0.0
    for i in range(0, len(b), PIECE):
        ours, theirs = _doubles(a[i : i + PIECE]), _doubles(b[i : i + PIECE])
        above += float(((ours - theirs) ** 2).sum())
        below += float((theirs**2).sum())
    if above == 0.0:
        return 0.0
    return float(np.sqrt(above / below)) if below else float("inf")


def _doubles(a: Any) -> Any:
    return a.double() if hasattr(a, "double") else a.astype(np.float64)  # a tensor, or an array


def prepare(workload: Workload, who: str, data: Any) -> tuple[Entry, list[Any]]:
    """Return a contestant that is ready to start, and the result of its first call, which is its warm-up.

    Raises
    ------
    AbsentError
        If it is not installed, or fails to start; the message gives the reason. On the CPU, errors of ours
        are raised as they are. On a GPU, where a run is rare, they do not stop the other measurements.
    """
    if who in (absent := peers.missing()):
        raise AbsentError(absent[who])
    try:
        with contextlib.redirect_stdout(sys.stderr):  # KeOps prints that it compiles
            entry = workload.contestants[who](data)
            return entry, list(entry.arrays(entry.call()))
    except AbsentError:
        raise
    except Exception as error:
        if workload.device == "cpu" and (who == OURS or isinstance(error, MemoryError)):
            raise
        lines = str(error).strip().splitlines() or [""]
        raise AbsentError(f"cannot run here: {type(error).__name__}: {lines[0][:200]}") from error


def check(workload: Workload, data: Any) -> tuple[dict[str, Entry], Race]:
    """Return the contestants with equal results, and a `Race` that records the others."""
    race, entries = Race(), {}
    reference: list[Any] | None = None
    for who in workload.contestants:
        try:
            entry, arrays = prepare(workload, who, data)
        except AbsentError as reason:
            race.absent[who] = str(reason)
            continue
        if reference is None:
            reference = arrays
        apart = difference(arrays, reference)
        race.differences[who] = apart
        if apart <= workload.tolerance:  # false for NaN
            entries[who] = entry
        else:
            race.unequal[who] = apart
    return entries, race


def compare(workload: Workload, threads: Sequence[int]) -> Iterator[tuple[int, Race]]:
    """Check the contestants of a workload with each number of threads, without timing."""
    data = workload.data()
    for n in sorted(threads, reverse=True):
        with peers.threads(n):
            yield n, check(workload, data)[1]


def run(workload: Workload, threads: Sequence[int], seconds: float, least: int) -> Iterator[tuple[int, Race]]:
    """Prepare and check the contestants of a workload, then time them with each number of threads.

    Parameters
    ----------
    threads
        Timed from most to fewest: a contestant that takes too long with the most is not timed with fewer.
    seconds
        Time per contestant, unless the minimum number of samples takes longer. With 0 there is also no rest
        between turns.
    least
        Minimum number of samples per contestant.
    """
    data = workload.data()
    most = max(threads)
    with peers.threads(most):
        entries, race = check(workload, data)
    calls = {who: entry.call for who, entry in entries.items()}
    for n in sorted(threads, reverse=True):
        with peers.threads(n):  # again, for libraries that the contestants have loaded in the meantime
            timings = alternate(calls, seconds, least)
        yield n, replace(race, timings=timings, memory={})
        for who, timing in timings.items():
            if timing.median > TOO_LONG:
                del calls[who]
                why = f"not timed on fewer threads: {timing.median:.0f} s per call on {n}"
                race = replace(race, absent=race.absent | {who: why})


def alternate(calls: Mapping[str, Callable[[], Any]], seconds: float, least: int) -> dict[str, Timing]:
    """Time the calls alternately until each has enough seconds and samples.

    A turn begins with a rest, so that the previous contestant's threads stop spinning, and with an
    untimed call, which wakes the contestant's threads. A call that takes seconds is timed once.
    """
    first = {who: _seconds(call) for who, call in calls.items()}
    samples = {who: [took] if took > SLOW else [] for who, took in first.items()}
    spent = dict.fromkeys(calls, 0.0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        left = [who for who in calls if first[who] <= SLOW]
        while left:
            for who in left:
                if seconds > 0:
                    time.sleep(REST)
                    if first[who] < REST:
                        calls[who]()
                repeats = max(1, math.ceil(SHORTEST_SAMPLE / first[who]))
                spent[who] += _turn(calls[who], repeats, seconds / TURNS, samples[who])
            left = [who for who in left if spent[who] < seconds or len(samples[who]) < least]
    finally:
        if collecting:
            gc.enable()
    return summaries(samples)


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return max(time.perf_counter() - begin, 1e-9)


def _turn(call: Callable[[], Any], repeats: int, seconds: float, samples: list[float]) -> float:
    """Add samples for this many seconds, at least one; return the elapsed seconds."""
    begin = end = time.perf_counter()
    while True:
        start = end
        for _ in range(repeats):
            call()
        end = time.perf_counter()
        samples.append((end - start) / repeats)
        if end - begin >= seconds:
            return end - begin


def summaries(samples: Mapping[str, list[float]]) -> dict[str, Timing]:
    """Return median, quartiles and number of each contestant's samples."""
    found = {}
    for who, times in samples.items():
        lower, median, upper = (float(q) for q in np.quantile(times, [0.25, 0.5, 0.75]))
        found[who] = Timing(median, lower, upper, len(times))
    return found
