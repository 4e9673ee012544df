"""What the commands share: tables for terminals and for files, and paths that are tried before the work."""

from __future__ import annotations

import os
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
