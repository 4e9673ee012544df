"""`relkernels.plot`: plots of data and of the package's objects; nothing is shown or kept."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import relkernels as rk
import scipy.spatial.distance
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from matplotlib import colors
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from recorded import bench_report
from relkernels import bounds, plot, spectra
from relkernels.base.extras import install
from relkernels.plot import _relation, panels, style

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def image_of(ax):
    return np.asarray(ax.images[0].get_array())


def lines_of(ax):
    return {line.get_label(): line for line in ax.lines}


def examples():
    """One call of every function, by name."""
    x = np.geomspace(1, 100, 5)
    return {
        "relation_matrix": lambda **k: plot.relation_matrix(np.eye(4), **k),
        "error_against_width": lambda **k: plot.error_against_width(x, 1 / x, bound=2 / x, **k),
        "attention_against_beta": lambda **k: plot.attention_against_beta(x, 1 / x, bound=2 / x, **k),
        "spectrum": lambda **k: plot.spectrum(1 / x, "power", **k),
        "roofline": lambda **k: plot.roofline(x, 1e9 * x, peaks={"float32": 1e11}, bandwidth=1e9, **k),
    }


# ---- all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", plot.__all__)
def test_axes_are_returned_labelled_and_drawn_by_agg(name, tmp_path):
    before = dict(matplotlib.rcParams)
    ax = examples()[name](title="A title")
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.get_title() == "A title"
    ax.figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", plot.__all__)
def test_on_the_axes_given_and_no_others(name):
    figure = Figure()  # not pyplot's
    ax = figure.subplots()
    assert examples()[name](ax=ax) is ax
    assert not plt.get_fignums()
    with pytest.raises(TypeError, match="ax: expected matplotlib axes or None, got str"):
        examples()[name](ax="here")


@pytest.mark.parametrize("name", plot.__all__)
def test_documentation(name):
    text = inspect.getdoc(getattr(plot, name))
    for heading in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"{heading}\n{'-' * len(heading)}" in text
    for parameter in inspect.signature(getattr(plot, name)).parameters:
        assert parameter in text


def test_a_missing_extra_is_named():
    code = "import sys; sys.modules['matplotlib'] = None; import relkernels as rk; rk.plot"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last == f"ImportError: relkernels.plot needs matplotlib: {install('matplotlib')}"


def dichromat(rgb):
    """Return a colour as protanopes and deuteranopes see it (Vienot, Brettel, Mollon 1999), linear RGB."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    protan = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    deutan = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    return protan @ linear, deutan @ linear


def test_colours_stay_apart_for_colour_blind_readers():
    seen = [dichromat(np.array(colors.to_rgb(color))) for color in style.PALETTE]
    for i, a in enumerate(seen):
        for b in seen[:i]:
            assert min(np.abs(u - v).max() for u, v in zip(a, b, strict=True)) > 0.04
    assert len(set(style.MARKERS)) == len(style.PALETTE)


def test_series_after_each_other_differ_in_colour_and_marker():
    ax = None
    for i in range(6):
        ax = plot.error_against_width([8, 16], [1, 0.5 / (i + 1)], label=str(i), slope=False, ax=ax)
    looks = {(line.get_color(), line.get_marker()) for line in ax.lines}
    assert {color for color, _ in looks} == set(style.PALETTE)
    assert {marker for _, marker in looks} == set(style.MARKERS)
    # Axes with content continue with their own cycle.
    own = Figure().subplots()
    own.set_prop_cycle(color=["black", "red"])
    own.plot([8, 16], [1, 1])
    plot.error_against_width([8, 16], [1, 0.5], ax=own)
    assert [line.get_color() for line in own.lines] == ["black", "red"]


# ---- relations ---------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    npst.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.floats(-9, 9)),
    st.sampled_from(["cluster", "given"]),
)
def test_a_heat_map_holds_every_row_once(values, order):
    ax = plot.relation_matrix(values, order=order, colorbar=False, ax=Figure().subplots())
    shown = image_of(ax)
    assert sorted(map(sorted, shown.tolist())) == sorted(map(sorted, values.tolist()))
    if order == "given":
        assert np.array_equal(shown, values)


def test_labels_order_rows_and_columns(rng):
    labels = np.array(["dog", "cat", "dog", "bird"])
    values = np.arange(16.0).reshape(4, 4)
    ax = plot.relation_matrix(values, labels=labels)
    order = [3, 1, 0, 2]
    assert np.array_equal(image_of(ax), values[np.ix_(order, order)])
    for ticks in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == ["bird", "cat", "dog"]
    assert ax.get_xticks().tolist() == [0, 1, 2.5]
    assert [line.get_ydata()[0] for line in ax.lines[:2]] == [0.5, 1.5]
    other = plot.relation_matrix(values[:, :3], labels=labels, labels_y=[1, 0, 0])
    assert np.array_equal(image_of(other), values[np.ix_(order, [1, 2, 0])])


def test_many_rows_are_clustered_as_few_are(rng, monkeypatch):
    """In the span of 64 directions, in which distances of a relation of 8 features are unchanged."""
    centers = 10 * rng.standard_normal((12, 8))
    group = rng.integers(12, size=500)
    values = rk.relation_matrix(centers[group] + 0.1 * rng.standard_normal((500, 8)))
    exact = image_of(plot.relation_matrix(values))
    widths = []
    real = scipy.spatial.distance.pdist
    monkeypatch.setattr(scipy.spatial.distance, "pdist", lambda a: (widths.append(a.shape[1]), real(a))[1])
    monkeypatch.setattr(_relation, "_MOST_EXACT", 100)
    reduced = image_of(plot.relation_matrix(values))
    assert widths == [64]  # a distance does not cost a whole row
    assert np.mean(np.isclose(exact, reduced)) > 0.99


def test_clusters_stand_together(rng):
    groups = rng.permutation(np.arange(60) % 3)
    values = (groups[:, None] == groups) + 0.1 * rng.standard_normal((60, 60))
    values = (values + values.T) / 2
    shown = image_of(plot.relation_matrix(values))
    assert np.array_equal(shown, shown.T)  # one order for both sides
    near = np.abs(np.subtract.outer(np.arange(60), np.arange(60))) == 1
    assert shown[near].mean() > 0.85  # adjacent rows share a label; in random order a third would


def test_signs_choose_the_colours():
    both = plot.relation_matrix(np.array([[-1.0, 4.0]]), order="given").images[0]
    assert both.get_clim() == (-4, 4)
    assert both.get_cmap().name == style.DIVERGING
    one = plot.relation_matrix(np.array([[1.0, 4.0]]), order="given").images[0]
    assert one.get_clim() == (1, 4)
    assert one.get_cmap().name == style.SEQUENTIAL
    constant = plot.relation_matrix(np.ones((2, 2))).images[0]
    assert constant.get_clim() == (0.5, 1.5)
    missing = plot.relation_matrix(np.array([[np.nan, 4.0], [0.0, 1.0]]), limits=(0, 5)).images[0]
    assert missing.get_clim() == (0, 5)
    assert colors.to_hex(missing.get_cmap().get_bad()) == style.MISSING


def test_relations_of_models(rng):
    x, y = rng.standard_normal((9, 4)), rng.standard_normal((7, 3))
    phi, psi = (
        rk.MLP.random([4, 8, 5], random_state=0, dtype="float64"),
        rk.MLP.random([3, 8, 5], random_state=1, dtype="float64"),
    )
    found = image_of(plot.relation_matrix((phi, psi), x, y, order="given"))
    assert np.array_equal(found, rk.relation_matrix(x, y, phi, psi))
    ax = plot.relation_matrix(phi, x, order="given")
    assert np.array_equal(image_of(ax), rk.relation_matrix(x, phi=phi))
    assert ax.get_xlabel() == "x"
    model = rk.SymmetricRelation((8,), max_iter=2, random_state=0).fit(x, np.arange(9) % 3)
    found = image_of(plot.relation_matrix(model, x, order="given"))
    assert np.array_equal(found, model.relation_matrix(x))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ([np.ones(3)], {}, ValueError, r"relation: expected a matrix \(n, m\), got shape \(3,\)"),
        ([np.ones((0, 3))], {}, ValueError, "relation: expected at least one row"),
        ([np.full((2, 2), np.nan)], {}, ValueError, "relation: expected some finite values"),
        ([np.array([["a"]])], {}, TypeError, "relation: expected real numbers, got an array of dtype"),
        (
            [np.eye(2)],
            {"labels": [1]},
            ValueError,
            r"labels: expected 2 labels, shape \(2,\), got shape \(1,\)",
        ),
        ([np.eye(2)], {"order": "label"}, ValueError, "labels: expected the groups"),
        ([np.eye(2)], {"order": "size"}, ValueError, "order: expected one of 'label', 'cluster', 'given'"),
        ([np.eye(2)], {"limits": (1, 0)}, ValueError, "limits: expected two finite numbers"),
        ([np.eye(2), np.eye(2)], {}, ValueError, "x: expected no points besides a matrix"),
        ([rk.MLP.random([2, 2])], {}, ValueError, "x: expected points"),
        (
            [np.zeros((5001, 1))],
            {"order": "cluster"},
            ValueError,
            "order: expected 'label' or 'given' beyond 5,000",
        ),
    ],
)
def test_relations_that_cannot_be_drawn(arguments, options, error, message):
    with pytest.raises(error, match=message):
        plot.relation_matrix(*arguments, **options)


# ---- errors against width ----------------------------------------------------------------------


def test_slope_and_order_of_widths():
    ax = plot.error_against_width([256, 16, 64], [1 / 16, 1 / 4, 1 / 8], bound=[1, 3, 2], label="a")
    measured, bound = ax.lines
    assert measured.get_xdata().tolist() == [16, 64, 256]
    assert measured.get_ydata().tolist() == [1 / 4, 1 / 8, 1 / 16]
    assert measured.get_label() == "a, N^-0.50"
    assert bound.get_ydata().tolist() == [3, 2, 1]
    assert bound.get_linestyle() == "--"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["16", "64", "256"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_draws_become_a_median_and_a_band():
    ax = plot.error_against_width([8, 16], [[1, 2, 9], [0.5, 0.6, np.inf]], slope=False)
    assert ax.lines[0].get_ydata() == pytest.approx([2, 0.55])
    (band,) = ax.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.5, 9)


def test_what_has_no_logarithm_is_a_gap():
    ax = plot.error_against_width([8, 16, 32, 64], [1, 0, np.inf, 0.25], bound=[np.inf, 2, 1, 1])
    assert np.isfinite(ax.lines[0].get_ydata()).tolist() == [True, False, False, True]
    assert ax.lines[0].get_label() == "measured, N^-0.67"
    assert ax.lines[1].get_xdata().tolist() == [16, 32, 64]
    plt.close(ax.figure)


def test_bounds_are_evaluated():
    zonal = bounds.zonal(1.5, 2, 16)
    ax = plot.error_against_width([16, 64], [0.1, 0.05], bound=zonal)
    assert ax.lines[1].get_ydata() == pytest.approx(zonal.curve("n_neurons", [16, 64]))
    x = np.random.default_rng(0).uniform(-1, 1, (60, 1))
    gaussian = bounds.symmetric(
        lambda a, b: np.exp(-((a - b.T) ** 2) / 2),
        0.1,
        dimension=1,
        norm=bounds.kernel_norm("gaussian", 1),
        points=x,
    )
    ax = plot.error_against_width([16, 64], [0.2, 0.05], bound=gaussian)
    neurons, errors = ax.lines[1].get_data()
    assert (errors.min(), errors.max()) == pytest.approx((0.05, 0.2))
    assert neurons[errors == errors.min()] == gaussian.curve("eps", [errors.min()])
    assert (np.diff(neurons) > 0).all()
    with pytest.raises(
        ValueError, match="bound: expected one of errors and numbers of neurons, got attention"
    ):
        plot.error_against_width([16], [0.1], bound=bounds.attention(1.0, 3, 1.0, 0.5))


def test_reports_of_models(rng):
    x = rng.uniform(-1, 1, (40, 1))
    reports = []
    for width in (8, 32):
        mlp = rk.MLP.random([1, width, 4], seed=width, dtype="float64")
        reports.append(bounds.report(mlp, x, target=lambda a, b: np.exp(-np.abs(a - b.T))))
    ax = plot.error_against_width(reports, slope=False)
    found = lines_of(ax)
    assert found["largest"].get_xdata().tolist() == [8, 32]
    assert found["largest"].get_ydata().tolist() == [r.found for r in reports]
    assert found["root mean square"].get_ydata().tolist() == [r.l2 for r in reports]
    with pytest.raises(ValueError, match="errors: expected none besides reports"):
        plot.error_against_width(reports, [1, 2])
    with pytest.raises(TypeError, match="widths: expected reports alone, or numbers alone, got int"):
        plot.error_against_width([reports[0], 3])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([8, -1], [1, 1]), ValueError, "widths: expected finite numbers > 0, got -1"),
        (([8, 16], [1]), ValueError, r"errors: expected numbers of shape \(2,\), got shape \(1,\)"),
        (([8, 16], [0, np.nan]), ValueError, "errors: expected some finite values > 0"),
        ((["a"], [1]), TypeError, "widths: expected real numbers, got list"),
        (([], []), ValueError, "widths: expected at least one"),
        (([8], None), ValueError, r"errors: expected numbers of shape \(1,\), got shape \(\)"),
    ],
)
def test_errors_that_cannot_be_drawn(arguments, error, message):
    with pytest.raises(error, match=message):
        plot.error_against_width(*arguments)


# ---- attention ---------------------------------------------------------------------------------


def test_attention_of_a_retriever_is_measured_beside_its_bound(rng):
    queries, items = rng.standard_normal((30, 2)), rng.standard_normal((30, 4, 2))
    chosen = np.linalg.norm(items - queries[:, None], axis=2).argmin(axis=1)
    near = rk.PreferenceRetriever((16,), max_iter=10, random_state=0).fit(queries, items, chosen)
    beta = np.array([0.5, 5.0, 50.0])
    ax = plot.attention_against_beta(beta, near, queries=queries, items=items, values=items)
    measured, bound = ax.lines
    best = items[np.arange(30), near.select(queries, items)]
    wanted = [np.linalg.norm(near.attend(queries, items, items, b) - best, axis=1).mean() for b in beta]
    assert measured.get_ydata() == pytest.approx(wanted)
    assert (measured.get_ydata() <= bound.get_ydata()).all()
    assert bound.get_linestyle() == "--"
    with pytest.raises(ValueError, match="values: expected what the retriever attends to, got None"):
        plot.attention_against_beta(beta, near, queries=queries, items=items)


def test_bounds_of_attention_are_evaluated():
    beta = [1.0, 10.0]
    error = bounds.attention_error(0.5, 4, 2.0, 1.0)
    for bound in (error, bounds.attention(0.5, 4, 2.0, 0.1)):
        ax = plot.attention_against_beta(beta, [0.1, 0.01], bound=bound)
        assert ax.lines[1].get_ydata() == pytest.approx(error.curve("beta", beta))
    with pytest.raises(ValueError, match=r"bound: expected bounds.attention_error or .*, got zonal"):
        plot.attention_against_beta(beta, [0.1, 0.01], bound=bounds.zonal(1.5, 2, 16))


def test_accuracy_with_references():
    ax = plot.attention_against_beta(
        [10, 1], [0.9, 0.5], bound=[0.4, 0.1], measure="accuracy", references={"chance": 0.1, "hard": 0.95}
    )
    found = lines_of(ax)
    assert found["attention"].get_ydata().tolist() == [0.5, 0.9]
    assert found["guaranteed"].get_ydata().tolist() == [0.1, 0.4]
    assert list(found["chance"].get_ydata()) == [0.1, 0.1]
    assert ax.get_yscale() == "linear"
    assert found["chance"].get_linestyle() != found["hard"].get_linestyle()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([0.0], [1.0]), {}, "beta: expected finite numbers > 0, got 0"),
        (([1.0], [1.0, 2.0]), {}, r"error: expected numbers of shape \(1,\), got shape \(2,\)"),
        (([1.0], [1.0]), {"queries": np.eye(2)}, "queries: expected nothing besides figures"),
        (([1.0], [1.0]), {"measure": "speed"}, "measure: expected one of 'error', 'accuracy'"),
    ],
)
def test_attention_that_cannot_be_drawn(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        plot.attention_against_beta(*arguments, **options)


# ---- spectra -----------------------------------------------------------------------------------


def test_the_law_is_drawn_where_it_was_fitted():
    values = 2.0 * np.arange(1, 30.0) ** -1.5
    law = spectra.fit_decay(values, first=4, last=20)
    ax = plot.spectrum(values, law)
    shown, line = ax.lines
    assert shown.get_ydata().tolist() == values.tolist()
    k, predicted = line.get_data()
    assert (k.min(), k.max()) == (4, 20)
    assert predicted == pytest.approx(2.0 * k**-1.5)
    assert line.get_label() == "k^-1.50 (1.50 to 1.50)"
    assert ax.get_xscale() == "log"
    exponential = plot.spectrum(np.exp(-0.5 * np.arange(1, 20)), "auto")
    assert exponential.get_xscale() == "linear"
    assert exponential.lines[1].get_label() == "exp(-0.50 k) (0.50 to 0.50)"


def test_spectra_of_the_package(rng):
    x = rng.uniform(-1, 1, (50, 1))
    mercer = spectra.mercer(lambda a, b: np.exp(-((a - b.T) ** 2)), x)
    ax = plot.spectrum(mercer, "exponential")
    shown = ax.lines[0].get_ydata()
    assert ax.get_ylabel() == "eigenvalue"
    assert shown.min() > 50 * np.finfo(float).eps * mercer.values[0]  # rounding is neither drawn nor fitted
    assert shown.tolist() == mercer.values[: len(shown)].tolist()
    assert plot.spectrum(spectra.schmidt(rng.standard_normal((9, 7)))).get_ylabel() == "singular value"
    sphere = spectra.mercer_sphere(lambda t: 1 + 2 * t + t**3, 3, 5)
    ax = plot.spectrum(sphere)
    assert ax.get_xlabel() == "degree k"
    assert ax.lines[0].get_xdata().tolist() == [1, 3]  # degree 0 cannot be shown, 2 and 4 are zero


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([1.0, -1.0], {}, "values: expected a spectrum, none below 0, got -1"),
        ([0.0, 0.0], {}, "values: expected at least one value > 0"),
        ([1.0, np.nan], {}, "values: expected finite values"),
        (np.eye(2), {}, r"values: expected numbers of shape \(k,\), got shape \(2, 2\)"),
        ([3.0, 2.0], {"indices": [2, 1]}, "indices: expected increasing numbers"),
        ([3.0, 2.0, 1.0], {"decay": "linear"}, "decay: expected one of"),
    ],
)
def test_spectra_that_cannot_be_drawn(values, options, message):
    with pytest.raises(ValueError, match=message):
        plot.spectrum(values, **options)


# ---- roofline ----------------------------------------------------------------------------------


def test_roofs():
    ax = plot.roofline([0.1, 100.0], [1e9, 5e10], peaks={"float32": 1e11}, bandwidth=1e10, groups=["a", "b"])
    found = lines_of(ax)
    x, y = found["float32"].get_data()
    assert y == pytest.approx(np.minimum(1e11, 1e10 * x) / 1e9)
    assert found["a"].get_data()[1] == pytest.approx([1.0])
    assert found["b"].get_data()[0] == pytest.approx([100.0])


def test_the_roofline_of_a_file(tmp_path):
    path = tmp_path / "bench.json"
    record = bench_report().record()
    path.write_text(json.dumps(record))
    wanted = lines_of(plot.roofline(record))
    for file in (str(path), path):
        found = lines_of(plot.roofline(file))
        assert found.keys() == wanted.keys()
        for name, line in found.items():
            assert line.get_ydata() == pytest.approx(wanted[name].get_ydata())
    path.write_text("[1, 2]")
    with pytest.raises(
        ValueError, match=r"intensity: expected a file of `relkernels bench --json`, got .*a list"
    ):
        plot.roofline(path)
    path.write_text("no JSON")
    with pytest.raises(
        ValueError, match=r"intensity: expected a file of `relkernels bench --json`, got .*bench.json"
    ):
        plot.roofline(path)
    with pytest.raises(FileNotFoundError):
        plot.roofline(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="intensity: expected the record of a full benchmark"):
        plot.roofline(record | {"quick": True})


def test_the_roofline_of_a_record():
    record = bench_report().record()
    ax = plot.roofline(record)
    families = {row["family"] for row in record["rows"]}
    found = lines_of(ax)
    assert families < set(found)
    assert "products of bfloat16" not in found  # this machine has none
    x = np.concatenate([found[family].get_xdata() for family in families])
    assert len(x) == sum(row["threads"] == 2 for row in record["rows"])
    one = lines_of(plot.roofline(record, threads=1))
    assert one["multiply-adds, float32"].get_ydata().max() == pytest.approx(100)
    with pytest.raises(ValueError, match="threads: expected one of 1, 2, got 7"):
        plot.roofline(record, threads=7)
    with pytest.raises(ValueError, match="record of `relkernels bench --json`, got one without 'ceilings'"):
        plot.roofline({"rows": []})
    with pytest.raises(ValueError, match="rate: expected finite numbers > 0, got 0"):
        plot.roofline([1.0], [0.0])


# ---- panels ------------------------------------------------------------------------------------


def test_svg_has_its_title_apart_and_no_outside():
    panel = panels.Panel("Widths & errors", lambda ax: plot.error_against_width([8, 16], [1, 0.5], ax=ax))
    title, text = panels.svg(panels.figure([panel]))
    assert title == "Widths & errors"
    assert "Widths" not in text
    assert text.startswith("<svg")
    assert "<!DOCTYPE" not in text
    dark = panels.dark(text)
    for light, other in panels.DARK.items():
        assert light in text or light == style.RULE
        assert light not in dark
        assert other in dark or light == style.RULE
    assert "#000000" not in text  # nothing is black on a dark page


def test_few_colours_are_written_by_palette(rng):
    """A heat map of 200 x 200 random values: at most 256 colours, so at most a byte per pixel."""
    ax = plot.relation_matrix(rng.random((200, 200)), order="given")
    _, text = panels.svg(ax.figure)
    assert len(text) < 200 * 200 * 4 / 3 + 30_000
    assert "pixelated" not in text
    _, coarse = panels.svg(plot.relation_matrix(rng.random((8, 8)), order="given").figure)
    assert "pixelated" in coarse


def test_panels_stand_one_below_the_other(tmp_path):
    three = [panels.Panel(str(i), lambda ax: ax.plot([1, 2])) for i in range(3)]
    figure = panels.figure(three)
    assert figure.axes[0].get_gridspec().get_geometry() == (3, 1)
    assert [ax.get_title() for ax in figure.axes] == list("012")
    path = panels.save(three, str(tmp_path), "three")
    width, height = map(
        float, re.search(r'<svg.* width="([\d.]+)pt" height="([\d.]+)pt"', Path(path).read_text()).groups()
    )
    assert width == pytest.approx(72 * style.SIZE[0], rel=0.01)  # a page shows it as wide as its text
    assert height == pytest.approx(3 * 72 * style.SIZE[1], rel=0.01)


@pytest.mark.parametrize("name", ["error_against_width", "attention_against_beta", "spectrum", "roofline"])
def test_legends_cover_no_points(name):
    figure = examples()[name]().figure
    figure.canvas.draw()
    (ax,) = figure.axes
    assert ax.get_legend().get_window_extent().y1 < ax.get_window_extent().y0
