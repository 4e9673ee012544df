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


def console(*, markup: bool = True) -> Console:
    """Return the console that tables go to."""
    from rich.console import Console

    found = Console(highlight=False, markup=markup)
    return found if found.is_terminal else Console(highlight=False, markup=markup, width=_PLAIN_WIDTH)


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
