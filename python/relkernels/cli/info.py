"""`relkernels info`: version, processor, instruction set, threads, CUDA state."""

from __future__ import annotations

import argparse
import json

from ..config import configuration, show_config

SUMMARY = "what this build and machine offer"
DESCRIPTION = "Print version, CPU, instruction set, AMX, threads and CUDA state."
EXAMPLE = "relkernels info --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(arguments: argparse.Namespace) -> int:
    """Print the configuration."""
    if arguments.json:
        print(json.dumps(configuration(), indent=2))
    else:
        show_config()
    return 0
