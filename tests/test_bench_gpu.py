"""The benchmarks of a GPU, as far as they can be tested without one."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from relkernels import cuda
from relkernels.benchmarks import gpu

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    spec = importlib.util.spec_from_file_location("gpu_script", BENCH / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(BENCH / "gpu.py"), *arguments], capture_output=True, text=True, timeout=120
    )


def test_the_dry_run_lists_every_workload(script):
    done = run("--dry-run")
    assert done.returncode == 0, done.stderr
    for w in script.WORKLOADS:
        (line,) = [line for line in done.stdout.splitlines() if line.split()[0] == w.name]
        assert f"{w.flops / 1e9:,.0f}" in line
        assert f"{w.bytes / 1e9:.3f}" in line
        assert f"{script.floor(w, script.NOMINAL)['seconds'] * 1e3:.3f}" in line
        for target in w.targets:
            assert target in line
    assert "not measured here" in done.stdout


def test_every_target_of_the_gpu_has_a_workload(script):
    targets = {w.name: w.targets for w in script.WORKLOADS if w.targets}
    assert targets["relation_matrix/asymmetric/bfloat16"] == {"cuBLAS (PyTorch)": 0.9}
    assert targets["relation_matrix/symmetric/bfloat16"] == {"cuBLAS (PyTorch)": 1.5}
    for activation in ("relu", "gelu"):
        assert targets[f"feature_map/{activation}/bfloat16"] == {"PyTorch": 3.0, "torch.compile": 1.5}
    for kind in ("full", "causal"):
        for d in (64, 128):
            assert targets[f"attention/{kind}/{d}/bfloat16"] == {"best": 1.0}
        assert targets[f"attention/{kind}/64/float32"] == {"best": 2.0}
    for arithmetic in ("float32", "bfloat16"):
        assert targets[f"retrieve/{arithmetic}"] == {"matmul + topk (PyTorch)": 3.0}
        assert targets[f"relation_matrix/sets/{arithmetic}"] == {"PyTorch": 3.0}
    assert targets["relation_matvec/exp/float32"] == {"ceiling": 0.7}
    for w in script.WORKLOADS:
        assert w.flops > 0
        assert w.bytes > 0
        assert script.OURS in w.contestants
        assert set(w.targets) <= {"best", "ceiling", *w.contestants}


def test_workloads_count_what_they_compute(script):
    by_name = {w.name: w for w in script.WORKLOADS}
    relation = by_name["relation_matrix/asymmetric/bfloat16"]
    assert relation.flops == 2 * 16384**2 * 256
    assert relation.bytes == 2 * (2 * 16384 * 256 + 16384**2)
    assert by_name["relation_matrix/symmetric/bfloat16"].flops == relation.flops / 2
    assert by_name["feature_map/relu/bfloat16"].flops == 2 * 2**20 * (64 * 256 + 256 * 256 + 256 * 64)
    assert by_name["retrieve/float32"].written == 10_000 * 10 * 12
    least = script.floor(relation, {"copy": 1e12, "bfloat16": 1e14})
    assert least["seconds"] == max(least["bytes"], least["flops"]) == relation.flops / 1e14


@pytest.mark.skipif(cuda.available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_runs_nothing(tmp_path):
    done = run("--json", str(tmp_path))
    assert done.returncode == 0
    assert done.stdout.startswith("No GPU was found to measure on: ")
    assert list(tmp_path.iterdir()) == []
    assert run("nonsense").returncode == 2


def test_the_report_of_the_tests_is_summarized(script, tmp_path):
    report = tmp_path / "tests.xml"
    report.write_text(
        "<testsuites><testsuite><testcase classname='a' name='b'/><testcase classname='a' name='c'><skipped/>"
        "</testcase><testcase classname='a' name='d'><failure/></testcase></testsuite></testsuites>"
    )
    assert script.read_tests(str(report)) == {"run": 2, "failed": ["a::d"], "skipped": 1}
    assert script.read_tests(str(tmp_path / "none.xml")) is None


def test_the_results_say_what_has_never_run(tmp_path):
    text = "\n".join(gpu.section(tmp_path))
    assert "No CUDA kernel has ever run on a GPU" in text
    assert "nngp_kernel" not in gpu.kernels()  # which has no kernel for devices
    for name in gpu.kernels():
        assert name in text


def test_the_results_tell_what_ran_and_which_targets_were_met(script, tmp_path):
    names = ("relkernels", "cuBLAS (PyTorch)", "CuPy")
    found = dict(zip(names, (1e-3, 2e-3, 5e-3), strict=True))
    row = {
        "title": "a relation", "floor": {"seconds": 5e-4}, "absent": {"torch.compile": "RuntimeError"},
        "contestants": {who: {"median": t, "over_floor": t / 5e-4} for who, t in found.items()},
        "unequal": {"faulty": None}, "ratios": {"cuBLAS (PyTorch)": 2.0, "CuPy": 5.0},
        "targets": [
            {"of": "best", "wanted": 1.5, "got": 2.0, "met": True},
            {"of": "CuPy", "wanted": 6.0, "got": 5.0, "met": False},
            {"of": "torch.compile", "wanted": 1.5, "got": None, "met": None},
        ],
    }  # fmt: skip
    report = {
        "date": "today", "machine": {"gpu": "A GPU"}, "ceilings": {"copy": 4e12}, "rows": [row],
        "tests": {"run": 5, "failed": [], "skipped": 1}, "left_out": ["retrieve/float32"],
    }  # fmt: skip
    (tmp_path / "gpu-a-gpu-today.json").write_text(json.dumps(report))
    text = "\n".join(gpu.section(tmp_path))
    assert "has ever run" not in text
    for words in (
        "A GPU, today", "5 run, 0 failed, 1 skipped", "| a relation | 1 ms | 500 µs | 2.00 |",
        "CuPy 5 ms (5.00)", "≥ 1.5 best: met (2.00)", "≥ 6 CuPy: missed (5.00)",
        "≥ 1.5 torch.compile: not judged", "torch.compile absent", "faulty not equal",
        "because time ran out: retrieve/float32",
    ):  # fmt: skip
        assert words in text
