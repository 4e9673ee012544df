"""Random parts of calls: sizes, numbers, maps, and arrays in every layout, some next to a fence."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import relkernels as rk
from strategies import ACTIVATIONS, lay_out

# As in strategies.py: 0, 1, primes, and sizes one larger than tiles and blocks.
ROWS = (0, 1, 2, 3, 5, 7, 12, 13, 17, 25, 33, 64, 97, 193)
COLUMNS = (0, 1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 64, 65, 97, 256, 257)
WIDTHS = (1, 2, 3, 5, 8, 13, 16, 17, 32, 33, 64)
LAYOUTS = ("plain", "transposed", "sliced", "reversed", "offset", "read-only", "broadcast", "misaligned")
# Activations with slopes smooth enough for comparing float32 with float64.
SMOOTH = (
    "identity", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "softplus", "erf", "sin", "cos", "gaussian",
)  # fmt: skip

_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


class _Pages(mmap.mmap):
    """Pages of memory, one of which is inaccessible."""


def beside_fence(nbytes: int, after: bool) -> np.ndarray:
    """Return bytes that end directly before an inaccessible page, or begin directly after one.

    A read or write past them kills the process.
    """
    pages = -(-nbytes // _PAGE)
    memory = _Pages(-1, (pages + 1) * _PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fence = address + pages * _PAGE if after else address
    if _libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(_PAGE), 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    return np.frombuffer(memory, np.uint8, nbytes, pages * _PAGE - nbytes if after else _PAGE)


def root(a: np.ndarray) -> np.ndarray:
    """Return the array that owns the memory of `a`."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    """Yield the arrays of a value, including those in tuples, lists, gradients and maps."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from arrays_in(part)
    elif isinstance(value, rk.MLP):
        yield from arrays_in((value.weights, value.biases))


class Draw:
    """Random choices of one call."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.dtype: Any = self.pick(np.float32, np.float64)

    def pick(self, *values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def leads(self, count: int) -> list[tuple[int, ...]]:
        """Return leading shapes that broadcast together; mostly empty."""
        if self.chance(0.6):
            return [()] * count
        full = tuple(self.pick(0, 1, 2, 3, 3) for _ in range(self.pick(1, 1, 2)))
        shapes = []
        for _ in range(count):
            kept = tuple(self.pick(size, 1) for size in full)
            shapes.append(kept[self.pick(*range(len(kept) + 1)) :])
        return shapes

    def numbers(self, shape: tuple[int, ...]) -> np.ndarray:
        kind = self.pick(*["normal"] * 8, "integers", "zeros", "equal", "one sign")
        if kind == "integers":
            a = self.rng.integers(-2, 3, shape)
        elif kind == "zeros":
            a = np.zeros(shape)
        else:
            a = self.rng.standard_normal(shape)
            if kind == "equal":
                a = np.broadcast_to(self.rng.standard_normal(), shape)
            elif kind == "one sign":
                a = np.abs(a)
        return np.array(a, self.dtype)

    def laid_out(self, a: np.ndarray) -> np.ndarray:
        """Return the same values elsewhere in memory, often next to a fence."""
        if self.chance(0.3):
            return a
        if self.chance(0.4):
            memory = beside_fence(a.nbytes, self.chance(0.7)).view(a.dtype)
            if a.ndim > 1 and self.chance(0.3):
                view = memory.reshape((*a.shape[:-2], a.shape[-1], a.shape[-2])).swapaxes(-1, -2)
            else:
                view = memory.reshape(a.shape)
            view[...] = a
            return view
        layout = self.pick(*LAYOUTS)
        return lay_out(a, layout) if a.ndim > 1 else lay_out(a[:, None], layout)[:, 0]

    def array(self, *shape: int) -> np.ndarray:
        return self.laid_out(self.numbers(shape))

    def mlp(self, d_in: int, d_out: int, activations: tuple[Any, ...] = ACTIVATIONS) -> rk.MLP:
        widths = [d_in, *(self.pick(*WIDTHS) for _ in range(self.pick(0, 1, 1, 2))), d_out]
        weights = [
            (self.rng.standard_normal(s) / np.sqrt(s[0])).astype(self.dtype)
            for s in zip(widths, widths[1:], strict=False)
        ]
        biases = None
        if self.chance(0.7):
            biases = [(0.3 * self.rng.standard_normal(n)).astype(self.dtype) for n in widths[1:]]
        return rk.MLP(weights, biases, self.pick(*activations))

    def maps(self, activations: tuple[Any, ...] = ACTIVATIONS, heads: int = 1) -> tuple[Any, ...]:
        """Return (d_x, phi, d_y, psi): maps to features of one width, or None."""
        kind = self.pick("none", "one", "two", "two", "identity and a map")
        width = self.pick(*WIDTHS) * heads
        if kind == "none":
            return width, None, width, None
        d_x, d_y = self.pick(*WIDTHS), self.pick(*WIDTHS)
        if kind == "one":
            return d_x, self.mlp(d_x, width, activations), d_x, None
        if kind == "two":
            return d_x, self.mlp(d_x, width, activations), d_y, self.mlp(d_y, width, activations)
        return width, None, d_y, self.mlp(d_y, width, activations)

    def mask(self, lead: tuple[int, ...], n: int, m: int) -> np.ndarray | None:
        if self.chance(0.6):
            return None
        shape = (*self.pick(lead, ()), self.pick(n, n, 1), self.pick(m, m, 1))
        mask = self.rng.random(shape) < self.pick(0.0, 0.05, 0.5, 0.95, 1.0)
        if mask.shape[-2] and self.chance(0.3):
            mask = np.ascontiguousarray(mask.swapaxes(-1, -2)).swapaxes(-1, -2)
        return mask
