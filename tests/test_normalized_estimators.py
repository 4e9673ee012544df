"""`normalize` of the estimators: features of unit length in every way that maps are fitted."""

import pickle
import warnings

import numpy as np
import pytest
import relkernels as rk
from relkernels import AsymmetricRelation, PreferenceRetriever, SymmetricRelation, bounds
from relkernels.estimators.fitting import held_out
from scipy import sparse
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.metrics.pairwise import linear_kernel, rbf_kernel

N = 90
RNG = np.random.default_rng(0)
LABELS = RNG.integers(3, size=N)
X = RNG.standard_normal((N, 4)) + 2 * np.eye(3, 4)[LABELS]
Y = np.tanh(X @ RNG.standard_normal((4, 3))) + 0.1 * RNG.standard_normal((N, 3))
VALUES = rbf_kernel(X, gamma=0.1)
PAIRS = sparse.csr_array((RNG.random((N, N)) < 0.05).astype(float))
SETS = RNG.standard_normal((N, 5, 4))
CHOSEN = np.linalg.norm(SETS - X[:, None], axis=2).argmin(axis=1)
SMALL = {"hidden_widths": (8,), "n_features": 5, "max_iter": 3, "random_state": 0}


def quiet(fit, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(*arguments, **options)


FITS = {
    "labels": (SymmetricRelation(), (X, LABELS)),
    "few features": (SymmetricRelation(n_features=2), (X, LABELS)),
    "tanh": (SymmetricRelation(activation="tanh"), (X, LABELS)),
    "values": (SymmetricRelation(), (X, VALUES)),
    "kernel": (SymmetricRelation(), (X, rbf_kernel)),
    "adam": (SymmetricRelation(**SMALL), (X, LABELS)),
    "softmax": (SymmetricRelation(**SMALL, loss="softmax"), (X, LABELS)),
    "logistic": (SymmetricRelation(**SMALL, loss="logistic"), (X, LABELS)),
    "hinge": (SymmetricRelation(**SMALL, loss="hinge", early_stopping=True), (X, LABELS)),
    "lbfgs": (SymmetricRelation(**SMALL, solver="lbfgs"), (X, VALUES)),
    "pairs": (SymmetricRelation(**SMALL, batch_of="pairs"), (X, LABELS)),
    "observed": (SymmetricRelation(**SMALL), (X, PAIRS.maximum(PAIRS.T))),
    "matched": (AsymmetricRelation(), (X, Y)),
    "matched, few features": (AsymmetricRelation(n_features=3), (X, Y)),
    "matched, many features": (AsymmetricRelation(n_features=40), (X, Y)),
    "matched, tanh": (AsymmetricRelation(activation="tanh"), (X, Y)),
    "InfoNCE": (AsymmetricRelation(**SMALL), (X, Y)),
    "blocks": (AsymmetricRelation(max_iter=3), (X, Y, VALUES)),
    "block softmax": (AsymmetricRelation(**SMALL, loss="softmax"), (X, Y, VALUES)),
    "drawn": (AsymmetricRelation(**SMALL, loss="logistic"), (X, Y, PAIRS)),
    "ids": (AsymmetricRelation(max_iter=2), (sparse.eye_array(N, format="csr"),) * 2 + (PAIRS,)),
    "choices": (PreferenceRetriever(max_iter=3), (X, SETS, CHOSEN)),
    "one set": (PreferenceRetriever(**SMALL, solver="lbfgs"), (X, SETS[0], CHOSEN)),
    "wide and deep": (PreferenceRetriever(**{**SMALL, "hidden_widths": (8, 6)}), (X, SETS, CHOSEN)),
}


def fitted(name):
    estimator, arguments = FITS[name]
    return quiet(clone(estimator).set_params(normalize=True, random_state=0).fit, *arguments), arguments


def maps_of(model):
    return [getattr(model, name) for name in ("phi_", "psi_") if hasattr(model, name)]


def is_unit(features):
    return np.allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-12)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "kernel" else name for name in FITS]
)
def test_features_have_unit_length(name):
    model, (x, *_) = fitted(name)
    assert all(m.normalize for m in maps_of(model))
    assert np.isfinite(model.loss_)
    if name == "ids":
        x = x.toarray()
    assert is_unit(model.transform(x))
    if hasattr(model, "features_fit_"):
        assert is_unit(model.features_fit_)
        values, _ = model.retrieve(x[:7], 3)
        assert np.abs(values).max() <= 1 + 1e-12
    losses = ("softmax", "logistic", "matched", "InfoNCE", "drawn", "choices", "one set", "wide")
    assert hasattr(model, "temperature_") == any(word in name for word in losses)


@pytest.mark.parametrize("name", ["labels", "softmax", "matched", "InfoNCE", "choices"])
def test_copies_files_and_further_fits_keep_it(name, tmp_path):
    model, arguments = fitted(name)
    model.save(tmp_path / "model.safetensors")
    copies = [pickle.loads(pickle.dumps(model)), type(model).load(tmp_path / "model.safetensors")]
    for copy in copies:
        assert copy.normalize is True
        np.testing.assert_array_equal(copy.transform(X), model.transform(X))
        assert getattr(copy, "temperature_", None) == getattr(model, "temperature_", None)
    assert not clone(model).set_params(normalize=False).normalize
    before = getattr(model, "temperature_", None)
    model.set_params(hidden_widths="auto", max_iter=1, warm_start=True)
    again = clone(model).set_params(warm_start=False)
    if name in ("softmax", "InfoNCE"):
        model.set_params(hidden_widths=(8,))
        again.set_params(hidden_widths=(8,))
    quiet(model.fit, *arguments)
    assert all(m.normalize for m in maps_of(model))
    if before is not None and name != "choices":
        assert model.temperature_ == pytest.approx(before, rel=0.05)
    for _ in range(2):
        again.partial_fit(*arguments)
    assert all(m.normalize for m in maps_of(again))
    assert is_unit(again.transform(X))
    with pytest.raises(ValueError, match=r"partial_fit: expected .*normalized.*fit a clone"):
        again.set_params(normalize=False).partial_fit(*arguments)


def test_old_pickles_have_no_such_parameter():
    model = SymmetricRelation(**SMALL)
    state = model.__getstate__()
    del state["normalize"]
    old = SymmetricRelation.__new__(SymmetricRelation)
    old.__setstate__(state)
    assert not old.normalize
    assert not quiet(clone(old).fit, X, LABELS).phi_.normalize


def test_ranks_are_about_those_without():
    x, y = load_wine(return_X_y=True)
    train, test = slice(0, None, 2), slice(1, None, 2)
    found = []
    for normalize in (False, True):
        model = SymmetricRelation(random_state=0, normalize=normalize).fit(x[train], y[train])
        indices = model.retrieve(x[test], 10)[1]
        found.append([(y[train][indices] == y[test, None]).mean(), model.score(x[test], y[test])])
    assert min(found[1]) > 0.95
    np.testing.assert_allclose(*found, atol=0.02)


def test_a_kernel_of_cosines_is_fitted_as_well():
    scores = [
        SymmetricRelation(normalize=n, random_state=0).fit(X, VALUES).score(X, VALUES) for n in (False, True)
    ]
    assert scores[1] > 0.98
    assert scores[1] > scores[0] - 0.01


def test_matched_rows_on_a_line():
    """Cosines of numbers are 1 or -1: only a further feature tells them apart."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (300, 1))
    y = np.sin(2 * x) + 0.02 * rng.standard_normal((300, 1))
    cosines, plain = (
        AsymmetricRelation(normalize=n, random_state=0).fit(x[:200], y[:200]) for n in (True, False)
    )
    distance = np.abs(y[200:] - np.sin(2 * x[200:]).T).T
    for model in (cosines, plain):
        best = model.relation_matrix(x[200:], y[200:]).argmax(axis=1)
        assert np.mean(distance[np.arange(100), best] < 0.05) > 0.8


def test_choices_have_the_probabilities_of_the_log_loss(monkeypatch):
    monkeypatch.setattr(held_out, "_LENGTHS", (60,))
    rng = np.random.default_rng(0)
    Q, sets = rng.standard_normal((400, 2)), rng.standard_normal((400, 4, 3))
    utility = sets @ [1.0, -2.0, 0.5] + Q[:, :1] * sets[..., 0]
    chosen = (utility + rng.gumbel(size=utility.shape)).argmax(axis=1)
    train, test = slice(0, 250), slice(250, None)
    cosines = PreferenceRetriever(normalize=True, random_state=0)
    quiet(cosines.fit, Q[train], sets[train], chosen[train])
    plain = quiet(PreferenceRetriever(random_state=0).fit, Q[train], sets[train], chosen[train])
    found = cosines.log_loss(Q[test], sets[test], chosen[test])
    u = cosines.utility(Q[test], sets[test])
    assert np.abs(u).max() <= 1
    wanted = -log_softmax(u / cosines.temperature_, axis=1)[np.arange(150), chosen[test]].mean()
    assert found == pytest.approx(wanted)
    assert found < plain.log_loss(Q[test], sets[test], chosen[test]) + 0.03
    margin = bounds.margin_of(u)
    assert cosines.temperature_for(0.1, Q=Q[test], sets=sets[test]) == pytest.approx(
        bounds.attention(margin, None, 1.0, 0.1).value
    )
    report = cosines.check_continuity(Q, sets, radius=1e-4, random_state=0)
    assert 0 < report.slope <= report.slope_bound < np.inf
    report = cosines.check_continuity(Q, sets, radius=1e3, random_state=0)
    assert report.slope_bound == np.inf
    assert "lower radius" in report.note


def test_sets_without_information_give_equal_probabilities():
    one = quiet(
        PreferenceRetriever(random_state=0, normalize=True).fit, np.ones((9, 2)), np.ones((9, 3, 2)), [1] * 9
    )
    assert one.log_loss(np.ones((1, 2)), np.ones((1, 3, 2)), [1]) == pytest.approx(np.log(3), rel=1e-6)


def test_what_cosines_cannot_be_is_refused():
    unit = {"normalize": True}
    cases = [
        (
            lambda: SymmetricRelation(normalize=1).fit(X, LABELS),
            TypeError,
            "normalize: expected True or False",
        ),
        (lambda: SymmetricRelation(**unit).fit(X, linear_kernel), ValueError, r"y: expected r\(x, x\) = 1"),
        (
            lambda: SymmetricRelation(**unit).fit(X, 2 * VALUES),
            ValueError,
            r"y: expected r\(x, x\) = 1.*got 2",
        ),
        (lambda: SymmetricRelation(**SMALL, **unit).fit(X, 3 * PAIRS), ValueError, "y: expected .*symm"),
        (
            lambda: SymmetricRelation(**SMALL, **unit).fit(X, 3 * (PAIRS + PAIRS.T)),
            ValueError,
            "y: expected values from -1 to 1",
        ),
        (
            lambda: AsymmetricRelation(**unit).fit(X, Y, 2 * VALUES),
            ValueError,
            "R: expected values from -1 to 1",
        ),
        (
            lambda: AsymmetricRelation(**unit, solver="als").fit(X, Y, PAIRS),
            ValueError,
            "normalize: expected False with solver='als'",
        ),
        (
            lambda: PreferenceRetriever((), **unit).fit(X, SETS, CHOSEN),
            ValueError,
            r"normalize: expected False with hidden_widths=\(\)",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
    quiet(SymmetricRelation(**SMALL, **unit, loss="logistic").fit, X, 0.5 * VALUES)  # of probabilities


def test_fits_to_dask_arrays():
    da = pytest.importorskip("dask.array", reason="Dask is not installed")
    from relkernels.dask import fit

    model = SymmetricRelation(**SMALL, loss="softmax", normalize=True)
    lazy = [da.from_array(a, chunks=(30, *a.shape[1:])) for a in (X, LABELS)]
    fit(model, *lazy, epochs=2)
    assert is_unit(model.transform(X))
    assert model.temperature_ != 0.1
    features = (
        rk.dask.feature_map(lazy[0], model.phi_).compute() if hasattr(rk, "dask") else model.transform(X)
    )
    np.testing.assert_array_equal(features, model.transform(X))
