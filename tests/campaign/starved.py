"""Calls without enough memory or threads: MemoryError or the right result, and the next call is right.

`run` starts a separate process, into which `starve.cpp` is preloaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
# Number of a call's first allocations that fail one after the other; of the later ones, every tenth fails.
_ALL_OF = 60


def why_not() -> str | None:
    """Return the reason why this machine cannot run these tests, or None."""
    if not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "__libc_memalign"):
        return "needs glibc, whose allocations can be replaced"
    return None if shutil.which("c++") else "needs a C++ compiler"


def run(folder: Path, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Compile the library and run this module with it; the arguments are those of `main` after the first."""
    library = folder / "starve.so"
    source = Path(__file__).with_name("starve.cpp")
    subprocess.run(
        ["c++", "-std=c++17", "-O1", "-fPIC", "-shared", "-o", library, source, "-ldl"], check=True
    )
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    preload = " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(library)]))
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "campaign.starved", str(library), *arguments],
        env=os.environ | {"PYTHONPATH": path, "LD_PRELOAD": preload},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def regions() -> Iterator[tuple[int, int]]:
    """Return the address ranges of the code of the extension and of libstdc++."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if re.search(r" r-xp .*/(_core\.[^/]*|libstdc\+\+[^/]*)$", line):
            begin, end = line.split(maxsplit=1)[0].split("-")
            yield int(begin, 16), int(end, 16)


def cases() -> dict[str, Callable[[], Any]]:
    """Return every operation and gradient: on a few rows, and on enough for several threads and chunks."""
    import numpy as np
    import relkernels as rk
    from test_promises import calls

    rng = np.random.default_rng(0)
    table: dict[str, Callable[[], Any]] = {}
    for n, m in ((5, 9), (300, 2100)):
        for name, call in calls(np.float32, n, m, rng).items():
            table[f"{name} of {n} x {m}"] = call
    x = rng.standard_normal((150, 6))
    weights = [rng.standard_normal((6, 50)), rng.standard_normal((50, 3))]
    grad = rng.standard_normal((150, 3))
    table["a new map and its first gradient"] = lambda: rk.feature_map_vjp(x, rk.MLP(weights), grad)
    x4 = x.astype(np.float32)
    table["a new map in bfloat16"] = lambda: rk.feature_map(
        x4, rk.MLP([w.astype(np.float32) for w in weights]), precision="bf16"
    )
    table["kernel"] = lambda: rk.nngp_kernel(x, depth=2, activation="tanh", kind="ntk")
    table["batch"] = lambda: rk.attention(*(np.broadcast_to(x, (30, 150, 6)) for _ in range(3)))
    return table


def in_new_thread(call: Callable[[], Any]) -> Any:
    """Call it in a new thread, which has no scratch memory from earlier calls."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(call())
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]


class Memory(ctypes.Structure):
    """`struct mallinfo2`."""

    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
                 "fordblks", "keepcost")]  # fmt: skip


def in_use() -> int:
    info = ctypes.CDLL(None).mallinfo2
    info.restype = Memory
    now = info()
    return int(now.uordblks + now.hblkhd)


def starved(library: ctypes.CDLL, number: int, all_after: int, call: Callable[[], Any]) -> Any:
    """Return the result of a call whose allocation with this number fails; the call may raise."""
    library.starve_arm(ctypes.c_long(number), all_after)
    try:
        return call()
    finally:
        library.starve_disarm()


def without_memory(library: ctypes.CDLL, step: int) -> int:
    """Let every `step`-th allocation of each call fail; return how many calls failed."""
    import relkernels as rk

    from .checks import same_bits

    for begin, end in regions():
        assert library.starve_region(ctypes.c_size_t(begin), ctypes.c_size_t(end)) >= 0
    failed = 0
    for name, call in cases().items():
        for threads, all_after in ((1, 0), (1, 1), (3, 0), (3, 1)):
            rk.set_num_threads(threads)
            expected = call()
            number, seen = 1, 1
            while number <= seen:
                what = f"{name}, allocation {number} refused"
                try:
                    result = in_new_thread(partial(starved, library, number, all_after, call))
                except MemoryError as error:
                    if not str(error):
                        raise AssertionError(f"{what}: no message") from error
                    failed += 1
                    seen = number + step
                else:
                    same_bits(result, expected, what)
                    seen = library.starve_disarm()
                same_bits(call(), expected, f"the call after {what}")
                number += step if number < _ALL_OF else 10 * step
    return failed


def kept_by_failures(library: ctypes.CDLL) -> None:
    """Check that failing calls free their memory."""
    import relkernels as rk

    rk.set_num_threads(1)
    for name, call in cases().items():
        used = []
        for repeat in range(60):
            with contextlib.suppress(MemoryError):
                starved(library, repeat % 6 + 1, 1, call)
            if repeat in (29, 59):
                used.append(in_use())
        assert used[1] - used[0] < 100_000, f"{name}: {used[1] - used[0]} bytes are kept by 30 failing calls"


def without_threads(library: ctypes.CDLL) -> None:
    """Check that calls run on the available threads with the same bits, also in a forked child."""
    import relkernels as rk

    from .checks import same_bits

    table = cases()
    rk.set_num_threads(1)
    expected = {name: call() for name, call in table.items()}

    def all_right(allowed: int) -> None:
        library.starve_threads(allowed)
        for name, call in table.items():
            same_bits(call(), expected[name], f"{name} with {allowed} threads that can be created")

    rk.set_num_threads(8)
    for allowed in (0, 1, 2, -1):
        all_right(allowed)
    child = os.fork()
    if child == 0:
        try:
            for allowed in (0, 2):
                all_right(allowed)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"a forked child ended with status {status}"


def main(path: str, kind: str, step: str = "1") -> None:
    library = ctypes.CDLL(path)
    library.starve_disarm.restype = ctypes.c_long
    if kind == "memory":
        failed = without_memory(library, int(step))
        assert failed > 100, f"only {failed} calls failed: are the allocations counted?"
        kept_by_failures(library)
        print(f"{failed} calls ran out of memory")
    else:
        without_threads(library)
        print("calls are right without threads")


if __name__ == "__main__":
    main(*sys.argv[1:])
