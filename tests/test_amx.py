"""The AMX kernels with emulated tiles, so that they are tested on processors without tiles."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relkernels import _core
from strategies import seeds

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def product(tmp_path_factory):
    if not any(isa.startswith(("avx512", "amx")) for isa in _core.available_isas()):
        pytest.skip("the kernels beside the tiles are AVX-512, which this processor lacks")
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    library = tmp_path_factory.mktemp("amx") / "amx.so"
    flags = "-std=c++20 -O1 -ffp-contract=off -shared -fPIC -DRK_ISA_AMX -mavx2 -mfma -mbmi2"
    wide = "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mprefer-vector-width=512"
    source = ROOT / "tests" / "amx_emulation.cpp"
    folders = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'include'}"]
    command = [compiler, *flags.split(), *wide.split(), *folders, source, "-o", library]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(library)).product


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 50]),
    st.sampled_from([1, 3, 15, 16, 17, 31, 32, 33, 40, 70]),
    st.sampled_from([1, 2, 3, 31, 32, 33, 64, 70]),
    st.booleans(), st.booleans(), st.booleans(), seeds,
)  # fmt: skip
def test_product(product, rows, cols, depth, accumulate, with_bias, relu, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal((n, depth), dtype=np.float32) for n in (rows, cols))
    start = rng.standard_normal((rows, cols), dtype=np.float32)
    c = np.full((rows, cols + 3), np.nan, np.float32)
    c[:, :cols] = start
    bias = np.zeros((cols + 31) // 32 * 32, np.float32)
    bias[:cols] = rng.standard_normal(cols)
    work = np.full((rows + (cols + 31) // 32 * 32) * ((depth + 31) // 32 * 32) + 64, 0x7FC0, np.uint16)
    pointer = lambda array: ctypes.c_void_p(array.ctypes.data)  # noqa: E731
    product(
        pointer(a), pointer(b), ctypes.c_long(rows), ctypes.c_long(cols), ctypes.c_long(depth),
        ctypes.c_float(0.5), pointer(bias) if with_bias else None,
        ctypes.c_float(0 if relu else -np.inf), ctypes.c_int(accumulate), pointer(c),
        ctypes.c_long(cols + 3), pointer(work),
    )  # fmt: skip
    f, g = (x.astype(ml_dtypes.bfloat16).astype(np.float64) for x in (a, b))
    expected = (f @ g.T + (start if accumulate else 0)) * 0.5 + (bias[:cols] if with_bias else 0)
    expected = np.maximum(expected, 0) if relu else expected
    np.testing.assert_allclose(c[:, :cols], expected, rtol=1e-5, atol=1e-5)
    assert np.isnan(c[:, cols:]).all()
