"""Build the CUDA sources as plain C++ for the emulated device, cached by the content of the sources."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]
FLAGS += ["-DRK_CUDA_EMULATED"]
INCLUDES = [ROOT / "cuda", ROOT / "tests" / "cuda_emulation", ROOT / "csrc", ROOT / "include"]


def library(name: str, sources: list[Path], *, flags: tuple[str, ...] = ()) -> Path:
    """Return the path of the shared library `name`, compiled from the sources unless it is cached.

    It is in the build directory (``RELKERNELS_BUILD_DIR`` or ``build/``), in a folder named by a hash of the
    compiler's version, the flags, and all files that may be included. Sources are compiled in parallel. Skips
    the test if there is no compiler or the emulator cannot run on this machine.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the emulated GPU switches threads by x86-64 instructions")
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    command = [compiler, *FLAGS, *flags, *(f"-I{folder}" for folder in INCLUDES)]
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout
    headers = [path for folder in INCLUDES for path in sorted(folder.rglob("*.*h*"))]
    state = hashlib.sha256(repr([version, FLAGS, flags]).encode())
    for path in [*headers, *sources]:
        state.update(path.name.encode() + path.read_bytes())
    built = Path(os.environ.get("RELKERNELS_BUILD_DIR") or ROOT / "build") / "cuda_emulation"
    target = built / state.hexdigest()[:16] / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes of a test run, one compiles
        if not target.exists():
            _compile(command, sources, target)
    return target


def _compile(command: list[str | Path], sources: list[Path], target: Path) -> None:
    work = target.with_name(f"{target.name}.{os.getpid()}")
    work.mkdir()

    def compiled(source: Path) -> Path:
        out = work / f"{source.stem}.o"
        call = [*command, "-x", "c++", "-c", source, "-o", out]
        done = subprocess.run(call, capture_output=True, text=True)
        assert done.returncode == 0, f"{source.name}:\n{done.stderr[-4000:]}"
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    linked = work / target.name
    subprocess.run([command[0], "-shared", *objects, "-o", linked, "-pthread"], check=True)
    linked.replace(target)
    shutil.rmtree(work)


def module(name: str, sources: list[Path]) -> Path:
    """Return the path of the Python extension `name` (pybind11), compiled as in `library`."""
    pybind11 = pytest.importorskip("pybind11", reason="needs pybind11 to compile the emulated module")
    python = sysconfig.get_paths()["include"]
    flags = (f"-I{pybind11.get_include()}", f"-I{python}")
    return library(name + sysconfig.get_config_var("EXT_SUFFIX"), sources, flags=flags)
