"""Entry point of the command line: arguments, exit codes, error messages.

Exit codes: 0 success, 1 failure, 2 usage error, 130 interrupted, 141 if the reader of the output has gone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..base.describe import near
from . import bench, completion, demo, info, reproduce

COMMANDS = {
    module.__name__.rsplit(".", 1)[1]: module for module in (info, demo, bench, reproduce, completion)
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors suggest the nearest choice, and name the missing argument of an option."""

    def _match_argument(self, action: argparse.Action, arg_strings_pattern: str) -> int:
        try:
            return super()._match_argument(action, arg_strings_pattern)
        except argparse.ArgumentError as error:
            raise argparse.ArgumentError(action, f"{error.message}: {action.metavar}") from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            guess = near(str(value), action.choices or ())
            raise argparse.ArgumentError(action, f"{error.message}{guess}") from None


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = _Parser(
        prog="relkernels",
        description="Inner products of neural feature maps: relations, attention, retrieval.",
        epilog="relkernels COMMAND --help shows the options of a command.\n"
        "Exit codes: 0 success, 1 failure, 2 usage error, 130 interrupted.\n\n"
        f"example: {demo.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"relkernels {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for name, module in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=textwrap.fill(module.DESCRIPTION, shutil.get_terminal_size().columns - 2),
            epilog=f"example: {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,  # keeps line breaks
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run, usage_error=sub.error, actions=sub._actions)
    top.set_defaults(top=top, commands=COMMANDS, subparsers=commands.choices)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments, unknown = parser().parse_known_args(argv)
    if unknown:
        options = [name for action in arguments.actions for name in action.option_strings]
        arguments.usage_error(f"unrecognized arguments: {' '.join(unknown)}{near(unknown[0], options)}")
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("relkernels: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Otherwise the interpreter would fail to flush the buffer at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, MemoryError, ValueError, ImportError) as error:
        print(f"relkernels {arguments.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
