"""The GPU section of the results: tables from the files of bench/gpu.py, or a note that there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..cuda.engine import KERNELS
from . import tables

COMMAND = "bash bench/gpu.sh"
# Kernels with instructions that only sm_90a has, besides one kernel per operation.
_OF_SM_90A = ("relation_matrix by wgmma and bulk tensor copies, on sm_90a",)


def kernels() -> list[str]:
    """Return the names of all kernels."""
    return [*KERNELS, *_OF_SM_90A]


def never_run() -> list[str]:
    """Return the lines for the case that no GPU has run the kernels."""
    names = ", ".join(f"`{name}`" if name.isidentifier() else name for name in kernels())
    return [
        f"**No CUDA kernel has ever run on a GPU.** Not run: {names}. They are compiled for sm_80 and "
        "sm_90a, their registers, spills and instructions are inspected, and an emulator runs them on a CPU "
        "over the cases of `tests/test_cuda*.py`. Their times on a GPU are unknown, and no GPU target is "
        f"judged. `{COMMAND}` measures them.",
        "",
    ]


def section(folder: str | Path) -> list[str]:
    """Return the lines about GPUs: a table for each gpu-*.json in a folder, or a note that there is none."""
    lines = ["## GPU", ""]
    found = sorted(Path(folder).glob("gpu-*.json"))
    if not found:
        return lines + never_run()
    for path in found:
        lines += _tables(path.name, json.loads(path.read_text()))
    return lines


def _tables(name: str, report: dict[str, Any]) -> list[str]:
    machine, tests = report["machine"], report["tests"]
    outcome = "not run"
    if tests is not None:
        failed = len(tests["failed"])
        outcome = f"{tests['run']} run, {failed} failed, {tests['skipped']} skipped"
    rates = ", ".join(f"{of} {rate / 1e12:.4g} T/s" for of, rate in report["ceilings"].items())
    lines = [
        f"{machine['gpu']}, {report['date']} ({name}, written by `{COMMAND}`). Tests: {outcome}. Measured: "
        f"{rates}. The floor is the larger of bytes over the copy rate and operations over the rate of their "
        "arithmetic; ratios are a peer's median over ours.",
        "",
        "| workload | relkernels | floor | over floor | peers | target |",
        f"|{' --- |' * 6}",
    ]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report["rows"]]
    if report["left_out"]:
        lines += ["", f"Not measured, because time ran out: {', '.join(report['left_out'])}."]
    return [*lines, ""]


def _cells(row: dict[str, Any]) -> list[str]:
    contestants = row["contestants"]
    ours = contestants.get("relkernels")
    time = row["absent"].get("relkernels", "not equal") if ours is None else tables.seconds(ours["median"])
    peers = [
        f"{who} {tables.seconds(found['median'])} ({row['ratios'][who]:.2f})"
        for who, found in contestants.items()
        if who in row["ratios"]
    ]
    peers += [f"{who} absent" for who in row["absent"] if who != "relkernels"]
    peers += [f"{who} not equal" for who in row["unequal"]]
    verdict = {True: "met", False: "missed", None: "not judged"}
    targets = [
        f"≥ {t['wanted']:g} {t['of']}: {verdict[t['met']]}"
        + ("" if t["got"] is None else f" ({t['got']:.2f})")
        for t in row["targets"]
    ]
    floor = tables.seconds(row["floor"]["seconds"])
    over = "" if ours is None else f"{ours['over_floor']:.2f}"
    return [row["title"], time, floor, over, ", ".join(peers), "; ".join(targets)]
