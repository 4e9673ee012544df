"""The summary over the results of all processors: the text of RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping

from ..cuda.engine import KERNELS
from . import FAMILIES, markdown, workloads
from .report import Report, Row
from .workload import OURS

# What each processor of the results is.
PROCESSORS = {
    "avx2": "x86-64 with AVX2 and FMA",
    "avx512": "x86-64 with AVX-512",
    "avx512_bf16": "x86-64 with AVX-512 and its bfloat16 products",
    "amx": "x86-64 with AVX-512 and AMX tiles",
    "neon": "Arm with NEON",
    "portable": "any processor, without vector instructions",
    "gpu": "NVIDIA GPU",
}
# What is known where nothing has been measured.
_NEVER_MEASURED = {
    "avx2": "Its times are unknown.",
    "avx512": "In float32 and float64 it runs the same kernels as `avx512_bf16`.",
    "avx512_bf16": "In float32 and float64 it runs the same kernels as `avx512`.",
    "amx": "In float32 and float64 it runs the same kernels as `avx512_bf16`.",
    "neon": "Programs for Arm are tested in an emulator only.",
    "gpu": "See [GPU](#gpu).",
}
_METHOD = """\
Ratios of the best peer's median time to ours: a row per workload, a column per processor. Above 1 we are
faster. A cell has a ratio for each number of threads in the head of its column; "–" means not measured there,
and † that a target is missed. The page of each processor has times, rates, peers, targets, versions and
pictures."""
# Kernels with instructions that only sm_90a has, besides one kernel per operation.
_OF_SM_90A = ("relation_matrix by wgmma and bulk tensor copies, on sm_90a",)


def render(reports: Mapping[str, Report]) -> str:
    """Return the text; `reports` has the results by processor."""
    reports = {name: reports[name] for name in (*PROCESSORS, *reports) if name in reports}
    lines = ["# Results", "", _METHOD, "", "## Processors", "", *_processors(reports)]
    lines += ["Never measured:", "", *_never_measured(reports), ""]
    on_cpus = {name: report for name, report in reports.items() if report.device == "cpu"}
    lines += _tables(on_cpus, "cpu", "## ")
    lines += ["## GPU", ""]
    on_gpus = {name: report for name, report in reports.items() if report.device == "cuda"}
    lines += _tables(on_gpus, "cuda", "### ") if on_gpus else [_never_run_on_a_gpu(), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def kernels() -> list[str]:
    """Return the names of all kernels for GPUs."""
    return [*KERNELS, *_OF_SM_90A]


def _processors(reports: Mapping[str, Report]) -> list[str]:
    headers = ("results", "processor", "measured", "workloads", "targets met")
    rows = []
    for name, report in reports.items():
        machine, total = report.machine, len(workloads(device=report.device))
        found = (
            f"{machine['cpu']}, {machine['processors']} processors" if "cpu" in machine else machine["gpu"]
        )
        verdicts = [verdict for row in report.rows for verdict in row.verdicts()]
        rows.append(
            (
                f"[{name}](results/{name}.md)",
                f"{PROCESSORS.get(name, name)}: {found}",
                ", ".join(sorted({row.date.split()[0] for row in report.rows})),
                f"{len({row.workload.name for row in report.rows})} of {total}",
                f"{sum(verdict.met for verdict in verdicts)} of {len(verdicts)}",
            )
        )
    return markdown.table(headers, rows)


def _never_measured(reports: Mapping[str, Report]) -> list[str]:
    lines = []
    for name, what in PROCESSORS.items():
        if name in reports or name == "portable":
            continue
        lines.append(
            f"- **{name}** ({what}): nobody has ever run the benchmark there. {_NEVER_MEASURED[name]}"
        )
    return lines or ["- nothing"]


def _tables(reports: Mapping[str, Report], device: str, level: str) -> list[str]:
    """Return a table per family, with a row for each workload that was measured anywhere."""
    columns = {
        name: sorted({row.threads for row in report.rows}) if device == "cpu" else [1]
        for name, report in reports.items()
    }
    headers = ["workload"]
    for name, threads in columns.items():
        noun = "thread" if threads == [1] else "threads"
        headers.append(f"{name}, {' · '.join(map(str, threads))} {noun}" if device == "cpu" else name)
    found = {
        (name, row.workload.name, row.threads): row for name, report in reports.items() for row in report.rows
    }
    measured = {name for _, name, _ in found}
    lines = []
    for family in FAMILIES:
        rows = []
        for w in (w for w in workloads(device=device) if w.family == family and w.name in measured):
            cells = [[found.get((name, w.name, n)) for n in threads] for name, threads in columns.items()]
            rows.append([w.label(), *map(_cell, cells)])
        if rows:
            lines += [f"{level}{family}", "", *markdown.table(headers, rows)]
    return lines


def _cell(rows: list[Row | None]) -> str:
    missed = any(not verdict.met for row in rows if row for verdict in row.verdicts())
    return " · ".join(map(_ratio, rows)) + (" †" if missed else "") if any(rows) else "–"


def _ratio(row: Row | None) -> str:
    if row is None:
        return "–"
    if OURS not in row.race.timings:
        return "unequal" if OURS in row.race.unequal else "absent"
    ratio = row.ratio(row.best_peer)
    return "no peer" if ratio is None else f"{ratio:.2f}"


def _never_run_on_a_gpu() -> str:
    names = ", ".join(f"`{name}`" if name.isidentifier() else name for name in kernels())
    return (
        f"**No CUDA kernel has ever run on a GPU.** Not run: {names}. They are compiled for sm_80 and "
        "sm_90a, their registers, spills and instructions are inspected, and an emulator runs them on a CPU "
        "over the cases of `tests/test_cuda*.py`. Their times on a GPU are unknown, and no GPU target is "
        f"judged. `{markdown.GPU_COMMAND}` measures them."
    )
