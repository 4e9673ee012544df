"""The result of a benchmark run: rows, the machine they were measured on, and the targets met."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..config import configuration
from . import ceilings, peers, timing
from .memory import Meter
from .workload import OURS, Workload

# Libraries read these: a setting forgotten in a shell changes a peer's speed.
SETTINGS = ("OPENBLAS_", "OMP_", "GOMP_", "MKL_", "GOTO_", "BLIS_", "ATEN_", "RELKERNELS_")


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
    """The result of a workload on one number of threads."""

    workload: Workload
    threads: int
    race: timing.Race
    ceiling: float | None
    most_threads: bool
    # Whether targets apply: only on the most threads, and in runs that measure times.
    judged: bool
    memory: dict[str, int | None] = field(default_factory=dict)

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
        if not self.judged:
            return []
        found = []
        for peer, wanted in self.workload.targets.items():
            got = self.ratio(self.best_peer if peer == "best" else peer)
            if got is not None:
                found.append(Verdict(peer, wanted, got))
        share = self.share()
        if self.workload.ceiling_target is not None and share is not None:
            found.append(Verdict(self.workload.limit, self.workload.ceiling_target, share))
        return found

    def record(self) -> dict[str, Any]:
        """Return this row for JSON."""
        w = self.workload
        return {
            "workload": w.name,
            "family": w.family,
            "series": w.series,
            "size": w.size,
            "title": w.label(),
            "threads": self.threads,
            "flops": w.flops,
            "bytes_read": w.read,
            "bytes_written": w.written,
            "tolerance": w.tolerance,
            "contestants": {
                who: {"difference": apart}
                | (
                    dataclasses.asdict(self.race.timings[who])
                    | {"rate": self.rate(who), "peak_memory": self.memory.get(who)}
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
            "limit": w.limit,
            "ceiling": self.ceiling,
            "share_of_ceiling": self.share(),
            "targets": [v._asdict() | {"met": v.met} for v in self.verdicts()],
        }


@dataclass
class Report:
    """All results of a run; rows are added as it proceeds."""

    command: str
    quick: bool
    date: str = field(default_factory=lambda: f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}")
    machine: dict[str, Any] = field(default_factory=lambda: describe_machine())
    missing: dict[str, str] = field(default_factory=peers.missing)
    versions: dict[str, str] = field(default_factory=peers.versions)
    blas: list[dict[str, Any]] = field(default_factory=list)
    ceilings: dict[int, dict[str, float | None]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    complete: bool = False

    def measure(
        self,
        workloads: Sequence[Workload],
        threads: Sequence[int],
        progress: Callable[[str], None],
    ) -> None:
        """Measure ceilings, then workloads; an interrupted run keeps its measurements.

        A quick report only compares results.
        """
        if self.quick:
            self._compare(workloads, threads, progress)
            return
        self._measure_ceilings(threads, progress)
        with Meter(max(threads)) as meter:
            for i, workload in enumerate(workloads, start=1):
                progress(f"{workload.name} ({i} of {len(workloads)})")
                begin = len(self.rows)
                for n, race in timing.run(workload, threads, 0.15, 3):
                    most = n == max(threads)
                    ceiling = self.ceilings[n][workload.limit]
                    row = Row(workload, n, race, ceiling, most, judged=most)
                    self.rows.insert(begin, row)
                row = self.rows[-1]  # the row of the most threads
                for who, found in row.race.timings.items():
                    if found.median <= timing.TOO_LONG:
                        row.memory[who] = meter.peak(workload, who)
                self.blas = peers.blas_in_use()
        self._measure_ceilings(threads, progress)  # again: the machine may have been busy the first time
        for row in self.rows:
            row.ceiling = self.ceilings[row.threads][row.workload.limit]
        self.complete = True

    def _compare(
        self, workloads: Sequence[Workload], threads: Sequence[int], progress: Callable[[str], None]
    ) -> None:
        for i, workload in enumerate(workloads, start=1):
            progress(f"{workload.name} ({i} of {len(workloads)})")
            begin = len(self.rows)
            for n, race in timing.compare(workload, threads):
                self.rows.insert(begin, Row(workload, n, race, None, n == max(threads), judged=False))
            self.blas = peers.blas_in_use()
        self.complete = True

    def _measure_ceilings(self, threads: Sequence[int], progress: Callable[[str], None]) -> None:
        for n in threads:
            progress(f"ceilings, {n} threads" if n > 1 else "ceilings, 1 thread")
            best = self.ceilings.setdefault(n, {})
            for name, rate in ceilings.measure(n, 0.5).items():
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
            "complete": self.complete,
            "quick": self.quick,
            "date": self.date,
            "machine": self.machine,
            "versions": self.versions,
            "blas": self.blas,
            "missing": self.missing,
            "ceilings": {str(n): found for n, found in self.ceilings.items()},
            "rows": [row.record() for row in self.rows],
        }


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
