"""Results that are kept: one file per processor, merged run by run, and the summary over all."""

import json
import os
import sys
from pathlib import Path

import pytest
from recorded import MACHINE, bench_report
from relkernels import _core
from relkernels.benchmarks import markdown, processor, results, summary, tables
from relkernels.benchmarks.report import Report
from relkernels.benchmarks.workload import OURS
from relkernels.cli import bench as command
from relkernels.cli import main as cli

BENCH = Path(__file__).parents[1] / "bench"
TINY = "relation_matvec/exp/64"


def recorded(date="2026-11-25 10:00 UTC", families=(), faster=1.0, **machine):
    """Return a report of some families, with times divided by `faster`."""
    report = bench_report()
    report.machine = MACHINE | machine
    report.date = date
    report.rows = [row for row in report.rows if not families or row.workload.family in families]
    for row in report.rows:
        row.isa, row.date = report.machine["isa"], date
        for timing in row.race.timings.values():
            timing.median /= faster
    return report


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(results.plots, "save", lambda report, directory: {})


def names(report):
    return [(row.workload.name, row.threads) for row in report.rows]


def test_what_is_read_is_what_was_written(tmp_path):
    report = recorded()
    report.rows[0].race.unequal = {"torch": float("nan")}
    del report.rows[0].race.timings["torch"]
    results.save(report, str(tmp_path), whole=True)
    found = results.load(str(tmp_path))["avx2"]
    assert sorted(names(found)) == sorted(names(report))
    before = {(row.workload.name, row.threads): row for row in report.rows}
    for row in found.rows:
        same = before[row.workload.name, row.threads]
        assert [(v.of, v.wanted, v.met) for v in row.verdicts()] == [
            (v.of, v.wanted, v.met) for v in same.verdicts()
        ]
        assert tables.cells(row, quartiles=True) == tables.cells(same, quartiles=True)
        assert row.race.absent == same.race.absent
        assert row.race.unequal.keys() == same.race.unequal.keys()
    assert found.machine == report.machine
    assert found.ceilings == report.ceilings
    page = (tmp_path / "results" / "avx2.md").read_text()
    assert markdown.render("avx2", found, {}) == page


def test_a_run_of_a_family_keeps_the_rows_of_others_with_their_dates(tmp_path):
    results.save(recorded(), str(tmp_path), whole=True)
    later = recorded("2026-11-26 11:00 UTC", ["attention"], faster=2.0)
    results.save(later, str(tmp_path), whole=False)
    found = results.load(str(tmp_path))["avx2"]
    assert sorted(names(found)) == sorted(names(recorded()))
    old = {(row.workload.name, row.threads): row for row in recorded().rows}
    for row in found.rows:
        new = row.workload.family == "attention"
        assert row.date.startswith("2026-11-26" if new else "2026-11-25")
        faster = old[row.workload.name, row.threads].race.timings[OURS].median / row.race.timings[OURS].median
        assert faster == pytest.approx(2.0 if new else 1.0, rel=1e-4)
    assert found.date == later.date
    assert [run["date"] for run in found.earlier] == ["2026-11-25 10:00 UTC"]
    page = (tmp_path / "results" / "avx2.md").read_text()
    assert "## attention\n\nMeasured 2026-11-26 11:00 UTC." in page
    assert "## retrieve\n\nMeasured 2026-11-25 10:00 UTC." in page
    assert "| 2026-11-25, 2026-11-26 |" in (tmp_path / "RESULTS.md").read_text()
    # Once nothing is left of the first run, it is forgotten.
    results.save(recorded("2026-11-27 12:00 UTC"), str(tmp_path), whole=True)
    assert results.load(str(tmp_path))["avx2"].earlier == []


def test_other_processors_are_kept_and_summarized(tmp_path):
    results.save(recorded(), str(tmp_path), whole=True)
    before = (tmp_path / "results" / "avx2.json").read_bytes()
    results.save(recorded(families=["attention"], isa="amx"), str(tmp_path), whole=True)
    assert (tmp_path / "results" / "avx2.json").read_bytes() == before
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| workload | avx2, 1 · 2 threads | amx, 1 · 2 threads |" in text
    assert "| attention, n = 16 | 2.00 · 2.00 | 2.00 · 2.00 |" in text
    assert "| exp-link product, 1 × 1 | 1.50 · 1.50 | – |" in text
    for name in ("avx512", "avx512_bf16", "neon", "gpu"):
        assert f"- **{name}** (" in text
    for name in ("avx2", "amx"):
        assert f"- **{name}** (" not in text
        assert f"[{name}](results/{name}.md)" in text


def test_a_missed_target_is_marked():
    report = recorded(families=["retrieve"])
    row = report.rows[0]
    assert row.verdicts() == []
    lines = summary.render({"avx2": report})
    assert f"| {row.workload.label()} | 2.00 · 2.00 |" in lines
    object.__setattr__(row.workload, "isa_targets", {"avx2": {"best": 9.0}})
    try:
        assert f"| {row.workload.label()} | 2.00 · 2.00 † |" in summary.render({"avx2": report})
    finally:
        object.__setattr__(row.workload, "isa_targets", {})


def test_results_of_another_machine_are_replaced_as_a_whole_or_not_at_all(tmp_path):
    results.save(recorded(), str(tmp_path), whole=True)
    other = recorded(families=["attention"], cpu="Another")
    with pytest.raises(
        ValueError, match=r"avx2\.json has results of another machine, of 2026-11-25.*run all"
    ):
        results.save(other, str(tmp_path), whole=False)
    assert len(results.load(str(tmp_path))["avx2"].rows) == len(recorded().rows)
    results.save(other, str(tmp_path), whole=True)
    found = results.load(str(tmp_path))["avx2"]
    assert {row.workload.family for row in found.rows} == {"attention"}
    assert found.machine["cpu"] == "Another"


def test_the_command_refuses_them_before_it_measures(tmp_path, capsys):
    results.save(recorded(isa=_core.isa), str(tmp_path), whole=True)
    with pytest.raises(SystemExit):
        cli.main(["bench", TINY, "--results", str(tmp_path)])
    assert "--results: " in (err := capsys.readouterr().err)
    assert "another machine" in err
    assert "ceilings" not in err


def test_rows_of_workloads_that_are_gone_are_left_out(tmp_path):
    results.save(recorded(), str(tmp_path), whole=True)
    path = tmp_path / "results" / "avx2.json"
    path.write_text(path.read_text().replace("attention/full/16", "attention/gone/16"))
    assert len(results.load(str(tmp_path))["avx2"].rows) == len(recorded().rows) - 2


# ---- AVX2 on every machine ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("isa", "available", "setting", "more"),
    [
        ("avx512_bf16", ["avx512_bf16", "avx512", "avx2", "portable"], None, True),
        ("avx512_bf16", ["avx512_bf16", "avx512", "avx2", "portable"], "avx512_bf16", False),
        ("avx2", ["avx2", "portable"], None, False),
        ("neon", ["neon", "portable"], None, False),
    ],
)
def test_which_machines_have_more_than_avx2(isa, available, setting, more, monkeypatch):
    monkeypatch.delenv("RELKERNELS_ISA", raising=False)
    if setting:
        monkeypatch.setenv("RELKERNELS_ISA", setting)
    monkeypatch.setattr(processor, "configuration", lambda: {"isa": isa, "available_isas": available})
    assert processor.more_than_avx2() is more


def test_the_second_process_is_held_to_avx2(monkeypatch, tmp_path):
    called = {}

    class Child:
        def __init__(self, words, env, stdout):
            called.update(words=words, env=env)

        def wait(self):
            return 1

    monkeypatch.setattr(command.subprocess, "Popen", Child)
    monkeypatch.setattr(command, "_write", lambda *_: None)
    monkeypatch.setattr(processor, "more_than_avx2", lambda: True)
    monkeypatch.setattr(Report, "measure", lambda *_: None)
    folder = str(tmp_path)
    assert cli.main(["bench", TINY, "--threads", "1", "--results", folder]) == 1
    start = [sys.executable, "-m", "relkernels", "bench"]
    assert called["words"] == [*start, TINY, "--results", folder, "--threads", "1"]
    for name in ("RELKERNELS_ISA", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"):
        assert called["env"][name].lower() == "avx2"
    assert called["env"]["OPENBLAS_CORETYPE"] == "Haswell"
    assert called["env"]["PATH"] == os.environ["PATH"]


def test_a_page_tells_what_was_held_and_not_as_a_caveat():
    report = recorded()
    report.machine = report.machine | {"settings": processor.HELD_TO_AVX2 | {"OMP_WAIT_POLICY": "passive"}}
    assert "OPENBLAS_CORETYPE=Haswell" in dict(tables.facts(report))["all held to AVX2"]
    assert [line.split("=")[0] for line in tables.advice(report)] == ["OMP_WAIT_POLICY"]


# ---- the results of the repository -------------------------------------------------------------


def test_the_pages_in_the_repository_are_written_from_its_data():
    found = results.load(str(BENCH))
    assert "avx512_bf16" in found
    for name, report in found.items():
        page = (BENCH / "results" / f"{name}.md").read_text()
        data = json.loads((BENCH / "results" / f"{name}.json").read_text())
        assert data["date"] in page
        for row in report.rows:
            assert f"| {tables.cells(row, quartiles=True)[2]} |" in page
        for picture in (BENCH / "results" / name).glob("*"):
            assert f"({name}/{picture.name})" in page
