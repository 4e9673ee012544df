"""The page of a processor's results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from . import FAMILIES, tables, workloads
from .report import Report
from .workload import Workload

GPU_COMMAND = "bash bench/gpu.sh"


def render(name: str, report: Report, pictures: Mapping[str, str]) -> str:
    """Return the text; `pictures` has paths relative to the page by caption."""
    on_gpu = report.device == "cuda"
    columns = (tables.GPU_TIMES, tables.GPU_RATES) if on_gpu else (tables.TIMES, tables.RATES)
    command = GPU_COMMAND if on_gpu else report.command
    took = f", in {tables.minutes(report.seconds)}" if report.seconds else ""
    lines = [f"# Results: {name}", "", f"Written by `{command}`, {report.date}{took}.", ""]
    lines += [tables.GPU_METHOD if on_gpu else tables.METHOD, ""]
    if not report.complete:
        lines += ["**The run ended early: these are the measurements until then.**", ""]
    lines += ["## Machine and versions", "", *_machine(report)]
    lines += _runs(report)
    if missing := _unmeasured(report):
        lines += [f"Not measured on this processor: {', '.join(missing)}.", ""]
    if report.ceilings:
        cells = table(tables.ceiling_headers(report), tables.ceiling_cells(report))
        lines += ["## Ceilings", "", *cells]
    for family in FAMILIES:
        lines += _family(report, family, columns)
        lines += _picture(pictures, family)
    for caption in (c for c in pictures if c not in FAMILIES):
        lines += _picture(pictures, caption)
    return "\n".join(lines).rstrip("\n") + "\n"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table and an empty one."""
    return [
        f"| {' | '.join(headers)} |",
        f"|{' --- |' * len(headers)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _machine(report: Report) -> list[str]:
    lines = table(("", ""), tables.facts(report))
    for title, notes in tables.notes(report):
        if notes:
            lines += [f"{title}:", "", *(f"- {note}" for note in notes), ""]
    return lines


def _runs(report: Report) -> list[str]:
    """Return a table of the earlier runs that some of the rows are from."""
    if not report.earlier:
        return []
    rows = [
        (run["date"], f"`{run['command']}`", ", ".join(f"{who} {v}" for who, v in run["versions"].items()))
        for run in report.earlier
    ]
    return ["Some rows are from earlier runs:", "", *table(("date", "command", "versions"), rows)]


def _unmeasured(report: Report) -> list[str]:
    return _shortened({row.workload.name for row in report.rows}, workloads(device=report.device))


def _shortened(measured: set[str], every: Sequence[Workload]) -> list[str]:
    """Return names for the workloads that were not measured: of a family or series if that lacks all."""
    names: dict[str, None] = {}
    for w in every:
        if w.name in measured:
            continue
        for name in (w.family, f"{w.family}/{w.series}", w.name):
            if not any(f"{other}/".startswith(f"{name}/") for other in measured):
                names[name] = None
                break
    return list(names)


def _family(report: Report, family: str, columns: tuple[Sequence[str], Sequence[str]]) -> list[str]:
    """Return a table of times compared with peers, and one of rates compared with the machine."""
    rows = [row for row in report.rows if row.workload.family == family]
    if not rows:
        return []
    times, rates = columns
    keys = times[: times.index("relkernels")]
    lines = [f"## {family}", ""]
    if report.earlier:
        lines += [f"Measured {_dates(report, family)}.", ""]
    for headers in (times, (*keys, *rates)):
        lines += table(headers, (tables.cells(row, quartiles=True, headers=headers) for row in rows))
    return lines


def _dates(report: Report, family: str) -> str:
    """Return the dates of a family's rows, newest first, with the series of each if there are several."""
    found: dict[str, dict[str, None]] = {}
    for row in report.rows:
        if row.workload.family == family:
            found.setdefault(row.date, {})[row.workload.series] = None
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{date} ({', '.join(found[date])})" for date in sorted(found, reverse=True))


def _picture(pictures: Mapping[str, str], caption: str) -> list[str]:
    return [f"![{caption}]({pictures[caption]})", ""] if caption in pictures else []
