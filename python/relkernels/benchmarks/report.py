"""The run of a benchmark on a device, and its result: rows, the machine, and the targets met."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from . import peers, processor, timing
from .workload import CEILING, OURS, Workload


class Device(contextlib.AbstractContextManager[Any], Protocol):
    """What runs workloads: `processor.Processor` or `cuda.Cuda`.

    Attributes
    ----------
    threads
        Numbers of threads that workloads are run with; (1,) for a GPU.
    """

    threads: Sequence[int]

    def ceilings(self, threads: int) -> Mapping[str, float | None]:
        """Return the measured rate of each ceiling; None for those that the device lacks."""

    def run(self, workload: Workload) -> Iterator[tuple[int, timing.Race]]:
        """Yield the result of a workload for each number of threads, from most to fewest."""

    def libraries(self) -> list[dict[str, Any]]:
        """Return the BLAS libraries that the workloads have loaded."""

    def time_left(self) -> bool:
        """Return whether another workload may be started."""


def threads_label(n: int) -> str:
    """Return a number of threads in words."""
    return f"{n} threads" if n > 1 else "1 thread"


class Verdict(NamedTuple):
    """A target and the value achieved, either a ratio to a peer or a share of a ceiling."""

    of: str
    wanted: float
    got: float

    @property
    def met(self) -> bool:
        """Whether the target was met."""
        return self.got >= self.wanted


@dataclass
class Row:
    """The result of a workload on one number of threads.

    Attributes
    ----------
    ceilings
        The rates measured with this number of threads.
    isa
        The instruction set in use; "" on a GPU.
    date
        That of the run.
    """

    workload: Workload
    threads: int
    race: timing.Race
    ceilings: Mapping[str, float | None]
    most_threads: bool
    isa: str = ""
    date: str = ""

    @property
    def ceiling(self) -> float | None:
        """The rate that limits the workload."""
        return self.ceilings.get(self.workload.limit)

    @property
    def floor(self) -> float | None:
        """The least seconds that the workload can take, if known."""
        return self.workload.floor(self.ceilings)

    @property
    def best_peer(self) -> str | None:
        """The fastest contestant other than ours."""
        peers = {who: t.median for who, t in self.race.timings.items() if who != OURS}
        return min(peers, key=peers.__getitem__) if peers else None

    def ratio(self, peer: str | None) -> float | None:
        """Return a peer's time divided by ours."""
        timings = self.race.timings
        if OURS not in timings or peer not in timings:
            return None
        return timings[peer].median / timings[OURS].median

    def rate(self, who: str) -> float | None:
        """Return operations, or bytes, per second."""
        found = self.race.timings.get(who)
        return self.workload.work / found.median if found else None

    def share(self) -> float | None:
        """Return our rate divided by the ceiling."""
        ours = self.rate(OURS)
        return ours / self.ceiling if ours and self.ceiling else None

    def verdicts(self) -> list[Verdict]:
        """Return the targets that could be judged."""
        targets = self.workload.targets if self.most_threads else {}
        if self.isa in self.workload.isa_targets and (self.most_threads or self.threads == 1):
            targets = self.workload.isa_targets[self.isa]
        found = []
        for of, wanted in targets.items():
            got = self.share() if of == CEILING else self.ratio(self.best_peer if of == "best" else of)
            if got is not None:
                found.append(Verdict(of, wanted, got))
        return found

    def record(self) -> dict[str, Any]:
        """Return this row for JSON."""
        w = self.workload
        return {
            "workload": w.name,
            "device": w.device,
            "family": w.family,
            "series": w.series,
            "size": w.size,
            "title": w.label(),
            "threads": self.threads,
            "most_threads": self.most_threads,
            "date": self.date,
            "flops": w.flops,
            "bytes_read": w.read,
            "bytes_written": w.written,
            "tolerance": w.tolerance,
            "contestants": {
                who: {"difference": apart}
                | (
                    dataclasses.asdict(self.race.timings[who])
                    | {"rate": self.rate(who), "peak_memory": self.race.memory.get(who)}
                    if who in self.race.timings
                    else {}
                )
                for who, apart in self.race.differences.items()
                if who not in self.race.unequal
            },
            "absent": self.race.absent,
            # JSON has no NaN and no infinity.
            "unequal": {who: d if math.isfinite(d) else None for who, d in self.race.unequal.items()},
            "best_peer": self.best_peer,
            "ratio": self.ratio(self.best_peer),
            "floor": self.floor,
            "limit": w.limit,
            "ceiling": self.ceiling,
            "share_of_ceiling": self.share(),
            "targets": [v._asdict() | {"met": v.met} for v in self.verdicts()],
        }


@dataclass
class Report:
    """All results of a run; rows are added as it proceeds.

    Attributes
    ----------
    quick
        Whether results are compared without measuring times.
    seconds
        Duration of the run.
    left_out
        Names of the workloads that have no rows yet.
    earlier
        Earlier runs that some of the rows are from, as records without rows, newest first.
    """

    command: str
    quick: bool
    device: str = "cpu"
    date: str = field(default_factory=lambda: f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}")
    machine: dict[str, Any] = field(default_factory=processor.describe_machine)
    missing: dict[str, str] = field(default_factory=peers.missing)
    versions: dict[str, str] = field(default_factory=peers.versions)
    blas: list[dict[str, Any]] = field(default_factory=list)
    ceilings: dict[int, dict[str, float | None]] = field(default_factory=dict)
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    complete: bool = False
    earlier: list[dict[str, Any]] = field(default_factory=list)

    def measure(
        self,
        workloads: Sequence[Workload],
        device: Device,
        progress: Callable[[str], None],
        save: Callable[[], None] = lambda: None,
    ) -> None:
        """Measure ceilings, then workloads, while there is time; an interrupted run keeps its measurements.

        `save` is called after each workload. A quick report only compares results.
        """
        self.left_out = [workload.name for workload in workloads]
        start, isa = time.monotonic(), self.machine.get("isa", "")
        self._measure_ceilings(device, progress)
        with device:
            for i, workload in enumerate(workloads, start=1):
                if not device.time_left():
                    break
                progress(f"{workload.name} ({i} of {len(workloads)})")
                begin = len(self.rows)
                for n, race in device.run(workload):
                    most = n == max(device.threads)
                    row = Row(workload, n, race, self.ceilings.get(n, {}), most, isa, self.date)
                    self.rows.insert(begin, row)
                self.left_out.remove(workload.name)
                self.blas = device.libraries()
                self.seconds = time.monotonic() - start
                save()
        self._measure_ceilings(device, progress)  # again: the machine may have been busy the first time
        self.seconds = time.monotonic() - start
        self.complete = not self.left_out
        save()

    def _measure_ceilings(self, device: Device, progress: Callable[[str], None]) -> None:
        if self.quick:
            return
        for n in device.threads:
            progress(f"ceilings, {threads_label(n)}")
            best = self.ceilings.setdefault(n, {})
            for name, rate in device.ceilings(n).items():
                best[name] = max((r for r in (best.get(name), rate) if r is not None), default=None)

    @property
    def unequal(self) -> list[str]:
        """Descriptions of results that differ from ours."""
        return list(
            dict.fromkeys(  # equal for every number of threads
                f"{row.workload.name}: {who} differs by {apart:.1e}, more than {row.workload.tolerance:.1e}"
                for row in self.rows
                for who, apart in row.race.unequal.items()
            )
        )

    def record(self) -> dict[str, Any]:
        """Return this report for JSON."""
        return {
            "command": self.command,
            "device": self.device,
            "complete": self.complete,
            "quick": self.quick,
            "date": self.date,
            "seconds": self.seconds,
            "machine": self.machine,
            "versions": self.versions,
            "blas": self.blas,
            "missing": self.missing,
            "ceilings": {str(n): found for n, found in self.ceilings.items()},
            "rows": [row.record() for row in self.rows],
            "left_out": self.left_out,
            "earlier": self.earlier,
        }
