"""Benchmarks: workloads, comparisons, ceilings, reports and the command. No time is asserted."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import relkernels as rk
from relkernels import _core, config
from relkernels.base.extras import install
from relkernels.benchmarks import (
    FAMILIES,
    ceilings,
    markdown,
    memory,
    peers,
    plots,
    tables,
    timing,
    workloads,
)
from relkernels.benchmarks.report import Report, Row
from relkernels.benchmarks.workload import CEILING, OURS, AbsentError, Entry, Workload
from relkernels.cli import main as cli

TINY = "relation_matvec/exp/64"


def constant(value, sleep=0.0):
    """Return a contestant whose result is an array of this value."""

    def call():
        time.sleep(sleep)
        return np.full(5, value, np.float32)

    return lambda data: Entry(call)


def workload(**contestants):
    return Workload(
        family="feature_map", series="test", size=5, title="test, n = {size}", flops=10.0, read=20.0,
        written=20.0, limit="fma_float32", data=lambda: None, contestants=contestants, targets={"best": 1e-9},
    )  # fmt: skip


def named(name):
    return next(w for w in workloads([name]) if w.name == name)


# ---- workloads ---------------------------------------------------------------------------------


def test_workloads_are_well_formed():
    every = workloads()
    assert len({w.name for w in every}) == len(every)
    assert [f for f in FAMILIES if f not in {w.family for w in every}] == []
    for w in every:
        assert next(iter(w.contestants)) == OURS
        assert len(w.contestants) > 1
        other_ways = {"stored weights", "retrieve", "merged rows", "repeated keys"}
        assert set(w.contestants) <= {OURS, *other_ways, *peers.PEERS}
        for targets in (w.targets, *w.isa_targets.values()):
            assert set(targets) <= {"best", CEILING, *w.contestants}
        assert w.limit in ceilings.NAMES["cpu"]
        assert w.flops > 0
        assert w.read > 0
        assert w.written > 0
        assert w.work > 0
        assert w.title.count("{size}") >= 1
    for family in FAMILIES:
        assert any(w.quick for w in workloads([family]))


def test_sweeps_reach_from_tiny_to_beyond_the_last_level_cache():
    """By the data, or by the matrix that a peer stores: 4 bytes per 128 operations of a pair."""
    for family in FAMILIES:
        data = [w.read + w.written for w in workloads([family])]
        matrices = [w.flops / 128 * 4 for w in workloads([family]) if family != "feature_map"]
        assert min(data) < 128 << 10, family
        assert max(data + matrices) > 64 << 20, family


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("feature_map/relu/65536", {"best": 2.2, CEILING: 0.85}),
        ("feature_map/relu_bf16/65536", {"best": 4.0}),
        ("relation_matrix/symmetric_mlp/8192", {"best": 2.5}),
        ("relation_matrix/sets_mlp/256", {"best": 1.8}),
        ("attention/causal/4096", {"best": 1.6}),
        ("attention/one_query/65536", {"best": 1.5, CEILING: 0.8}),
        ("retrieve/queries_1000/100000", {"torch": 4.5, "faiss": 9.0}),
        ("relation_matvec/exp/20000", {"best": 4.5}),
        ("gradients/loss_labels/4096", {"best": 1.5}),
    ],
)
def test_targets(name, target):
    assert named(name).targets == target


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("feature_map/relu/64", {CEILING: 0.9}),
        ("relation_matrix/symmetric_features/256", {"best": 1.6}),
        ("relation_matrix/asymmetric_features/256", {"best": 1.0}),
        ("relation_matrix/asymmetric_features/1024", {"best": 1.0, CEILING: 0.92}),
        ("relation_matrix/asymmetric_features/4096", {"best": 1.0}),
        ("relation_matrix/asymmetric_features/8192", {"best": 1.2}),
        ("relation_matrix/sets_mlp/256", {"best": 1.5}),
        ("attention/full/512", {"best": 1.1}),
        ("attention/full/4096", {"best": 1.2}),
        ("attention/causal/512", {"best": 1.5}),
        ("retrieve/queries_1/100000", {"faiss": 1.2}),
        ("retrieve/prepared_1/100000", {"faiss": 3.0}),
        ("retrieve/queries_1000/100000", {"faiss": 8.0}),
        ("retrieve/largest/100", {"faiss": 6.0}),
        ("relation_matvec/exp/20000", {"best": 4.0}),
    ],
)
def test_targets_on_avx2(name, target):
    assert named(name).isa_targets["avx2"] == target


def test_names_choose_by_part():
    assert {w.series for w in workloads(["attention/causal"])} == {"causal"}
    assert [w.name for w in workloads([TINY])] == [TINY]
    assert {w.family for w in workloads(["retrieve", "gradients/"])} == {"retrieve", "gradients"}
    with pytest.raises(ValueError, match=r"name: expected .*attention/causal.*, got 'attention/caus'"):
        workloads(["attention/caus"])


# ---- races -------------------------------------------------------------------------------------


def test_difference():
    a = [np.arange(6.0).reshape(2, 3), np.float32(2)]
    assert timing.difference(a, a) == 0
    assert timing.difference([a[0], np.float32(3)], a) == 0.5
    assert timing.difference([np.zeros((2, 3)), a[1]], a) == 1
    assert timing.difference(a[:1], a) == np.inf
    assert timing.difference([a[0][:1], a[1]], a) == np.inf
    assert np.isnan(timing.difference([a[0] * np.nan, a[1]], a))
    big = np.ones((5, 2**21), np.float32)  # cut into pieces
    other = big.copy()
    other[-1, -1] = 2
    assert timing.difference([other], [big]) == pytest.approx((5 * 2**21) ** -0.5)


def test_what_differs_or_fails_is_named_and_not_timed():
    def broken(data):
        raise OSError("no compiler\nat all")

    def declines(data):
        raise AbsentError("not this one")

    w = workload(
        relkernels=constant(1), numpy=constant(1 + 1e-6), sklearn=constant(1.1), torch=broken, faiss=declines
    )
    w.contestants["keops"] = constant(np.nan)
    installed = dict.fromkeys(peers.PEERS, ("numpy", "numpy"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "PEERS", installed)
        ((n, race),) = timing.run(w, [1], 0.0, 3)
    assert n == 1
    assert set(race.timings) == {OURS, "numpy"}
    assert all(t.samples == 3 for t in race.timings.values())
    assert race.unequal["sklearn"] == pytest.approx(0.1, rel=1e-3)
    assert np.isnan(race.unequal["keops"])
    assert race.absent == {"torch": "cannot run here: OSError: no compiler", "faiss": "not this one"}


def test_what_is_not_installed_is_named_with_its_pip_line(monkeypatch):
    monkeypatch.setitem(peers.PEERS, "faiss", ("no_such_module", "faiss-cpu"))
    race = timing.check(workload(relkernels=constant(1), faiss=constant(1)), None)[1]
    assert race.absent == {"faiss": "not installed: pip install faiss-cpu"}


def test_an_error_of_ours_is_an_error():
    def broken(data):
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        list(timing.run(workload(relkernels=broken, numpy=constant(1)), [1], 0.0, 1))


def test_contestants_alternate(monkeypatch):
    monkeypatch.setattr(timing, "REST", 0.0)
    calls = []
    timings = timing.alternate(
        {who: lambda who=who: (calls.append(who), time.sleep(1e-3)) for who in "ab"}, 5e-3, 3
    )
    assert all(t.samples >= 3 for t in timings.values())
    for t in timings.values():
        assert 1e-3 <= t.lower_quartile <= t.median <= t.upper_quartile
    turns = [who for i, who in enumerate(calls) if i == 0 or calls[i - 1] != who]
    assert len(turns) >= 4


def test_a_slow_call_is_timed_once_and_not_again_on_fewer_threads(monkeypatch):
    monkeypatch.setattr(timing, "SLOW", 0.2)
    monkeypatch.setattr(timing, "TOO_LONG", 0.2)
    w = workload(relkernels=constant(1), numpy=constant(1, sleep=0.3))
    most, fewer = timing.run(w, [1, 2], 0.0, 3)
    assert (most[0], fewer[0]) == (2, 1)
    assert most[1].timings["numpy"].samples == 1
    assert most[1].absent == {}
    assert set(fewer[1].timings) == {OURS}
    assert "per call on 2" in fewer[1].absent["numpy"]


def test_threads_reach_every_contestant_and_are_put_back():
    import threadpoolctl

    def blas():
        return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}

    before = rk.get_num_threads(), blas()
    with peers.threads(1):
        assert rk.get_num_threads() == 1
        assert blas() == {1}
    assert (rk.get_num_threads(), blas()) == before


# ---- memory and ceilings -----------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone keeps a high-water mark")
@pytest.mark.slow
def test_peak_memory():
    """A result of 16 MiB is measured; attention over 4,096 keys allocates no matrix of 64 MiB."""
    with memory.Meter(1) as meter:
        stored = meter.peak(named("relation_matrix/asymmetric_features/2048"), OURS)
        streamed = meter.peak(named("attention/full/4096"), OURS)
        assert meter.peak(workload(relkernels=constant(1)), OURS) is None  # no such name: the child fails
        assert meter.peak(named(TINY), "numpy") is not None  # the meter survives
    assert 15 << 20 < stored < 40 << 20
    assert streamed < 24 << 20


def test_ceilings():
    found = {name: _core.measure_ceiling(name, 2, 8 << 20, 0.001) for name in ceilings.NAMES["cpu"]}
    assert found.pop("bf16_dot") is None or _core.isa in ("avx512", "avx512_bf16", "amx")
    assert all(rate > 1e8 for rate in found.values())
    with pytest.raises(ValueError, match=r"expected fma_float32.*got 'speed'"):
        _core.measure_ceiling("speed", 1, 1 << 20, 0.001)


# ---- reports -----------------------------------------------------------------------------------


def report(rows=2):
    found = Report("relkernels bench", quick=True)
    found.ceilings = {n: dict.fromkeys(ceilings.NAMES["cpu"], 1e11) | {"bf16_dot": None} for n in (1, 2)}
    timings = {
        who: timing.Timing(t, t, 2 * t, 7) for who, t in ((OURS, 2e-6), ("numpy", 3e-6), ("torch", 5e-6))
    }
    absent = {"keops": "cannot run here: no compiler"}
    race = timing.Race(timings, differences=dict.fromkeys(timings, 1e-7), absent=absent)
    for n in range(1, rows + 1):
        w = dataclasses.replace(workload(relkernels=constant(1)), targets={"best": 1.2, "torch": 3.0})
        found.rows.append(Row(w, n, race, {"fma_float32": 1e7}, n == rows))
    return found


def test_a_row_is_judged_on_the_most_threads():
    one, two = report().rows
    assert one.verdicts() == []
    assert [(v.of, v.met) for v in two.verdicts()] == [("best", True), ("torch", False)]
    assert two.best_peer == "numpy"
    assert two.ratio("numpy") == pytest.approx(1.5)
    assert two.share() == pytest.approx(10 / 2e-6 / 1e7)


def test_a_target_of_an_instruction_set_is_judged_on_one_thread_and_the_most():
    w = dataclasses.replace(
        workload(relkernels=constant(1)),
        targets={"best": 1.2},
        isa_targets={"avx2": {"best": 1.6, "torch": 2.0, CEILING: 0.9}},
    )
    race = report().rows[0].race
    verdicts = {
        (isa, n): [v.met for v in Row(w, n, race, {"fma_float32": 1e7}, n == 4, isa).verdicts()]
        for isa in ("avx2", "avx512")
        for n in (1, 2, 4)
    }
    of_avx2 = [False, True, False]  # 1.5, 2.5, 50 %
    assert verdicts == {
        ("avx2", 1): of_avx2, ("avx2", 2): [], ("avx2", 4): of_avx2,
        ("avx512", 1): [], ("avx512", 2): [], ("avx512", 4): [True],
    }  # fmt: skip


def test_cells_and_markdown_tell_what_was_measured():
    found = report()
    found.missing, found.machine["amx"] = {"faiss": "not installed: pip install faiss-cpu"}, False
    found.machine["settings"] = {"OPENBLAS_CORETYPE": "Prescott"}
    cells = dict(zip(tables.HEADERS, tables.cells(found.rows[1], quartiles=True), strict=True))
    assert cells["relkernels"] == "2 µs (2 µs – 4 µs)"
    assert cells["best peer"] == "numpy 3 µs"
    assert cells["ratio"] == "1.50"
    assert cells["target"] == "≥ 1.2: met; ≥ 3 torch: missed"
    assert cells["other peers"] == "torch 2.5"
    text = markdown.render("avx2", found, {"feature_map": "avx2/time_feature_map.svg"})
    for words in (
        "# Results: avx2", "ended early",
        "not installed: pip install faiss-cpu", "keops: cannot run here: no compiler",
        "OPENBLAS_CORETYPE=Prescott", "| multiply-adds, float32 | 100 GFLOP/s | 100 GFLOP/s |",
        "![feature_map](avx2/time_feature_map.svg)", "this processor lacks it", found.machine["cpu"],
    ):  # fmt: skip
        assert words in text
    tables_of = [line for line in text.splitlines() if line.startswith("| test, n = 5")]
    assert len(tables_of) == 4  # times, then rates, on 1 and 2 threads
    assert json.loads(json.dumps(found.record()))["rows"][1]["ratio"] == pytest.approx(1.5)


def test_units():
    assert [tables.seconds(t) for t in (2.5, 0.0999, 1e-3, 12.34e-6, 3e-9)] == [
        "2.5 s", "99.9 ms", "1 ms", "12.3 µs", "3 ns",
    ]  # fmt: skip
    assert [tables.size(n) for n in (0, 1 << 20, 1023, 3 << 29, None)] == [
        "0 B",
        "1 MiB",
        "1023 B",
        "1.5 GiB",
        "?",
    ]


def test_slopes_are_of_the_largest_sizes():
    sizes = [1, 10, 100, 1000]
    assert plots.slope(sizes, [5.0, 1e2, 1e4, 1e6]) == pytest.approx(2)
    assert plots.slope([4], [1.0]) is None


def test_pictures_have_a_color_for_every_contestant(tmp_path):
    pytest.importorskip("matplotlib")
    from relkernels.plot.panels import save as save_panels

    found = report()
    timings = found.rows[0].race.timings  # of all rows
    timings["another way"] = timings.pop("numpy")
    save_panels(plots.panels(found)["feature_map"], str(tmp_path), "times")
    assert "another way" in (tmp_path / "times.svg").read_text()


# ---- the command -------------------------------------------------------------------------------


def bench(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "relkernels", "bench", *arguments], capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_the_command(tmp_path):
    done = bench(TINY, "--json", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)  # and nothing else
    assert record["complete"]
    assert {row["workload"] for row in record["rows"]} == {TINY}
    for row in record["rows"]:
        assert {OURS, "numpy"} <= row["contestants"].keys()
        assert row["contestants"].keys() | row["absent"].keys() == {OURS, "numpy", "torch", "keops"}
    for peer, why in record["missing"].items():
        assert importlib.util.find_spec(peers.PEERS[peer][0]) is None
        assert why.startswith("not installed: pip install ")
    assert any("openblas" in blas["library"].lower() or blas["architecture"] for blas in record["blas"])
    text = (tmp_path / "results" / f"{_core.isa}.md").read_text()
    assert f"relkernels bench {TINY} --results" in text
    pictures = sorted(path.name for path in (tmp_path / "results" / _core.isa).iterdir())
    assert {"roofline.svg", "time_relation_matvec.svg"} <= set(pictures)
    for name in pictures:
        assert f"({_core.isa}/{name})" in text
        assert (tmp_path / "results" / _core.isa / name).read_text().startswith("<svg")
    assert f"[{_core.isa}](results/{_core.isa}.md)" in (tmp_path / "RESULTS.md").read_text()


def test_a_quick_run_compares_and_prints_no_time(tmp_path, capsys):
    path = tmp_path / "bench.json"
    html = tmp_path / "bench.html"
    assert cli.main(["bench", TINY, "--quick", "--json", str(path), "--html", str(html)]) == 0
    record = json.loads(path.read_text())
    for row in record["rows"]:
        assert row["ratio"] is row["share_of_ceiling"] is row["ceiling"] is None
        assert {OURS, "numpy"} <= row["contestants"].keys()
        assert all(found.keys() == {"difference"} for found in row["contestants"].values())
    out = capsys.readouterr().out
    assert "all equal. No times were measured" in out
    page = re.sub(r"<style.*?</style>|<script.*?</script>", "", html.read_text(), flags=re.DOTALL)
    page = page[page.index("<main>") :]
    for text in (out.replace("No times", ""), page):
        assert not re.search(r"\d (s|ms|µs|ns|GFLOP/s|GB/s)\b", text)
        assert "ratio" not in text
        assert "equal" in text


@pytest.mark.parametrize("option", ["--plot", "--results"])
def test_what_shows_times_is_not_for_a_quick_run(option, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["bench", TINY, "--quick", option, str(tmp_path / "x")])
    assert f"{option}: shows times, which --quick does not measure" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tables_fit_a_terminal_of_80_columns(monkeypatch, capsys):
    from recorded import bench_report
    from relkernels.cli import bench as command
    from relkernels.cli import output
    from rich.console import Console

    monkeypatch.setattr(output, "console", lambda **_: Console(width=80, highlight=False))
    found = bench_report()
    command._print_tables(found)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    for row in found.rows:  # no cell but the first is broken, and none is missing
        for cell in tables.cells(row, quartiles=False)[1:]:
            assert cell in out


def test_ctrl_c_leaves_what_was_measured(tmp_path, monkeypatch, capsys):
    race = timing.Race({OURS: timing.Timing(1e-3, 1e-3, 1e-3, 1)}, differences={OURS: 0.0})

    def interrupted(w, *rest):
        yield 1, race
        raise KeyboardInterrupt

    monkeypatch.setattr(timing, "compare", interrupted)
    path = tmp_path / "bench.json"
    assert cli.main(["bench", "attention", "--quick", "--threads", "1", "--json", str(path)]) == 130
    record = json.loads(path.read_text())
    assert not record["complete"]
    assert [row["workload"] for row in record["rows"]] == ["attention/full/1"]
    captured = capsys.readouterr()
    assert "relkernels: interrupted" in captured.err
    assert "attention, n = 1" in captured.out


def test_an_unequal_result_fails_the_command(monkeypatch, capsys):
    race = timing.Race(differences={"numpy": 0.5}, unequal={"numpy": 0.5})
    monkeypatch.setattr(timing, "run", lambda w, threads, *_: ((n, race) for n in threads))
    monkeypatch.setattr(ceilings, "measure", lambda *_: dict.fromkeys(ceilings.NAMES["cpu"], 1e9))
    assert cli.main(["bench", TINY, "--threads", "1"]) == 1
    assert f"{TINY}: numpy differs by 5.0e-01, more than 1.0e-04" in capsys.readouterr().err


def test_more_threads_than_processors_are_reported(monkeypatch, capsys):
    monkeypatch.setattr(timing, "run", lambda w, threads, *_: ((n, timing.Race()) for n in threads))
    monkeypatch.setattr(ceilings, "measure", lambda *_: dict.fromkeys(ceilings.NAMES["cpu"], 1e9))
    monkeypatch.setattr(config, "processors", lambda: 2)
    for threads, warned in (("2", False), ("3", True)):
        assert cli.main(["bench", TINY, "--threads", "1", threads]) == 0
        assert ("3 threads share 2 processors" in capsys.readouterr().err) is warned


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["dance"], 2, "relkernels bench: error: name: expected a family, series or workload of"),
        (["attention/full/16384", "--quick"], 2, "name: expected a workload that --quick runs"),
        (["--threads", "0"], 2, "expected 1 to 4096, got 0"),
        (["--threads", "two"], 2, "expected 1 to 4096, got two"),
    ],
)
def test_bad_arguments(arguments, code, message, capsys):
    try:
        got = cli.main(["bench", *arguments])
    except SystemExit as left:
        got = left.code
    assert got == code
    assert message in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["bench", TINY, "--results", "x"]) == 1
    assert install("matplotlib") in capsys.readouterr().err
