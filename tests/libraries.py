"""Conversion between NumPy arrays and arrays of other libraries."""

import numpy as np
import pytest
from relkernels import arrays
from strategies import normal


class Library:
    """One library's arrays: from NumPy and back."""

    def __init__(self, name):
        self.name = name
        module = {"torch": "torch", "jax": "jax.numpy", "array_api_strict": "array_api_strict"}[name]
        self.module = pytest.importorskip(module, reason=f"{name} is not installed")

    def of(self, a, dtype=None):
        made = self.module.asarray(a.copy())  # a copy, so that memory is shared only with the library
        if dtype is None:
            return made
        kind = getattr(self.module, dtype)
        return made.to(kind) if self.name == "torch" else made.astype(kind)

    def to_numpy(self, a):
        if str(a.dtype).endswith("bfloat16"):
            a = a.float() if self.name == "torch" else a.astype("float32")
        return np.from_dlpack(a)

    def pointer(self, a):
        return arrays.from_dlpack(a).pointer

    def is_one(self, a):
        return arrays.kind_of(a).name == self.name


def inputs(rng):
    mask = rng.random((7, 9)) < 0.8
    floats = [normal(rng, s, np.float32) for s in [(7, 6), (9, 5), (9, 3)]]
    return [*floats, mask, rng.integers(0, 3, 7), rng.integers(0, 3, 9)]
