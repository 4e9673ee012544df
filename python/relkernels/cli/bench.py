"""`relkernels bench`: every operation compared with its peers and with the machine's ceilings."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from ..base.describe import shown
from ..base.extras import install
from ..base.files import check_writable
from ..benchmarks import FAMILIES
from . import output, page

if TYPE_CHECKING:
    from ..benchmarks.report import Report

SUMMARY = "compare the speed of every operation with NumPy, PyTorch, Faiss, KeOps and scikit-learn"
DESCRIPTION = (
    "Check for each workload that all libraries give equal results, time them alternately in one process, "
    "and print times, ratios to the best peer and shares of the machine's ceilings. Missing peers are "
    "listed; install them with: pip install torch faiss-cpu pykeops. Ctrl-C keeps the measurements so far."
)
EXAMPLE = "relkernels bench attention retrieve/queries_1 --json results.json --plot pictures"


def _count(text: str) -> int:
    n = int(text) if text.isdecimal() else 0
    if not 1 <= n <= 4096:
        raise argparse.ArgumentTypeError(f"expected 1 to 4096, got {shown(text)}")
    return n


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"family ({', '.join(FAMILIES)}), family/series or workload (default: all)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="compare results at small sizes and measure no times (default: some 15 minutes of timing)",
    )
    parser.add_argument(
        "--threads", type=_count, nargs="+", metavar="N", help="numbers of threads (default: 1 and all)"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write JSON; without FILE, print it instead of tables (default: tables)",
    )
    parser.add_argument(
        "--plot", metavar="DIR", help="save pictures to DIR (default: none; needs matplotlib)"
    )
    parser.add_argument(
        "--results",
        metavar="DIR",
        help="keep the results in DIR: RESULTS.md over all processors, and in DIR/results a page, JSON and "
        "pictures of this one; also measures AVX2 on a processor with more (default: none)",
    )
    parser.add_argument("--html", metavar="FILE", help=page.HELP)


def completions() -> dict[str, tuple[str, ...]]:
    """Return the completions of the positional arguments."""
    return {"names": FAMILIES}


def run(arguments: argparse.Namespace) -> int:
    """Run the workloads; tables go to standard output, progress to standard error."""
    output.check_paths(arguments, ("json", "plot", "results", "html"), arguments.names, FAMILIES)
    if (arguments.plot or arguments.results) and importlib.util.find_spec("matplotlib") is None:
        raise ImportError(f"--plot and --results need matplotlib: {install('matplotlib')}")
    page.check(arguments.html)
    for option in ("plot", "results"):
        if arguments.quick and getattr(arguments, option):
            arguments.usage_error(f"--{option}: shows times, which --quick does not measure")
    from ..benchmarks import processor, results, tables, workloads
    from ..benchmarks.report import Report
    from ..config import get_num_threads, processors

    try:
        chosen = workloads(arguments.names, arguments.quick)
    except ValueError as error:
        arguments.usage_error(str(error))
    if not chosen:
        arguments.usage_error(
            f"name: expected a workload that --quick runs, got {', '.join(arguments.names)}"
        )
    for path in (arguments.plot, arguments.results and os.path.join(arguments.results, "results")):
        if path:
            output.writable_directory(path)  # fail before the work, not after it
    if arguments.json not in (None, "-"):
        check_writable("--json", arguments.json)
    report = Report(_command(arguments), arguments.quick)
    avx2_too = arguments.results is not None and processor.more_than_avx2()
    if arguments.results is not None:
        for isa in (report.machine["isa"], *(["avx2"] if avx2_too else [])):
            try:
                results.check(arguments.results, isa, "cpu", report.machine, not arguments.names)
            except ValueError as error:
                arguments.usage_error(f"--results: {error}")
    for note in tables.advice(report):
        print(f"... {note}", file=sys.stderr)
    threads = sorted(set(arguments.threads or (1, get_num_threads())))
    if not arguments.quick and threads[-1] > (available := processors()):
        print(
            f"... {threads[-1]} threads share {available} processors: such times show contention, not speed",
            file=sys.stderr,
        )
    try:
        device = processor.Processor(threads, arguments.quick)
        report.measure(chosen, device, lambda what: print(f"... {what}", file=sys.stderr))
    finally:  # an error or Ctrl-C keeps the measurements so far
        _write(report, arguments)
    for line in report.unequal:
        print(f"relkernels bench: {line}", file=sys.stderr)
    avx2 = _race_on_avx2(arguments) if avx2_too else 0
    return 1 if report.unequal or avx2 else 0


def _race_on_avx2(arguments: argparse.Namespace) -> int:
    """Run the same workloads in a process where all contestants are held to AVX2; return its exit status."""
    from ..benchmarks.processor import HELD_TO_AVX2

    print("... the same, held to AVX2", file=sys.stderr)
    words = [sys.executable, "-m", "relkernels", "bench", *arguments.names, "--results", arguments.results]
    words += ["--threads", *map(str, arguments.threads)] if arguments.threads else []
    child = subprocess.Popen(words, env=os.environ | HELD_TO_AVX2, stdout=subprocess.DEVNULL)
    try:
        return child.wait()
    except KeyboardInterrupt:  # which the child has received too
        child.wait()  # until it has saved what it measured
        raise


def _command(arguments: argparse.Namespace) -> str:
    words = ["relkernels", "bench", *arguments.names]
    words += ["--quick"] if arguments.quick else []
    words += ["--threads", *map(str, arguments.threads)] if arguments.threads else []
    for option in ("plot", "results", "html"):
        if (value := getattr(arguments, option)) is not None:
            words += [f"--{option}", value]
    return shlex.join(words)


def _write(report: Report, arguments: argparse.Namespace) -> None:
    if arguments.json == "-":
        print(json.dumps(report.record(), indent=2))
    else:
        _print_tables(report)
    if arguments.json not in (None, "-"):
        with open(arguments.json, "w") as f:
            json.dump(report.record(), f, indent=2)
            f.write("\n")
        print(f"saved {arguments.json}", file=sys.stderr)
    if arguments.plot is not None:
        from ..benchmarks import plots

        for path in plots.save(report, arguments.plot).values():
            print(f"saved {path}", file=sys.stderr)
    if arguments.results is not None and report.rows:
        from ..benchmarks import results

        for path in results.save(report, arguments.results, whole=not arguments.names):
            print(f"saved {path}", file=sys.stderr)
    if arguments.html is not None:
        page.write(_page(report), arguments.html)
        print(f"saved {arguments.html}", file=sys.stderr)


def _page(report: Report) -> page.Page:
    """Return the page of a report: ceilings, a section per family, the roofline, time against threads."""
    from ..benchmarks import FAMILIES, ceilings, plots, tables

    panels = {} if report.quick else plots.panels(report)
    sections = []
    if report.ceilings:
        rates = [
            [found[name] for found in report.ceilings.values()] for name in ceilings.NAMES[report.device]
        ]
        limits = page.Table(
            "Ceilings of the machine",
            tables.ceiling_headers(report),
            [
                [name, *map(page.Cell, texts, keys)]
                for (name, *texts), keys in zip(tables.ceiling_cells(report), rates, strict=True)
            ],
        )
        roof = page.pictures_of(panels.get("roofline", []))
        sections.append(page.Section("Ceilings", tables=[limits], pictures=roof))
    for family in FAMILIES:
        rows = [row for row in report.rows if row.workload.family == family]
        if rows and report.quick:
            cells = [tables.compared_cells(row) for row in rows]
            of_family = page.Table(f"Results compared: {family}", tables.COMPARED, cells)
            sections.append(page.Section(family, tables=[of_family]))
        elif rows:
            found = [
                list(map(page.Cell, tables.cells(row, quartiles=True), tables.keys(row))) for row in rows
            ]
            of_family = page.Table(f"Times, rates and ratios: {family}", tables.HEADERS, found)
            pictures = page.pictures_of(panels.get(family, []))
            sections.append(page.Section(family, tables=[of_family], pictures=pictures))
    if "threads" in panels:
        sections.append(page.Section("Time against threads", pictures=page.pictures_of(panels["threads"])))
    incomplete = [] if report.complete else ["Interrupted: these are the measurements until then."]
    return page.Page(
        "relkernels bench",
        f"{tables.QUICK_METHOD} {tables.compared(report)}" if report.quick else tables.METHOD,
        report.command,
        sections,
        tables.facts(report),
        [("Incomplete", incomplete), *tables.notes(report)],
        report.date,
    )


def _print_tables(report: Report) -> None:
    from ..benchmarks import tables

    console = output.console(markup=False)
    if report.ceilings:
        headers = ["", *tables.ceiling_headers(report)[1:]]
        output.print_table(console, "Ceilings of the machine", headers, tables.ceiling_cells(report))
    for family in FAMILIES:
        rows = [row for row in report.rows if row.workload.family == family]
        if rows and report.quick:
            output.print_table(console, family, tables.COMPARED, list(map(tables.compared_cells, rows)), 2)
        elif rows:
            cells = [tables.cells(row, quartiles=False) for row in rows]
            output.print_table(console, family, tables.HEADERS, cells, 2)
    for line in tables.absences(report):
        console.print(f"absent: {line}", soft_wrap=True)
    if report.quick:
        console.print(tables.compared(report), soft_wrap=True)
