"""`relkernels info`: version, processor, instruction set, threads, CUDA state, installed packages."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import sysconfig
from typing import Any

import threadpoolctl

from ..config import configuration

SUMMARY = "show version, processor, instruction set, threads and packages"
DESCRIPTION = (
    "Print version, processor, instruction set, AMX, threads and CUDA state, and the versions of Python and "
    "of the installed packages that relkernels can use. Include this in a bug report."
)
EXAMPLE = "relkernels info --json"

# The packages that results may depend on: required ones, then those of the extras.
_PACKAGES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
    "rich",
    "threadpoolctl",
    "matplotlib",
    "statsmodels",
    "torch",
    "dask",
    "distributed",
    "jax",
    "cupy-cuda13x",
    "pandas",
    "polars",
    "ml-dtypes",
)
_ENVIRONMENT = ("RELKERNELS_ISA", "RELKERNELS_NUM_THREADS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead (default: one line per fact)"
    )


def report() -> dict[str, Any]:
    """Return the configuration and its environment."""
    blas = [
        f"{found['internal_api']} {found['version']}, {found['num_threads']} threads"
        for found in threadpoolctl.threadpool_info()
        if found["user_api"] == "blas"
    ]
    return configuration() | {
        "implementation": platform.python_implementation(),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "gil_enabled": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "processors": os.cpu_count(),
        "memory_bytes": _memory(),
        "blas": blas,
        "packages": {name: _version(name) for name in _PACKAGES},
        "environment": {name: os.environ.get(name) for name in _ENVIRONMENT},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items() if item is not None) or "none"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "unknown" if value is None else str(value)


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    found = report()
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    for name, value in found.items():
        print(f"{name:15} {_text(value)}")
    return 0
