"""The wgmma kernel of sm_90a on the emulated GPU: copies, barriers, swizzle and descriptors, byte by byte."""

import ctypes
import functools
import os
from pathlib import Path

import cuda_arrays
import ml_dtypes
import numpy as np
import pytest
from cuda_emulation import build

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
SHAPES = [
    (1, 1, 1),
    (128, 128, 64),  # one tile, one box
    (127, 130, 65),
    (129, 257, 200),  # all depths of a row of tiles stay resident
    (130, 700, 256),
    (260, 131, 330),  # too deep to stay resident
    (500, 90, 16),  # a block has tiles in several rows
]
# Threads in order and copies as late as possible, or the reverse: each finds errors that the other hides.
UNKINDNESS = [("forward", "late"), ("backward", "early")]


@pytest.fixture(scope="session")
def kernel():
    if "RELKERNELS_ISA" in os.environ:
        pytest.skip("the emulated GPU is the same whatever RELKERNELS_ISA says")
    sources = [ROOT / "cuda" / f"{name}.cu" for name in ("relation_matrix_wgmma", "tensor_map")]
    path = build.library("wgmma.so", [*sources, ROOT / "tests" / "cuda_emulation" / "wgmma.cpp"])
    return ctypes.CDLL(str(path)).relation_matrix


def aligned(rows, pitch, dtype, fill, skip=0):
    """An array of (rows, pitch) that begins `skip` values past a 16-byte boundary."""
    size = np.dtype(dtype).itemsize
    memory = np.zeros(rows * pitch * size + 64, np.uint8)
    start = -memory.ctypes.data % 16 + skip * size
    view = memory[start : start + rows * pitch * size].view(dtype).reshape(rows, pitch)
    view[...] = fill
    return view


def product(kernel, f, g, out, depth, *, symmetric=False, scale=1.0, multiprocessors=1):
    pointer = lambda a: ctypes.c_void_p(a.ctypes.data)  # noqa: E731
    long = ctypes.c_long
    item = lambda a: long(a.strides[0] // a.itemsize if a.ndim == 3 else 0)  # noqa: E731
    return kernel(
        pointer(f), long(f.shape[-1]), item(f), pointer(g), long(g.shape[-1]), item(g), long(f.shape[-2]),
        long(g.shape[-2]), long(depth), long(len(out) if out.ndim == 3 else 1), int(symmetric),
        ctypes.c_float(scale), pointer(out), long(out.shape[-1]), item(out),
        int(f.dtype == DTYPES["bfloat16"]), int(out.dtype == np.float32), multiprocessors,
    )  # fmt: skip


def factors(rng, rows, depth, dtype):
    """Packed factors with a pitch of a multiple of 8 values, and NaN past the depth."""
    values = aligned(rows, (depth + 15) // 8 * 8, dtype, np.nan)
    values[:, :depth] = rng.standard_normal((rows, depth))
    return values


def error(out, expected):
    return np.linalg.norm(out.astype(np.float64) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("order", "copies"), UNKINDNESS)
@pytest.mark.parametrize(("dtype", "out_dtype"), [("bfloat16", "bfloat16"), ("float16", "float32")])
@pytest.mark.parametrize("shape", SHAPES)
def test_relation_matrix(kernel, shape, dtype, out_dtype, order, copies, rng, monkeypatch):
    monkeypatch.setenv("RK_EMULATED_ORDER", order)
    monkeypatch.setenv("RK_EMULATED_COPIES", copies)
    rows, columns, depth = shape
    f, g = factors(rng, rows, depth, DTYPES[dtype]), factors(rng, columns, depth, DTYPES[dtype])
    spare = int(rng.integers(0, 2)) * 8
    out = aligned(rows, (columns + 7) // 8 * 8 + spare, DTYPES[out_dtype], np.nan)
    assert product(kernel, f, g, out, depth, scale=0.5)
    expected = 0.5 * (f[:, :depth].astype(np.float64) @ g[:, :depth].astype(np.float64).T)
    assert error(out[:, :columns], expected) <= (2e-6 if out_dtype == "float32" else 4e-3)
    assert np.isnan(out[:, columns:].astype(np.float32)).all()


@pytest.mark.parametrize("out_dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("rows", "depth"), [(1, 3), (128, 64), (129, 70), (390, 200), (300, 300)])
def test_the_symmetric_half_and_its_mirror_image(kernel, rows, depth, out_dtype, rng):
    f = factors(rng, rows, depth, DTYPES["bfloat16"])
    out = aligned(rows, (rows + 7) // 8 * 8, DTYPES[out_dtype], np.nan)
    assert product(kernel, f, f, out, depth, symmetric=True)
    values = f[:, :depth].astype(np.float64)
    assert error(out[:, :rows], values @ values.T) <= (2e-6 if out_dtype == "float32" else 4e-3)
    np.testing.assert_array_equal(out[:, :rows], out[:, :rows].T)
    assert np.isnan(out[:, rows:].astype(np.float32)).all()


@pytest.mark.parametrize(("dtype", "out_dtype"), [("float16", "float16"), ("bfloat16", "float32")])
@pytest.mark.parametrize("symmetric", [False, True])
def test_an_output_on_no_boundary(kernel, symmetric, dtype, out_dtype, rng):
    f = factors(rng, 150, 40, DTYPES[dtype])
    out = aligned(150, 153, DTYPES[out_dtype], np.nan, skip=1)
    assert product(kernel, f, f, out, 40, symmetric=symmetric)
    values = f[:, :40].astype(np.float64)
    assert error(out[:, :150], values @ values.T) <= 4e-3
    assert np.isnan(out[:, 150:].astype(np.float32)).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_batch_and_a_factor_that_all_its_items_share(kernel, symmetric, rng):
    f = factors(rng, 5 * 140, 70, DTYPES["bfloat16"]).reshape(5, 140, -1)
    g = f if symmetric else factors(rng, 150, 70, DTYPES["bfloat16"])
    columns = g.shape[-2]
    out = aligned(5 * 140, 160, np.float32, np.nan).reshape(5, 140, 160)
    assert product(kernel, f, g, out, 70, symmetric=symmetric)
    expected = f[..., :70].astype(np.float64) @ g[..., :70].astype(np.float64).swapaxes(-1, -2)
    assert error(out[..., :columns], expected) <= 2e-6
    assert np.isnan(out[..., columns:]).all()


def test_bits_depend_on_the_depth_alone(kernel, rng):
    f, g = (factors(rng, n, 200, DTYPES["float16"]) for n in (300, 400))
    whole = aligned(300, 400, np.float32, np.nan)
    assert product(kernel, f, g, whole, 200)
    again = aligned(300, 400, np.float32, np.nan)
    assert product(kernel, f, g, again, 200, multiprocessors=7)
    np.testing.assert_array_equal(whole, again)
    part = aligned(77, 104, np.float32, np.nan)
    assert product(kernel, f[130:207], g[33:137], part, 200)
    np.testing.assert_array_equal(part, whole[130:207, 33:137])


def test_a_nan_stays_in_its_row(kernel, rng):
    f, g = (factors(rng, n, 20, DTYPES["bfloat16"]) for n in (140, 150))
    f[3, 7] = np.nan
    out = aligned(140, 152, np.float32, 0)
    assert product(kernel, f, g, out, 20)
    wrong = np.isnan(out[:, :150])
    assert wrong[3].all()
    assert not np.delete(wrong, 3, axis=0).any()


def test_the_environment_asks_for_it(monkeypatch, rng):
    """If copies never arrive, the wgmma kernel waits forever, and no other kernel does."""
    if "RELKERNELS_ISA" in os.environ:
        pytest.skip("the emulated GPU is the same whatever RELKERNELS_ISA says")
    f = rng.standard_normal((2, 40, 24)).astype(np.float32)
    expected = np.float64(f) @ np.float64(f).swapaxes(-1, -2)
    with cuda_arrays.in_place_of_the_extension(cuda_arrays.emulated_kernels()):
        relation = functools.partial(cuda_arrays.EmulatedDevice().relation_matrix, f, precision="bf16")
        monkeypatch.setenv("RELKERNELS_CUDA_WGMMA", "1")
        assert error(relation(), expected) <= 1e-2
        # Heads are items of the batch that interleave in memory.
        out = cuda_arrays.EmulatedDevice().relation_matrix(f, heads=3, precision="bf16")
        split = np.float64(f).reshape(2, 40, 3, 8).swapaxes(1, 2)
        assert error(out, split @ split.swapaxes(-1, -2)) <= 1e-2
        monkeypatch.setenv("RK_EMULATED_COPIES", "never")
        with pytest.raises(RuntimeError, match="threads wait"):
            relation()
        monkeypatch.setenv("RELKERNELS_CUDA_WGMMA", "0")
        assert error(relation(), expected) <= 1e-2
        monkeypatch.delenv("RELKERNELS_CUDA_WGMMA")
        assert error(relation(), expected) <= 1e-2
        for wrong in ("yes", "", "10"):
            monkeypatch.setenv("RELKERNELS_CUDA_WGMMA", wrong)
            with pytest.raises(ValueError, match=f"RELKERNELS_CUDA_WGMMA: expected 0 or 1, got '{wrong}'"):
                relation()


def test_factors_that_the_copy_engine_does_not_take_are_refused(kernel, rng):
    f = factors(rng, 20, 16, DTYPES["bfloat16"])
    out = aligned(20, 24, np.float32, np.nan)
    narrow = aligned(20, 18, DTYPES["bfloat16"], 1)  # rows of 36 bytes
    moved = aligned(20, 24, DTYPES["bfloat16"], 1, skip=1)
    for g in (narrow, moved):
        assert not product(kernel, f, g, out, 16)
        assert not product(kernel, g, f, out, 16)
    assert np.isnan(out).all()
