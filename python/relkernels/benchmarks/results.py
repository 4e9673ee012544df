"""Results that are kept: those of each processor in one folder, and a summary over all of them.

    DIR/results/<processor>.json   everything that was measured, from which the others are written
    DIR/results/<processor>.md     its page
    DIR/results/<processor>/       its pictures
    DIR/RESULTS.md                 the summary

A processor is the instruction set in use, or "gpu". A run replaces the rows of the workloads that it measured
and keeps the others with their dates, as long as they are from the same machine.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import markdown, plots, summary, workloads
from .report import Report, Row
from .timing import Race, Timing
from .workload import Workload

# Facts that identify a machine, by device. Virtual machines may have an unspecific name.
_IDENTITY = {"cpu": ("cpu", "cpu_features", "processors"), "cuda": ("gpu",)}


def check(directory: str, processor: str, device: str, machine: Mapping[str, Any], whole: bool) -> None:
    """Reject a run of some workloads on another machine than that of the results in the directory.

    Raises
    ------
    ValueError
        If results of this processor are from another machine and the run is not of all workloads (`whole`).
    """
    kept = _read(_file(directory, processor))
    if kept is None or whole or _same_machine(device, kept["machine"], machine):
        return
    raise ValueError(
        f"{_file(directory, processor)} has results of another machine, of {kept['date']}: "
        "run all workloads to replace them, or choose another directory"
    )


def save(report: Report, directory: str, whole: bool) -> list[str]:
    """Add a report to the results in a directory and rewrite the pages; return the paths of its files.

    `whole` tells whether the run was of all workloads. Then results of another machine are replaced.
    """
    processor = report.machine.get("isa", "gpu")
    check(directory, processor, report.device, report.machine, whole)
    path = _file(directory, processor)
    kept = _read(path)
    if kept is not None and _same_machine(report.device, kept["machine"], report.machine):
        report = merged(report, restored(kept))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_text(report.record()))
    return [str(path), *write_pages(directory, processor)]


def write_pages(directory: str, processor: str) -> list[str]:
    """Write the page and the pictures of a processor and the summary; return the paths of the pages."""
    every = load(directory)
    folder = Path(directory) / "results"
    pictures = {}
    if every[processor].device == "cpu":
        saved = plots.save(every[processor], str(folder / processor))
        pictures = {caption: os.path.relpath(path, folder) for caption, path in saved.items()}
    page = folder / f"{processor}.md"
    page.write_text(markdown.render(processor, every[processor], pictures))
    over_all = Path(directory) / "RESULTS.md"
    over_all.write_text(summary.render(every))
    return [str(page), str(over_all)]


def load(directory: str) -> dict[str, Report]:
    """Return the results in a directory, by processor."""
    found = {path.stem: _read(path) for path in sorted((Path(directory) / "results").glob("*.json"))}
    return {name: restored(record) for name, record in found.items() if record is not None}


def merged(report: Report, kept: Report) -> Report:
    """Return a report with the rows of an earlier one for the workloads that it did not measure."""
    order = {w.name: i for i, w in enumerate(workloads(device=report.device))}
    measured = {row.workload.name for row in report.rows}
    rows = [*report.rows, *(row for row in kept.rows if row.workload.name not in measured)]
    rows.sort(key=lambda row: (order.get(row.workload.name, len(order)), row.threads))
    dates = {row.date for row in rows}
    heads = [_head(kept), *kept.earlier]
    return dataclasses.replace(
        report,
        rows=rows,
        ceilings=dict(sorted((kept.ceilings | report.ceilings).items())),
        earlier=[head for head in heads if head["date"] in dates and head["date"] != report.date],
    )


def restored(record: Mapping[str, Any]) -> Report:
    """Return the report of a record; rows of workloads that no longer exist are left out."""
    known = {w.name: w for w in workloads(device=record["device"])}
    ceilings = {
        run["date"]: {int(n): rates for n, rates in run["ceilings"].items()}
        for run in (record, *record["earlier"])
    }
    isa = record["machine"].get("isa", "")
    rows = [
        _restored_row(row, known[row["workload"]], ceilings[row["date"]].get(row["threads"], {}), isa)
        for row in record["rows"]
        if row["workload"] in known
    ]
    fields = {field.name: record[field.name] for field in dataclasses.fields(Report)}
    return Report(**fields | {"rows": rows, "ceilings": ceilings[record["date"]]})


def _restored_row(
    record: Mapping[str, Any], workload: Workload, ceilings: Mapping[str, float | None], isa: str
) -> Row:
    contestants = record["contestants"]
    timed = {who: found for who, found in contestants.items() if "median" in found}
    names = [field.name for field in dataclasses.fields(Timing)]
    race = Race(
        timings={who: Timing(*(found[name] for name in names)) for who, found in timed.items()},
        memory={
            who: found["peak_memory"] for who, found in timed.items() if found["peak_memory"] is not None
        },
        differences={who: found["difference"] for who, found in contestants.items()},
        absent=record["absent"],
        unequal={who: math.nan if apart is None else apart for who, apart in record["unequal"].items()},
    )
    return Row(workload, record["threads"], race, ceilings, record["most_threads"], isa, record["date"])


def _head(report: Report) -> dict[str, Any]:
    return {name: value for name, value in report.record().items() if name not in ("rows", "earlier")}


def _file(directory: str, processor: str) -> Path:
    return Path(directory) / "results" / f"{processor}.json"


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _same_machine(device: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[fact] == other[fact] for fact in _IDENTITY[device])


def _text(record: Mapping[str, Any]) -> str:
    """Return what a record has measured as JSON: one row per line, floats of five digits."""
    rows = [json.dumps(_rounded(_measured(row)), ensure_ascii=False) for row in record["rows"]]
    head = json.dumps(_rounded({**record, "rows": []}), indent=1, ensure_ascii=False)
    listed = ",\n  ".join(rows)
    return head.replace('"rows": []', f'"rows": [\n  {listed}\n ]' if rows else '"rows": []') + "\n"


def _measured(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without what follows from the workload: rates, ratios, shares, verdicts."""
    kept = ("workload", "threads", "most_threads", "date", "contestants", "absent", "unequal")
    contestants = {
        who: {name: value for name, value in found.items() if name != "rate"}
        for who, found in row["contestants"].items()
    }
    return {name: row[name] for name in kept} | {"contestants": contestants}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {name: _rounded(found) for name, found in value.items()}
    return (
        [_rounded(found) for found in value]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )
