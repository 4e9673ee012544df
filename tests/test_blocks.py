"""Keys block by block: the states that join, files, and retrieval over them."""

import json
import mmap
import pickle
import subprocess
import sys

import numpy as np
import pytest
import reference
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from relkernels.states import LinkedSum, SoftmaxAccumulate, TopK
from strategies import dtypes, normal, seeds

cuts = st.lists(st.integers(0, 60), max_size=5).map(lambda at: [0, *sorted(at), 60])


def parts(a, at):
    return [a[first:end] for first, end in zip(at, at[1:], strict=False)]


@given(cuts, dtypes, st.integers(1, 60), seeds)
def test_retrieval_over_blocks_is_retrieval(at, dtype, k, seed):
    rng = np.random.default_rng(seed)
    q, keys = rng.integers(-1, 2, (7, 3)).astype(dtype), rng.integers(-1, 2, (60, 3)).astype(dtype)
    keys[rng.integers(60, size=4)] = np.nan
    keys[rng.integers(60, size=4), 0] = -np.inf
    values, indices = rk.retrieve_blocks(q, iter(parts(keys, at)), k)
    expected_values, expected_indices = rk.retrieve(q, keys, k)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_array_equal(values, expected_values)
    assert values.dtype == dtype


def test_retrieval_over_blocks_through_maps(rng):
    phi, psi = rk.MLP.random([5, 32, 8], "gelu", seed=1), rk.MLP.random([6, 32, 8], "gelu", seed=2)
    q, keys = normal(rng, (40, 5), np.float32), normal(rng, (3000, 6), np.float32)
    for precision in (None, "bf16"):
        got = rk.retrieve_blocks(q, parts(keys, [0, 1, 1300, 3000]), 9, phi, psi, precision=precision)
        expected = rk.retrieve(q, keys, 9, phi, psi, precision=precision)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    half = keys.astype(np.float16)
    got = rk.retrieve_blocks(half[:5], parts(half, [0, 1300, 3000]), 3)
    assert got[0].dtype == np.float16
    np.testing.assert_array_equal(got[1], rk.retrieve(half[:5], half, 3)[1])


@given(cuts, st.integers(2, 60), seeds)
def test_states_join_in_any_order(at, k, seed):
    rng = np.random.default_rng(seed)
    q, keys = rng.integers(-1, 2, (5, 2)).astype(float), rng.integers(-1, 2, (60, 2)).astype(float)
    mask = rng.random((5, 60)) < 0.3
    top = TopK(k)
    states = [
        top.accept(q, keys[first:end], first, None, None, mask[:, first:end])
        for first, end in zip(at, at[1:], strict=False)
    ]
    joined = top.init((5,), q.dtype)
    for i in rng.permutation(len(states)):
        joined = top.merge(joined, states[i])
    for a, b in zip(top.finish(joined), rk.retrieve(q, keys, k, mask=mask), strict=True):
        np.testing.assert_array_equal(a, b)


@given(cuts, dtypes, st.sampled_from([0.0, 0.05, 0.6]), seeds)
def test_softmax_states_join(at, dtype, density, seed):
    rng = np.random.default_rng(seed)
    q, k, v = (normal(rng, shape, dtype) for shape in ((9, 4), (60, 4), (60, 3)))
    q *= dtype(4)
    mask = rng.random((9, 60)) < density
    softmax = SoftmaxAccumulate(1.0)
    states = [
        softmax.accept(q, k[a:b], v[a:b], None, None, mask[:, a:b]) for a, b in zip(at, at[1:], strict=False)
    ]
    joined = states[0]
    for state in states[1:]:
        joined = softmax.merge(joined, state)
    out, lse = softmax.finish(joined)
    expected, expected_lse = reference.attention(q, k, v, scale=1.0, mask=mask)
    assert out.dtype == lse.dtype == dtype
    tolerance = 5e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1))
    np.testing.assert_array_equal(np.isneginf(lse), np.isneginf(expected_lse))
    there = np.isfinite(expected_lse)
    np.testing.assert_allclose(lse[there], expected_lse[there], rtol=tolerance, atol=tolerance)


def test_nan_stays_in_its_row_of_softmax_states(rng):
    q, k, v = rng.standard_normal((3, 2)), rng.standard_normal((8, 2)), rng.standard_normal((8, 2))
    q[1] = np.nan
    softmax = SoftmaxAccumulate()
    states = [softmax.accept(q, k[a : a + 4], v[a : a + 4], None, None) for a in (0, 4)]
    out, lse = softmax.finish(softmax.merge(*states))
    assert np.isnan(out[1]).all()
    assert np.isnan(lse[1])
    assert np.isfinite(out[[0, 2]]).all()
    assert np.isfinite(lse[[0, 2]]).all()


def test_sums_join(rng):
    x, y, v = rng.standard_normal((5, 2)), rng.standard_normal((30, 2)), rng.standard_normal((30, 3))
    state = LinkedSum("exp", 0.5)
    halves = [state.accept(x, y[a : a + 15], v[a : a + 15], None, None) for a in (0, 15)]
    (got,) = state.finish(state.merge(*halves))
    np.testing.assert_allclose(got, rk.relation_matvec(x, y, v, link="exp", scale=0.5), rtol=1e-13)


@pytest.fixture
def file(tmp_path, rng):
    path = tmp_path / "keys.npy"
    keys = normal(rng, (1003, 7), np.float32)
    np.save(path, keys)
    return path, keys


@pytest.mark.parametrize("rows", [1, 10, 1002, 1003, 5000, None])
def test_blocks_of_a_file(file, rows):
    path, keys = file
    blocks = rk.NpyBlocks(path, rows)
    read = list(blocks)
    assert len(read) == len(blocks)
    np.testing.assert_array_equal(np.concatenate(read), keys)
    assert not read[0].flags.writeable
    assert (blocks.shape, blocks.dtype, blocks.nbytes) == (keys.shape, keys.dtype, keys.nbytes)
    np.testing.assert_array_equal(blocks[5:900, 2:4], keys[5:900, 2:4])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(blocks))[1000:], keys[1000:])


def test_blocks_map_themselves_alone(tmp_path):
    """Blocks lie where pages do not begin; each keeps no more of the file than itself."""
    keys = np.arange(3 * mmap.PAGESIZE, dtype=np.float64).reshape(-1, 3)
    np.save(tmp_path / "keys.npy", keys)
    for first, block in zip(range(0, len(keys), 37), rk.NpyBlocks(tmp_path / "keys.npy", 37), strict=True):
        np.testing.assert_array_equal(block, keys[first : first + 37])
        base = block
        while isinstance(base, np.ndarray):
            base = base.base
        mapped = base.obj if isinstance(base, memoryview) else base
        assert len(mapped) <= block.nbytes + mmap.ALLOCATIONGRANULARITY


def test_an_empty_file_of_keys(tmp_path):
    np.save(tmp_path / "none.npy", np.empty((0, 3)))
    assert list(rk.NpyBlocks(tmp_path / "none.npy")) == []
    with pytest.raises(ValueError, match=r"k: expected at most 0, the rows of all blocks, got 1"):
        rk.retrieve_blocks(np.ones((2, 3)), rk.NpyBlocks(tmp_path / "none.npy"), 1)


def test_a_truncated_file_is_an_error_whenever_it_is_cut(file):
    path, _ = file
    whole = path.read_bytes()
    blocks = iter(rk.NpyBlocks(path, 100))
    next(blocks)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"keys.npy: truncated: expected {len(whole)} bytes.*\(1003, 7\)"):
        list(blocks)
    with pytest.raises(ValueError, match="truncated"):
        rk.NpyBlocks(path)
    path.write_bytes(whole[:20])
    with pytest.raises(ValueError, match=r"keys\.npy: not a readable \.npy file"):
        rk.NpyBlocks(path)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.ones(5), ValueError, r"expected an array of shape \(rows, features\).*got shape \(5,\)"),
        (np.ones((5, 0)), ValueError, r"features > 0, got shape \(5, 0\)"),
        (np.ones((5, 2), np.int64), TypeError, "expected float32 or float64 or float16, got int64"),
        (np.ones((5, 2), ">f4"), TypeError, "got >f4"),
        (np.asfortranarray(np.ones((5, 2))), ValueError, "C order"),
        (np.array([[print]]), TypeError, "got object"),
    ],
)
def test_files_of_other_arrays(tmp_path, array, error, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(error, match=message):
        rk.NpyBlocks(tmp_path / "x.npy")


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        rk.NpyBlocks(tmp_path / "nowhere.npy")
    (tmp_path / "text.npy").write_text("not an array")
    with pytest.raises(ValueError, match=r"text\.npy: not a readable \.npy file"):
        rk.NpyBlocks(tmp_path / "text.npy")


def test_bad_arguments(file):
    path, keys = file
    q = keys[:2]
    for arguments, error, message in [
        ((q[0], [keys], 1), ValueError, r"q: expected shape \(rows, features\), got \(7,\)"),
        ((q.tolist(), [keys], 1), TypeError, "q: expected a NumPy array, got list"),
        ((q, [keys, keys[0]], 1), ValueError, r"blocks\[1\]: expected shape"),
        ((q, [keys.tolist()], 1), TypeError, r"blocks\[0\]: expected a NumPy array, got list"),
        ((q, [keys], 0), ValueError, "k: expected an integer >= 1"),
        ((q, [keys], 1004), ValueError, "k: expected at most 1003"),
        ((q, [keys.astype(float)], 1), TypeError, "keys: expected float32, the dtype of q, got float64"),
        ((q[:, :3], [keys], 1), ValueError, "keys: expected features as wide as those of q, 3"),
    ]:
        with pytest.raises(error, match=message):
            rk.retrieve_blocks(*arguments)
    with pytest.raises(ValueError, match="rows: expected an integer >= 1"):
        rk.NpyBlocks(path, 0)
    with pytest.raises(TypeError, match="index: expected a slice of rows"):
        rk.NpyBlocks(path)[3]
    with pytest.raises(ValueError, match="step 1"):
        rk.NpyBlocks(path)[::2]


# ---- the demo ---------------------------------------------------------------------------------------------


def demo(*arguments):
    command = [sys.executable, "-m", "relkernels", "demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_demo_retrieves_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = demo("retrieval", "--rows", 1_200_000, "--queries", 32, "--k", 5, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["retrieval"]
    assert (told["rows"], told["dim"], told["queries"], told["k"]) == (1_200_000, 64, 32, 5)
    assert told["checked_queries"] == 8
    assert told["largest_error"] <= told["error_bound"]
    assert told["bytes"] == 1_200_000 * 256
    assert told["peak_bytes"] < 0.7 * told["bytes"]
    assert told["rows_per_second"] == pytest.approx(told["rows"] / told["seconds"])
    assert told["bytes_per_second"] == pytest.approx(told["bytes"] / told["seconds"])
    assert "retrieving" in done.stderr
    assert list(tmp_path.iterdir()) == []  # what it wrote is gone


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
    from relkernels.experiments.retrieval import largest_error, write_keys

    write_keys(tmp_path / "keys.npy", 70_000, 3)
    keys = rk.NpyBlocks(tmp_path / "keys.npy", 10_000)
    q = normal(rng, (3, 3), np.float32)
    values, indices = rk.retrieve_blocks(q, keys, 4)
    assert largest_error(q, keys, values, indices) < 1e-6
    assert largest_error(q, keys, values, indices[:, ::-1]) > 1e-6  # values of other keys
    repeated = indices.copy()
    repeated[0, 1] = repeated[0, 0]
    assert largest_error(q, keys, values, repeated) == np.inf
    fewer = rk.retrieve_blocks(q, [keys[: indices.max()]], 4)  # the best that are there, not the best
    assert largest_error(q, keys, *fewer) > 1e-6


def test_keys_drawn_are_the_same_every_time(tmp_path):
    from relkernels.experiments.retrieval import write_keys

    write_keys(tmp_path / "a.npy", 70_000, 3)
    write_keys(tmp_path / "b.npy", 70_001, 3)
    a, b = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    np.testing.assert_array_equal(a, b[:70_000])
    assert a.std() == pytest.approx(1, abs=0.02)
    assert len(np.unique(a[:, 0])) > 65_000
