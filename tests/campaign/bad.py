"""Bad arguments to replace good ones, and whether a call must reject them."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import relkernels as rk

from .calls import Call
from .drawing import Draw, arrays_in

# The kind of a parameter, by name.
ARRAYS = {
    "x", "y", "q", "k", "v", "keys", "grad", "q_rel", "k_rel", "grad_relations", "grad_values",
}  # fmt: skip
INTEGERS = {"heads", "depth", "n", "rows", "limit"}
REALS = {"scale", "rel_scale", "softcap", "weight_std", "bias_std", "r", "slope"}
FLAGS = {"causal", "return_lse", "bias", "normalize", "of_bias", "pad"}
CHOICES = {"link", "loss", "kind", "precision", "activation", "rel_activation", "dtype", "align", "of"}
MAPS = {"phi", "psi", "mlp"}


class Liar:
    """An object whose DLPack export fails."""

    def __dlpack__(self, **options: Any) -> Any:
        raise RuntimeError("no")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def no_arrays(draw: Draw) -> list[Any]:
    return [
        "x", b"bytes", 3, 2.5, True, {}, {"a": 1}, object(), len, np, Liar(), slice(3), range(5), {1, 2},
        np.float32(3), memoryview(b"1234"), [0.0] * 100_000, [[1.0, 2.0]], [np.ones(3)], "x" * 100_000,
        np.array("text"), np.array([None, 1]), np.zeros(3, "M8[s]"), np.zeros((4, 4), [("a", "f4")]),
        np.ma.masked_array(np.ones((4, 4), np.float32)), np.ones((4, 4), np.longdouble),
    ]  # fmt: skip


def of_array(draw: Draw, a: Any, results: bool) -> tuple[Any, bool]:
    """Return a replacement of the array, and whether it must be rejected."""
    kind = draw.pick("no array", "no array", "dtype", "shape", "shape", "other dtype", "huge")
    if kind == "huge" and not (isinstance(a, np.ndarray) and a.ndim > 1 and a.size and results):
        kind = "shape"  # a huge array is only for results too large for memory; others would take forever
    if kind == "no array" or not isinstance(a, np.ndarray):
        return draw.pick(*no_arrays(draw)), True
    if kind == "dtype":
        other = draw.pick("i4", "u1", "?", "c8", "c16", "O", ">f4", ">f8", "U4", "i8")
        return np.ones(a.shape, other), True
    if kind == "other dtype":
        return a.astype(draw.pick("f2", "f4", "f8")), False
    if kind == "huge":
        return np.broadcast_to(a[(0,) * (a.ndim - 2)], (10**6, 10**6, *a.shape[-2:])), False
    return draw.pick(
        a[..., :0],
        a[..., :0, :] if a.ndim > 1 else a,
        a[..., None],
        a[0] if len(a) else a,
        a.swapaxes(-1, -2) if a.ndim > 1 else a,
        np.concatenate([a, a], -1),
        np.broadcast_to(a, (7, *a.shape)),
        np.broadcast_to(a, (1,) * 25 + a.shape),
        np.float32(1) * a.reshape(-1),
        np.array(1.0, a.dtype),
    ), False


def of_integer(draw: Draw, value: Any) -> tuple[Any, bool]:
    return draw.pick(-1, -(2**63), 2**63, 10**30, 2.5, "3", np.float64(2), [1], {}, Liar(), True, np.nan,
                     np.ones(1), 1j, "9" * 10_000, b"1"), True  # fmt: skip


def of_real(draw: Draw, value: Any) -> tuple[Any, bool]:
    if draw.chance(0.3):
        return draw.pick(-1.0, 0, 1e300, 5e-324, np.float16(0.5), 10**20, np.array(0.5)), False
    return draw.pick(np.nan, np.inf, -np.inf, "1", True, 1j, [0.5], {}, Liar(), 10**400, np.ones(2), b"1",
                     "1" * 10_000, np.bool_(True)), True  # fmt: skip


def of_flag(draw: Draw, value: Any) -> tuple[Any, bool]:
    return draw.pick(1, 0, None, "yes", 2.5, [], np.array([True]), Liar(), object()), True


def of_choice(draw: Draw, value: Any) -> tuple[Any, bool]:
    return draw.pick("nope", "", 3, 2.5, [], {}, b"relu", np.exp, np.array(["exp"]), "x" * 100_000, "\0",
                     "\udce9", True, Liar(), ("exp",)), True  # fmt: skip


def of_result(draw: Draw, value: Any) -> tuple[Any, bool]:
    """Return what is no pair of an output and its lse."""
    return draw.pick(3, "out", (), (np.zeros((1, 1)),), [None, None]), True


def of_window(draw: Draw, value: Any) -> tuple[Any, bool]:
    if draw.chance(0.3):
        return draw.pick(0, np.int64(3), (None, None), [1, 2], (10**30, 0)), False
    return draw.pick(-1, 2.5, "3", True, (1,), (1, 2, 3), (0, -1), (None, 1.5), {}, Liar(), np.ones(2)), True


def of_offsets(draw: Draw, value: Any) -> tuple[Any, bool]:
    return draw.pick([0, 1], (), 3, "0", np.arange(3.0), np.arange(2, dtype=np.int32), np.array([1, 2]), {},
                     np.array([0, 2**62]), np.array([0, 5, -3, 2**40]), np.zeros((1, 1), int), Liar(),
                     np.array([], int), np.array(0), np.ma.masked_array([0, 1])), True  # fmt: skip


def of_map(draw: Draw, value: Any) -> tuple[Any, bool]:
    if isinstance(value, rk.MLP) and draw.chance(0.5):
        if draw.chance(0.5):
            other = "float64" if value.dtype == np.float32 else "float32"
            return rk.MLP([w.astype(other) for w in value.weights], None, value.activation), True
        return rk.MLP.random([draw.pick(1, 5, 200), draw.pick(1, 5, 200)], dtype=value.dtype.name), False
    return draw.pick(3, "phi", [np.eye(2)], np.eye(3), rk.MLP, len, {}, object(), Liar()), True


def of_mask(draw: Draw, value: Any) -> tuple[Any, bool]:
    if draw.chance(0.4):
        shape = draw.pick((), (0,), (1,), (1, 1), (3, 2), (7, 1, 1), (1,) * 20)
        return np.ones(shape, bool), False
    return draw.pick([True], [[True] * 1000] * 200, "mask", 1, np.ones((1, 1)), np.ones((1, 1), np.uint8), {},
                     np.ma.masked_array([[True]]), Liar(), np.ones((1, 1), object)), True  # fmt: skip


def of_exclude(draw: Draw, value: Any) -> tuple[Any, bool]:
    if draw.chance(0.3):
        return np.zeros(draw.pick((), (0,), (1,), (3, 2), (7, 1, 1), (1,) * 20), draw.pick("i8", "u1")), False
    return draw.pick([0], [[0] * 1000] * 200, "itself", 1, np.ones((1, 1)), np.ones((1, 1), bool), {},
                     np.full((1, 1), 10**6), np.full((1, 1), -2), np.ma.masked_array([[0]]), Liar(),
                     np.ones((1, 1), object)), True  # fmt: skip


def of_threshold(draw: Draw, value: Any) -> tuple[Any, bool]:
    if draw.chance(0.3):
        return np.zeros(draw.pick((), (0,), (1,), (3, 2), (1,) * 20), draw.pick("f4", "f8")), False
    return draw.pick(np.nan, "0", None, [0.0], [0.0] * 100_000, 1j, {}, np.zeros(1, int), np.zeros(1, object),
                     np.ma.masked_array([0.0]), Liar()), True  # fmt: skip


def of_out(draw: Draw, call: Call, right: Any) -> tuple[Any, bool]:
    """Return an output that does not fit the result, and True, because it must be rejected."""
    if isinstance(right, tuple):
        parts = list(right)
        which = draw.pick(*range(len(parts)))
        bad, _ = of_out(draw, call, parts[which])
        outs = [np.empty_like(p) for p in parts]
        outs[which] = bad
        return draw.pick(tuple(outs), tuple(outs), outs[0], outs, tuple(outs[:1]), tuple(outs) * 2), True
    inputs = [a for a in arrays_in(list(call.arguments.values())) if a.dtype == right.dtype and a.size]
    kinds = ["kind", "dtype", "shape"]
    if right.size:
        kinds += ["read-only"]
        # A misaligned input is copied first, so the output may overlap it.
        inputs = [a for a in inputs if a.flags.aligned]
        if inputs and max(a.nbytes for a in inputs) >= right.nbytes:
            kinds += ["overlap"]
        if right.size > 1:
            kinds += ["repeated"]
    kind = draw.pick(*kinds)
    if kind == "kind":
        return draw.pick(right.tolist(), 3, "out", np, (right,), Liar(), {}), True
    if kind == "dtype":
        return np.empty(right.shape, draw.pick("i4", "f2", "c16", "O", "?", right.dtype.newbyteorder())), True
    if kind == "shape":
        return np.empty((*right.shape, 2), right.dtype), True
    if kind == "read-only":
        out = np.empty_like(right)
        out.flags.writeable = False
        return out, True
    if kind == "overlap":
        largest = max(inputs, key=lambda a: a.nbytes)
        flat = np.ascontiguousarray(largest)
        for name, value in call.arguments.items():
            if value is largest:
                call.arguments[name] = flat
        return flat.reshape(-1)[: right.size].reshape(right.shape), bool(largest.nbytes) and any(
            value is flat for value in call.arguments.values()
        )
    return np.broadcast_to(np.empty(1, right.dtype), right.shape), True


def of_target(draw: Draw, value: Any) -> tuple[Any, bool]:
    if draw.chance(0.4):
        return draw.pick(np.arange(3), (np.arange(2), np.arange(2)), np.ones((2, 3, 4)), np.ones(1, "f4"),
                         np.full(1, np.nan), np.ones(()), np.arange(0)), False  # fmt: skip
    return draw.pick(3, "t", [1, 2], (), (1,), (np.arange(2),), (np.arange(2), 3), {}, np.ones(2, "c8"),
                     np.ones(2, object), np.array(["a"]), Liar(), [0.0] * 100_000), True  # fmt: skip


def of_blocks(draw: Draw, value: Any) -> tuple[Any, bool]:
    return draw.pick(3, [3], ["a"], [np.ones(3)], [[1.0, 2.0]], {"a": 1}, Liar(), [None],
                     np.ones(3), [np.ones((2, 2, 2))], [np.ones((2, 2), int)]), True  # fmt: skip


def of_list(draw: Draw, value: Any) -> tuple[Any, bool]:
    """Return a replacement of a list of weights, biases or widths."""
    return draw.pick(3, "44", {}, np.eye(3), [], [3], ["a"], [np.ones(3, int)], [None], [True, 4], [4],
                     (np.eye(2), np.ones(3, "O")), [np.ones((0, 3))], [[1.0] * 100_000], range(0), Liar(),
                     [10**30, 10**30], [2.5, 3], [-1, 4], [np.zeros((2, 2, 2))],
                     [10**12, 10**12]), True  # fmt: skip


def of_table(draw: Draw, value: Any) -> tuple[Any, bool]:
    """Return a replacement of a table, or of a matrix of values or indices."""
    return draw.pick("x", b"bytes", 3, 2.5, {"a": 1}, object(), len, np, Liar(), np.ones((2, 2, 2)),
                     np.array("text"), np.float32(3), value[:-1, :-1, None]), True  # fmt: skip


def of_path(draw: Draw, value: Any) -> tuple[Any, bool]:
    return draw.pick(3.5, None, [], "", "\0", "/", "/nowhere/at/all.npy", __file__, Liar()), True


def of_seed(draw: Draw, value: Any) -> tuple[Any, bool]:
    return draw.pick(-1, 2.5, "seed", [], {}, Liar(), 1j, b"1"), True


def spoiled(draw: Draw, call: Call) -> tuple[dict[str, Any], str, bool] | None:
    """Return arguments with one bad one, its name, and whether the call must be rejected."""
    parameters = inspect.signature(call.function).parameters
    if not call.arguments:
        return None
    results = all(a.size for a in arrays_in(list(call.arguments.values())))

    def array(draw: Draw, a: Any) -> tuple[Any, bool]:
        return of_array(draw, a, results)

    name = draw.pick(*parameters)
    value = call.arguments.get(name)
    if name == "out":
        if not call.takes_out:
            return None
        bad, refused = of_out(draw, call, call.function(**call.arguments))
    elif name in INTEGERS or (name == "k" and not isinstance(value, np.ndarray)):
        bad, refused = of_integer(draw, value)
        refused = refused and not (name == "rows" and isinstance(bad, int) and bad > 0)  # one block
    else:
        # The bias of attention is an array, that of a random map a flag.
        arrays = ARRAYS | {"sample_weight", "grad_lse"} | ({"bias"} if "q" in parameters else set())
        for names, change in (
            (arrays, array), (REALS, of_real), (FLAGS, of_flag), (CHOICES, of_choice),
            (MAPS, of_map), ({"mask"}, of_mask), ({"target"}, of_target),
            ({"exclude"}, of_exclude), ({"threshold"}, of_threshold),
            ({"blocks"}, of_blocks), ({"weights", "biases", "widths"}, of_list), ({"path"}, of_path),
            ({"seed", "random_state"}, of_seed), ({"window"}, of_window),
            ({"q_offsets", "k_offsets"}, of_offsets), ({"result"}, of_result),
            ({"values", "pairs", "X", "Y"}, of_table),
        ):  # fmt: skip
            if name in names:
                bad, refused = change(draw, value)
                break
        else:
            raise LookupError(f"tests/campaign/bad.py has nothing to put in the place of {name!r}")
    return call.arguments | {name: bad}, name, refused
