"""Run the workloads of relkernels.benchmarks that are for a GPU, or list them, the most valuable first.

python bench/gpu.py --dry-run                    # list the workloads, on any machine
python bench/gpu.py --save bench                 # write bench/results/gpu.json and .md, and bench/RESULTS.md
bash bench/gpu.sh                                # build, test, then this
"""

from __future__ import annotations

import argparse
import shlex
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relkernels.benchmarks import cuda, results, tables, workloads
from relkernels.benchmarks.report import Report
from relkernels.benchmarks.workload import CEILING, OURS, Workload

# Rates for the floors of a dry run: copies and bfloat16 as measured on an H200, the others from its data
# sheet.
NOMINAL = {"copy": 4.3e12, "bfloat16": 790e12, "float16": 790e12, "tf32": 494e12, "float32": 67e12}
# The order of the runs, by series: a target of each kind of kernel first, so that a run that is cut short has
# said something of each; then their variants.
ORDER = (
    "relation_matrix/asymmetric_bfloat16",
    "attention/full_64_bfloat16",
    "feature_map/relu_bfloat16",
    "retrieve/queries_10000_float32",
    "relational/relu_bfloat16",
    "relation_matrix/sets_float32",
    "attention/causal_128_bfloat16",
    "attention/full_64_float32",
    "relation_matrix/symmetric_bfloat16",
    "relation_matvec/exp_float32",
)
# For the estimates: our calls take this many times their floor, peers about as long as ours, and a workload
# and a contestant that is compiled take these seconds before the first call.
SLOWER, PREPARATION, COMPILATION = 3.0, 2.0, 20.0


def ordered(chosen: Sequence[Workload]) -> list[Workload]:
    """Return the workloads with the series of ORDER first."""
    series = [f"{w.family}/{w.series}" for w in chosen]
    places = [ORDER.index(name) if name in ORDER else len(ORDER) for name in series]
    return [w for _, w in sorted(zip(places, chosen, strict=True), key=lambda pair: pair[0])]


def estimate(w: Workload) -> float:
    """Return about how many seconds a workload takes on the GPU that the targets were set for."""
    floor = w.floor(NOMINAL)
    assert floor is not None
    call = SLOWER * floor
    samples = min(max(cuda.LEAST_SECONDS / call, cuda.LEAST_SAMPLES), cuda.MOST_SAMPLES)
    compiled = COMPILATION * ("torch.compile" in w.contestants)
    # Each contestant also runs to be compared, for its memory, and to warm up.
    return PREPARATION + compiled + len(w.contestants) * call * (samples + 2 + cuda.ROUNDS_OF_WARMING)


def dry_run(chosen: Sequence[Workload]) -> None:
    """List the workloads with their floors on the GPU that the targets were set for."""
    print(f"{'workload':42} {'begins, s':>9} {'GFLOP':>10} {'GB':>8} {'floor, ms':>10}  contestants; targets")
    begins = 2 * PREPARATION  # the ceilings
    for w in chosen:
        moved = (w.read + w.written) / NOMINAL["copy"]
        bound = "bytes" if moved > w.flops / NOMINAL[w.limit] else w.limit
        targets = [
            f"≥ {wanted:.0%} of ceiling" if of == CEILING else f"≥ {wanted:g} {of}"
            for of, wanted in w.targets.items()
        ]
        print(
            f"{w.name:42} {begins:9.0f} {w.flops / 1e9:10,.0f} {(w.read + w.written) / 1e9:8.3f} "
            f"{w.floor(NOMINAL) * 1e3:10.3f}  ({bound}) {', '.join(w.contestants)}; "
            f"{', '.join(targets) or 'none'}"
        )
        begins += estimate(w)
    print(f"{'the end, about':42} {begins:9.0f}")
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in NOMINAL.items())
    print(f"Floors of an H200, not measured here: {rates} per second.")


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


def measure(
    chosen: Sequence[Workload], report: Report, device: Any, folder: str | None, whole: bool = True
) -> int:
    """Measure the workloads; print and save each result, so that an interrupted run keeps what it has.

    `whole` tells whether these are all workloads.
    """
    shown = 0

    def after_each() -> None:
        nonlocal shown
        for row in report.rows[shown:]:
            headers = tables.GPU_TIMES + tables.GPU_RATES
            for header, cell in zip(headers, tables.cells(row, quartiles=True, headers=headers), strict=True):
                print(f"    {header}: {cell}" if header != "workload" else cell, flush=True)
        shown = len(report.rows)
        if folder is not None and report.rows:
            results.save(report, folder, whole)

    report.measure(chosen, device, lambda what: print(f"... {what}", flush=True), after_each)
    for title, lines in tables.notes(report):
        for line in lines:
            print(f"{title}: {line}")
    if report.left_out:
        print(f"no time for: {', '.join(report.left_out)}")
    if folder is not None and report.rows:
        for path in results.save(report, folder, whole):
            print(f"saved {path}")
    return 1 if report.unequal or any(OURS in row.race.absent for row in report.rows) else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help="family, series or workload (default: all)")
    parser.add_argument("--dry-run", action="store_true", help="list the workloads and exit")
    parser.add_argument(
        "--save", metavar="DIR", help="keep the results in DIR: RESULTS.md, results/gpu.json and .md"
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="start no workload after this time")
    parser.add_argument(
        "--tests", metavar="FILE", help="JUnit report of the tests, to include in the results"
    )
    given = parser.parse_args(arguments)
    try:
        chosen = ordered(workloads(given.names, device="cuda"))
    except ValueError as error:
        parser.error(str(error))
    if given.dry_run:
        dry_run(chosen)
        return 0
    missing = cuda.why_not()
    if missing is not None:
        print(f"No GPU was found to measure on: {missing}. Nothing was run.")
        return 0
    report = Report(
        shlex.join(["python", "bench/gpu.py", *given.names]),
        quick=False,
        device="cuda",
        machine=cuda.describe_machine(read_tests(given.tests)),
        missing={},
        versions=cuda.versions(),
    )
    if given.save is not None:
        try:
            results.check(given.save, "gpu", "cuda", report.machine, not given.names)
        except ValueError as error:
            parser.error(f"--save: {error}")
    device = cuda.Cuda(given.seconds, cuda.Events())
    return measure(chosen, report, device, given.save, not given.names)


if __name__ == "__main__":
    sys.exit(main())
