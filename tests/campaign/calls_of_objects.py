"""Good calls other than operations on arrays: maps, activations, blocks of files, threads."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import pickle
import tempfile
from typing import Any

import numpy as np
import relkernels as rk
from strategies import ACTIVATIONS

from .calls import Call, generator
from .checks import WrongResultError, same_bits
from .drawing import WIDTHS, Draw


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise WrongResultError(what)


@generator("MLP")
def mlp(draw: Draw) -> Call:
    like = draw.mlp(draw.pick(*WIDTHS), draw.pick(*WIDTHS))
    weights = [draw.laid_out(np.array(w)) for w in like.weights]
    biases = None if like.biases is None else [draw.laid_out(np.array(b)) for b in like.biases]
    activation, normalize = draw.pick(*ACTIVATIONS), draw.pick(False, True)

    def check(made: Any) -> None:
        expect(made.normalize == normalize, f"normalize {made.normalize}")
        same_bits(list(made.weights), [np.array(w) for w in weights], "weights")
        same_bits(list(made.biases or ()), [np.array(b) for b in biases or ()], "biases")
        expect(not any(a.flags.writeable for a in made.weights), "weights that can be written")
        x = draw.numbers((5, made.widths[0]))
        same_bits(pickle.loads(pickle.dumps(made))(x), made(x), "features of a pickled map")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "phi")
            made.save(path)
            same_bits(rk.MLP.load(path)(x), made(x), "features of a saved map")

    arguments = {"weights": weights, "biases": biases, "activation": activation, "normalize": normalize}
    return Call(rk.MLP, arguments, check, 1)


SEED = next(name for name in ("random_state", "seed") if name in inspect.signature(rk.MLP.random).parameters)


@generator("MLP.random")
def random_mlp(draw: Draw) -> Call:
    widths = [draw.pick(*WIDTHS) for _ in range(draw.pick(2, 2, 3, 4))]
    arguments = {
        "widths": widths,
        "activation": draw.pick(*ACTIVATIONS),
        SEED: int(draw.rng.integers(2**32)),
        "dtype": draw.pick("float32", "float64", np.float32),
        "bias": draw.pick(True, False),
        "normalize": draw.pick(True, False),
    }

    def check(made: Any) -> None:
        expect(made.widths == tuple(widths), f"widths {made.widths}, not {widths}")
        expect(made.dtype == np.dtype(arguments["dtype"]), f"dtype {made.dtype}")
        expect((made.biases is not None) == arguments["bias"], f"biases {made.biases}")
        same_bits(list(rk.MLP.random(**arguments).weights), list(made.weights), "the same seed again")

    return Call(rk.MLP.random, arguments, check, 1)


@generator("Keys")
def keys(draw: Draw) -> Call:
    width, d = draw.pick(*WIDTHS), draw.pick(*WIDTHS)
    psi = draw.pick(None, draw.mlp(d, width))
    table = draw.array(draw.pick(0, 1, 2, 17, 300), width if psi is None else d)
    dtype = draw.pick(None, None, "float32", "float64", "float16", "bfloat16")

    def check(made: Any) -> None:
        searched = np.float64 if made.dtype == "float64" else np.float32
        q = draw.numbers((5, width)).astype(searched)
        expect(made.shape == (len(table), width), f"shape {made.shape}")
        if dtype in (None, table.dtype.name):
            expected = rk.retrieve(q, table if psi is None else psi(table), 3, pad=True)
            same_bits(rk.retrieve(q, made, 3, pad=True), expected, "the best of plain rows")
        added = made.add(table if psi is not None else table.astype(searched))
        expect(added.tolist() == [*range(len(table), 2 * len(table))], f"ids {added}")
        gone = draw.rng.permutation(2 * len(table))[: int(draw.rng.integers(2 * len(table) + 1))]
        made.remove(gone)
        left = np.setdiff1d(np.arange(2 * len(table)), gone)
        expect(made.ids.tolist() == left.tolist(), f"ids {made.ids}")
        best = rk.retrieve(q, made, 3, pad=True)
        expect(bool(np.isin(best[1], [-1, *left]).all()), f"ids {best[1]} of {left}")
        same_bits(rk.retrieve(q, pickle.loads(pickle.dumps(made)), 3, pad=True), best, "pickled keys")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "keys")
            made.save(path)
            same_bits(rk.retrieve(q, rk.Keys.load(path), 3, pad=True), best, "keys of a file")

    return Call(rk.Keys, {"keys": table, "psi": psi, "dtype": dtype}, check, 1)


@generator("NpyBlocks")
def npy_blocks(draw: Draw) -> Call:
    table = draw.numbers((draw.pick(1, 2, 17, 300), draw.pick(*WIDTHS)))
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, "keys.npy")
    np.save(path, table)

    def check(blocks: Any) -> None:
        expect(blocks.shape == table.shape, f"shape {blocks.shape}")
        same_bits(np.concatenate(list(blocks.blocks())), table, "the blocks one after the other")
        same_bits(np.array(list(blocks)), table, "its rows")
        a, b = sorted(draw.rng.integers(0, len(table) + 1, 2))
        same_bits(blocks[a:b], table[a:b], f"rows {a}:{b}")
        folder.cleanup()

    return Call(rk.NpyBlocks, {"path": path, "rows": draw.pick(None, 1, 3, 1000)}, check, 1)


@generator("RelationValues")
def relation_values(draw: Draw) -> Call:
    n, m = draw.pick(2, 7, 30), draw.pick(1, 5, 30)
    values = draw.numbers((n, m))
    rows = draw.rng.permutation(n)[: draw.pick(1, 2, n)]

    def check(made: Any) -> None:
        expect(made.shape == (n, m) and len(made) == n, f"shape {made.shape}")
        same_bits(made[rows].values, values[rows], f"values of rows {rows}")
        square = rk.RelationValues(values @ values.T)
        same_bits(square[rows].values, square.values[np.ix_(rows, rows)], f"values between rows {rows}")

    return Call(rk.RelationValues, {"values": values, "Y": draw.numbers((m, 3))}, check, 1)


@generator("RowPairs")
def row_pairs(draw: Draw) -> Call:
    n, m = draw.pick(2, 7, 30), draw.pick(1, 5, 30)
    pairs = np.column_stack([draw.rng.integers(n, size=20), draw.rng.integers(m, size=20)])
    rows = draw.rng.permutation(20)[: draw.pick(1, 2, 20)]

    def check(made: Any) -> None:
        expect(made.sizes == (n, m) and len(made) == 20, f"{made!r}")
        same_bits(made[rows].pairs, pairs[rows], f"pairs {rows}")

    arguments = {"pairs": pairs, "X": draw.numbers((n, 3)), "Y": draw.numbers((m, 2))}
    return Call(rk.RowPairs, arguments, check, 1)


@generator("set_num_threads")
def set_num_threads(draw: Draw) -> Call:
    n = draw.pick(1, 2, 3, 5)

    def check(_: Any) -> None:
        expect(rk.get_num_threads() == n, f"{rk.get_num_threads()} threads, not {n}")

    return Call(rk.set_num_threads, {"n": n}, check, 1)


@generator("relu_power")
def relu_power(draw: Draw) -> Call:
    r = draw.pick(0.5, 1, 2.0, np.float32(1.5))
    return Call(rk.relu_power, {"r": r}, lambda made: expect(made.parameter == r, repr(made)), 1)


@generator("leaky_relu")
def leaky_relu(draw: Draw) -> Call:
    slope = draw.pick(0.0, -1, 0.25, np.float64(3))
    return Call(rk.leaky_relu, {"slope": slope}, lambda made: expect(made.parameter == slope, repr(made)), 1)


@generator("show_config")
def show_config(draw: Draw) -> Call:
    def shown() -> str:
        with contextlib.redirect_stdout(io.StringIO()) as text:
            rk.show_config()
        return text.getvalue()

    return Call(shown, {}, lambda text: expect("threads" in text, text), 0)


# Names in `relkernels.__all__` that other generators call.
COVERED = {
    "MLPGradient": "what the vector-Jacobian products return",
    "Activation": "what relu_power and leaky_relu return",
    "get_num_threads": "read after set_num_threads",
    "__version__": "a string",
}
# Estimators have scikit-learn's checks (tests/test_estimators_in_scikit_learn.py); files.py covers their
# files.
EXCLUDED = {
    "AsymmetricRelation",
    "HilbertCubeEncoder",
    "MultiLayerRandomFeatures",
    "NNGPKernel",
    "PreferenceRetriever",
    "RandomFeatureRidge",
    "RelationKernel",
    "SymmetricRelation",
    "ZonalFeatures",
}
