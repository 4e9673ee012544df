"""What the commands share: tables for terminals and for files, and paths that are tried before the work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Where standard output is no terminal, lines are as long as tables need and carry no colours.
_PLAIN_WIDTH = 160
# The widest first column, if the terminal is narrow.
_FIRST = 26


def console(*, markup: bool = True) -> Console:
    """Return the console that tables go to."""
    from rich.console import Console

    found = Console(highlight=False, markup=markup)
    return found if found.is_terminal else Console(highlight=False, markup=markup, width=_PLAIN_WIDTH)


def print_table(
    console: Console, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], repeated: int = 1
) -> None:
    """Print a table; one wider than the terminal as several, each with the first `repeated` columns.

    The first column is text, and wraps; the others are aligned right and never broken.
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
            continue  # nothing to say
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
    """Make a directory, or raise the OSError that writing there would end in."""
    os.makedirs(path, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write to the directory {path!r}")


def check_paths(
    arguments: argparse.Namespace, options: Sequence[str], given: Sequence[str], names: Iterable[str]
) -> None:
    """Refuse options whose path is the path of another, or a name that was meant as an argument.

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
