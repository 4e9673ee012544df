"""The campaign: child processes that make random calls, and a parent that monitors them."""

from __future__ import annotations

import argparse
import json
import mmap
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .child import PROGRESS

TESTS = Path(__file__).parents[1]
_FOREVER = 2**62


def _ends(text: str, most: int = 4000) -> str:
    """Return the start and the end of a long text: sanitizers name the fault first, Python last."""
    return text if len(text) <= 2 * most else f"{text[:most]}\n...\n{text[-most:]}"


class Child:
    """A process that makes every `step`-th call from `first` on, restarted after a call that killed it."""

    def __init__(self, seed: int, first: int, step: int, end: int, until: float, patience: float) -> None:
        self.seed, self.first, self.step, self.end = seed, first, step, end
        self.until, self.patience = until, patience
        self.findings: list[dict[str, Any]] = []
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the child)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._progress_file = tempfile.NamedTemporaryFile()  # noqa: SIM115
        self._progress_file.write(PROGRESS.pack(first, 0))
        self._progress_file.flush()
        self._progress = mmap.mmap(self._progress_file.fileno(), PROGRESS.size)
        self._start()

    def _start(self) -> None:
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        settings = [self.seed, self.first, self.step, self.end, self.until - time.monotonic()]
        self._errors.truncate(0)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "campaign.child", *map(str, settings), self._progress_file.name],
            env=os.environ | {"PYTHONPATH": path},
            stdout=self._output,
            stderr=self._errors,
        )
        self._seen, self._since = (-2, 0), time.monotonic()

    @property
    def made(self) -> int:
        return PROGRESS.unpack(self._progress[:])[1]

    def look(self) -> bool:
        """Return whether the child continues; restart it after a call at which it died or hangs."""
        now, seen = time.monotonic(), PROGRESS.unpack(self._progress[:])
        if seen != self._seen:
            self._seen, self._since = seen, now
        status = self._process.poll()
        if status is None and now - self._since <= self.patience:
            return True
        if status == 0:
            return False
        if status is None:
            self._process.send_signal(signal.SIGABRT)  # faulthandler prints the stack
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            fault = f"hung for {self.patience:g} s"
        elif status < 0:
            fault = f"killed by {signal.Signals(-status).name}"
        else:
            fault = f"ended with status {status}"
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        self.findings.append({"call": seen[0], "what": "the process", "fault": f"{fault}\n{_ends(text)}"})
        self.first = max(seen[0], self.first) + self.step
        ended = seen[0] < 0  # sanitizers report when the process exits
        if ended or len(self.findings) >= 20 or now >= self.until or self.first >= self.end:
            return False
        self._start()
        return True

    def all_findings(self) -> list[dict[str, Any]]:
        """Return all findings, once the child has ended."""
        self._output.seek(0)
        return self.findings + [json.loads(line) for line in self._output.read().splitlines()]


def campaign(
    seed: int, calls: int | None, seconds: float | None, processes: int, patience: float
) -> tuple[int, list[dict[str, Any]]]:
    """Make calls 0, 1, 2, ... of a seed up to a number or a time; return their number and the findings."""
    until = time.monotonic() + (1e9 if seconds is None else seconds)
    end = _FOREVER if calls is None else calls
    children = [Child(seed, first, processes, end, until, patience) for first in range(processes)]
    going = list(children)
    while going:
        time.sleep(0.1)
        going = [child for child in going if child.look()]
    return sum(child.made for child in children), [f for child in children for f in child.all_findings()]


def report(seed: int, findings: list[dict[str, Any]]) -> None:
    """Print each kind of finding once, with the command that repeats one such call."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for found in findings:
        kinds.setdefault((found["what"], re.sub(r"[0-9]+", "0", found["fault"])[:50]), []).append(found)
    for (what, _), alike in sorted(kinds.items(), key=lambda item: -len(item[1])):
        shown, count = alike[0], len(alike)
        times = "once" if count == 1 else f"{count} times"
        print(f"\nFOUND {times}: {what}: {shown['fault']}")
        isa = os.environ.get("RELKERNELS_ISA")
        prefix = f"RELKERNELS_ISA={isa} " if isa else ""
        print(f"    again: {prefix}python tests/campaign --seed {seed} --call {shown['call']}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python tests/campaign",
        description="Random good and bad calls of every public operation, in child processes.",
    )
    parser.add_argument("--seconds", type=float, help="how long (default: 30, unless --calls is given)")
    parser.add_argument("--calls", type=int, help="how many calls")
    parser.add_argument("--seed", type=int, help="default: a new one, which is printed")
    parser.add_argument("--call", type=int, help="make this call of the seed alone, in this process")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: %(default)s")
    parser.add_argument("--patience", type=float, default=60, help="seconds after which a call hangs")
    options = parser.parse_args(argv)
    from .judge import judge, uncovered

    if uncovered():
        print(f"no generator calls these public names: {', '.join(uncovered())}")
        return 1
    seed = secrets.randbits(32) if options.seed is None else options.seed
    if options.call is not None:
        what, faults = judge(seed, options.call)
        print(what, *(faults or ["no finding"]), sep="\n")
        return 1 if faults else 0
    seconds = 30.0 if options.seconds is None and options.calls is None else options.seconds
    print(f"campaign --seed {seed}", flush=True)
    made, findings = campaign(seed, options.calls, seconds, options.processes, options.patience)
    report(seed, findings)
    print(f"{made} calls, {len(findings)} findings")
    return 1 if findings or not made else 0
