"""`relkernels reproduce`: the theory's claims, measured, beside the bounds."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from typing import Any

from ..experiments import study
from ..experiments.study import NAMES, Outcome
from . import output

SUMMARY = "measure what the theory claims, beside the bounds"
DESCRIPTION = (
    "Run studies: symmetric and asymmetric relations, attention by preorders, random features, zonal "
    "networks, relations between functions and measures. Each writes a CSV, pictures and a paragraph with "
    "claim, measurement and verdict to DIR/NAME. An interrupted run goes on where it ended. Exit code 1 "
    "where a measurement contradicts a claim. DIR/README.md shows all studies in DIR."
)
EXAMPLE = "relkernels reproduce symmetric zonal --quick"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"studies to run (default: all of {', '.join(NAMES)})"
    )
    parser.add_argument(
        "--out", metavar="DIR", default="reproduce", help="where to write (default: reproduce)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes, under 3 minutes in all (default: full sizes)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print claims, measurements and rows as JSON (default: a summary)"
    )


def completions() -> dict[str, tuple[str, ...]]:
    """Return what `relkernels completion` offers for the positional arguments."""
    return {"names": tuple(NAMES)}


def run(arguments: argparse.Namespace) -> int:
    """Run the studies; progress goes to standard error."""
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        arguments.usage_error(f"unknown study {unknown[0]!r} (choose from {', '.join(NAMES)})")
    if importlib.util.find_spec("matplotlib") is None:
        print(
            "no pictures without matplotlib (pip install 'relkernels[plot]'): writing CSV and text only",
            file=sys.stderr,
        )
    output.writable_directory(arguments.out)
    from rich.console import Console

    outcomes: list[Outcome] = []
    seconds: list[float] = []
    errors = Console(stderr=True)
    for name in dict.fromkeys(arguments.names or NAMES):
        begin = time.perf_counter()
        outcomes.append(_run_one(name, arguments, errors))
        seconds.append(time.perf_counter() - begin)
    told = ["relkernels reproduce", *arguments.names, *(["--quick"] if arguments.quick else [])]
    study.write_index(arguments.out, " ".join(told))
    if arguments.json:
        print(json.dumps([_as_json(o, s) for o, s in zip(outcomes, seconds, strict=True)], indent=2))
    else:
        console = output.console()
        for outcome, took in zip(outcomes, seconds, strict=True):
            mark = "[green]agrees[/]" if outcome.stands else "[red]contradicts the claim[/]"
            kept = f", {outcome.reused} pieces kept from before" if outcome.reused else ""
            console.rule(f"{outcome.name}: {mark} ({took:.1f} s{kept})", align="left")
            console.print(outcome.paragraph(), highlight=False, markup=False)
            for path in outcome.files:
                console.print(f"  {path}", highlight=False, markup=False)
        console.print(f"{sum(seconds):.1f} seconds in all")
    return 0 if all(outcome.stands for outcome in outcomes) else 1


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
        "seconds": seconds,
        "reused": outcome.reused,
        "files": outcome.files,
        "rows": outcome.rows,
    }
