"""The command line: exit codes, output streams, and the demo's figures."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import relkernels as rk
from relkernels import _core
from relkernels.base.extras import install
from relkernels.base.files import check_writable
from relkernels.cli import demo_tables, info
from relkernels.cli.main import COMMANDS, main, parser

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "guides" / "command-line.md"


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
    shown = json.loads(run("info", "--json").stdout)
    assert shown["isa"] == _core.isa
    assert shown["version"] == rk.__version__
    assert isinstance(shown["amx"], bool)
    assert shown["packages"]["numpy"] == np.__version__
    assert shown["memory_bytes"] > 1 << 20
    for name in ("python", "platform", "libc", "threads", "processors", "gil_enabled", "blas", "environment"):
        assert name in shown


def test_version_and_help():
    assert run("--version").stdout == f"relkernels {rk.__version__}\n"
    for arguments in (["--help"], ["demo", "--help"], ["info", "--help"]):
        done = run(*arguments)
        assert done.returncode == 0
        assert "usage: relkernels" in done.stdout
    assert "example: relkernels demo --plot pictures" in run("demo", "--help").stdout


def test_every_command_tells_its_options_defaults_and_an_example():
    commands = parser().get_default("subparsers")
    assert list(commands) == list(COMMANDS)
    for name, command in commands.items():
        text = command.format_help()
        examples = [line for line in text.splitlines() if line.startswith(f"example: relkernels {name}")]
        assert len(examples) == 1
        # The rest is a command line that the parser accepts.
        words = shlex.split(examples[0].removeprefix("example: relkernels ").partition(" >")[0])
        assert parser().parse_args(words).command == name
        for action in command._actions:
            assert action.help, (name, action.dest)
            if not action.required and action.dest != "help":
                assert "(default: " in action.help, (name, action.dest)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["demo", "--colour"],
        ["demo", "dance"],
        ["bench", "dance"],
        ["bench", "--threads", "0"],
        ["reproduce", "dance"],
        ["completion", "dance"],
    ],
)
def test_usage_errors(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: relkernels" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
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


@pytest.mark.slow
def test_preference_part_on_fewer_sets(tmp_path, monkeypatch, capsys):
    from relkernels.demos import preference

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
    from relkernels.demos import preference

    monkeypatch.setattr(preference.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(preference, "largest_digit", lambda report: {})
    messages = []
    assert preference.run(messages.append).figures["modechoice"] is None
    assert messages == [f"the travellers' choices need statsmodels: {install('statsmodels')}"]


def test_demo_without_matplotlib_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['matplotlib'] = None\n")
    (tmp_path / "matplotlib.py").write_text("")
    blocked = (
        "import importlib.util, sys; import relkernels.cli.main as m; "
        "importlib.util.find_spec = lambda name: None; sys.exit(m.main(['demo', '--plot', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"--plot needs matplotlib: {install('matplotlib')}" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unwritable_directory_is_reported_without_a_traceback(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    code = (
        "import sys, relkernels.cli.main as m, relkernels.demos.kernel as k; "
        "from relkernels.demos.part import Part; k.run = lambda report: Part([]); "
        f"sys.exit(m.main(['demo', 'kernel', '--json', '--plot', {os.fspath(blocker / 'x')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "relkernels demo:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "symmetric", "--plot", "{}/x"],
        ["bench", "--plot", "{}/x"],
        ["bench", "--quick", "--json", "{}/x"],
        ["bench", "--results", "{}/x/page.md"],
        ["reproduce", "--quick", "--out", "{}/x"],
    ],
)
def test_a_path_that_cannot_be_written_is_reported_before_the_work(arguments, tmp_path, capsys):
    blocker = tmp_path / "file"
    blocker.write_text("kept")
    assert main([word.format(blocker) for word in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if "matplotlib" not in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"relkernels {arguments[0]}: ")
    assert str(blocker) in lines[0]
    assert blocker.read_text() == "kept"


def test_trying_a_file_leaves_it_as_it_is(tmp_path):
    there, new = tmp_path / "there", tmp_path / "new"
    there.write_text("kept")
    check_writable("--json", os.fspath(there))
    check_writable("--json", os.fspath(new))
    assert there.read_text() == "kept"
    assert not new.exists()


def test_tables_are_plain_where_standard_output_is_no_terminal(capsys):
    rows = [{"width": 32, "sup_error": 0.5, "rel_error": 0.25, "seconds": 1.0}]
    demo_tables.show({"kernel": rows}, 1.0)
    printed = capsys.readouterr().out
    assert "0.2500" in printed
    assert "\x1b" not in printed


def test_a_reader_that_stops_reading_causes_no_traceback():
    command = [sys.executable, "-m", "relkernels", "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def completed(script, *words):
    """Return bash's completions of the last word."""
    code = f"""
        source {shlex.quote(os.fspath(script))}
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1} COMPREPLY=()
        $(complete -p relkernels | sed -E 's/.* -F ([^ ]+) .*/\\1/')
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    code = code.replace("$(complete", "eval $(complete")
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "relkernels"
    script.write_text(capsys.readouterr().out)
    assert completed(script, "relkernels", "") == list(COMMANDS)
    assert completed(script, "relkernels", "demo", "cr") == ["crossdomain"]
    assert completed(script, "relkernels", "bench", "rel") == [
        "relation_matrix",
        "relation_matvec",
        "relational",
    ]
    assert completed(script, "relkernels", "reproduce", "zo") == ["zonal"]
    assert "--plot" in completed(script, "relkernels", "bench", "--")
    (tmp_path / "pictures").mkdir()
    wanted = os.fspath(tmp_path / "pict")
    assert completed(script, "relkernels", "demo", "--plot", wanted) == [f"{wanted}ures"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_scripts_for_other_shells_know_the_commands(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name in (*COMMANDS, "crossdomain", "--plot"):
        assert name.lstrip("-") in script


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dmeo"], ["did you mean 'demo'?"]),
        (["bench", "atention"], ["'atention'", "did you mean 'attention'?"]),
        (["bench", "--quik"], ["--quik", "did you mean '--quick'?"]),
        (["demo", "symetric"], ["did you mean 'symmetric'?"]),
        (["demo", "--plot"], ["argument --plot", "DIR"]),
        (["reproduce", "zonl"], ["did you mean 'zonal'?"]),
        (["completion", "bsh"], ["did you mean 'bash'?"]),
        (["demo", "--plot", "symmetric"], ["--plot symmetric:", "write symmetric before --plot"]),
        (["demo", "--html", "kernel"], ["--html kernel:", "./kernel"]),
        (["demo", "kernel", "--plot", "x", "--html", "./x"], ["--html:", "that of --plot", "./x"]),
        (["bench", "--quick", "--json", "retrieve"], ["--json retrieve:", "write retrieve before --json"]),
        (["bench", "--json", "a/x", "--html", "b/../a/x"], ["--html:", "that of --json"]),
        (["reproduce", "--out", "zonal"], ["--out zonal:", "write zonal before --out"]),
        (["bench", "--threads", "two"], ["--threads", "expected 1 to 4096, got two"]),
    ],
)
def test_usage_errors_suggest_what_was_meant(arguments, words, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    for word in words:
        assert word in last


def commands_of(page):
    """Return the lines of a page's sh blocks that call `relkernels`, without comments and redirections."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("relkernels ")]
    return [shlex.split(re.split(r" [>|] ", line)[0], comments=True)[1:] for line in lines]


PAGES = [PAGE, PAGE.with_name("benchmarking.md"), PAGE.with_name("start.md"), DOCS / "plots.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_the_pages_show_are_understood(page):
    shown = commands_of(page)
    assert shown
    for words in shown:
        parser().parse_args(words)


def test_the_page_of_the_command_line_has_every_command_and_variable():
    text = PAGE.read_text()
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == list(COMMANDS)
    for name in info._ENVIRONMENT:
        assert f"| `{name}` |" in text
