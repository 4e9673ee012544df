"""A report as Markdown: the content of bench/RESULTS.md, which ends with the results of GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..cuda.engine import KERNELS
from . import FAMILIES, tables
from .report import Report

GPU_COMMAND = "bash bench/gpu.sh"
# Kernels with instructions that only sm_90a has, besides one kernel per operation.
_OF_SM_90A = ("relation_matrix by wgmma and bulk tensor copies, on sm_90a",)


def render(report: Report, pictures: Mapping[str, str], folder: str = "") -> str:
    """Return the text; `pictures` has paths relative to the file by caption, `folder` the results of GPUs."""
    lines = ["# Results", "", f"Written by `{report.command}`, {report.date}.", "", tables.METHOD, ""]
    if not report.complete:
        lines += ["**Interrupted: these are the measurements until then.**", ""]
    lines += ["## Machine and versions", "", *_machine(report)]
    lines += _ceilings(report, "## ")
    for family in FAMILIES:
        lines += _family(report, family, "## ", (tables.TIMES, tables.RATES))
        lines += _picture(pictures, family)
    for caption in (c for c in pictures if c not in FAMILIES):
        lines += _picture(pictures, caption)
    lines += gpu_section(folder)
    return "\n".join(lines).rstrip("\n") + "\n"


def render_gpu(report: Report) -> str:
    """Return the text of the results of one GPU, a part of the page."""
    lines = [f"### {report.machine['gpu']}", "", f"Written by `{GPU_COMMAND}`, {report.date}. "]
    lines[-1] += tables.GPU_METHOD
    lines += ["", *_machine(report)]
    if report.left_out:
        lines += [f"Not measured, because time ran out: {', '.join(report.left_out)}.", ""]
    lines += _ceilings(report, "#### ")
    for family in FAMILIES:
        lines += _family(report, family, "#### ", (tables.GPU_TIMES, tables.GPU_RATES))
    return "\n".join(lines).rstrip("\n") + "\n"


def gpu_section(folder: str | Path) -> list[str]:
    """Return the lines about GPUs: the texts gpu-*.md in a folder, or a note that there is none."""
    texts = [path.read_text() for path in sorted(Path(folder).glob("gpu-*.md"))]
    return ["## GPU", "", *(texts or _never_run())]


def kernels() -> list[str]:
    """Return the names of all kernels for GPUs."""
    return [*KERNELS, *_OF_SM_90A]


def _never_run() -> list[str]:
    names = ", ".join(f"`{name}`" if name.isidentifier() else name for name in kernels())
    return [
        f"**No CUDA kernel has ever run on a GPU.** Not run: {names}. They are compiled for sm_80 and "
        "sm_90a, their registers, spills and instructions are inspected, and an emulator runs them on a CPU "
        "over the cases of `tests/test_cuda*.py`. Their times on a GPU are unknown, and no GPU target is "
        f"judged. `{GPU_COMMAND}` measures them.",
        "",
    ]


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(headers)} |",
        f"|{' --- |' * len(headers)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _machine(report: Report) -> list[str]:
    lines = _table(("", ""), tables.facts(report))
    for title, notes in tables.notes(report):
        if notes:
            lines += [f"{title}:", "", *(f"- {note}" for note in notes), ""]
    return lines


def _ceilings(report: Report, level: str) -> list[str]:
    if not report.ceilings:
        return []
    return [f"{level}Ceilings", "", *_table(tables.ceiling_headers(report), tables.ceiling_cells(report))]


def _family(
    report: Report, family: str, level: str, columns: tuple[Sequence[str], Sequence[str]]
) -> list[str]:
    """Return a table of times compared with peers, and one of rates compared with the machine."""
    rows = [row for row in report.rows if row.workload.family == family]
    if not rows:
        return []
    times, rates = columns
    keys = times[: times.index("relkernels")]
    lines = [f"{level}{family}", ""]
    for headers in (times, (*keys, *rates)):
        lines += _table(headers, (tables.cells(row, quartiles=True, headers=headers) for row in rows))
    return lines


def _picture(pictures: Mapping[str, str], caption: str) -> list[str]:
    return [f"![{caption}]({pictures[caption]})", ""] if caption in pictures else []
