"""The package as a whole: cost of importing it, its metadata, and the examples of its documentation."""

import doctest
import importlib
import importlib.metadata
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import relkernels as rk
from relkernels import _core
from relkernels.base.extras import install

ROOT = Path(__file__).parents[1]
MODULES = [
    "arrays.kinds",
    "arrays.dlpack",
    "ops.relations",
    "ops.attended",
    "ops.keys",
    "ops.retrieval",
    "gradients.vjp",
    "gradients.attention",
    "gradients.loss",
    "maps.mlp",
    "maps.activations",
    "ops.linear_operator",
    "ops.nngp",
    "config",
    "states.blocks",
    "states.block_retrieval",
    "estimators.symmetric",
    "estimators.asymmetric",
    "estimators.preference",
    "estimators.nngp",
    "estimators.random_features",
    "estimators.relation_kernel",
    "estimators.ridge",
]
MODULES += [f"spectra.{name}" for name in ("operators", "points", "rkhs", "sphere", "decay", "barron")]
MODULES += [f"bounds._{name}" for name in ("attention", "one_layer", "symmetric", "asymmetric")]
MODULES += [f"bounds._{name}" for name in ("random_features", "zonal", "hilbert_cube", "report")]
MODULES += ["bounds._attention_coverage", "bounds._attention_regret", "bounds._certify", "bounds._neurons"]
MODULES += ["bounds.bound", "metrics.ranking", "metrics.scorers"]
MODULES += ["estimators.zonal", "estimators.hilbert_cube", "cuda.devices"]
MODULES += [f"plot._{name}" for name in ("attention", "relation", "roofline", "spectrum", "width")]


def test_importing_leaves_the_heavy_packages_alone():
    code = "import sys, relkernels; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {
        "sklearn",
        "scipy",
        "matplotlib",
        "jinja2",
        "torch",
        "dask",
        "distributed",
        "cupy",
        "rich",
        "safetensors",
        "pandas",
        "polars",
        "statsmodels",
        "jax",
        "ml_dtypes",
    }
    assert not loaded & heavy


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert rk.__version__ == project["version"] == _core.__version__ == _core.build_info()["version"]


def test_show_config(capsys):
    rk.show_config()
    printed = capsys.readouterr().out
    for word in ("version", "isa", _core.isa, "threads", "cuda", "compiler"):
        assert word in printed


def test_every_public_name_is_documented():
    assert set(dir(rk)) == set(rk.__all__)
    for name in rk.__all__:
        thing = getattr(rk, name)
        if name.startswith("__"):
            continue
        text = inspect.getdoc(thing)
        assert text, name
        assert "Examples\n--------" in text, name
        if inspect.isfunction(thing) and inspect.signature(thing).parameters:
            assert "Parameters\n----------" in text, name


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_docstrings(name):
    module = importlib.import_module(f"relkernels.{name}")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, optionflags=flags)
    assert result.attempted > 0
    assert result.failed == 0


def run_readme(*, with_torch):
    """Run the examples of the README; those after the heading about PyTorch only on demand."""
    readme = (ROOT / "README.md").read_text()
    before, torch_section = readme.split("### Inside PyTorch\n")
    text = readme if with_torch else before
    assert ">>> import torch" in torch_section
    test = doctest.DocTestParser().get_doctest(text, {}, "README.md", "README.md", 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test)
    return runner.summarize(verbose=False)


def test_tour_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_readme(with_torch=False)
    assert result.attempted >= 10
    assert result.failed == 0


def test_tour_of_the_readme_with_pytorch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("torch", reason="PyTorch is not installed")
    result = run_readme(with_torch=True)
    assert result.attempted >= 20
    assert result.failed == 0


@pytest.mark.parametrize(
    ("module", "library", "name"),
    [("torch", "torch", "PyTorch"), ("dask", "dask", "Dask"), ("plot", "matplotlib", "matplotlib")],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(module, library, name):
    code = f"import sys; sys.modules['{library}'] = None; import relkernels.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    message = done.stderr.splitlines()[-1]
    said, command = message.rsplit(": ", 1)
    assert said == f"ImportError: relkernels.{module} needs {name}"
    requirement = shlex.split(command)[2]
    assert shlex.split(command)[:2] == ["pip", "install"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    # Without metadata (in a bare source tree) the name has no version.
    assert requirement in (*extras[module], library)


def test_commands_for_missing_libraries_have_the_versions_of_the_metadata(monkeypatch):
    monkeypatch.setattr(
        "importlib.metadata.requires",
        lambda name: [
            "torch>=2.4; extra == 'torch'",
            "dask[array]>=2024 ; extra == 'dask'",
            "PyYAML ; extra == 'x'",
        ],
    )
    assert install("torch") == "pip install 'torch>=2.4'"
    assert install("dask", "pyyaml", "other") == "pip install 'dask[array]>=2024' PyYAML other"

    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", none)
    assert install("torch", "jinja2") == "pip install torch jinja2"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        rk.nonsense  # noqa: B018


def test_no_copy_is_made_of_strided_inputs():
    """A call on a transposed view of a big array takes no more memory than its output."""
    import tracemalloc

    x = np.ones((64, 400_000), np.float32).T
    phi = rk.MLP.random([64, 2], random_state=0)
    tracemalloc.start()
    phi(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400_000 * 2 * 4 * 1.1


def test_files_name_no_machine():
    """Tracked files contain no paths or hosts of a particular machine."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"/root/|/home/\w|/work/|\.internal\b|://[\w.]*(pypi|registry|mirror)[\w.]*/")
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in {".png", ".so"} or not path.is_file() or path.name == Path(__file__).name:
            continue
        found = pattern.search(path.read_text(errors="replace"))
        assert not found, f"{name}: {found and found[0]}"


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("relkernels.mlp", "MLP", "relkernels"),
        ("relkernels.activations", "Activation", "relkernels"),
        ("relkernels.blocks", "NpyBlocks", "relkernels"),
        ("relkernels.nngp", "nngp_kernel", "relkernels"),
        ("relkernels.linear_operator", "as_linear_operator", "relkernels"),
        ("relkernels.estimators.training", "Adam", "relkernels.estimators.fitting.training"),
        ("relkernels.bounds._bound", "Bound", "relkernels.bounds"),
        ("relkernels.bounds._attention", "attention_regret", "relkernels.bounds"),
        ("relkernels.bounds._attention", "attention_coverage", "relkernels.bounds"),
    ],
)
def test_modules_are_found_by_the_names_that_pickles_have(old, name, new):
    code = f"import pickle; print(pickle.loads({f'c{old}{chr(10)}{name}{chr(10)}.'.encode()!r}).__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == getattr(importlib.import_module(new), name).__module__
