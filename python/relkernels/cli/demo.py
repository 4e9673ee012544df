"""`relkernels demo`: learn relations from data and use them."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import shlex
import sys
import time
from typing import Any

from ..base.describe import near, option
from ..base.extras import install
from ..demos.part import Part
from . import demo_tables, output, page

SUMMARY = "learn relations between handwritten digits and preferences of travellers (minutes)"
DESCRIPTION = (
    "Learn relations from data and evaluate them on held-out data. symmetric: which of 1,797 images "
    "show the same digit. crossdomain: find the bottom half of an image from its top half. preference: "
    "select the largest digit of a set, and predict travellers' choices. kernel: fit networks of increasing "
    "width to a Gaussian kernel. Without a name, these four run. Only by name: relational, a relational "
    "network and a Transformer that learn to match symbols (needs PyTorch); retrieval, exact retrieval over "
    "keys on disk, block by block, with part of the result checked against a direct computation."
)
EXAMPLE = "relkernels demo --plot pictures"
PARTS = ("symmetric", "crossdomain", "preference", "kernel")
ON_DEMAND = ("relational", "retrieval")
# Options of retrieval only, with their defaults.
_SIZES = {"rows": 5_000_000, "dim": 64, "queries": 256, "k": 10}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "parts",
        nargs="*",
        type=_part,
        metavar="part",
        help=f"any of {', '.join(PARTS)}, {', '.join(ON_DEMAND)} (default: {', '.join(PARTS)})",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON instead (default: tables)"
    )
    parser.add_argument(
        "--plot", metavar="DIR", help="save pictures to DIR (default: none; needs matplotlib)"
    )
    parser.add_argument("--html", metavar="FILE", help=page.HELP)
    sizes = parser.add_argument_group("retrieval", "sizes for the part retrieval")
    keys = sizes.add_mutually_exclusive_group()
    defaults = {name: f"(default: {size:,})" for name, size in _SIZES.items()}
    keys.add_argument("--rows", type=_size, metavar="N", help=f"random keys to generate {defaults['rows']}")
    keys.add_argument("--keys", metavar="FILE", help="an .npy file of keys to use instead (default: random)")
    sizes.add_argument("--dim", type=_size, metavar="D", help=f"features of random keys {defaults['dim']}")
    sizes.add_argument("--queries", type=_size, metavar="Q", help=f"random queries {defaults['queries']}")
    sizes.add_argument("--k", type=_size, metavar="K", help=f"keys to find per query {defaults['k']}")


def completions() -> dict[str, tuple[str, ...]]:
    """Return the completions of the positional arguments."""
    return {"parts": PARTS + ON_DEMAND}


def _part(name: str) -> str:
    """Return the name of a part (argparse's `choices` would reject an empty list)."""
    if name not in PARTS + ON_DEMAND:
        known = PARTS + ON_DEMAND
        raise argparse.ArgumentTypeError(
            f"expected one of {', '.join(known)}, got {option(name)}{near(name, known)}"
        )
    return name


def _size(text: str) -> int:
    """Return a number of rows, features or queries."""
    try:
        number = int(text.replace("_", ""))
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {option(text)}")
    return number


def _options(arguments: argparse.Namespace, part: str) -> dict[str, Any]:
    """Return the arguments of a part's `run` other than `report`."""
    if part != "retrieval":
        return {}
    given = {name: getattr(arguments, name) for name in (*_SIZES, "keys")}
    return {name: value for name, value in given.items() if value is not None}


def run(arguments: argparse.Namespace) -> int:
    """Run the studies and print their figures; progress goes to standard error."""
    output.check_paths(arguments, ("plot", "html"), arguments.parts, PARTS + ON_DEMAND)
    if arguments.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ImportError(f"--plot needs matplotlib: {install('matplotlib')}")
    if "relational" in arguments.parts and importlib.util.find_spec("torch") is None:
        raise ImportError(f"the part relational needs PyTorch: {install('torch')}")

    if arguments.plot is not None:
        output.writable_directory(arguments.plot)  # fail before the work, not after it
    page.check(arguments.html)

    def report(what: str) -> None:
        print(f"... {what}", file=sys.stderr)

    sizes = _options(arguments, "retrieval")
    if sizes and "retrieval" not in arguments.parts:
        arguments.usage_error(
            f"--{next(iter(sizes))} is an option of the part retrieval, which is not selected"
        )
    if "keys" in sizes and "dim" in sizes:
        arguments.usage_error("--dim is for random keys, not for those of --keys")
    output.train_for_fixed_times()
    begin = time.perf_counter()
    chosen = [part for part in PARTS + ON_DEMAND if part in (arguments.parts or PARTS)]
    studies = {
        part: importlib.import_module(f"relkernels.demos.{part}").run(report, **_options(arguments, part))
        for part in chosen
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
    if arguments.html is not None:
        page.write(_page(studies, seconds, arguments), arguments.html)
        print(f"saved {arguments.html}", file=sys.stderr)
    return 0


def _page(studies: dict[str, Part], seconds: float, arguments: argparse.Namespace) -> page.Page:
    """Return the page with the results of the parts."""
    words = ["relkernels", "demo", *arguments.parts]
    for name in (*_SIZES, "keys", "plot", "html"):
        if (value := getattr(arguments, name)) is not None:
            words += [f"--{name}", str(value)]
    sections = [
        page.Section(
            part,
            tables=demo_tables.tables(part, study.figures),
            pictures=page.pictures(draw() for draw in study.pictures.values()),
        )
        for part, study in studies.items()
    ]
    summary = f"Relations learned from data, evaluated on held-out data. {seconds:.1f} seconds in total."
    return page.Page("relkernels demo", summary, shlex.join(words), sections)
