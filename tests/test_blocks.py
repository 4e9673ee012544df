"""NpyBlocks: blocks and indexing equal those of NumPy on the array in the file."""

import itertools
import mmap
import pickle

import ml_dtypes
import numpy as np
import pytest
import relkernels as rk
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal


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
    read = list(blocks.blocks())
    assert len(read) == blocks.n_blocks
    assert [len(block) for block in read[:-1]] == [blocks.rows] * (len(read) - 1)
    np.testing.assert_array_equal(np.concatenate(read), keys)
    assert not read[0].flags.writeable
    assert (blocks.shape, blocks.dtype, blocks.nbytes) == (keys.shape, keys.dtype, keys.nbytes)
    np.testing.assert_array_equal(blocks[5:900, 2:4], keys[5:900, 2:4])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(blocks))[1000:], keys[1000:])


def test_blocks_map_themselves_alone(tmp_path):
    """Blocks do not start at page boundaries; each maps only its own part of the file."""
    keys = np.arange(3 * mmap.PAGESIZE, dtype=np.float64).reshape(-1, 3)
    np.save(tmp_path / "keys.npy", keys)
    blocks = rk.NpyBlocks(tmp_path / "keys.npy", 37).blocks()
    for first, block in zip(range(0, len(keys), 37), blocks, strict=True):
        np.testing.assert_array_equal(block, keys[first : first + 37])
        base = block
        while isinstance(base, np.ndarray):
            base = base.base
        mapped = base.obj if isinstance(base, memoryview) else base
        assert len(mapped) <= block.nbytes + mmap.ALLOCATIONGRANULARITY


def test_an_empty_file_of_keys(tmp_path):
    np.save(tmp_path / "none.npy", np.empty((0, 3)))
    blocks = rk.NpyBlocks(tmp_path / "none.npy")
    assert list(blocks) == list(blocks.blocks()) == []
    assert (len(blocks), blocks.n_blocks, blocks.shape) == (0, 0, (0, 3))
    assert blocks[:].shape == blocks[[]].shape == blocks[::2].shape == (0, 3)
    with pytest.raises(IndexError, match=r"none\.npy, which has 0, got 0"):
        blocks[0]


def test_a_truncated_file_is_an_error_whenever_it_is_cut(file):
    path, _ = file
    whole = path.read_bytes()
    keys = rk.NpyBlocks(path, 100)
    blocks = keys.blocks()
    next(blocks)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"keys.npy: truncated: expected {len(whole)} bytes.*\(1003, 7\)"):
        list(blocks)
    for index in (3, slice(2, 9), slice(2, 9, 2), [3, 1]):
        with pytest.raises(ValueError, match=r"keys\.npy: truncated"):
            keys[index]
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
        (np.ones((5, 2), ml_dtypes.bfloat16), TypeError, r"got \|V2; where it holds bfloat16, say dtype="),
    ],
)
def test_files_of_other_arrays(tmp_path, array, error, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(error, match=r"x\.npy: .*" + message):
        rk.NpyBlocks(tmp_path / "x.npy")


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        rk.NpyBlocks(tmp_path / "nowhere.npy")
    (tmp_path / "text.npy").write_text("not an array")
    with pytest.raises(ValueError, match=r"text\.npy: not a readable \.npy file"):
        rk.NpyBlocks(tmp_path / "text.npy")


def test_a_file_that_changed_is_an_error(file):
    path, keys = file
    blocks = rk.NpyBlocks(path, 100)
    np.save(path, np.repeat(keys, 2, axis=1))
    for use in (lambda: blocks[3], lambda: blocks[[3]], lambda: next(blocks.blocks())):
        with pytest.raises(ValueError, match=r"keys\.npy: expected the header of .*\(1003, 7\).*changed"):
            use()


def test_bad_arguments(file):
    path, _ = file
    with pytest.raises(ValueError, match="rows: expected an integer >= 1"):
        rk.NpyBlocks(path, 0)
    with pytest.raises(TypeError, match=r"path: expected str, bytes or os\.PathLike object, not int"):
        rk.NpyBlocks(3)
    with pytest.raises(ValueError, match="dtype: expected None or 'bfloat16', got 'float16'"):
        rk.NpyBlocks(path, dtype="float16")
    with pytest.raises(TypeError, match=r"keys\.npy: expected bfloat16 .*got float32"):
        rk.NpyBlocks(path, dtype="bfloat16")


# ---- rows, as of the array --------------------------------------------------------------------------------


def test_it_counts_rows(file):
    path, keys = file
    blocks = rk.NpyBlocks(path, 100)
    assert (len(blocks), blocks.n_blocks, blocks.rows) == (1003, 11, 100)
    read = list(blocks)
    assert len(read) == len(blocks)
    np.testing.assert_array_equal(np.array(read), keys)
    assert all(a.shape == b.shape for a, b in zip(itertools.islice(blocks, 3), keys, strict=False))


row_numbers = st.integers(-23, 22)
slices = st.slices(23)
row_indices = st.one_of(
    row_numbers,
    row_numbers.map(np.int32),
    slices,
    st.lists(row_numbers, max_size=30),
    st.lists(row_numbers, max_size=30).map(lambda rows: np.array(rows, np.int64)),
    st.lists(st.lists(row_numbers, min_size=2, max_size=2), min_size=1, max_size=4).map(np.array),
    st.lists(st.booleans(), min_size=23, max_size=23).map(np.array),
    st.lists(st.booleans(), min_size=23, max_size=23),
)
column_indices = st.one_of(st.integers(-5, 4), st.slices(5), st.just(Ellipsis))


@given(row_indices, column_indices, st.sampled_from([1, 4, 23, 100]), st.sampled_from(["<f4", "<f2", "bf16"]))
def test_it_indexes_like_the_array(tmp_path_factory, rows, columns, size, dtype):
    path = tmp_path_factory.mktemp("keys") / "keys.npy"
    array = np.random.default_rng(0).standard_normal((23, 5))
    array = array.astype(ml_dtypes.bfloat16 if dtype == "bf16" else dtype)
    np.save(path, array)
    blocks = rk.NpyBlocks(path, size, dtype="bfloat16" if dtype == "bf16" else None)
    for index in (rows, (rows, columns), (rows,), ..., (..., slice(1, 3))):
        got, expected = blocks[index], array[index]
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    path.unlink()


def test_it_indexes_by_pairs_and_by_masks_of_elements(file):
    path, keys = file
    blocks = rk.NpyBlocks(path, 100)
    pairs = ([900, 3, 3], [0, 6, -1])
    np.testing.assert_array_equal(blocks[pairs], keys[pairs])
    np.testing.assert_array_equal(blocks[[[5], [1]], [[0, 2]]], keys[[[5], [1]], [[0, 2]]])
    np.testing.assert_array_equal(blocks[keys > 1], keys[keys > 1])


def test_only_the_rows_named_are_read(tmp_path, monkeypatch):
    """Rows far apart, from several blocks, of a sparse file that is too large to be read."""
    path = tmp_path / "large.npy"
    rows, d = 10_000_000, 64
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (rows, d)}
        )
        start = file.tell()
        for i in (0, 5_000_000, rows - 1):
            file.seek(start + 4 * d * i)
            file.write(np.full(d, i, "<f4").data)
    blocks = rk.NpyBlocks(path)
    made = []
    empty = np.empty
    monkeypatch.setattr(np, "empty", lambda *a, **k: made.append(empty(*a, **k)) or made[-1])
    got = blocks[[rows - 1, 0, 5_000_000, -1, 1]]
    monkeypatch.undo()
    np.testing.assert_array_equal(got[:, 0], np.array([rows - 1, 0, 5_000_000, rows - 1, 0], np.float32))
    assert sum(a.nbytes for a in made) < 10_000


@pytest.mark.parametrize(("index", "error", "message"), [
    (1003, IndexError, "index: expected rows of .*which has 1003, got 1003"),
    (-1004, IndexError, "got -1004"),
    ([3, 1003], IndexError, "got 1003"),
    (np.ones(5, bool), IndexError, r"index: expected booleans of shape \(1003,\) or .*got \(5,\)"),
    ((3, 7), IndexError, "index 7 is out of bounds"),
    ((3, 1, 1), IndexError, "got 3 indices"),
    ((np.ones((1003, 7), bool), 1), IndexError, "index: expected booleans"),
    ([1.5], TypeError, "index: expected an integer, a slice.*got list of dtype float64"),
    (None, TypeError, "index: .*got None"),
    (True, TypeError, "index: .*got True"),
    ("a", TypeError, "index: .*got str"),
])  # fmt: skip
def test_bad_indices(file, index, error, message):
    with pytest.raises(error, match=message):
        rk.NpyBlocks(file[0], 100)[index]


@pytest.mark.parametrize("bits", [False, True])
def test_a_file_of_bfloat16(tmp_path, rng, bits):
    keys = normal(rng, (50, 7), np.float32).astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "keys.npy", keys.view(np.uint16) if bits else keys)
    for dtype in ("bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)):
        blocks = rk.NpyBlocks(tmp_path / "keys.npy", 20, dtype=dtype)
        assert blocks.dtype == ml_dtypes.bfloat16
        assert blocks.nbytes == keys.nbytes
        np.testing.assert_array_equal(np.concatenate(list(blocks.blocks())), keys)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(blocks))[[7, 40]], keys[[7, 40]])
