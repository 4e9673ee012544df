"""Entry point of the command line: arguments, exit codes, what a user sees of an error.

Exit codes: 0 right, 1 failed, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from . import bench, demo, info, reproduce


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="relkernels",
        description="Inner products of neural feature maps: relations, attention, retrieval.",
    )
    top.add_argument("--version", action="version", version=f"relkernels {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for module in (info, demo, bench, reproduce):
        name = module.__name__.rsplit(".", 1)[1]
        sub = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            epilog=f"example: {module.EXAMPLE}",
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("relkernels: interrupted", file=sys.stderr)
        return 130
    except (OSError, MemoryError, ValueError, ImportError) as error:
        print(f"relkernels {arguments.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
