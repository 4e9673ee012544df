"""A report as Markdown: the content of bench/RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import FAMILIES, gpu, tables
from .report import Report


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(headers)} |",
        f"|{' --- |' * len(headers)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def render(report: Report, pictures: dict[str, str], folder: str = "") -> str:
    """Return the text; `pictures` has paths relative to the file by caption, `folder` the results of GPUs."""
    lines = ["# Results", "", f"Written by `{report.command}`, {report.date}.", "", tables.METHOD, ""]
    if not report.complete:
        lines += ["**Interrupted: these are the measurements until then.**", ""]
    lines += ["## Machine and versions", "", *_table(("", ""), tables.facts(report))]
    for title, notes in tables.notes(report):
        if notes:
            lines += [f"{title}:", "", *(f"- {note}" for note in notes), ""]
    if report.ceilings:
        headers = (
            "ceiling",
            *(f"{n} threads" if n > 1 else "1 thread" for n in report.ceilings),
        )
        lines += ["## Ceilings", "", *_table(headers, tables.ceiling_cells(report))]
    for family in FAMILIES:
        rows = [tables.cells(row, quartiles=True) for row in report.rows if row.workload.family == family]
        if rows:
            several = len(tables.TIMES)
            lines += [f"## {family}", "", *_table(tables.TIMES, [row[:several] for row in rows])]
            rates = [(*row[:2], *row[several:]) for row in rows]
            lines += [*_table((*tables.TIMES[:2], *tables.RATES), rates)]
        lines += _picture(pictures, family)
    for caption in (c for c in pictures if c not in FAMILIES):
        lines += _picture(pictures, caption)
    lines += gpu.section(folder)
    return "\n".join(lines).rstrip("\n") + "\n"


def _picture(pictures: dict[str, str], caption: str) -> list[str]:
    return [f"![{caption}]({pictures[caption]})", ""] if caption in pictures else []
