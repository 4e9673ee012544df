"""Functions that the commands share: tables for terminals and files, and checks of output paths."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Width of lines, which have no colours, if standard output is not a terminal.
_PLAIN_WIDTH = 160
# Maximum width of the first column on a narrow terminal.
_FIRST = 26


def train_for_fixed_times() -> None:
    """Silence warnings that a fit has not settled: demos and studies choose their numbers of steps."""
    from sklearn.exceptions import ConvergenceWarning

    warnings.filterwarnings("ignore", category=ConvergenceWarning)


def console(*, markup: bool = True) -> Console:
    """Return the console for tables."""
    from rich.console import Console

    found = Console(highlight=False, markup=markup)
    return found if found.is_terminal else Console(highlight=False, markup=markup, width=_PLAIN_WIDTH)


def print_table(
    console: Console, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], repeated: int = 1
) -> None:
    """Print a table; split one wider than the terminal into several, each with the first `repeated` columns.

    The first column is text, and wraps; the others are right-aligned and never broken.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    widths = [max(map(len, [header, *column])) for header, *column in zip(headers, *rows, strict=True)]
    widths[0] = min(widths[0], _FIRST)
    # SIMPLE_HEAD has a blank at both ends of the table, and two between columns.
    own = sum(width + 2 for width in widths[:repeated])
    parts: list[list[int]] = []
    left = 0
    for i in range(repeated, len(headers)):
        if not any(row[i] for row in rows):
            continue  # omit empty columns
        needed = min(widths[i], max(console.width - own - 2, 1)) + 2
        if not parts or needed > left:
            parts.append([])
            left = console.width - own
        parts[-1].append(i)
        left -= needed
    for part in parts:
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for i in (*range(repeated), *part):
            options = {"min_width": min(widths[i], _FIRST)} if i == 0 else {"overflow": "fold"}
            table.add_column(headers[i], justify="right" if i else "left", **options)
        for row in rows:
            table.add_row(*(row[i] for i in (*range(repeated), *part)))
        console.print(table)


def writable_directory(path: str) -> None:
    """Create a directory, or raise the OSError that writing to it would raise."""
    os.makedirs(path, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write to the directory {path!r}")


def check_paths(
    arguments: argparse.Namespace, options: Sequence[str], given: Sequence[str], names: Iterable[str]
) -> None:
    """Reject a path that another option also has, or that is a name meant as an argument.

    ``--plot symmetric`` would save the pictures of all parts in a directory called symmetric.
    """
    before: dict[str, str] = {}
    for option in options:
        path = getattr(arguments, option)
        if path in (None, "-"):
            continue
        if not given and path in names:
            arguments.usage_error(
                f"--{option} {path}: expected a path, got a name: write {path} before --{option}, or "
                f"{os.path.join('.', path)} for a path"
            )
        other = before.setdefault(os.path.realpath(path), option)
        if other != option:
            arguments.usage_error(f"--{option}: expected another path than that of --{other}, got {path}")
