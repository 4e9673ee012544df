"""A report as the Markdown file that stands in bench/RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import FAMILIES, gpu, tables
from .report import Report

_METHOD = """\
Contestants are given the same data, compared for equal results, and timed turn by turn in one process;
times are medians with quartiles, ratios a peer's median over ours (above 1 we are faster). Rates count
the operations of the definition, or the bytes it reads where these are the limit: beyond the last-level
cache that ceiling binds, inside it a share of it can exceed 100 %. Targets are judged on the most threads.
Peak memory is what one call adds to a fresh process that holds the data, result included."""


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(headers)} |",
        f"|{' --- |' * len(headers)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def render(report: Report, pictures: dict[str, str], folder: str = "") -> str:
    """Return the text; pictures are paths by caption, relative to the file; folder has results of GPUs."""
    machine = report.machine
    lines = ["# Results", "", f"Written by `{report.command}`, {report.date}.", "", _METHOD, ""]
    if not report.complete:
        lines += ["**Interrupted: what was measured until then.**", ""]
    facts = [
        ("processor", f"{machine['cpu']}, {machine['processors']} processors"),
        ("instruction set", f"{machine['isa']} ({', '.join(machine['cpu_features'])})"),
        (
            "memory",
            f"{tables.size(machine['memory'])}, last-level cache {tables.size(machine['last_level_cache'])}",
        ),
        ("system", f"{machine['system']}, Python {machine['python']}, {machine['compiler']}"),
        ("relkernels", machine["version"]),
        *report.versions.items(),
        *(
            (f"BLAS {blas['library']}", f"{blas['version']}, kernels {blas['architecture']}")
            for blas in report.blas
        ),
    ]
    lines += ["## Machine and versions", "", *_table(("", ""), facts)]
    for title, notes in (
        ("Doubts", tables.advice(report)),
        ("Who is absent", tables.absences(report)),
        ("Unequal, not timed", report.unequal),
    ):
        if notes:
            lines += [f"{title}:", "", *(f"- {note}" for note in notes), ""]
    if report.ceilings:
        headers = (
            "what the machine can do",
            *(f"{n} threads" if n > 1 else "1 thread" for n in report.ceilings),
        )
        lines += ["## Ceilings", "", *_table(headers, tables.ceiling_cells(report))]
    for family in FAMILIES:
        rows = [tables.cells(row, quartiles=True) for row in report.rows if row.workload.family == family]
        if rows:
            lines += [f"## {family}", "", *_table(tables.HEADERS, rows)]
        lines += _picture(pictures, family)
    for caption in (c for c in pictures if c not in FAMILIES):
        lines += _picture(pictures, caption)
    lines += gpu.section(folder)
    return "\n".join(lines).rstrip("\n") + "\n"


def _picture(pictures: dict[str, str], caption: str) -> list[str]:
    return [f"![{caption}]({pictures[caption]})", ""] if caption in pictures else []
