"""A single call and its faults: in its result, its exception, and its arguments afterwards."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import relkernels as rk

from . import calls_of_gradients, calls_of_objects, calls_of_relational  # noqa: F401  (they register)
from .bad import spoiled
from .calls import GENERATORS, Call
from .checks import WrongResultError, flat, same_bits
from .drawing import Draw, arrays_in, beside_fence, root

LONGEST_MESSAGE = 500
ALLOWED = (TypeError, ValueError, MemoryError)
OF_FILES = (OSError,)
_CANARY = 0xA5


def uncovered() -> list[str]:
    """Return the public names that no generator calls and no list excludes."""
    known = set(GENERATORS) | set(calls_of_objects.COVERED) | set(calls_of_objects.EXCLUDED)
    return sorted(set(rk.__all__) - known)


class Kept:
    """A copy of the memory of arrays."""

    def __init__(self, value: Any) -> None:
        roots = {id(r): r for a in arrays_in(value) if not a.dtype.hasobject for r in [root(a)]}
        self._before = [(r, r.tobytes()) for r in roots.values() if r.nbytes < 1 << 26]

    def changed(self) -> bool:
        return any(r.tobytes() != before for r, before in self._before)


def message_faults(error: BaseException, names: tuple[str, ...], allowed: tuple[type, ...]) -> list[str]:
    """Return the faults of an exception caused by a bad argument with one of these names."""
    text = str(error)
    faults = []
    if not isinstance(error, allowed):
        faults.append(f"raised {type(error).__name__}")
    if not text.strip():
        faults.append("an empty message")
    if len(text) > LONGEST_MESSAGE:
        faults.append(f"a message of {len(text)} characters")
    if names and not isinstance(error, MemoryError) and not any(re.search(rf"\b{n}\b", text) for n in names):
        faults.append(f"a message that does not name {' or '.join(names)}")
    return [f"{fault}: {type(error).__name__}: {text[:300]}" for fault in faults]


def judge(seed: int, index: int) -> tuple[str, list[str]]:
    """Make the call with this number in the campaign with this seed; return a description and its faults."""
    draw = Draw(np.random.default_rng([seed, index]))
    name = draw.pick(*GENERATORS)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        call = GENERATORS[name](draw)
        rk.set_num_threads(draw.pick(1, 2, 3))
        if draw.chance(0.45):
            made = spoiled(draw, call)
            if made is not None:
                return f"bad {name}", _bad(call, *made)
        return f"good {name}", _good(draw, call)


def _bad(call: Call, arguments: dict[str, Any], name: str, refused: bool) -> list[str]:
    allowed = ALLOWED + OF_FILES if name == "path" else ALLOWED
    kept = Kept(list(arguments.values()))
    shown = f"with a bad {name}, {described(arguments[name])}"
    try:
        call.function(**arguments)
    except Exception as error:
        # The error may name another argument that does not match the bad one.
        names = (name,) if refused and name != "path" else ()
        faults = [f"{fault}\n    {shown}" for fault in message_faults(error, names, allowed)]
    else:
        faults = [f"accepted a bad {name}\n    {shown}"] if refused else []
        if not refused:
            return faults  # the output may be among the arguments
    return faults + ([f"refused, but an argument was changed\n    {shown}"] if kept.changed() else [])


def described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{type(value).__name__} of {value.dtype} {value.shape}"
    try:
        text = repr(value)
    except Exception as error:
        text = f"(repr raised {type(error).__name__})"
    return f"{type(value).__name__} {text[:80]}"


def _good(draw: Draw, call: Call) -> list[str]:
    kept = Kept(list(call.arguments.values()))
    first = draw.pick(*range(call.required + 1))
    try:
        result = _called(call, call.arguments | call.fresh(), first)
    except Exception as error:
        return [f"refused: {type(error).__name__}: {str(error)[:300]}"]
    faults = ["an argument was changed"] if kept.changed() else []
    checks = [lambda: call.check(result)]
    if flat_arrays(result):
        checks += [
            lambda: _other_threads(draw, call, result),
            lambda: _written_to_out(draw, call, result),
            lambda: _half(draw, call),
            lambda: _one_row(draw, call, result),
        ]
    for check in checks:
        try:
            check()
        except WrongResultError as wrong:
            faults.append(str(wrong))
        except ALLOWED as error:
            faults.append(f"raised {type(error).__name__}: {str(error)[:300]}")
    return faults + (["an argument was changed"] if kept.changed() and not faults else [])


def flat_arrays(result: Any) -> bool:
    return isinstance(result, (np.ndarray, tuple)) and not isinstance(result, rk.MLP)


def _called(call: Call, arguments: dict[str, Any], first: int = 0) -> Any:
    """Pass the first arguments by position."""
    values = list(arguments.values())
    return call.function(*values[:first], **dict(list(arguments.items())[first:]))


def _other_threads(draw: Draw, call: Call, result: Any) -> None:
    if draw.chance(0.3):
        before = rk.get_num_threads()
        rk.set_num_threads(draw.pick(1, 2, 4))
        again = _called(call, call.arguments | call.fresh())
        same_bits(again, result, f"{rk.get_num_threads()} threads instead of {before}")


def _written_to_out(draw: Draw, call: Call, result: Any) -> None:
    """Check that an output in unusual memory has the same bits, and that its surroundings are unchanged."""
    if not call.takes_out or draw.chance(0.6):
        return
    right = result if isinstance(result, tuple) else (result,)
    memories, outs = zip(*(_place(draw, a) for a in right), strict=True)
    given = outs if isinstance(result, tuple) else outs[0]
    got = _called(call, call.arguments | {"out": given})
    if got is not given:
        raise WrongResultError("with out, something else is returned")
    same_bits(outs, right, "what was written to out")
    for memory, out in zip(memories, outs, strict=True):
        out[...] = np.frombuffer(bytes([_CANARY] * out.itemsize), out.dtype)[0]
        if (memory != _CANARY).any():
            raise WrongResultError("memory beside out was written")


def _place(draw: Draw, like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bytes filled with canaries, and an output within them, strided or misaligned."""
    gap = draw.pick(1, 1, 2, 3)
    shape = (*like.shape[:-1], like.shape[-1] * gap + draw.pick(0, 5)) if like.ndim else like.shape
    count, skew = int(np.prod(shape)), draw.pick(0, 0, 1, like.itemsize)
    memory = beside_fence(count * like.itemsize + skew, draw.chance(0.8))
    memory[:] = _CANARY
    view = memory[skew:].view(like.dtype).reshape(shape)
    return memory, view[..., : like.shape[-1] * gap : gap] if like.ndim else view


def _half(draw: Draw, call: Call) -> None:
    """Check that float16 arrays are computed in float32 and rounded."""
    arguments = call.arguments
    if draw.dtype is not np.float32 or call.function not in HALF or draw.chance(0.8):
        return
    if any(isinstance(a, tuple) for a in arguments.values()):
        return
    halves = {
        n: a.astype(np.float16) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a
        for n, a in arguments.items()
    }
    wide = {
        n: a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == np.float16 else a
        for n, a in halves.items()
    }
    got, expected = _called(call, halves), _called(call, wide)
    rounded = [e.astype(g.dtype) for g, e in zip(flat(got), flat(expected), strict=True)]
    same_bits(flat(got), rounded, "float16 instead of float32")


_OF_ARRAYS = (
    "feature_map", "normalize", "relation_matrix", "attention", "attention_scores", "relation_matvec",
    "retrieve", "retrieve_above", "nngp_kernel", "feature_map_vjp", "normalize_vjp", "relation_matrix_vjp",
    "attention_vjp", "attention_scores_vjp", "relational_attention", "relational_attention_vjp",
)  # fmt: skip
HALF = {getattr(rk, name) for name in _OF_ARRAYS}


def _one_row(draw: Draw, call: Call, result: Any) -> None:
    """Check that NaN, infinities and huge numbers in a row of the first argument affect only that row."""
    if not call.results_of_row or draw.chance(0.7):
        return
    name, rows = next(iter(call.arguments.items()))
    if rows.shape[-2] == 0:
        return
    poisoned, i = np.array(rows), draw.pick(*range(rows.shape[-2]))
    poisoned[..., i, draw.pick(slice(None), 0)] = draw.pick(np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-42)
    got = _called(call, call.arguments | {name: poisoned} | call.fresh())
    results = result if isinstance(result, tuple) else (result,)
    parts = got if isinstance(got, tuple) else (got,)
    for a, b, axis in zip(parts, results, call.results_of_row, strict=False):
        same_bits(np.delete(a, i, axis), np.delete(b, i, axis), f"other rows than row {i} of {name}")
