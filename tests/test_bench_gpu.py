"""The benchmarks of a GPU, tested without one: on tensors of the CPU, with a fake clock."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from relkernels import cuda
from relkernels.benchmarks import ceilings as ceilings_of
from relkernels.benchmarks import cuda as device
from relkernels.benchmarks import markdown, summary, tables, timing, workloads
from relkernels.benchmarks.families import (
    attention,
    feature_map,
    gradients,
    relation_matrix,
    relation_matvec,
    relational,
    retrieve,
    tensors,
)
from relkernels.benchmarks.report import Report
from relkernels.benchmarks.workload import CEILING, OURS, Entry, Workload

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "bench" / "gpu.py"
EVERY = workloads(device="cuda")
BY_NAME = {w.name: w for w in EVERY}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120
    )


# ---- workloads ---------------------------------------------------------------------------------


def test_workloads_are_well_formed():
    assert len(BY_NAME) == len(EVERY)
    assert not set(BY_NAME) & {w.name for w in workloads()}
    for w in EVERY:
        assert w.flops > 0
        assert w.read > 0
        assert w.written > 0
        assert w.limit in ceilings_of.NAMES["cuda"]
        assert next(iter(w.contestants)) == OURS
        assert set(w.targets) <= {"best", CEILING, *w.contestants}


def test_every_target_has_a_workload():
    targets = {w.name: w.targets for w in EVERY if w.targets}
    assert targets["relation_matrix/asymmetric_bfloat16/16384"] == {"cuBLAS (PyTorch)": 0.9}
    assert targets["relation_matrix/symmetric_bfloat16/16384"] == {"cuBLAS (PyTorch)": 1.5}
    for activation in ("relu", "gelu"):
        name = f"feature_map/{activation}_bfloat16/{2**20}"
        assert targets[name] == {"PyTorch": 3.0, "torch.compile": 1.5}
    for kind in ("full", "causal"):
        for d in (64, 128):
            assert targets[f"attention/{kind}_{d}_bfloat16/8192"] == {"best": 1.0}
        assert targets[f"attention/{kind}_64_float32/8192"] == {"best": 2.0}
    for dtype in ("float32", "bfloat16"):
        name = f"retrieve/queries_10000_{dtype}/10000000"
        assert targets[name] == {"matmul + topk (PyTorch)": 3.0}
        assert targets[f"relation_matrix/sets_{dtype}/4096"] == {"PyTorch": 3.0}
        assert targets[f"relational/relu_{dtype}/4096"] == {"PyTorch": 3.0}
    assert BY_NAME["relation_matvec/exp_float32/1000000"].targets == {CEILING: 0.7}


def test_workloads_count_what_they_compute():
    relation = BY_NAME["relation_matrix/asymmetric_bfloat16/16384"]
    assert relation.flops == 2 * 16384**2 * 256
    assert relation.read + relation.written == 2 * (2 * 16384 * 256 + 16384**2)
    assert BY_NAME["relation_matrix/symmetric_bfloat16/16384"].flops == relation.flops / 2
    mlp = BY_NAME[f"feature_map/relu_bfloat16/{2**20}"]
    assert mlp.flops == 2 * 2**20 * (64 * 256 + 256 * 256 + 256 * 64)
    assert BY_NAME["retrieve/queries_10000_float32/10000000"].written == 10_000 * 10 * 12
    assert relation.floor({"copy": 1e12, "bfloat16": 1e14}) == relation.flops / 1e14
    assert relation.floor({"copy": 1e9, "bfloat16": 1e14}) == (relation.read + relation.written) / 1e9
    assert relation.floor({"bfloat16": 1e14}) is None


SMALL = [
    feature_map.gpu_workload("relu", "bfloat16", 50),
    feature_map.gpu_workload("gelu", "float32", 50),
    *(relation_matrix.gpu_workload(a, s, {}, 40, 16) for a in ("float16", "bfloat16") for s in (False, True)),
    relation_matrix.gpu_workload("float32", False, {}, 40, 16),
    relation_matrix.gpu_sets("float32", 5),
    relation_matrix.gpu_sets("bfloat16", 5),
    *(attention.gpu_workload(8, c, t, 1.0, 40, 3) for c in (False, True) for t in ("float32", "bfloat16")),
    retrieve.gpu_workload("float32", 20, 100),
    retrieve.gpu_workload("bfloat16", 20, 100),
    relation_matvec.gpu_workload(60),
    gradients.gpu_attention(40, 2),
    relational.gpu_workload("float32", 40, 8),
    relational.gpu_workload("bfloat16", 40, 8),
]


@pytest.fixture
def torch(monkeypatch):
    """PyTorch, with the tensors of workloads on the CPU, chunks of a few rows, and nothing compiled."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(tensors, "DEVICE", "cpu")
    monkeypatch.setattr(torch, "compile", lambda call: call)
    monkeypatch.setattr(retrieve, "CHUNK", 30)
    monkeypatch.setattr(relation_matvec, "GPU_ROWS", 25)
    return torch


@pytest.mark.parametrize("w", SMALL, ids=[w.name for w in SMALL])
def test_contestants_agree_on_tensors_of_the_cpu(w, torch):
    entries, race = timing.check(w, w.data())
    assert race.unequal == {}
    assert OURS in entries
    # CuPy has no arrays in main memory, and backends of attention are for some devices only.
    assert {who for who in race.absent if who != "CuPy" and not who.startswith("SDPA, ")} == set()
    assert all(isinstance(a, torch.Tensor) for a in entries[OURS].arrays(entries[OURS].call()))


def test_the_setting_of_tf32_is_put_back(torch):
    matmul = torch.backends.cuda.matmul
    assert not matmul.allow_tf32
    seen = tensors.with_tf32(True, lambda: matmul.allow_tf32)
    assert seen() is True
    assert not matmul.allow_tf32


# ---- runs --------------------------------------------------------------------------------------


class Clock:
    """A fake: calls take the seconds that they return."""

    def __init__(self):
        self.calls, self.cleared = [], 0

    def sample(self, call):
        self.calls.append(call)
        return float(np.max(call()))

    def peak(self, call):
        call()
        return 1 << 20

    def clear(self):
        self.cleared += 1


def taking(seconds):
    return lambda data: Entry(lambda: np.float64(seconds))


def test_samples_alternate_until_there_are_enough():
    def sampled(a, b, time_left=lambda: True):
        calls = {"a": lambda: a, "b": lambda: b}
        found = device.alternate(calls, Clock(), time_left)
        assert found["a"].median == a
        assert found["b"].upper_quartile == b
        assert found["a"].samples == found["b"].samples
        return found["a"].samples

    assert sampled(1e-3, 2e-3) == device.MOST_SAMPLES
    assert sampled(0.2, 0.6) == 4  # 3.2 seconds of the two, of 3 that are wanted
    assert sampled(5.0, 9.0) == device.LEAST_SAMPLES
    assert sampled(1e-3, 2e-3, lambda: False) == 1
    assert device.alternate({}, Clock(), lambda: True) == {}


def fake(name, contestants, **options):
    return Workload(
        family=name, series="fake", size=3, title=f"fake {name} {{size}}", flops=2e9, read=1e9, written=1e9,
        limit="float32", device="cuda", data=lambda: None, contestants=contestants, tolerance=9.0, **options,
    )  # fmt: skip


@pytest.fixture
def report():
    machine = {
        "gpu": "A GPU", "memory": 1 << 36, "multiprocessors": 7, "compute_capability": "9.0",
        "system": "Linux", "python": "3", "version": "0", "cuda": "built",
        "tests": {"run": 5, "failed": [], "skipped": 1},
    }  # fmt: skip
    return Report(
        "python bench/gpu.py", False, "cuda", date="2026-01-02 10:00 UTC", machine=machine, missing={},
        versions={"torch": "2"},
    )  # fmt: skip


def broken(data):
    raise RuntimeError("out of luck\nand more")


def chosen():
    targets = {"best": 1.5, "CuPy": 6.0, "torch.compile": 1.5, CEILING: 0.7}
    first = {OURS: taking(2e-3), "PyTorch": taking(4e-3), "CuPy": taking(10e-3), "torch.compile": broken}
    return [
        fake("feature_map", first, targets=targets),
        fake("retrieve", {OURS: broken, "PyTorch": taking(1e-3)}),
        fake("attention", {OURS: taking(1e-3)}),
    ]


@pytest.fixture
def ceilings(monkeypatch):
    rates = {"copy": 2e12, "bfloat16": 4e12, "float16": 4e12, "tf32": 3e12, "float32": 2e12}
    monkeypatch.setattr(device, "measure_ceilings", lambda clock: rates)


def test_a_run_measures_judges_and_saves(script, report, ceilings, tmp_path, capsys):
    clock = Clock()
    assert script.measure(chosen(), report, device.Cuda(60, clock), str(tmp_path)) == 1  # ours is absent once
    record = report.record()
    assert record["complete"]
    assert record["left_out"] == []
    first, second, third = record["rows"]
    assert first["floor"] == 1e-3
    assert first["share_of_ceiling"] == 0.5
    assert first["contestants"][OURS]["median"] == 2e-3
    assert first["contestants"][OURS]["peak_memory"] == 1 << 20
    assert first["best_peer"] == "PyTorch"
    assert {t["of"]: (t["got"], t["met"]) for t in first["targets"]} == {
        "best": (2.0, True), "CuPy": (5.0, False), CEILING: (0.5, False),
    }  # fmt: skip
    assert first["absent"] == {"torch.compile": "cannot run here: RuntimeError: out of luck"}
    assert second["absent"] == {OURS: "cannot run here: RuntimeError: out of luck"}
    assert list(third["contestants"]) == [OURS]
    assert clock.cleared == 4
    kept = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert kept["date"] == report.date
    text = markdown.render("gpu", report, {})
    for words in (
        "# Results: gpu", "A GPU, 7 multiprocessors",
        "2026-01-02", "5 run, 0 failed, 1 skipped", "| products of bfloat16 | 4e+03 GFLOP/s |",
        "| fake feature_map 3 | 2 ms (2 ms – 2 ms) | PyTorch 4 ms | 2.00 |",
        "≥ 1.5: met; ≥ 6 CuPy: missed; ≥ 70% of ceiling: missed", "| CuPy 5 |", "| 1 ms | 2.00 |",
        "torch.compile: cannot run here: RuntimeError: out of luck (feature_map/fake/3)",
    ):  # fmt: skip
        assert words in text
    out = capsys.readouterr().out
    for cell in tables.cells(report.rows[0], quartiles=True, headers=tables.GPU_TIMES + tables.GPU_RATES):
        assert cell in out


def test_without_time_the_rest_is_named(script, report, ceilings, tmp_path, capsys):
    assert script.measure(chosen()[::2], report, device.Cuda(-1, Clock()), str(tmp_path)) == 0
    assert "no time for: feature_map/fake/3, attention/fake/3" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []  # there is nothing to keep


def test_an_interrupted_run_keeps_what_it_has(script, report, ceilings, tmp_path):
    def stop(data):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        script.measure(
            [*chosen()[::2], fake("gradients", {OURS: stop})], report, device.Cuda(60, Clock()), str(tmp_path)
        )
    record = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert not record["complete"]
    assert len(record["rows"]) == 2
    assert record["left_out"] == ["gradients/fake/3"]


def test_no_workload_starts_late():
    clock = device.Cuda(0.05, Clock())
    assert clock.time_left()
    time.sleep(0.1)
    assert not clock.time_left()


# ---- the script --------------------------------------------------------------------------------


def test_the_dry_run_lists_every_workload(script):
    done = run("--dry-run")
    assert done.returncode == 0, done.stderr
    for w in EVERY:
        (line,) = [line for line in done.stdout.splitlines() if line.split()[0] == w.name]
        assert f"{w.flops / 1e9:,.0f}" in line
        assert f"{(w.read + w.written) / 1e9:.3f}" in line
        assert f"{w.floor(script.NOMINAL) * 1e3:.3f}" in line
        for of, wanted in w.targets.items():
            assert (f"≥ {wanted:.0%} of ceiling" if of == CEILING else f"≥ {wanted:g} {of}") in line
    assert "not measured here" in done.stdout
    # In the order of a run, each with the second at which it begins.
    listed = [line.split() for line in done.stdout.splitlines() if line.split()[0] in BY_NAME]
    assert [cells[0] for cells in listed] == [w.name for w in script.ordered(EVERY)]
    begins = [float(cells[1]) for cells in listed]
    assert begins == sorted(begins)


def test_targets_of_each_kind_of_kernel_are_measured_first(script):
    series = [f"{w.family}/{w.series}" for w in script.ordered(EVERY)]
    assert series[: len(script.ORDER)] == list(script.ORDER)
    assert sorted(series) == sorted(f"{w.family}/{w.series}" for w in EVERY)
    assert all(w.targets for w in script.ordered(EVERY)[: len(script.ORDER)])


def test_the_script_lists_build_tests_and_benchmarks():
    command = ["bash", str(SCRIPT.with_name("gpu.sh")), "--dry-run"]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0 s: build, about ")
    (tests,) = [line.split() for line in done.stdout.splitlines() if line.startswith("tests/")]
    assert len(tests) > 10
    assert all((ROOT / test).is_file() for test in tests)
    assert all(w.name in done.stdout for w in EVERY)
    without = {**os.environ, "PYTHON": "false"}  # an interpreter that has no relkernels
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=without)
    assert done.returncode == 1
    assert done.stderr.startswith("The list of benchmarks needs relkernels: pip install . ")
    assert done.stdout == ""


@pytest.mark.skipif(cuda.available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_runs_nothing(tmp_path):
    done = run("--save", str(tmp_path))
    assert done.returncode == 0
    assert done.stdout.startswith("No GPU was found to measure on: ")
    assert list(tmp_path.iterdir()) == []
    done = run("nonsense")
    assert done.returncode == 2
    assert "attention/causal_64_bfloat16" in done.stderr


def test_the_report_of_the_tests_is_summarized(script, tmp_path):
    report = tmp_path / "tests.xml"
    report.write_text(
        "<testsuites><testsuite><testcase classname='a' name='b'/><testcase classname='a' name='c'><skipped/>"
        "</testcase><testcase classname='a' name='d'><failure/></testcase></testsuite></testsuites>"
    )
    assert script.read_tests(str(report)) == {"run": 2, "failed": ["a::d"], "skipped": 1}
    assert script.read_tests(str(tmp_path / "none.xml")) is None


def test_the_results_say_what_has_never_run():
    text = summary.render({})
    assert "No CUDA kernel has ever run on a GPU" in text
    assert "nngp_kernel" not in summary.kernels()  # which has no kernel for devices
    for name in summary.kernels():
        assert name in text
