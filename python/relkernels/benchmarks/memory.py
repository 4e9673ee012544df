"""Peak memory of a call, each measured in a fresh process.

A meter process (``python -m relkernels.benchmarks.memory``) imports the contestants' libraries, computes
nothing, and forks for every measurement. The child prepares the data, warms the contestant up on the
smallest size of the series (libraries allocate their buffers then), resets the high-water mark of its
resident memory, calls once, and reports by how much the mark rose: this includes the result, but not the
data. Only Linux has such a mark, and it counts pages in batches: small peaks read as zero.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import subprocess
import sys
from typing import Any

from . import peers, workloads
from .timing import prepare
from .workload import Workload


class Meter:
    """Measures the peak memory of calls; a context manager."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def __enter__(self) -> Meter:
        # In a new session, so that Ctrl-C reaches only the parent.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.communicate()

    def peak(self, workload: Workload, who: str) -> int | None:
        """Return the peak memory of a call in bytes, or None if it cannot be measured."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps([workload.name, who, self._threads]), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return None
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else None


def _status(key: str) -> int:
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def _measure(name: str, who: str, threads: int) -> int:
    workload = next(w for w in workloads([name]) if w.name == name)
    series = [w for w in workloads([f"{workload.family}/{workload.series}"]) if who in w.contestants]
    data, small = workload.data(), min(series, key=lambda w: w.size)
    with peers.threads(threads):
        prepare(small, who, small.data())
    with peers.threads(threads):
        entry = workload.contestants[who](data)
        gc.collect()
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")  # VmHWM <- VmRSS
        before = _status("VmRSS")
        result = entry.call()
        risen = _status("VmHWM") - before
        del result
    return max(risen, 0)


def _answer(question: str) -> str:
    """Return the answer of a child, or "null" if it failed or was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, json.dumps(_measure(*json.loads(question))).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return answer if status == 0 else "null"


def _serve() -> None:
    for module, _ in peers.PEERS.values():
        # A broken peer is reported when it is to be timed.
        with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
            importlib.import_module(module)
    for question in sys.stdin:
        print(_answer(question), flush=True)


if __name__ == "__main__":
    _serve()
