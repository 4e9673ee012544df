"""The README's two commands are the ones that CI runs."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIRST_SCREEN = 25  # lines


def test_ci_runs_the_two_commands_of_the_first_screen():
    """Each is one line, and `.ci/run` reads it from the README instead of repeating it."""
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    commands = [block.rstrip("\n") for block in blocks[:2]]
    assert "relkernels demo" in commands[0]
    assert "pytest" in commands[1]
    script = (ROOT / ".ci" / "run").read_text()
    extract = re.search(r"^command_of_readme\(\) \{.*?^\}", script, re.DOTALL | re.MULTILINE)
    assert extract
    for number, command in enumerate(commands, start=1):
        assert command.count("\n") == 0
        assert command in readme.splitlines()[:FIRST_SCREEN]
        assert command not in script
        assert f'bash -euo pipefail -c "$(command_of_readme {number})"' in script
        done = subprocess.run(
            ["bash", "-euc", f"root={shlex.quote(str(ROOT))}\n{extract[0]}\ncommand_of_readme {number}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == command + "\n"


def test_the_first_environment_can_draw():
    """`relkernels demo --plot` and `--html` work after the README's first command."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras["plot"]) <= set(extras["demo"])


def test_no_page_installs_from_an_index_before_the_release():
    """`pip install relkernels` finds nothing until the package is published; from a clone it is `.`."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    command = re.compile(r"pip install [^`&|;\n]*(?<![\w./-])relkernels(\[|['\"`\s]|$)")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix not in {".py", ".md", ".sh", ".yml", ".toml", ".hpp", ".cpp"} or not path.is_file():
            continue
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            found = command.search(line) and "published" not in line
            assert not found, f"{name}:{number}: {line.strip()}"
