"""`relkernels demo`: learn and use relations on real data."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import time

from . import demo_tables, output

SUMMARY = "learn relations among handwritten digits, and travellers' preferences"
DESCRIPTION = (
    "symmetric: learn which of 1,797 images show the same digit, judge the relation and its retrieval on "
    "held-out images. crossdomain: find the bottom half of an image from its top half. preference: select "
    "the largest digit of a set, by choice and by attention, and predict travellers' choices. kernel: fit "
    "networks of growing width to a Gaussian kernel. Without a part, all of them."
)
EXAMPLE = "relkernels demo --plot pictures"
PARTS = ("symmetric", "crossdomain", "preference", "kernel")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "parts", nargs="*", type=_part, metavar="part", help=f"any of {', '.join(PARTS)} (default: all)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON instead (default: tables)"
    )
    parser.add_argument("--plot", metavar="DIR", help="save pictures there (default: none; needs matplotlib)")


def completions() -> dict[str, tuple[str, ...]]:
    """Return what `relkernels completion` offers for the positional arguments."""
    return {"parts": PARTS}


def _part(name: str) -> str:
    """Return the name of a part (`choices` of argparse does not take none of them)."""
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(PARTS)}, got {name!r}")
    return name


def run(arguments: argparse.Namespace) -> int:
    """Run the studies and print their figures; progress goes to standard error."""
    if arguments.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ImportError("--plot needs matplotlib: pip install 'relkernels[plot]'")

    if arguments.plot is not None:
        output.writable_directory(arguments.plot)  # before the work, not after it

    def report(what: str) -> None:
        print(f"... {what}", file=sys.stderr)

    begin = time.perf_counter()
    studies = {
        part: importlib.import_module(f"relkernels.experiments.{part}").run(report)
        for part in PARTS
        if not arguments.parts or part in arguments.parts
    }
    seconds = time.perf_counter() - begin
    figures = {part: study.figures for part, study in studies.items()}
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        demo_tables.show(figures, seconds)
    if arguments.plot is not None:
        for study in studies.values():
            for path in study.save_pictures(arguments.plot):
                print(f"saved {path}", file=sys.stderr)
    return 0
