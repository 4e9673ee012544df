"""`relkernels reproduce`: measurements of the theory's claims, and of the estimators' quality."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import sys
import time
from typing import Any

from ..base.describe import near, option
from ..base.extras import install
from ..studies import study
from ..studies.study import NAMES, Outcome
from . import output, page

SUMMARY = "measure the claims of the theory and compare them with the bounds"
DESCRIPTION = (
    "Run studies: symmetric and asymmetric relations, relations between two real tables, bounds of the "
    "number of neurons, attention by preorders, random features, zonal networks, relations between functions "
    "and measures, and the quality of the estimators at their defaults beside other methods. Each writes a "
    "CSV, pictures and a text with claim, measurement, criteria and verdict to DIR/NAME, and says "
    '"disagrees" where the measurement fails a criterion. An interrupted run resumes where it stopped. Exit '
    "code 1 if a measurement contradicts a bound that is proven for every case. DIR/README.md shows all "
    "studies in DIR."
)
EXAMPLE = "relkernels reproduce symmetric zonal --quick"
# Duration of all studies, with --quick and without. With --quick they took 160 s of processor time.
DURATION = {True: "1 to 3 minutes on 2 cores", False: "about 40 minutes on 2 cores"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"studies to run (default: all of {', '.join(NAMES)})"
    )
    parser.add_argument(
        "--out", metavar="DIR", default="reproduce", help="output directory (default: reproduce)"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"smaller sizes: {DURATION[True]} (default: {DURATION[False]})"
    )
    parser.add_argument(
        "--json", action="store_true", help="print claims, measurements and rows as JSON (default: a summary)"
    )
    parser.add_argument("--html", metavar="FILE", help=page.HELP)


def completions() -> dict[str, tuple[str, ...]]:
    """Return the completions of the positional arguments."""
    return {"names": tuple(NAMES)}


def run(arguments: argparse.Namespace) -> int:
    """Run the studies; progress goes to standard error."""
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        arguments.usage_error(
            f"name: expected one of {', '.join(NAMES)}, got {option(unknown[0])}{near(unknown[0], NAMES)}"
        )
    output.check_paths(arguments, ("out", "html"), arguments.names, NAMES)
    page.check(arguments.html)
    if importlib.util.find_spec("matplotlib") is None:
        print(
            f"no pictures without matplotlib ({install('matplotlib')}): writing CSV and text only",
            file=sys.stderr,
        )
    output.writable_directory(arguments.out)
    output.train_for_fixed_times()
    from rich.console import Console

    if not arguments.names:
        print(f"... all studies: {DURATION[arguments.quick]}", file=sys.stderr)
    outcomes: list[Outcome] = []
    seconds: list[float] = []
    errors = Console(stderr=True)
    for name in dict.fromkeys(arguments.names or NAMES):
        begin = time.perf_counter()
        outcomes.append(_run_one(name, arguments, errors))
        seconds.append(time.perf_counter() - begin)
    words = ["relkernels reproduce", *arguments.names, *(["--quick"] if arguments.quick else [])]
    study.write_index(arguments.out, " ".join(words))
    if arguments.html is not None:
        page.write(_page(outcomes, seconds, arguments), arguments.html)
        print(f"saved {arguments.html}", file=sys.stderr)
    if arguments.json:
        print(json.dumps([_as_json(o, s) for o, s in zip(outcomes, seconds, strict=True)], indent=2))
    else:
        console = output.console()
        for outcome, took in zip(outcomes, seconds, strict=True):
            mark = f"[{'green' if outcome.stands else 'red'}]{outcome.verdict()}[/]"
            kept = f", {outcome.reused} pieces from an earlier run" if outcome.reused else ""
            console.rule(f"{outcome.name}: {mark} ({took:.1f} s{kept})", align="left")
            console.print(outcome.paragraph(), highlight=False, markup=False)
            for path in outcome.files:
                console.print(f"  {path}", highlight=False, markup=False)
        console.print(f"{sum(seconds):.1f} seconds in total")
    return 1 if any(outcome.contradicted for outcome in outcomes) else 0


def _page(outcomes: list[Outcome], seconds: list[float], arguments: argparse.Namespace) -> page.Page:
    """Return the page of the studies: each study's claim, measurement, pictures and rows."""
    words = ["relkernels", "reproduce", *arguments.names, *(["--quick"] if arguments.quick else [])]
    words += ["--out", arguments.out, "--html", arguments.html]
    sections = [
        page.Section(
            outcome.name,
            [("Claim.", outcome.claim), ("Measurement.", outcome.measurement)],
            (outcome.verdict(), outcome.stands),
            [_criteria(outcome), *_tables(outcome)],
            page.pictures_of(study.study(outcome.name).panels(outcome.rows)),
        )
        for outcome in outcomes
    ]
    kept = sum(outcome.reused for outcome in outcomes)
    summary = f"The theory's claims, measured and compared with bounds. {sum(seconds):.1f} seconds in total"
    summary += f"; {kept} pieces from an earlier run." if kept else "."
    return page.Page("relkernels reproduce", summary, shlex.join(words), sections)


def _criteria(outcome: Outcome) -> page.Table:
    """Return the criteria of a claim."""
    rows = [(c.condition, c.measured, "agrees" if c.agrees else "disagrees") for c in outcome.criteria]
    return page.Table("Criteria", ["condition", "measured", "verdict"], rows)


def _tables(outcome: Outcome) -> list[page.Table]:
    """Return the rows of a study, with one table for rows of the same columns."""
    alike: dict[tuple[str, ...], list[study.Row]] = {}
    for row in outcome.rows:
        alike.setdefault(tuple(row), []).append(row)
    common = set.intersection(*map(set, alike)) if len(alike) > 1 else set()
    return [
        page.Table(
            _words(rows, [c for c in columns if c not in common] or list(columns)),
            [column.replace("_", " ") for column in columns],
            [[page.value_cell(row[column]) for column in columns] for row in rows],
            folded=True,
        )
        for columns, rows in alike.items()
    ]


def _words(rows: list[study.Row], columns: list[str]) -> str:
    """Return the title of a table of rows: the first columns that distinguish it from others."""
    return f"{len(rows)} rows: {', '.join(columns[:3])}{', ...' if len(columns) > 3 else ''}"


def _run_one(name: str, arguments: argparse.Namespace, errors: Any) -> Outcome:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with Progress(*columns, console=errors) as progress:
        task = progress.add_task(name, total=None, last="")
        return study.run(
            name,
            os.path.join(arguments.out, name),
            arguments.quick,
            lambda last: progress.update(task, advance=1, last=last),
            lambda total: progress.update(task, total=total),
        )


def _as_json(outcome: Outcome, seconds: float) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "claim": outcome.claim,
        "measurement": outcome.measurement,
        "stands": outcome.stands,
        "criteria": [criterion._asdict() for criterion in outcome.criteria],
        "seconds": seconds,
        "reused": outcome.reused,
        "files": outcome.files,
        "rows": outcome.rows,
    }
