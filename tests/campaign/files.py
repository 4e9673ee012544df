"""Damaged files of models and keys: loading names the file in an error, or returns a valid object."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import relkernels as rk

LONGEST_MESSAGE = 500
ALLOWED = (TypeError, ValueError, OSError)


def saved_files(folder: Path) -> dict[Path, Callable[[Path], Any]]:
    """Write a file of each kind; return functions that load it and use the result."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 3))

    def mlp(path: Path) -> Any:
        made = rk.MLP.load(path)
        return made(np.ones((2, made.widths[0]), made.dtype))

    def blocks(path: Path) -> Any:
        table = rk.NpyBlocks(path)
        q = np.ones((2, table.shape[1]), table.dtype)
        return rk.retrieve_blocks(q, table, 1) if table.dtype != np.float16 else list(table)

    def keys(path: Path) -> Any:
        made = rk.Keys.load(path)
        return rk.retrieve(np.ones((2, made.dim)), made, 1) if made.dtype == "float64" else len(made)

    files: dict[Path, Callable[[Path], Any]] = {
        folder / "map": mlp, folder / "keys.npy": blocks, folder / "keys": keys,
    }  # fmt: skip
    rk.Keys(x, rk.MLP([x[:4, :3]])).save(folder / "keys")
    rk.MLP([x[:4, :3], y[:3, :2]], [x[0, :3], y[0, :2]], rk.leaky_relu(0.2)).save(folder / "map")
    np.save(folder / "keys.npy", x)
    estimators = {
        "symmetric": (rk.SymmetricRelation(hidden_widths=(5,), max_iter=2), (x, x @ x.T)),
        "asymmetric": (rk.AsymmetricRelation(hidden_widths=(5,), max_iter=2), (x, y, x @ x.T)),
    }
    for name, (estimator, data) in estimators.items():
        estimator.fit(*data).save(folder / name)
        kind = type(estimator)
        files[folder / name] = kind.load
    return files


def with_header(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with this header, which is JSON or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def headers(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield files with headers that are wrong in ways that random damage would not find."""
    (length,) = struct.unpack("<Q", good[:8])
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
    tensor = next((name for name in header if name != "__metadata__"), None)
    if tensor is None:
        return
    for key, value in (
        ("shape", [2**62, 2**62]), ("shape", [-1, 3]), ("shape", [2**64, 1]), ("shape", []), ("shape", "3"),
        ("shape", [0, 3]), ("shape", [1.5]), ("shape", [10**30]), ("dtype", "F8"), ("dtype", "I64"),
        ("dtype", 3), ("dtype", "BF16"), ("dtype", "BOOL"), ("data_offsets", [0, 2**63]),
        ("data_offsets", [2**64, 0]), ("data_offsets", [8, 0]), ("data_offsets", [-1, 3]),
        ("data_offsets", []), ("data_offsets", [0, 1]),
    ):  # fmt: skip
        yield f"{key} {value}", with_header(header | {tensor: header[tensor] | {key: value}}, data)
    yield "no tensor", with_header({k: v for k, v in header.items() if k != tensor}, data)
    once = json.dumps({tensor: header[tensor]}).encode()
    yield "the name of a tensor twice", with_header(once[:-1] + b"," + json.dumps(header).encode()[1:], data)
    for name, value in (("layers", "10000000000"), ("layers", "-1"), ("layers", "x"), ("layers", "0"),
                        ("bias", "maybe"), ("activation", "nope"), ("parameter", "nan"), ("parameter", "x"),
                        ("state", "[]"), ("state", "{"), ("state", "{}"), ("state", "3"),
                        ("state", '{"parameters": [], "fitted": 3}'), ("version", "99"),
                        ("state", '{"parameters": {"nope": 1}, "fitted": {}}'),
                        ("state", "[" * 100_000)):  # fmt: skip
        if name in header["__metadata__"] or name == "parameter":
            changed = header["__metadata__"] | {name: value}
            yield f"{name} {value[:50]}", with_header(header | {"__metadata__": changed}, data)
    absurd = header["__metadata__"] | {"state": absurd_state(header["__metadata__"])}
    yield "state of absurd sizes", with_header(header | {"__metadata__": absurd}, data)
    yield "metadata that is no table", with_header(header | {"__metadata__": 3}, data)
    for size in (0, 1, 2**31, 2**63 - 1, 2**64 - 1, len(good)):
        yield f"a header of {size} bytes", with_header(header, data, size)
    yield "a header of many brackets", with_header(b"[" * 1_000_000)


def absurd_state(metadata: dict[str, str]) -> str:
    """Return an estimator's state with a map of ten billion layers."""
    state = json.loads(metadata.get("state", "{}"))
    if isinstance(state.get("fitted"), dict):
        state["fitted"]["phi_"] = {"kind": "mlp", "layers": 10**10, "bias": True, "activation": None}
    return json.dumps(state)


def npy_headers(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield .npy files with a wrong header."""
    data = good[-30 * 4 * 8 :]
    for text in (
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 4), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (30, 0), }",
        "{'descr': '<f8', 'fortran_order': True, 'shape': (30, 4), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (30, 4), }",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (30, 4), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1e3, 4), }",
        "__import__('os').abort()", "(" * 5000, "{" * 50, "", "\0" * 64,
    ):  # fmt: skip
        encoded = text.encode()
        yield text[:60], b"\x93NUMPY\x01\x00" + struct.pack("<H", len(encoded)) + encoded + data


def damaged(good: bytes, rng: np.random.Generator, count: int, npy: bool) -> Iterator[tuple[str, bytes]]:
    """Yield damaged versions of the file, each with a description."""
    for length in sorted({0, 1, 7, 8, 9, len(good) - 1, *rng.integers(0, len(good), count).tolist()}):
        yield f"the first {length} bytes", good[:length]
    for _ in range(count):
        at, bit = int(rng.integers(min(len(good), 2000))), int(rng.integers(8))
        yield f"bit {bit} of byte {at}", good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]
    for _ in range(count):
        at = int(rng.integers(len(good)))
        junk = rng.bytes(int(rng.integers(1, 20)))
        yield f"junk at {at}", good[:at] + junk + good[at + len(junk) * int(rng.integers(2)) :]
    yield "more at the end", good + b"\0" * 100
    yield "a pickle", b"\x80\x04cos\nabort\n(tR."
    yield "an image", b"\x89PNG\r\n\x1a\n" + rng.bytes(1000)
    yield from npy_headers(good) if npy else headers(good)


def findings(folder: Path, seed: int, count: int) -> Iterator[str]:
    """Load damaged files of every kind and yield the faults of the outcomes."""
    rng = np.random.default_rng(seed)
    for path, load in saved_files(folder).items():
        good = path.read_bytes()
        load(path)
        cases = list(damaged(good, rng, count, path.suffix == ".npy"))
        for what, data in cases:
            path.write_bytes(data)
            yield from (f"{path.name}, {what}: {fault}" for fault in faults_of(load, path))
        for what, other in (("a directory", folder), ("no file", folder / "absent")):
            yield from (f"{path.name}, {what}: {fault}" for fault in faults_of(load, other))


def faults_of(load: Callable[[Path], Any], path: Path) -> Iterator[str]:
    try:
        load(path)
    except ALLOWED as error:
        text = str(error)
        if str(path) not in text:
            yield f"a message that does not name the file: {type(error).__name__}: {text[:200]}"
        if len(text) > LONGEST_MESSAGE + len(str(path)):
            yield f"a message of {len(text)} characters: {text[:200]}"
    except Exception as error:
        yield f"raised {type(error).__name__}: {str(error)[:200]}"
