"""Random cases: sizes around tile edges, and arrays in every accepted memory layout."""

from __future__ import annotations

import numpy as np
import relkernels as rk
from hypothesis import strategies as st

DTYPES = (np.float32, np.float64)
ACTIVATIONS = (
    "identity", "relu", rk.leaky_relu(0.1), rk.relu_power(1.5), "gelu", "gelu_tanh", "silu", "tanh",
    "sigmoid", "softplus", "erf", "sin", "cos", "gaussian", "sigma_1",
)  # fmt: skip

# 0, 1, primes, and one more than micro-tiles (4, 6, 12 rows; 8, 16, 32 columns), than blocks of
# rows (24, 96, 192) and than tiles of columns (256).
rows = st.sampled_from([0, 1, 2, 3, 5, 7, 12, 13, 17, 25, 33, 64, 97, 193])
columns = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 64, 65, 97, 256, 257])
some_columns = columns.filter(bool)
widths = st.sampled_from([1, 2, 3, 5, 8, 13, 16, 17, 32, 33, 64])
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32 - 1)
layouts = st.sampled_from(
    ["plain", "transposed", "sliced", "reversed", "offset", "read-only", "broadcast", "misaligned"]
)


def lay_out(a: np.ndarray, layout: str) -> np.ndarray:
    """Return the same values (for "broadcast": the first row repeated) with other strides."""
    if layout == "transposed":
        return np.ascontiguousarray(np.swapaxes(a, -1, -2)).swapaxes(-1, -2)
    if layout == "sliced":
        big = np.full((*a.shape[:-2], 2 * a.shape[-2], 3 * a.shape[-1]), np.nan, a.dtype)
        view = big[..., ::2, 1::3]
        view[...] = a
        return view
    if layout == "reversed":
        return np.ascontiguousarray(a[..., ::-1, ::-1])[..., ::-1, ::-1]
    if layout == "offset":
        flat = np.full(a.size + 1, np.nan, a.dtype)
        flat[1:] = a.ravel()
        return flat[1:].reshape(a.shape)
    if layout == "read-only":
        copy = a.copy()
        copy.flags.writeable = False
        return copy
    if layout == "broadcast" and a.shape[-2]:
        return np.broadcast_to(a[..., :1, :], a.shape)
    if layout == "misaligned":
        raw = np.zeros(a.nbytes + 1, np.uint8)
        view = raw[1:].view(a.dtype).reshape(a.shape)
        view[...] = a
        return view
    return a


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def mlp(rng: np.random.Generator, widths, dtype, activation="relu", bias=True) -> rk.MLP:
    """Like MLP.random, with nonzero biases."""
    start = rk.MLP.random(widths, activation, int(rng.integers(2**31)), dtype)
    biases = [normal(rng, b.shape, dtype) * dtype(0.3) for b in start.biases]
    return rk.MLP(start.weights, biases if bias else None, activation)


@st.composite
def maps(draw, dtype, d_in, d_out, rng):
    """An MLP from d_in to d_out of up to three layers, or None if the widths allow it."""
    depth = draw(st.integers(0 if d_in == d_out else 1, 3))
    if depth == 0:
        return None
    hidden = [draw(widths) for _ in range(depth - 1)]
    return mlp(rng, [d_in, *hidden, d_out], dtype, draw(st.sampled_from(ACTIVATIONS)), draw(st.booleans()))


@st.composite
def leads(draw, count):
    """`count` leading shapes that broadcast together."""
    full = tuple(draw(st.lists(st.sampled_from([1, 2, 3]), max_size=2)))
    shapes = []
    for _ in range(count):
        kept = tuple(draw(st.sampled_from([size, 1])) for size in full)
        shapes.append(kept[draw(st.integers(0, len(kept))) :])
    return shapes


# Positions at which 60 rows are cut into blocks, some of them empty.
cuts = st.lists(st.integers(0, 60), max_size=5).map(lambda at: [0, *sorted(at), 60])


def parts(a, at):
    """The blocks of rows between cuts."""
    return [a[first:end] for first, end in zip(at, at[1:], strict=False)]
