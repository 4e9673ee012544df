"""The command line: exit codes, what goes where, and the demo's figures."""

import json
import os
import subprocess
import sys

import pytest
import relkernels as rk
from relkernels import _core
from relkernels.cli import demo_tables


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "relkernels", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def test_info():
    done = run("info")
    assert done.returncode == 0
    for word in (rk.__version__, _core.isa, "threads", "amx", "cuda"):
        assert word in done.stdout
    told = json.loads(run("info", "--json").stdout)
    assert told["isa"] == _core.isa
    assert told["version"] == rk.__version__
    assert isinstance(told["amx"], bool)


def test_version_and_help():
    assert run("--version").stdout == f"relkernels {rk.__version__}\n"
    for arguments in (["--help"], ["demo", "--help"], ["info", "--help"]):
        done = run(*arguments)
        assert done.returncode == 0
        assert "usage: relkernels" in done.stdout
    assert "example: relkernels demo --plot pictures" in run("demo", "--help").stdout


@pytest.mark.parametrize("arguments", [[], ["dance"], ["demo", "--colour"], ["demo", "dance"]])
def test_usage_errors(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: relkernels" in done.stderr
    assert "Traceback" not in done.stderr


def test_demo_meets_its_targets(tmp_path):
    """All but the preference part, which CI runs at its full size once (see .ci/check_demo.py)."""
    done = run("demo", "symmetric", "crossdomain", "kernel", "--json", "--plot", str(tmp_path / "pictures"))
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert list(figures) == ["symmetric", "crossdomain", "kernel"]
    symmetric, kernel, crossdomain = figures["symmetric"], figures["kernel"], figures["crossdomain"]
    assert symmetric["auc"] >= 0.99
    assert symmetric["precision_at_10"] >= 0.97
    assert symmetric["precision_at_10"] > symmetric["baseline_precision_at_10"]
    assert [row["width"] for row in kernel] == [32, 128, 512]
    errors = [row["rel_error"] for row in kernel]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 0.02
    assert crossdomain["recall_at_10"] >= 1.5 * crossdomain["baseline_recall_at_10"]
    assert crossdomain["recall_at_1"] > crossdomain["baseline_recall_at_1"]
    assert crossdomain["chance_recall_at_10"] == pytest.approx(10 / 360)
    for name in ("relation_matrix.png", "retrieved.png", "halves.png", "error_against_width.png"):
        assert (tmp_path / "pictures" / name).read_bytes().startswith(b"\x89PNG")


def test_preference_part_on_fewer_sets(tmp_path, monkeypatch, capsys):
    from relkernels.cli.main import main
    from relkernels.experiments import preference

    monkeypatch.setattr(preference, "_TRAINING_SETS", 1500)
    monkeypatch.setattr(preference, "_HELD_OUT_SETS", 200)
    assert main(["demo", "preference", "--json", "--plot", str(tmp_path)]) == 0
    figures = json.loads(capsys.readouterr().out)["preference"]
    digit = figures["largest_digit"]
    assert digit["accuracy"] > 0.8
    assert digit["transitivity_violations"] == 0
    assert digit["slope_in_query"] <= digit["slope_bound"]
    for row in digit["attention"]:
        assert row["error"] <= row["error_bound"]
        assert row["accuracy"] >= row["guaranteed_accuracy"]
    for row in figures["modechoice"].values():
        assert row["accuracy"] > row["baseline_accuracy"]
        assert row["log_loss"] < row["baseline_log_loss"]
    assert (tmp_path / "accuracy_against_beta.png").read_bytes().startswith(b"\x89PNG")
    demo_tables.show({"preference": figures}, 1.0)
    printed = capsys.readouterr().out
    assert "Largest digit" in printed
    assert "Air, train, bus or car?" in printed


def test_demo_without_statsmodels_says_what_to_install(monkeypatch):
    from relkernels.experiments import preference

    monkeypatch.setattr(preference.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(preference, "largest_digit", lambda report: {})
    told = []
    assert preference.run(told.append).figures["modechoice"] is None
    assert told == [preference.MISSING]
    assert "pip install 'relkernels[demo]'" in preference.MISSING


def test_demo_without_matplotlib_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['matplotlib'] = None\n")
    (tmp_path / "matplotlib.py").write_text("")
    blocked = (
        "import importlib.util, sys; import relkernels.cli.main as m; "
        "importlib.util.find_spec = lambda name: None; sys.exit(m.main(['demo', '--plot', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'relkernels[plot]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unwritable_directory_is_told_without_a_traceback(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    code = (
        "import sys, relkernels.cli.main as m, relkernels.experiments.kernel as k; "
        "from relkernels.experiments.part import Part; k.run = lambda report: Part([]); "
        f"sys.exit(m.main(['demo', 'kernel', '--json', '--plot', {os.fspath(blocker / 'x')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "relkernels demo:" in done.stderr
    assert "Traceback" not in done.stderr
