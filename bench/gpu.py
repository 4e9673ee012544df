"""Benchmarks on one GPU: relkernels, PyTorch and CuPy in one process, with a floor for each time.

    python bench/gpu.py --dry-run                    # list the workloads, on any machine
    python bench/gpu.py --json bench/results         # write gpu-<name>-<date>.json to bench/results
    bash bench/gpu.sh                                # build, test, then this

Contestants use the same random data, and their results are compared before timing. They are timed alternately
by CUDA events, and the L2 cache is overwritten before each sample. Times are medians. A floor is the
larger of bytes over the measured copy rate and operations over the measured rate of their arithmetic.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import gc
import json
import math
import platform
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gpu_workloads import OURS, WORKLOADS, GpuWorkload

# Rates for the floors of a dry run: copies and bfloat16 as measured on an H200, the others from its data
# sheet.
NOMINAL = {"copy": 4.3e12, "bfloat16": 790e12, "float16": 790e12, "tf32": 494e12, "float32": 67e12}
ROUNDS_OF_WARMING = 3
LEAST_SAMPLES = 2
LEAST_SECONDS = 1.5  # of samples per contestant, if time permits


def floor(workload: GpuWorkload, ceilings: dict[str, float]) -> dict[str, float]:
    """Return the minimum seconds for the bytes, for the operations, and for the workload."""
    moved = workload.bytes / ceilings["copy"]
    computed = workload.flops / ceilings[workload.arithmetic]
    return {"bytes": moved, "flops": computed, "seconds": max(moved, computed)}


def dry_run(chosen: Sequence[GpuWorkload]) -> None:
    """List the workloads with their floors on the GPU that the targets were set for."""
    print(f"{'workload':36} {'GFLOP':>10} {'GB':>8} {'floor, ms':>10}  contestants; targets")
    for w in chosen:
        least = floor(w, NOMINAL)
        bound = "bytes" if least["bytes"] > least["flops"] else w.arithmetic
        targets = ", ".join(f"≥ {ratio:g} {of}" for of, ratio in w.targets.items()) or "none"
        print(
            f"{w.name:36} {w.flops / 1e9:10,.0f} {w.bytes / 1e9:8.3f} {least['seconds'] * 1e3:10.3f}  "
            f"({bound}) {', '.join(w.contestants)}; {targets}"
        )
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in NOMINAL.items())
    print(f"Floors of an H200, not measured here: {rates} per second.")


# ---- Time


class Clock:
    """Times calls by CUDA events, overwriting the L2 cache before each."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        size = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 1 << 26)
        self.elsewhere = torch.empty(max(4 * size, 1 << 28), dtype=torch.uint8, device="cuda")

    def sample(self, call: Callable[[], Any]) -> float:
        """Return the seconds of one call."""
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.elsewhere.random_()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def race(
    clock: Clock, calls: dict[str, Callable[[], Any]], samples: int, until: float
) -> dict[str, list[float]]:
    """Time the calls alternately: `samples` samples of each, or as many as time permits."""
    for call in calls.values():
        for _ in range(ROUNDS_OF_WARMING if samples > 5 else 1):
            call()
    found: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(samples):
        for who, call in calls.items():
            found[who].append(clock.sample(call))
        spent = sum(map(sum, found.values()))
        enough = spent > LEAST_SECONDS * len(calls) and len(found[next(iter(found))]) >= LEAST_SAMPLES
        if enough or time.monotonic() > until:
            break
    return found


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


def measure_ceilings(clock: Clock) -> dict[str, float]:
    """Return the best measured rates per second: bytes of copies, operations of each arithmetic."""
    import torch

    def best(call: Callable[[], Any], work: float) -> float:
        call()
        return work / min(clock.sample(call) for _ in range(10))

    nbytes = 2**32
    source = torch.randint(0, 255, (nbytes,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    rates = {"copy": best(functools.partial(target.copy_, source), 2 * nbytes)}
    del source, target
    n = 8192
    for name, dtype, tf32 in [
        ("bfloat16", torch.bfloat16, False), ("float16", torch.float16, False), ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ]:  # fmt: skip
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
        rates[name] = best(lambda a=a, b=b: a @ b, 2.0 * n**3)
    torch.backends.cuda.matmul.allow_tf32 = False
    try:  # a loop of multiply-adds is a fairer ceiling of float32 than any product
        import cupy

        kernel = cupy.RawKernel(_FMA, "multiply_add")
        blocks, threads, rounds = 132 * 16, 256, 4096
        out = cupy.zeros(1, np.float32)
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            loop = best(
                lambda: kernel((blocks,), (threads,), (out, rounds)), 32.0 * blocks * threads * rounds
            )
        rates["float32"] = max(rates["float32"], loop)
    except Exception as error:  # CuPy is optional
        print(f"... multiply-adds not measured: {error}", file=sys.stderr)
    return rates


# ---- Results


def as_tensors(result: Any) -> list[Any]:
    """Return the tensors of a result."""
    import torch

    if isinstance(result, (tuple, list)):
        return [a for part in result for a in as_tensors(part)]
    return [result if isinstance(result, torch.Tensor) else torch.from_dlpack(result)]


def difference(result: Sequence[Any], other: Sequence[Any]) -> float:
    """Return the largest ||a - b|| / ||b||, computed in pieces; inf if shapes differ."""
    worst = 0.0
    for a, b in zip(result, other, strict=True):
        if a.shape != b.shape:
            return math.inf
        above = below = 0.0
        for p, q in zip(a.reshape(-1).split(1 << 26), b.reshape(-1).split(1 << 26), strict=True):
            above += float((p.double() - q.double()).square().sum())
            below += float(q.double().square().sum())
        worst = max(worst, math.sqrt(above / below) if below else math.inf if above else 0.0)
    return worst


def _peak(call: Callable[[], Any]) -> int:
    """Return the bytes that a call allocates at its peak, including its result."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(workload: GpuWorkload, clock: Clock, ceilings: dict[str, float], until: float) -> dict[str, Any]:
    """Compare the contestants of a workload, time those that agree, and return the record."""
    import torch

    data = workload.data()
    calls, absent, differences, peaks = {}, {}, {}, {}
    reference: list[Any] | None = None
    for who, prepare in workload.contestants.items():
        try:
            call = prepare(data)
            result = as_tensors(call())
            torch.cuda.synchronize()
        except Exception as error:  # a backend that cannot run here; also ours, which is then reported
            absent[who] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            continue
        if reference is None:
            reference = result
        differences[who] = difference(result, reference)
        if differences[who] <= workload.tolerance:  # false for NaN
            calls[who] = call
        del result
    del reference
    for who, call in calls.items():
        peaks[who] = _peak(call)
    timings = race(clock, calls, workload.samples, until) if calls else {}
    least = floor(workload, ceilings)
    medians = {who: float(np.median(times)) for who, times in timings.items()}
    peers = {who: t for who, t in medians.items() if who != OURS}
    best = min(peers, key=peers.__getitem__) if peers else None
    ours = medians.get(OURS)
    ratios = {who: t / ours for who, t in peers.items()} if ours else {}
    targets = []
    for of, wanted in workload.targets.items():
        got = ratios.get(best if of == "best" else of)
        if of == "ceiling":
            got = least["flops"] / ours if ours else None
        targets.append(
            {"of": of, "wanted": wanted, "got": got, "met": None if got is None else got >= wanted}
        )
    return {
        "workload": workload.name,
        "title": workload.title,
        "arithmetic": workload.arithmetic,
        "flops": workload.flops,
        "bytes": workload.bytes,
        "floor": least,
        "contestants": {
            who: {
                "median": medians[who],
                "lower_quartile": float(np.quantile(times, 0.25)),
                "upper_quartile": float(np.quantile(times, 0.75)),
                "samples": len(times),
                "over_floor": medians[who] / least["seconds"],
                "difference": differences[who],
                "peak_memory": peaks[who],
            }
            for who, times in timings.items()
        },
        "absent": absent,
        "unequal": {
            who: d if math.isfinite(d) else None for who, d in differences.items() if who not in calls
        },
        "best_peer": best,
        "ratios": ratios,
        "targets": targets,
    }


def show(row: dict[str, Any]) -> None:
    """Print a summary of a record."""
    print(f"{row['title']}: floor {row['floor']['seconds'] * 1e3:.3f} ms")
    for who, found in row["contestants"].items():
        ratio = row["ratios"].get(who)
        beside = "" if ratio is None else f", {ratio:.2f} of ours"
        print(f"    {who:26} {found['median'] * 1e3:10.3f} ms, {found['over_floor']:.2f} floors{beside}")
    for who, why in row["absent"].items():
        print(f"    {who:26} absent: {why}")
    for who, apart in row["unequal"].items():
        print(f"    {who:26} NOT EQUAL to {OURS}: {apart}")
    for target in row["targets"]:
        verdict = {True: "met", False: "missed", None: "not judged"}[target["met"]]
        got = "" if target["got"] is None else f", got {target['got']:.2f}"
        print(f"    target ≥ {target['wanted']:g} {target['of']}: {verdict}{got}")


def describe_machine() -> dict[str, Any]:
    """Return a description of the machine."""
    import torch
    from relkernels.config import configuration

    found = torch.cuda.get_device_properties(0)
    versions = {"torch": torch.__version__, "cuda of torch": torch.version.cuda}
    try:
        import cupy

        versions["cupy"] = cupy.__version__
    except ImportError:
        versions["cupy"] = "not installed"
    return {
        "gpu": found.name,
        "memory": found.total_memory,
        "multiprocessors": found.multi_processor_count,
        "compute_capability": f"{found.major}.{found.minor}",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "relkernels": configuration()["version"],
        "cuda": configuration()["cuda"],
        "versions": versions,
    }


def read_tests(path: str | None) -> dict[str, Any] | None:
    """Return a summary of the tests' JUnit report; the tests are the evidence that the kernels work."""
    if path is None or not Path(path).is_file():
        return None
    cases = list(ElementTree.parse(path).iter("testcase"))
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [c for c in cases if c.find("skipped") is not None]
    return {
        "run": len(cases) - len(skipped),
        "failed": [f"{c.get('classname')}::{c.get('name')}" for c in failed],
        "skipped": len(skipped),
    }


def why_no_gpu() -> str | None:
    """Return the reason why nothing can be measured here, or None."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed, whose arrays and peers this script uses"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    from relkernels import cuda

    return cuda.why_not()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help="prefix of workload names (default: all)")
    parser.add_argument("--dry-run", action="store_true", help="list the workloads and exit")
    parser.add_argument("--json", metavar="DIR", help="write gpu-<name>-<date>.json to DIR")
    parser.add_argument("--seconds", type=float, default=300.0, help="start no workload after this time")
    parser.add_argument("--tests", metavar="FILE", help="JUnit report of the tests, to include in the JSON")
    given = parser.parse_args(arguments)
    chosen = [w for w in WORKLOADS if not given.names or w.name.startswith(tuple(given.names))]
    if not chosen:
        parser.error(f"no workload begins with {' or '.join(given.names)}")
    if given.dry_run:
        dry_run(chosen)
        return 0
    missing = why_no_gpu()
    if missing is not None:
        print(f"No GPU was found to measure on: {missing}. Nothing was run.")
        return 0
    until = time.monotonic() + given.seconds
    clock = Clock()
    now = datetime.datetime.now().astimezone()
    report: dict[str, Any] = {
        "date": f"{now:%Y-%m-%d %H:%M %Z}",
        "machine": describe_machine(),
        "tests": read_tests(given.tests),
        "ceilings": measure_ceilings(clock),
        "rows": [],
        "left_out": [w.name for w in chosen],
    }
    name = "-".join(report["machine"]["gpu"].lower().split())
    path = None if given.json is None else Path(given.json) / f"gpu-{name}-{now:%Y-%m-%d}.json"
    print(", ".join(f"{name} {rate:.4g}/s" for name, rate in report["ceilings"].items()))
    for workload in chosen:
        if time.monotonic() > until:
            break
        row = measure(workload, clock, report["ceilings"], until)
        show(row)
        report["rows"].append(row)
        report["left_out"].remove(workload.name)
        if path is not None:  # after each, so that an interrupted run keeps its results
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(report, indent=2) + "\n")
        gc.collect()
        clock.torch.cuda.empty_cache()
    if report["left_out"]:
        print(f"no time for: {', '.join(report['left_out'])}")
    if path is not None:
        print(f"saved {path}")
    return 1 if any(row["unequal"] or OURS in row["absent"] for row in report["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
