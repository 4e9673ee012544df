"""Whether the build includes the CUDA engine: by default only with an NVIDIA driver and a recent nvcc."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pybind11 = pytest.importorskip("pybind11", reason="needs pybind11 to configure the build")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake"),
    pytest.mark.skipif(
        "RELKERNELS_ISA" in os.environ, reason="the build is the same whatever RELKERNELS_ISA says"
    ),
]


def configure(folder, *options, **environment):
    """Run CMake as pip does; return its exit status and its output without line breaks."""
    run = subprocess.run(
        [
            "cmake", "-S", ROOT, "-B", folder, "-DSKBUILD=1", f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", *options,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    return run.returncode, " ".join((run.stdout + run.stderr).split())


@pytest.fixture
def old_nvcc(tmp_path):
    """A working compiler that reports CUDA 11.8, like Debian's."""
    real = shutil.which("nvcc")
    if real is None:
        pytest.skip("needs nvcc")
    script = tmp_path / "nvcc"
    script.write_text(
        f"""#!/bin/sh
if [ "$1" = --version ]; then
    echo "Cuda compilation tools, release 11.8, V11.8.89"
    exit
fi
exec {real} "$@"
"""
    )
    script.chmod(0o755)
    return str(script)


DRIVER = f"-DRELKERNELS_NVIDIA_DRIVER={__file__}"  # any file will do


def test_without_a_driver_the_default_builds_no_cuda(tmp_path):
    status, output = configure(tmp_path / "build", "-DRELKERNELS_NVIDIA_DRIVER=")
    assert status == 0
    if not Path("/proc/driver/nvidia/version").exists():
        assert "built without the CUDA engine: the machine that built it has no NVIDIA driver" in output


def test_an_old_nvcc_is_left_alone(tmp_path, old_nvcc):
    status, output = configure(tmp_path / "build", DRIVER, CUDACXX=old_nvcc)
    assert status == 0
    assert "built without the CUDA engine: it needs CUDA 12.5 or newer, nvcc is of CUDA 11.8" in output


def test_a_wish_that_cannot_be_met_is_an_error(tmp_path, old_nvcc):
    status, output = configure(tmp_path / "build", "-DRELKERNELS_CUDA=ON", CUDACXX=old_nvcc)
    assert status != 0
    assert "RELKERNELS_CUDA=ON: it needs CUDA 12.5 or newer, nvcc is of CUDA 11.8" in output


def test_other_values_are_refused(tmp_path):
    status, output = configure(tmp_path / "build", "-DRELKERNELS_CUDA=maybe")
    assert status != 0
    assert "RELKERNELS_CUDA: expected ON, OFF or AUTO, got 'maybe'" in output
