"""Part of the demo: exact retrieval over keys on disk in bounded memory, partly checked against NumPy."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..base import check
from ..states.block_retrieval import retrieve_blocks
from ..states.blocks import NpyBlocks
from .part import Part

# Rows per seed, so that keys do not depend on the size of blocks.
_DRAWN = 1 << 16
_CHECKED = 8  # queries


def run(
    report: Callable[[str], None],
    rows: int = 5_000_000,
    dim: int = 64,
    queries: int = 256,
    k: int = 10,
    keys: str | None = None,
) -> Part:
    """Retrieve from a file of keys; without one, from random keys in a temporary file."""
    if keys is not None:
        return Part(_measured(report, NpyBlocks(keys), queries, k))
    if k > rows:
        check.fail("k", f"at most {rows}, the number of keys", k)
    nbytes = rows * dim * np.dtype(np.float32).itemsize
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if nbytes > free:
        raise OSError(
            f"{tempfile.gettempdir()}: {nbytes} bytes are needed for {rows} keys, {free} are free; "
            "set TMPDIR to use another directory"
        )
    with tempfile.TemporaryDirectory(prefix="relkernels-") as directory:
        path = os.path.join(directory, "keys.npy")
        report(f"writing {rows:,} keys of {dim} features, {nbytes / 1e9:.2f} GB")
        with _bar("writing keys", rows) as advance:
            write_keys(path, rows, dim, advance)
        return Part(_measured(report, NpyBlocks(path), queries, k))


def write_keys(path: str, rows: int, dim: int, advance: Callable[[int], None] = lambda n: None) -> None:
    """Write standard normal keys to a ``.npy`` file, identical for every call."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for number, first in enumerate(range(0, rows, _DRAWN)):
            count = min(_DRAWN, rows - first)
            draw = np.random.default_rng([0, number]).standard_normal((count, dim), dtype=np.float32)
            file.write(draw.astype("<f4", copy=False).data)
            advance(count)


def _measured(report: Callable[[str], None], keys: NpyBlocks, queries: int, k: int) -> dict[str, Any]:
    """Return the figures of one retrieval."""
    if k > len(keys):
        check.fail("k", f"at most {len(keys)}, the rows of {keys.path}", k)
    q = np.random.default_rng(1).standard_normal((queries, keys.shape[1])).astype(keys.dtype)
    report(f"{queries:,} queries against {len(keys):,} keys, {keys.n_blocks} blocks of {keys.rows:,} rows")
    begin = time.perf_counter()
    with _bar("retrieving", len(keys)) as advance:
        values, indices = retrieve_blocks(q, _counted(keys, advance), k)
    seconds = time.perf_counter() - begin
    peak = peak_memory()
    checked = min(_CHECKED, queries)
    report(f"checking {checked} queries directly, in float64")
    with _bar("checking", len(keys)) as advance:
        error = largest_error(q[:checked], keys, values[:checked], indices[:checked], advance)
    # Rounding of a sum in float64 or float32, and of values returned in float16.
    bound = 4 * keys.shape[1] * 2.0 ** (-52 if keys.dtype == np.float64 else -23)
    bound += 2.0**-10 if keys.dtype == np.float16 else 0.0
    if not error <= bound:
        raise RuntimeError(
            f"retrieval differs from the direct computation by {error:.3g}, beyond {bound:.3g}"
        )
    return {
        "rows": len(keys),
        "dim": keys.shape[1],
        "dtype": str(keys.dtype),
        "queries": queries,
        "k": k,
        "bytes": keys.nbytes,
        "block_rows": keys.rows,
        "seconds": seconds,
        "rows_per_second": len(keys) / seconds,
        "bytes_per_second": keys.nbytes / seconds,
        "peak_bytes": peak,
        "checked_queries": checked,
        "largest_error": error,
        "error_bound": bound,
    }


def _counted(keys: NpyBlocks, advance: Callable[[int], None]) -> Iterator[np.ndarray]:
    for block in keys.blocks():
        yield block
        advance(len(block))


def largest_error(
    q: np.ndarray,
    keys: NpyBlocks,
    values: np.ndarray,
    indices: np.ndarray,
    advance: Callable[[int], None] = lambda n: None,
) -> float:
    """Return the largest error of a result, relative to the norms of query and key, by NumPy in float64.

    Values must match the keys at the returned indices, and be the largest of all keys at their rank. The
    error is infinite if an index occurs twice for a query. NaN products count as -inf.
    """
    wide = q.astype(np.float64)
    k = values.shape[1]
    best = np.full((len(q), k), -np.inf)
    longest = 0.0
    for block in _counted(keys, advance):
        # A few thousand rows at a time bound the memory of the float64 copy.
        for first in range(0, len(block), _DRAWN // 8):
            part = block[first : first + _DRAWN // 8].astype(np.float64)
            products = np.nan_to_num(wide @ part.T, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
            best = -np.sort(-np.hstack([best, products]), axis=1)[:, :k]
            longest = max(longest, float(np.nan_to_num(np.linalg.norm(part, axis=1), posinf=0).max()))
    named = keys[indices].astype(np.float64)
    claimed = np.nan_to_num(np.einsum("qd,qkd->qk", wide, named), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    got = np.nan_to_num(values.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    if any(len(set(row)) < k for row in indices.tolist()):
        return math.inf
    size = np.linalg.norm(wide, axis=1)[:, None] * longest
    return float(max((_difference(got, claimed) / size).max(), (_difference(got, best) / size).max()))


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return |a - b|, 0 for equal infinities."""
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, np.abs(a - b))


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    try:
        with open("/proc/self/status") as file:  # unlike ru_maxrss, not inherited from the parent
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of finished rows; the bar is on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    begin, done = time.perf_counter(), 0
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            rate = done / max(time.perf_counter() - begin, 1e-9)
            bar.update(task, advance=rows, rate=f"{rate / 1e6:.3g} M rows/s")

        yield advance
