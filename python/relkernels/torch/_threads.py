"""Runs kernels on the threads of PyTorch's own operations.

These are OpenMP threads. They spin for some milliseconds after each operation, on processors that the threads
of our pool would need next: on few processors, a training step on our pool took nearly twice as long.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from .. import _core

P = ParamSpec("P")
R = TypeVar("R")

_core.find_openmp(str(torch._C.__file__))


def on_pytorch_threads(function: Callable[P, R]) -> Callable[P, R]:
    """Have the kernels that `function` calls run on PyTorch's threads, if they are OpenMP's."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _core.use_openmp(True)
        try:
            return function(*args, **kwargs)
        finally:
            _core.use_openmp(before)

    return call
