"""`relkernels demo`: learn and use relations on real images."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from typing import Any

SUMMARY = "learn relations among handwritten digits"
DESCRIPTION = (
    "On 1,797 images of digits: learn which show the same digit, judge the relation and its retrieval "
    "on held-out images, then fit networks of growing width to a Gaussian kernel."
)
EXAMPLE = "relkernels demo --plot pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead")
    parser.add_argument("--plot", metavar="DIR", help="save pictures there (needs matplotlib)")


def run(arguments: argparse.Namespace) -> int:
    """Run the study and print its figures; progress goes to standard error."""
    if arguments.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ImportError("--plot needs matplotlib: pip install 'relkernels[plot]'")
    from ..experiments import digits

    begin = time.perf_counter()
    figures, split, relation = digits.run(lambda what: print(f"... {what}", file=sys.stderr))
    seconds = time.perf_counter() - begin
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        _print_tables(figures, seconds)
    if arguments.plot is not None:
        for path in digits.plot(arguments.plot, figures, split, relation):
            print(f"saved {path}", file=sys.stderr)
    return 0


def _print_tables(figures: dict[str, Any], seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    symmetric = figures["symmetric"]
    console = Console()
    learned = Table(title="Same digit? Learned relation, 360 held-out images", title_justify="left")
    learned.add_column("measure")
    learned.add_column("value", justify="right")
    learned.add_row("ROC-AUC of the relation", f"{symmetric['auc']:.4f}")
    learned.add_row("precision@10, learned relation", f"{symmetric['precision_at_10']:.4f}")
    learned.add_row("precision@10, raw pixels", f"{symmetric['baseline_precision_at_10']:.4f}")
    learned.add_row("seconds to fit", f"{symmetric['seconds']:.2f}")
    console.print(learned)
    kernel = Table(title="Gaussian kernel by <phi(x), phi(y)>, held-out pairs", title_justify="left")
    for column in ("hidden width", "largest error", "relative error", "seconds"):
        kernel.add_column(column, justify="right")
    for row in figures["kernel"]:
        kernel.add_row(
            str(row["width"]),
            f"{row['sup_error']:.4f}",
            f"{row['rel_error']:.4f}",
            f"{row['seconds']:.2f}",
        )
    console.print(kernel)
    console.print(f"{seconds:.1f} seconds in all")
