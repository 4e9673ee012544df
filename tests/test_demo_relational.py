"""`relkernels demo relational`: its task, its networks, its figures, tables and pictures."""

import json
import sys

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)

from relkernels import get_num_threads  # noqa: E402
from relkernels.base.extras import install  # noqa: E402
from relkernels.cli import demo, demo_tables  # noqa: E402
from relkernels.cli.main import main  # noqa: E402
from relkernels.demos import relational  # noqa: E402


def small(monkeypatch):
    """Run the part on tiny sizes."""
    run = relational.run
    sizes = {"examples": (20, 40), "steps": 5, "seeds": 2, "n_held_out": 30}
    monkeypatch.setattr(relational, "run", lambda report: run(report, **sizes))


def test_the_task():
    found = relational.draw(500, 0)
    assert found.symbols.shape == (500, 4, 25)
    same = (found.symbols[:, 1:] == found.symbols[:, :1]).all(-1)
    assert torch.equal(same.int().argmax(1), found.answers)
    assert (same.sum(1) == 1).all()
    assert torch.equal(found.symbols, relational.draw(500, 0).symbols)
    of = [{row.numpy().tobytes() for row in relational.draw(500, i).symbols.flatten(0, 1)} for i in (1, 2)]
    assert len(of[0] & of[1]) <= 2  # of 33 million


def test_the_networks_have_the_same_size():
    dual, transformer = (relational.parameters(relational.make(name, 0)) for name in relational.NETWORKS)
    assert dual <= transformer <= 1.02 * dual


def test_figures_tables_and_pictures(monkeypatch, tmp_path, capsys):
    small(monkeypatch)
    state, threads = torch.get_rng_state(), (torch.get_num_threads(), get_num_threads())
    pictures, page = tmp_path / "pictures", tmp_path / "page.html"
    assert main(["demo", "relational", "--json", "--plot", str(pictures), "--html", str(page)]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch.get_num_threads(), get_num_threads()) == threads
    figures = json.loads(capsys.readouterr().out)["relational"]
    assert [(row["network"], row["examples"]) for row in figures["results"]] == [
        (name, count) for count in (20, 40) for name in relational.NETWORKS
    ]
    for row in figures["results"]:
        assert len(row["accuracies"]) == 2
        assert [curve[-1] for curve in row["curves"]] == row["accuracies"]
        assert {len(curve) for curve in row["curves"]} == {len(figures["measured_steps"])}
        assert row["accuracy"] == pytest.approx(sum(row["accuracies"]) / 2)
    demo_tables.show({"relational": figures}, 1.0)
    printed = " ".join(capsys.readouterr().out.split())
    assert "(range) of 2 runs" in printed
    assert f"{figures['results'][-1]['accuracy']:.3f}" in printed
    assert {path.name for path in pictures.iterdir()} == {
        "match_to_sample_examples.png", "match_to_sample_steps.png",
    }  # fmt: skip
    text = page.read_text()
    assert "by training step, 40 examples" in text
    assert text.count("<img") == 2


def test_without_pytorch_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "relkernels.demos.relational")
    assert main(["demo", "symmetric", "relational"]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"relkernels demo: the part relational needs PyTorch: {install('torch')}\n"
    assert captured.out == ""


@pytest.mark.slow
def test_the_relational_network_needs_fewer_examples(capsys):
    assert main(["demo", "relational", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["relational"]
    found = {(row["network"], row["examples"]): row["accuracies"] for row in figures["results"]}
    assert min(found["dual attention", 1000]) > 0.95
    assert max(found["Transformer", 1000]) < 0.6
    assert min(found["Transformer", 10_000]) > 0.7
