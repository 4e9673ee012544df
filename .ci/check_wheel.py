"""Check that a wheel is small and complete: install it without a compiler, and run the demo."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

LARGEST = 5_000_000  # bytes, without CUDA


def main() -> None:
    """Check the wheel of the first argument in the fresh environment of the second."""
    wheel, environment = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    size = wheel.stat().st_size
    assert size <= LARGEST, f"{wheel.name} has {size} bytes, more than {LARGEST}"
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("relkernels/__init__.py", "relkernels/py.typed", "relkernels/_core.pyi"):
        assert wanted in names, wanted
    strangers = {name.split("/")[0] for name in names if ".dist-info/" not in name} - {"relkernels"}
    assert not strangers, strangers
    assert not [name for name in names if name.endswith((".a", ".hpp", ".cpp", ".cmake"))]

    # Only the environment's programs: no compiler, no linker, no make.
    programs = str(environment / "bin")
    for tool in ("c++", "g++", "gcc", "cc", "clang", "ld", "make", "cmake", "ninja"):
        assert shutil.which(tool, path=programs) is None, tool
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "HOME", "TMPDIR"))}
    alone = {"cwd": "/", "env": kept | {"PATH": programs}, "check": True}
    subprocess.run(
        [f"{programs}/pip", "install", "-q", "--only-binary", ":all:", str(wheel)],
        **alone,
    )
    done = subprocess.run(
        [f"{programs}/relkernels", "demo", "symmetric", "--json"], stdout=subprocess.PIPE, text=True, **alone
    )
    figures = json.loads(done.stdout)["symmetric"]
    assert figures["auc"] >= 0.99, figures
    done = subprocess.run(
        [f"{programs}/relkernels", "info", "--json"], stdout=subprocess.PIPE, text=True, **alone
    )
    info = json.loads(done.stdout)
    assert info["isa"] == info["available_isas"][0]
    print(f"{wheel.name}: {size} bytes, ROC-AUC {figures['auc']:.4f} without a compiler, on {info['isa']}")


if __name__ == "__main__":
    main()
