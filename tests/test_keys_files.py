"""Files of `Keys`: the same keys after loading, which reads little; damaged files are refused."""

import contextlib
import copy
import json
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
import relkernels as rk
from relkernels.ops import key_store
from safetensors.numpy import load_file
from strategies import normal


def same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("psi", [None, rk.MLP.random([6, 5, 8], rk.leaky_relu(0.2), 0)])
@pytest.mark.parametrize("dtype", [*key_store.ELEMENTS])
def test_files(psi, dtype, rng, tmp_path):
    x, q = normal(rng, (70, 6), np.float32), normal(rng, (3, 8 if psi else 6), np.float32)
    q = q.astype(np.float64) if dtype == "float64" else q
    keys = rk.Keys(x, psi, dtype=dtype)
    keys.remove([3, 69])
    path = tmp_path / "keys.safetensors"
    keys.save(path)
    for again in (rk.Keys.load(path), pickle.loads(pickle.dumps(keys)), copy.deepcopy(keys)):
        same(rk.retrieve(q, again, 9), rk.retrieve(q, keys, 9))
        assert repr(again) == repr(keys)
        assert again.add(x[:2].astype(q.dtype) if psi is None else x[:2]).tolist() == [70, 71]
        assert again.ids.tolist() == [*(i for i in range(69) if i != 3), 70, 71]
    loaded = rk.Keys.load(path)
    assert not loaded._stored.features.flags.writeable
    assert loaded._stored.features.flags.aligned
    loaded.save(path)  # over the file that is mapped
    same(rk.retrieve(q, loaded, 9), rk.retrieve(q, keys, 9))
    if dtype != "bfloat16":
        np.testing.assert_array_equal(load_file(path)["features"], loaded._stored.features)
    empty = rk.Keys(x[:0], psi, dtype=dtype)
    empty.save(path)
    assert rk.Keys.load(path).shape == (0, empty.dim)


def test_a_load_reads_only_the_ids(rng, tmp_path):
    keys = rk.Keys(normal(rng, (20_000, 64), np.float32))
    keys.save(tmp_path / "k")
    tracemalloc.start()
    loaded = rk.Keys.load(tmp_path / "k")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000 < loaded.nbytes


def test_damaged_files(rng, tmp_path):
    path = tmp_path / "k"
    keys = rk.Keys(normal(rng, (40, 3), np.float32), rk.MLP.random([3, 5], random_state=0))
    keys.save(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 11):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="k: "):
            rk.Keys.load(path)
    (length,) = struct.unpack("<Q", whole[:8])
    q = np.ones((1, 5), np.float32)
    for position in range(8 + length):
        damaged = bytearray(whole)
        damaged[position] ^= 0x11
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError, TypeError):
            rk.retrieve(q, rk.Keys.load(path), 1)

    def changed(**about):
        header = json.loads(whole[8 : 8 + length])
        header["__metadata__"] |= about
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
        with pytest.raises(ValueError, match="k: ") as caught:
            rk.Keys.load(path)
        return str(caught.value)

    assert "expected a file of format 'relkernels.Keys', got 'pt'" in changed(format="pt")
    assert "expected version 1 of relkernels.Keys, got '2'" in changed(version="2")
    assert "dtype: expected one of 'float32'" in changed(dtype="int8")
    assert "features: expected float64 of shape (40, 5), got float32" in changed(dtype="float64")
    assert "ids: expected ascending integers from 0 to 38, got others" in changed(next_id="39")
    assert "many" in changed(next_id="many")
    assert "unknown metadata: 'index'" in changed(index="hnsw")
    assert "'psi.weights.1' is missing" in changed(**{"psi.layers": "2"})
    rk.MLP.random([2, 3], random_state=0).save(path)
    with pytest.raises(
        ValueError, match=r"expected a file of format 'relkernels\.Keys', got 'relkernels\.MLP'"
    ):
        rk.Keys.load(path)
    with pytest.raises(FileNotFoundError):
        rk.Keys.load(tmp_path / "absent")
