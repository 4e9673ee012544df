"""Instruction sets: choice, agreement, and the one-definition rule of the objects."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import relkernels as rk
from relkernels import _core
from strategies import mlp, normal

CODE = """
import sys, numpy as np, relkernels as rk
from relkernels import _core
data = np.load(sys.argv[1])
n = sum(name.startswith("w") for name in data)
phi = rk.MLP([data[f"w{i}"] for i in range(n)], [data[f"b{i}"] for i in range(n)], "gelu")
out = rk.attention(data["x"], data["x"], data["x"], phi)
np.save(sys.argv[2], out)
print(_core.isa)
"""


@pytest.mark.parametrize("isa", ["portable", "neon", "avx2", "avx512", "avx512_bf16", "amx"])
def test_environment_chooses_and_results_agree(isa, tmp_path, rng):
    if isa not in _core.available_isas():
        pytest.skip(f"this processor lacks {isa}")
    phi = mlp(rng, [7, 50, 12], np.float32, "gelu")
    x = normal(rng, (333, 7), np.float32)
    layers = {f"w{i}": w for i, w in enumerate(phi.weights)}
    layers |= {f"b{i}": b for i, b in enumerate(phi.biases)}
    np.savez(tmp_path / "in.npz", x=x, **layers)
    done = subprocess.run(
        [sys.executable, "-c", CODE, tmp_path / "in.npz", tmp_path / "out.npy"],
        env=os.environ | {"RELKERNELS_ISA": isa}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == isa
    ours, theirs = rk.attention(x, x, x, phi), np.load(tmp_path / "out.npy")
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(ours)


@pytest.mark.skipif(platform.machine() not in ("aarch64", "arm64"), reason="needs a 64-bit ARM processor")
def test_arm_has_neon():
    assert _core.available_isas() == ["neon", "portable"]


def test_an_unknown_name_is_refused():
    done = subprocess.run(
        [sys.executable, "-c", "import relkernels"],
        env=os.environ | {"RELKERNELS_ISA": "mmx"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ImportError: RELKERNELS_ISA: expected one of" in done.stderr
    assert "portable" in done.stderr
    assert "'mmx'" in done.stderr


def kernel_objects():
    """Return the object files of this extension's build, with their instruction sets."""
    root = os.environ.get("RELKERNELS_BUILD_DIR") or Path(__file__).parents[1] / "build"
    return [
        (isa, path)
        for isa in ("neon", "avx2", "avx512", "avx512_bf16", "amx")
        for path in sorted(Path(root).rglob(f"relkernels_{isa}.dir/**/*.o"))
    ]


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm (binutils)")
def test_objects_share_no_definition():
    """A weak symbol of an object for newer processors could replace the same one of the portable object.

    Inspects the objects of the build if available, else builds the kernels of this checkout.
    """
    objects = kernel_objects()
    if not objects:
        pytest.skip("no build directory: set RELKERNELS_BUILD_DIR")
    for isa, path in objects:
        done = subprocess.run(
            ["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True
        )
        symbols = done.stdout.splitlines()
        assert any(f"rk::{isa}::kernels_" in line for line in symbols)
        weak = [line for line in symbols if line.split(maxsplit=2)[1] in "WVu"]
        assert weak == []
