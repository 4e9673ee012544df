"""The number of threads, and the configuration of this build and machine."""

from __future__ import annotations

import os
import platform
from typing import Any

import threadpoolctl

from . import _core
from .base import check


def set_num_threads(n: int) -> None:
    """Set the number of threads that later calls use.

    The environment variable RELKERNELS_NUM_THREADS sets it at import, which raises ImportError unless the
    value is an integer from 1 to 4096. Without it, the first number in OMP_NUM_THREADS ("4" or "4,2") is
    used; values that are not numbers are ignored, because the variable is OpenMP's. The default is the number
    of processors this process may run on. Results do not depend on the number of threads.

    Parameters
    ----------
    n : int
        From 1 to 4096.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer from 1 to 4096.

    Examples
    --------
    >>> import relkernels as rk
    >>> before = rk.get_num_threads()
    >>> rk.set_num_threads(1)
    >>> rk.get_num_threads()
    1
    >>> rk.set_num_threads(before)
    """
    number = check.integer("n", n, 1)
    if number > 4096:
        check.fail("n", "at most 4096 threads", number)
    _core.set_num_threads(number)


def get_num_threads() -> int:
    """Return the number of threads that calls use.

    Returns
    -------
    int

    Examples
    --------
    >>> import relkernels as rk
    >>> rk.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def processors() -> int:
    """Return the number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cuda_state() -> str:
    from .cuda import devices  # imported here because importing the package must not look for a driver

    return devices.state()


def configuration() -> dict[str, Any]:
    """Return what `show_config` prints, as a dictionary."""
    build = _core.build_info()
    features = _core.cpu_info()
    return {
        "version": build["version"],
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "isa": _core.isa,
        "available_isas": _core.available_isas(),
        "cpu_features": sorted(name for name, present in features.items() if present),
        "amx": bool(features.get("amx_bf16", False)),
        "threads": get_num_threads(),
        "compiler": build["compiler"],
        "flags": build["flags"],
        "cuda": _cuda_state(),
    }


def show_config() -> None:
    """Print version, processor, instruction set in use, threads, CUDA state and build flags.

    Examples
    --------
    >>> import relkernels as rk
    >>> rk.show_config()  # doctest: +ELLIPSIS
    version         ...
    """
    for name, value in configuration().items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        print(f"{name:15} {text}")


class _ThreadpoolController(threadpoolctl.LibController):
    """Lets ``threadpoolctl.threadpool_limits`` control our threads."""

    user_api = "relkernels"
    internal_api = "relkernels"
    filename_prefixes = ("_core.",)
    check_symbols = ("relkernels_num_threads",)  # other packages also have a _core

    def get_num_threads(self) -> int:
        return get_num_threads()

    def set_num_threads(self, num_threads: int) -> None:
        set_num_threads(num_threads)

    def get_version(self) -> str:
        return _core.__version__

    def set_additional_attributes(self) -> None:
        self.isa = _core.isa


threadpoolctl.register(_ThreadpoolController)
