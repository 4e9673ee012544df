"""A few seconds of the campaign, of its failing allocations and of its damaged files, with fixed seeds."""

import ctypes
import faulthandler
import os
import subprocess
import sys
from pathlib import Path

import pytest

from campaign import files, starved
from campaign.drawing import beside_fence
from campaign.judge import judge, message_faults, uncovered
from campaign.run import campaign

ROOT = Path(__file__).parents[2]


def test_every_public_name_has_a_generator():
    assert uncovered() == []


def test_a_few_hundred_calls():
    made, findings = campaign(seed=1, calls=300, seconds=None, processes=2, patience=120)
    assert findings == []
    assert made == 300


def test_a_call_is_repeated_by_its_number():
    assert judge(5, 7) == judge(5, 7)
    done = subprocess.run(
        [sys.executable, "tests/campaign", "--seed", "5", "--call", "7"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [judge(5, 7)[0], "no finding"]


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("time.sleep(1000)", "hung for 2 s"),
        ("os._exit(3)", "ended with status 3"),
        ("return 'good nothing', ['wrong']", "wrong"),
        ("raise LookupError('no such thing')", "LookupError: no such thing"),
    ],
)
def test_what_happens_to_a_child_is_found(what, fault, tmp_path, monkeypatch):
    """The second of three calls fails; the others are still made."""
    body = f"import os, signal, time\ndef judge(seed, index):\n    if index == 1:\n        {what}\n"
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, types\nfake = types.ModuleType('campaign.judge')\n"
        f"exec({body + '    return chr(120), []'!r}, vars(fake))\nsys.modules['campaign.judge'] = fake\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made, findings = campaign(seed=0, calls=3, seconds=None, processes=1, patience=2)
    assert [f["call"] for f in findings] == [1]
    assert fault in findings[0]["fault"]
    assert made >= 2


def test_what_is_wrong_with_a_message():
    def faults(error, *names):
        return [fault.partition(":")[0] for fault in message_faults(error, names, (TypeError, MemoryError))]

    assert faults(TypeError("x: expected an array"), "x") == []
    assert faults(TypeError("y: expected an array"), "x") == ["a message that does not name x"]
    assert faults(ValueError("x: no"), "x") == ["raised ValueError"]
    assert faults(TypeError(""), "x") == ["an empty message", "a message that does not name x"]
    assert faults(TypeError("x" * 501)) == ["a message of 501 characters"]


def test_a_write_beside_an_array_kills_the_process():
    for after, at, killed in ((True, 9, False), (True, 10, True), (False, 0, False), (False, -1, True)):
        child = os.fork()
        if child == 0:
            faulthandler.disable()
            a = beside_fence(10, after)
            ctypes.memset(a.ctypes.data + at, 0, 1)
            os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]) == killed


def test_damaged_files(tmp_path):
    assert list(files.findings(tmp_path, seed=1, count=8)) == []


@pytest.mark.skipif(starved.why_not() is not None, reason=starved.why_not() or "")
@pytest.mark.parametrize(
    "arguments",
    [*(pytest.param(call, marks=pytest.mark.slow) for call in [("memory", "29"), ("memory",)]), ("threads",)],
    ids=" ".join,
)
def test_memory_and_threads_run_out(arguments, tmp_path):
    done = starved.run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
