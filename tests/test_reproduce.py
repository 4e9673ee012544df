"""`relkernels reproduce`: its files, its output, and that it resumes after an interruption."""

import contextlib
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from relkernels.base.extras import install
from relkernels.studies import study
from relkernels.studies.fitting import function, hidden_start, two_maps


def run(*arguments, code="from relkernels.cli.main import main; sys.exit(main(sys.argv[1:]))"):
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {code}", "reproduce", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_every_study_has_its_parts():
    for name in study.NAMES:
        module = study.study(name)
        quick, full = module.pieces(True), module.pieces(False)
        assert 0 < len(quick) < len(full)
        assert len({json.dumps(p, sort_keys=True) for p in full}) == len(full)
        assert module.CLAIM


@pytest.fixture(scope="module")
def zonal(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, run("zonal", "--quick", "--out", str(out))


@pytest.mark.slow
def test_a_study_from_the_command_line(zonal):
    out, done = zonal
    assert done.returncode == 0, done.stderr
    for word in (
        "zonal: disagrees on 1 of 3 criteria",
        "Claim.",
        "Measurement.",
        "Criteria.",
        "Verdict.",
        "in total",
    ):
        assert word in done.stdout
    rows = list(csv.DictReader((out / "zonal" / "zonal.csv").open()))
    assert len(rows) == len(study.study("zonal").pieces(True))
    assert all(0 < float(r["error"]) <= float(r["bound"]) for r in rows)
    assert (out / "zonal" / "zonal.svg").read_text().startswith("<svg")
    assert (out / "zonal" / "zonal.svg").stat().st_size < 400_000
    assert (out / "zonal" / "zonal.txt").read_text().startswith("Claim. On S^q")
    index = (out / "README.md").read_text()
    for word in (
        "`relkernels reproduce zonal --quick`",
        "## zonal",
        "**Verdict.** The measurement disagrees",
    ):
        assert word in index
    assert "![zonal](zonal/zonal.svg)" in index


@pytest.mark.slow
def test_finished_pieces_are_kept_and_matplotlib_is_not_needed(zonal):
    out, _ = zonal
    (out / "zonal" / "zonal.svg").unlink(missing_ok=True)
    blocked = (
        "import importlib.util as u; real = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name == 'matplotlib' else real(name, *a); "
        "sys.modules['matplotlib'] = None; "
        "from relkernels.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = run("zonal", "--quick", "--json", "--out", str(out), code=blocked)
    assert done.returncode == 0, done.stderr
    assert f"no pictures without matplotlib ({install('matplotlib')})" in done.stderr
    (summary,) = json.loads(done.stdout)
    assert summary["reused"] == len(summary["rows"]) == len(study.study("zonal").pieces(True))
    assert summary["stands"] is False
    bound, lowered, plain = summary["criteria"]
    assert (bound["agrees"], lowered["agrees"], plain["agrees"]) == (True, True, False)
    assert sorted(p.name for p in (out / "zonal").iterdir()) == ["pieces", "zonal.csv", "zonal.txt"]


def test_usage_and_unwritable_directories(tmp_path):
    done = run("symetric")
    assert done.returncode == 2
    assert "got 'symetric': did you mean 'symmetric'?" in done.stderr
    (tmp_path / "file").write_text("")
    done = run("zonal", "--quick", "--out", str(tmp_path / "file"))
    assert done.returncode == 1
    assert "relkernels reproduce:" in done.stderr
    assert "Traceback" not in done.stderr


class Toy:
    """A study that is interrupted, or whose measurement fails a criterion."""

    CLAIM = "Squares."

    def __init__(self, stop=None, stands=True, proven=False):
        self.stop, self.stands, self.proven, self.measured = stop, stands, proven, []

    def pieces(self, quick):
        return [{"x": x} for x in range(4)]

    def measure(self, piece):
        if piece["x"] == self.stop:
            raise KeyboardInterrupt
        self.measured.append(piece["x"])
        return [{"square": np.float64(piece["x"] ** 2)}, {"square": -1.0, "note": "second"}]

    def judge(self, rows):
        return study.Verdict(
            f"{len(rows)} rows.",
            [
                study.Criterion("Squares are at most 9.", "9", self.stands, self.proven),
                study.Criterion("Squares are >= 0.", "0", True),
            ],
        )

    def panels(self, rows):
        return []


def test_an_interrupted_study_goes_on(tmp_path, monkeypatch):
    toy = Toy(stop=2)
    monkeypatch.setattr(study, "study", lambda name: toy)
    arguments = ("toy", str(tmp_path), True, lambda last: None, lambda total: None)
    with pytest.raises(KeyboardInterrupt):
        study.run(*arguments)
    assert toy.measured == [0, 1]
    # A damaged piece is measured again.
    damaged = min((tmp_path / "pieces").iterdir())
    damaged.write_text("[{")
    toy = Toy()
    outcome = study.run(*arguments)
    assert len(toy.measured) == 3
    assert outcome.reused == 1
    assert [r["square"] for r in outcome.rows] == [0, -1, 1, -1, 4, -1, 9, -1]
    assert outcome.rows[0] == {"x": 0, "square": 0.0}
    assert "8 rows." in (tmp_path / "toy.txt").read_text()
    assert not list(tmp_path.glob("**/*.part"))
    lines = (tmp_path / "toy.csv").read_text().splitlines()
    assert lines[0] == "x,square,note"
    assert lines[2] == "0,-1,second"


@pytest.mark.parametrize(
    ("proven", "code", "verdict"),
    [(True, 1, "contradicts a proven bound"), (False, 0, "disagrees on 1 of 2 criteria")],
)
def test_a_criterion_that_fails_is_reported(proven, code, verdict, tmp_path, monkeypatch, capsys):
    """A failed criterion that is proven for every case fails the command; other failed criteria do not."""
    monkeypatch.setattr(study, "study", lambda name: Toy(stands=False, proven=proven))
    from relkernels.cli.main import main

    assert main(["reproduce", "zonal", "--out", str(tmp_path)]) == code
    assert f"zonal: {verdict}" in capsys.readouterr().out
    text = (tmp_path / "zonal" / "zonal.txt").read_text()
    assert "- disagrees: Squares are at most 9. Measured: 9." in text
    assert "- agrees: Squares are >= 0. Measured: 0." in text
    assert f"Verdict. The measurement {verdict}." in text
    index = (tmp_path / "README.md").read_text()
    assert "**Criteria.**" in index
    assert "- disagrees: Squares are at most 9." in index


def recorded_rows(name):
    """Return the rows of a study from its full run."""

    def value(text):
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(text)
        return {"True": True, "False": False}.get(text, text)

    path = Path(__file__).parents[1] / "docs" / "reproduce" / name / f"{name}.csv"
    with path.open() as file:
        return [{k: value(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", study.NAMES)
def test_the_kept_verdicts_are_those_of_the_kept_rows(name):
    module = study.study(name)
    verdict = module.judge(rows := recorded_rows(name))
    outcome = study.Outcome(name, module.CLAIM, *verdict, rows, [], 0)
    folder = Path(__file__).parents[1] / "docs" / "reproduce"
    assert (folder / name / f"{name}.txt").read_text() == outcome.paragraph()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("symmetric", "114 of 120; not: polynomial D = 8 N = 8"),  # fits worse than zero
        ("bounds", "26 of 30; not: gaussian l = 0.5 D = 2 eps = 0.1: 5, 66"),
        ("random-features", "0.0226 with 256, 0.0162 with 8"),
        ("zonal", "q = 2, r = 0.5: 0.66 < 0.75"),
        ("functional", "functions by fourier, 0.0332 with 24, 0.0186 with 4"),
    ],
)
def test_what_falls_short_of_theory_is_said_to_disagree(name, words):
    criteria = study.study(name).judge(recorded_rows(name)).criteria
    assert [words in c.measured for c in criteria if not c.agrees].count(True) == 1


def test_a_violated_bound_is_a_contradiction():
    rows = recorded_rows("attention")
    rows[0]["ratio_max"] = 1.01
    verdict = study.study("attention").judge(rows)
    assert study.Outcome("attention", "", *verdict, rows, [], 0).contradicted


@pytest.mark.parametrize(
    ("name", "column", "other"),
    [
        ("bounds", "pruned", "lower"),  # fewer units than any network needs
        ("bounds", "built_error", "built_found"),  # a larger error than the certified one
        ("symmetric", "certified_error", "sup_error"),
        ("symmetric", "width", "neurons_at_least"),
        ("asymmetric", "certified_error", "sup_error"),
    ],
)
def test_a_certificate_that_is_exceeded_is_a_contradiction(name, column, other):
    rows = recorded_rows(name)
    row = next(r for r in rows if r.get(other, 0) > 0 and column in r)
    row[column] = 0.9 * row[other]
    verdict = study.study(name).judge(rows)
    assert study.Outcome(name, "", *verdict, rows, [], 0).contradicted


@pytest.mark.slow
def test_counts_of_a_relation_are_in_order():
    module = study.study("bounds")
    piece = next(p for p in module.pieces(True) if p["relation"] == "order")
    (row,) = module.measure(piece)
    assert row["lower"] <= row["pruned"] <= row["built"] <= row["proved"] < row["barron_type"]
    assert row["built_found"] <= row["built_error"] <= row["eps"]
    assert row["pruned_error"] <= row["eps"]


def test_the_duration_is_printed_before_the_work(monkeypatch, tmp_path, capsys):
    from relkernels.cli import main, reproduce

    def work(*_):
        assert "1 to 3 minutes on 2 cores" in capsys.readouterr().err
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "_run_one", work)
    assert main.main(["reproduce", "--quick", "--out", str(tmp_path)]) == 130


def compared(ours, other, raw, measure="log-loss"):
    """Return rows of one table of choices, with a value for each seed of three methods."""
    named = {"relkernels": ours, "small MLP": other, "shares": raw}
    return [
        {"task": "choices", "table": "toy", "seed": seed, "method": method, measure: value}
        for method, values in named.items()
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("ours", "place"),
    [
        ([0.5, 0.6, 0.7], 1),
        ([0.85, 0.95, 1.05], 0),
        ([1.0, 1.1, 1.2], -1),
        ([0.5, 0.5, 9.0], -1),  # our own spread does not count
        ([0.8], 0),
        ([0.9], -1),
    ],
)
def test_a_lead_counts_if_it_exceeds_the_spread_of_the_other(ours, place):
    quality = study.study("quality")
    rows = compared(ours, [0.8, 0.9, 1.0][: len(ours)], [1.4] * len(ours))
    (found,) = quality.comparisons(rows, "choices", "log-loss")
    assert found.best == "small MLP"
    assert found.place() == place


@pytest.mark.slow
@pytest.mark.parametrize("task", study.study("quality").TASKS)
def test_no_default_is_below_the_raw_baseline(task):
    quality = study.study("quality")
    rows = [{**p, **row} for p in quality.pieces(True) if p["task"] == task for row in quality.measure(p)]
    for measure in quality.TASKS[task].measures:
        for found in quality.comparisons(rows, task, measure):
            leads = {raw: found.ahead(raw)[0] for raw in quality.RAW[task]}
            assert min(leads.values()) >= 0, (found.name, leads)


def test_the_page_of_tables_shows_every_table_and_says_where_others_are_better():
    quality = study.study("quality")
    page = quality.page(rows := recorded_rows("quality"))
    assert all(f"| {row['table']} |" in page for row in rows)
    assert "we are behind the best other method on" in page
    kept = Path(__file__).parents[1] / "docs" / "reproduce" / "quality" / "quality.md"
    assert kept.read_text().endswith(page)


def test_slope():
    x = np.array([1.0, 2, 4, 8])
    assert study.slope(x, 3 * x**-1.5) == pytest.approx(-1.5)
    assert np.isnan(study.slope([1.0], [1.0]))


def test_hidden_weights_and_biases_are_independent():
    """From a single stream they would be proportional, and all kinks of a layer at one point."""
    start = hidden_start([1, 500, 1], "relu", 3)
    assert abs(np.corrcoef(start.weights[0][0], start.biases[0])[0, 1]) < 0.2


@pytest.mark.slow
def test_fits_of_the_studies_fit(rng):
    X = rng.uniform(-1, 1, (150, 1))
    values = np.tanh(2 * (X.T - X))
    phi, psi = two_maps(X, X, values, 32, 8, "tanh", 0, 50)
    assert np.abs(phi(X) @ psi(X).T - values).max() < 0.01
    y = np.sin(3 * X[:, 0])
    assert np.abs(function(X, y, 32, "tanh")(X)[:, 0] - y).max() < 0.01


@pytest.mark.slow
def test_spectra_lie_on_the_sides_of_the_threshold_that_theory_says():
    """Arc-cosine kernels of order p decay like k^(-n-2p), smooth activations exponentially."""
    module = study.study("random-features")
    for piece in module.pieces(False):
        if piece["part"] == "spectrum":
            (row,) = module.measure(piece)
            assert row["decay"] == ("power" if piece["activation"] in ("step", "relu") else "exponential")
            assert row["fewer"] == ("random features" if piece["activation"] == "step" else "Barron")
