"""retrieve_blocks: bit-identical to retrieve for all kinds of blocks; its part of the demo."""

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from relkernels.arrays.engine import Processor
from scipy import sparse
from strategies import cuts, normal, parts, seeds

BF16 = np.dtype(ml_dtypes.bfloat16)


def same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        as_float = np.float32 if a.dtype == BF16 else a.dtype  # NumPy finds NaN of bfloat16 unequal
        np.testing.assert_array_equal(a.astype(as_float), b.astype(as_float))


@given(
    cuts,
    st.sampled_from([np.float32, np.float64, np.float16, BF16]),
    st.integers(1, 100),
    st.sampled_from([None, (7, 60), (1, 60), (60,), (7, 1), ()]),
    st.sampled_from([0.0, 0.05, 0.5]),
    st.booleans(),
    seeds,
)
def test_is_retrieval_however_keys_are_cut(at, dtype, k, masked, density, single, seed):
    """With ties, NaN, infinities, fewer keys than k, and values that are equal only in 16 bits."""
    rng = np.random.default_rng(seed)
    q, keys = rng.integers(-1, 2, (7, 3)).astype(dtype), rng.integers(-1, 2, (60, 3)).astype(dtype)
    keys[30:] = (keys[30:].astype(float) + rng.standard_normal((30, 3)) / 500).astype(dtype)
    keys[rng.integers(60, size=4)] = np.nan
    keys[rng.integers(60, size=4), 0] = -np.inf
    mask = None if masked is None else np.asarray(rng.random(masked) < density)
    if single:
        q, mask = q[0], mask if mask is None or mask.ndim < 2 else mask[0]
    exclude = None if density == 0.05 else rng.integers(-1, 60, (4,) if single else (7, 4))
    got = rk.retrieve_blocks(q, iter(parts(keys, at)), k, mask=mask, exclude=exclude, pad=k > 60)
    same(got, rk.retrieve(q, keys, k, mask=mask, exclude=exclude, pad=k > 60))
    assert got[0].shape == got[1].shape == (*q.shape[:-1], k)
    bars = dtype(0.3) if dtype != BF16 and single else 1.0 if single else (k / 50 - q[:, 0]).astype(dtype)
    options = {"mask": mask, "exclude": exclude}
    same(
        rk.retrieve_above_blocks(q, iter(parts(keys, at)), bars, **options),
        rk.retrieve_above(q, keys, bars, **options),
    )


@given(cuts, st.sampled_from(["float32", "float64", "float16", "bfloat16"]), st.integers(1, 70), seeds)
def test_blocks_of_keys(at, dtype, k, seed):
    """Also beside arrays, and after removals: indices and mask count the keys that are left."""
    rng = np.random.default_rng(seed)
    kind = np.float64 if dtype == "float64" else np.float32
    phi, psi = (rk.MLP.random([d, 4], dtype=kind, random_state=0) for d in (2, 3))
    q, table = normal(rng, (7, 2), kind), normal(rng, (60, 3), kind)
    blocks = [rk.Keys(part, psi, dtype=dtype) for part in parts(table, at)]
    whole, left = rk.Keys(table, psi, dtype=dtype), np.sort(rng.permutation(60)[:50])
    for block, first in zip(blocks, at, strict=False):
        block.remove([i for i in range(len(block)) if first + i not in left])
    whole.remove(np.setdiff1d(np.arange(60), left))
    mask = rng.random((7, 50)) < 0.4
    seen = rng.integers(0, 50, (7, 9))
    values, ids = rk.retrieve(q, whole, k, phi, mask=mask, exclude=left[seen], pad=True)
    expected = values, np.where(ids < 0, -1, np.searchsorted(left, ids))
    same(rk.retrieve_blocks(q, blocks, k, phi, mask=mask, exclude=seen, pad=True), expected)
    same(rk.retrieve_blocks(q, whole, k, phi, mask=mask, exclude=seen, pad=True), expected)
    offsets, ids, values = rk.retrieve_above(q, whole, 0.5, phi, mask=mask, exclude=left[seen])
    above = rk.retrieve_above_blocks(q, blocks, 0.5, phi, mask=mask, exclude=seen)
    same(above, (offsets, np.searchsorted(left, ids), values))
    if dtype in ("float32", "float64"):
        mixed = [blocks[0], psi(table[left[left >= at[1]]])]
        same(rk.retrieve_blocks(phi(q), mixed, k, mask=mask, exclude=seen, pad=True), expected)


def test_pairs_above_a_threshold_are_counted_over_all_blocks(monkeypatch):
    x, blocks = np.ones((4, 1)), [np.ones((3, 1)), np.zeros((2, 1)), np.ones((5, 1))]
    assert rk.retrieve_above_blocks(x, blocks, 1.0, limit=32)[0].tolist() == [0, 8, 16, 24, 32]
    for limit in (1, 12, 31):
        with pytest.raises(ValueError, match=f"limit: expected at least 32, .* got {limit}$"):
            rk.retrieve_above_blocks(x, blocks, 1.0, limit=limit)
    assert [a.tolist() for a in rk.retrieve_above_blocks(x, iter(()), 1.0)] == [[0] * 5, [], []]
    monkeypatch.setattr(Processor, "available", staticmethod(lambda: 400))
    with pytest.raises(MemoryError, match="32 pairs at or above the threshold need 1280 bytes; 400 bytes"):
        rk.retrieve_above_blocks(x, blocks, 1.0)


@pytest.mark.parametrize("call", ["retrieve_blocks", "retrieve_above_blocks"])
def test_excluded_indices_beyond_the_blocks(call):
    x, function = np.ones((3, 2)), getattr(rk, call)
    for blocks in (x, [x], iter([x[:1], x[1:]])):
        with pytest.raises(ValueError, match=r"exclude: expected indices from 0 to 2, or -1 .*, got 3"):
            function(x, blocks, 1, exclude=np.array([0, 1, 3]))
    with pytest.raises(ValueError, match=r"exclude: expected 3 columns, one for each row .*, got 4"):
        function(x, [x], 1, exclude=sparse.csr_array((3, 4)))
    with pytest.raises(ValueError, match=r"exclude: expected indices from 0, or -1 for none, got -2"):
        function(x, [x], 1, exclude=np.array([0, 1, -2]))


def test_bad_blocks_of_keys():
    x = np.ones((5, 3), np.float32)
    psi, keys = rk.MLP.random([3, 4], random_state=0), rk.Keys(x)
    for call, message in (
        (lambda: rk.retrieve_blocks(x, [x, keys], 1, None, psi), "^keys|^psi|^blocks"),
        (lambda: rk.retrieve_blocks(x, keys, 1, psi=rk.MLP.random([3, 3])), "^psi: expected None, .* Keys"),
        (lambda: rk.retrieve_blocks(x.astype(float), [keys], 1), r"^q: expected float32, .*blocks\[0\]"),
        (lambda: rk.retrieve_blocks(x[:, :2], [keys], 1), r"^blocks\[0\]: .* 2 \(from q .*\(5, 3\)"),
        (lambda: rk.retrieve_blocks(x, keys, 6), "^k: expected at most 5"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()


@pytest.mark.parametrize("dtype", [np.float16, BF16])
def test_16_bits_are_merged_before_they_are_rounded(dtype):
    """Key 1 is better than key 0 by less than 16 bits can represent."""
    q = np.array([[1.0, 2.0**-14]]).astype(dtype)
    keys = np.array([[1.0, 0.0], [1.0, 1.0]]).astype(dtype)
    values, indices = rk.retrieve_blocks(q, [keys[:1], keys[1:]], 2)
    assert indices.tolist() == [[1, 0]]
    assert values.dtype == dtype
    assert values[0, 0] == values[0, 1]
    same((values, indices), rk.retrieve(q, keys, 2))


def test_through_maps(rng):
    phi, psi = rk.MLP.random([5, 32, 8], "gelu", seed=1), rk.MLP.random([6, 32, 8], "gelu", seed=2)
    q, keys = normal(rng, (40, 5), np.float32), normal(rng, (3000, 6), np.float32)
    for precision in (None, "bf16"):
        got = rk.retrieve_blocks(q, parts(keys, [0, 1, 1300, 3000]), 9, phi, psi, precision=precision)
        same(got, rk.retrieve(q, keys, 9, phi, psi, precision=precision))
    same(rk.retrieve_blocks(q[3], [keys], 9, phi, psi), rk.retrieve(q[3], keys, 9, phi, psi))
    # Stored features are not mapped again.
    same(rk.retrieve_blocks(phi(q), [psi(keys)], 9), rk.retrieve(q, keys, 9, phi, psi))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, BF16])
def test_keys_of_a_file(tmp_path, rng, dtype):
    q, keys = normal(rng, (5, 7), np.float32).astype(dtype), normal(rng, (300, 7), np.float32).astype(dtype)
    path = tmp_path / "keys.npy"
    np.save(path, keys)
    mask = rng.random((5, 300)) < 0.5
    expected = rk.retrieve(q, keys, 4, mask=mask)
    blocks = rk.NpyBlocks(path, 100, dtype="bfloat16" if dtype == BF16 else None)
    same(rk.retrieve_blocks(q, blocks, 4, mask=mask), expected)
    if dtype != BF16:
        same(rk.retrieve_blocks(q, path, 4, mask=mask), expected)
        same(rk.retrieve_blocks(q, str(path), 4, mask=mask), expected)


def test_an_array_is_one_block(rng):
    q, keys = normal(rng, (5, 7), np.float32), normal(rng, (30, 7), np.float32)
    same(rk.retrieve_blocks(q, keys, 4), rk.retrieve(q, keys, 4))


@pytest.mark.parametrize("half", [None, "float16", "bfloat16"])
def test_tensors(rng, tmp_path, half):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    q, keys = (torch.tensor(normal(rng, (n, 7), np.float32)) for n in (5, 30))
    mask = torch.tensor(rng.random((5, 30)) < 0.5)
    if half:
        q, keys = q.to(getattr(torch, half)), keys.to(getattr(torch, half))
    expected = rk.retrieve(q, keys, 4, mask=mask)
    saved = keys.view(torch.uint16).numpy() if half == "bfloat16" else keys.numpy()
    np.save(tmp_path / "keys.npy", saved)
    file = rk.NpyBlocks(tmp_path / "keys.npy", 9, dtype="bfloat16" if half == "bfloat16" else None)
    for blocks in (keys, [keys[:9], keys[9:]], file):
        for a, b in zip(rk.retrieve_blocks(q, blocks, 4, mask=mask), expected, strict=True):
            assert type(a) is torch.Tensor
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
    values, indices = rk.retrieve_blocks(q[2], [keys], 40, mask=mask[2], pad=True)
    assert values.shape == indices.shape == (40,)
    assert torch.equal(indices[:4], expected[1][2])


def test_no_keys(tmp_path):
    np.save(tmp_path / "none.npy", np.empty((0, 3)))
    for blocks in (rk.NpyBlocks(tmp_path / "none.npy"), [], [np.empty((0, 3))]):
        with pytest.raises(ValueError, match=r"k: expected at most 0, the rows .*pad=True.*, got 1"):
            rk.retrieve_blocks(np.ones((2, 3)), blocks, 1)
        values, indices = rk.retrieve_blocks(np.ones((2, 3)), blocks, 2, pad=True)
        assert values.tolist() == [[-np.inf] * 2] * 2
        assert indices.tolist() == [[-1] * 2] * 2


def test_what_a_file_cannot_give_is_said_before_it_is_read(tmp_path, monkeypatch):
    np.save(tmp_path / "keys.npy", np.ones((30, 3)))
    blocks = rk.NpyBlocks(tmp_path / "keys.npy", 10)

    def blocks_that_are_not_read(_):
        raise AssertionError
        yield

    monkeypatch.setattr(rk.NpyBlocks, "blocks", blocks_that_are_not_read)
    for q, k, mask, message in [
        (np.ones((2, 3)), 31, None, "k: expected at most 30"),
        (np.ones((2, 3)), 3, np.ones((2, 31), bool), r"mask: .* \(2, 30\), got \(2, 31\)"),
        (np.ones((2, 3), np.float32), 3, None, "blocks: expected float32, the dtype of q, got float64"),
        (np.ones((2, 4)), 3, None, "blocks: expected features as wide as those of q, 4"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            rk.retrieve_blocks(q, blocks, k, mask=mask)


def test_bad_arguments(tmp_path, rng):
    keys = normal(rng, (1003, 7), np.float32)
    q = keys[:2]
    phi = rk.MLP.random([7, 3], seed=0)
    for arguments, error, message in [
        ((q[None], [keys], 1), ValueError, r"q: expected shape \(n, features\) or .*got \(1, 2, 7\)"),
        ((q.tolist(), [keys], 1), TypeError, "q: expected an array, got list"),
        ((q.astype(int), [keys], 1), TypeError, "q: expected float32 or float64"),
        ((q, [keys, keys[0]], 1), ValueError, r"blocks\[1\]: expected at least 2 dim.*got shape \(7,\)"),
        ((q, [keys[None]], 1), ValueError, r"blocks\[0\]: expected shape \(rows, features\), got \(1, "),
        ((q, keys[0], 1), ValueError, r"blocks: expected at least 2 dimensions, got shape \(7,\)"),
        ((q, keys[None], 1), ValueError, r"blocks: expected shape \(rows, features\), got \(1, 1003, 7\)"),
        ((q, [keys.tolist()], 1), TypeError, r"blocks\[0\]: expected an array, got list"),
        ((q, "keys.csv", 1), ValueError, r"blocks: expected arrays, or the path of a \.npy file, got 'keys"),
        ((q, tmp_path / "keys", 1), ValueError, "blocks: expected arrays"),
        ((q, tmp_path / "keys.npy", 1), FileNotFoundError, r"keys\.npy"),
        ((q, None, 1), TypeError, "blocks: expected arrays, .*got NoneType"),
        ((q, [keys], 0), ValueError, "k: expected an integer >= 1"),
        ((q, [keys], 1004), ValueError, r"k: expected at most 1003, .*\(pad=True pads with -inf and -1\)"),
        ((q, [keys.astype(float)], 1), TypeError, r"blocks\[0\]: expected float32, the dtype of q, got fl"),
        ((q, [keys.astype(np.float16)], 1), TypeError, r"blocks\[0\]: expected float32, .*float16: convert"),
        ((q[:, :3], [keys], 1), ValueError, r"blocks\[0\]: expected features as wide as those of q, 3"),
        ((q[:, :3], [keys], 1, phi), ValueError, r"q: expected rows of 7 features, the input of phi"),
        ((q, [keys[:, :3]], 1, phi), ValueError, r"blocks\[0\]: expected rows of 7 features, the input of p"),
        ((q, [keys], 1, 3), TypeError, "phi: expected an MLP"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            rk.retrieve_blocks(*arguments)
    for options, error, message in [
        ({"mask": np.ones((2, 1002), bool)}, ValueError, r"mask: .*\(2, 1003 or more\), got \(2, 1002\)"),
        (
            {"mask": np.ones((2, 1004), bool)},
            ValueError,
            r"mask: .*casts to \(2, 1003\), got \(2, 1004\)",
        ),
        ({"mask": np.ones((3, 1003), bool)}, ValueError, "mask: .*got .*3, 1003"),
        ({"mask": np.ones((1, 2, 1003), bool)}, ValueError, r"mask: .*got \(1, 2, 1003\)"),
        ({"mask": np.ones((2, 1003))}, TypeError, "mask: expected a boolean array"),
        ({"mask": [True]}, TypeError, "mask: expected an array, got list"),
        ({"pad": 1}, TypeError, "pad: expected True or False"),
        ({"precision": "tf32"}, ValueError, "precision: expected None or 'bf16'"),
    ]:
        with pytest.raises(error, match=message):
            rk.retrieve_blocks(q, iter([keys]), 1, **options)


# ---- the demo ---------------------------------------------------------------------------------------------


def demo(*arguments):
    command = [sys.executable, "-m", "relkernels", "demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_demo_retrieves_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = demo("retrieval", "--rows", 1_200_000, "--queries", 32, "--k", 5, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["retrieval"]
    assert (figures["rows"], figures["dim"], figures["queries"], figures["k"]) == (1_200_000, 64, 32, 5)
    assert figures["checked_queries"] == 8
    assert figures["largest_error"] <= figures["error_bound"]
    assert figures["bytes"] == 1_200_000 * 256
    assert figures["peak_bytes"] < 0.7 * figures["bytes"]
    assert figures["rows_per_second"] == pytest.approx(figures["rows"] / figures["seconds"])
    assert figures["bytes_per_second"] == pytest.approx(figures["bytes"] / figures["seconds"])
    assert "retrieving" in done.stderr
    assert list(tmp_path.iterdir()) == []  # its files are removed


@pytest.mark.slow
def test_demo_retrieves_from_a_file(tmp_path, rng):
    path = tmp_path / "keys.npy"
    np.save(path, normal(rng, (500, 3), np.float64))
    done = demo("retrieval", "--keys", path, "--queries", 4)
    assert done.returncode == 0, done.stderr
    assert "500 of 3 features, float64" in done.stdout
    path.write_bytes(path.read_bytes()[:-8])
    for arguments, text in [
        (["--keys", path], "keys.npy: truncated"),
        (["--keys", tmp_path], "relkernels demo: "),
        (["--keys", tmp_path / "nowhere.npy"], "No such file"),
        (["--rows", 10**15], "are needed for"),
        (["--rows", 4], "k: expected at most 4"),
    ]:
        done = demo("retrieval", *arguments)
        assert done.returncode == 1
        assert text in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments", [["--rows", "7"], ["retrieval", "--rows", "0"], ["retrieval", "--keys", "x", "--dim", "2"]]
)
def test_demo_usage(arguments):
    done = demo(*arguments)
    assert done.returncode == 2
    assert "usage: relkernels" in done.stderr


def test_the_check_of_the_demo_can_fail(tmp_path, rng):
    from relkernels.demos.retrieval import largest_error, write_keys

    write_keys(tmp_path / "keys.npy", 70_000, 3)
    keys = rk.NpyBlocks(tmp_path / "keys.npy", 10_000)
    q = normal(rng, (3, 3), np.float32)
    values, indices = rk.retrieve_blocks(q, keys, 4)
    assert largest_error(q, keys, values, indices) < 1e-6
    assert largest_error(q, keys, values, indices[:, ::-1]) > 1e-6  # values of other keys
    repeated = indices.copy()
    repeated[0, 1] = repeated[0, 0]
    assert largest_error(q, keys, values, repeated) == np.inf
    fewer = rk.retrieve_blocks(q, keys[: indices.max()], 4)  # the best of these, not of all
    assert largest_error(q, keys, *fewer) > 1e-6


def test_keys_drawn_are_the_same_every_time(tmp_path):
    from relkernels.demos.retrieval import write_keys

    write_keys(tmp_path / "a.npy", 70_000, 3)
    write_keys(tmp_path / "b.npy", 70_001, 3)
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    np.testing.assert_array_equal(a, b[:70_000])
    assert a.std() == pytest.approx(1, abs=0.02)
    assert len(np.unique(a[:, 0])) > 65_000
