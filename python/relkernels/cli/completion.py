"""`relkernels completion`: a shell script that completes commands, options and names."""

from __future__ import annotations

import argparse

SUMMARY = "print a script for completion in bash, zsh or tcsh"
DESCRIPTION = (
    "Print a script that completes commands, options, names and paths. bash: save it as "
    "~/.local/share/bash-completion/completions/relkernels. zsh: save it as _relkernels in a directory of "
    "$fpath. tcsh: source it. Completion needs no Python: make the script again after an update."
)
EXAMPLE = "relkernels completion bash > ~/.local/share/bash-completion/completions/relkernels"
SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("shell", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")


def run(arguments: argparse.Namespace) -> int:
    """Print the script, generated from the command-line parser, which `main` passes."""
    import shtab

    for name, sub in arguments.subparsers.items():
        names: dict[str, tuple[str, ...]] = getattr(arguments.commands[name], "completions", dict)()
        for action in sub._actions:
            if action.dest in names:
                action.choices = names[action.dest]
            elif action.metavar == "FILE":
                action.complete = shtab.FILE
            elif action.metavar == "DIR":
                action.complete = shtab.DIRECTORY
    print(shtab.complete(arguments.top, arguments.shell))
    return 0
