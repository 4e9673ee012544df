"""Fits in real use: interrupted, diverging, continued, weighted, in pairs, reproducible, saved."""

import copy
import json
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
import relkernels as rk
from relkernels import AsymmetricRelation, PreferenceRetriever, SymmetricRelation
from relkernels.estimators import retrieval
from relkernels.estimators.fitting import training
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

RNG = np.random.default_rng(3)
KIND = np.arange(120) % 3
X = RNG.standard_normal((120, 4)) + 2 * np.eye(4)[KIND]
Y = np.tanh(X @ RNG.standard_normal((4, 3)))
SETS = RNG.standard_normal((120, 5, 3))
CHOSEN = np.einsum("bd,bnd->bn", X[:, :3], SETS).argmax(axis=1)
OBSERVED = sparse.random_array((120, 120), density=0.02, rng=1, format="csr")
GRAPH = np.triu((KIND[:, None] == KIND) & (RNG.random((120, 120)) < 0.05))
GRAPH = sparse.csr_array((GRAPH | GRAPH.T).astype(float))

SAME = (KIND[:, None] == KIND).astype(float)

# Every way of learning: the estimator and the arguments of its fit.
WAYS = {
    "labels": (SymmetricRelation, (X, KIND)),
    "labels by pairs": (SymmetricRelation, (X, KIND), {"batch_of": "pairs", "batch_size": 256}),
    "values by pairs": (
        SymmetricRelation,
        (X, SAME),
        {"batch_of": "pairs", "n_negatives": 3, "batch_size": 128, "loss": "logistic"},
    ),
    "graph": (SymmetricRelation, (X, GRAPH), {"batch_size": 512}),
    "matched": (AsymmetricRelation, (X, Y)),
    "values": (AsymmetricRelation, (X, Y[:50], X[:, :3] @ Y[:50].T)),
    "observed": (AsymmetricRelation, (X, Y, OBSERVED), {"batch_size": 64}),
    "choices": (PreferenceRetriever, (X, SETS, CHOSEN)),
    "shared set": (PreferenceRetriever, (X, SETS[0], CHOSEN)),
}


def make(way, **parameters):
    kind_of, _, *extra = WAYS[way]
    settings = {"hidden_widths": (16,), "n_features": 4, "max_iter": 8, "batch_size": 32, "random_state": 0}
    return kind_of(**{**settings, **(extra[0] if extra else {}), **parameters})


def maps(estimator):
    """Return all parameters as one vector."""
    names = [name for name in ("phi_", "psi_") if hasattr(estimator, name)]
    arrays = [a for name in names for m in [getattr(estimator, name)] for a in (*m.weights, *m.biases)]
    return np.concatenate([a.ravel() for a in arrays])


@pytest.mark.parametrize("solver", ["adam", pytest.param("adamw", marks=pytest.mark.slow), "lbfgs"])
@pytest.mark.parametrize("way", WAYS)
def test_reproducible_to_the_last_bit_and_the_loss_falls(way, solver):
    parameters = {"solver": solver, "weight_decay": 0.01, "max_iter": 15, "learning_rate": 5e-3}
    before = rk.get_num_threads()
    fits = []
    try:
        for threads in (1, 3):
            rk.set_num_threads(threads)
            fits.append(make(way, **parameters).fit(*WAYS[way][1]))
    finally:
        rk.set_num_threads(before)
    np.testing.assert_array_equal(maps(fits[0]), maps(fits[1]))
    assert fits[0].loss_curve_ == fits[1].loss_curve_
    assert fits[0].loss_curve_[-1] < fits[0].loss_curve_[0]
    other = make(way, **{**parameters, "random_state": 1}).fit(*WAYS[way][1])
    assert not np.array_equal(maps(other), maps(fits[0]))


@pytest.mark.parametrize("way", WAYS)
def test_early_stopping_keeps_the_best(way):
    fit = make(way, early_stopping=True, validation_fraction=0.3, learning_rate=3e-2, tol=1e-3, max_iter=200)
    fit.fit(*WAYS[way][1])
    assert fit.n_iter_ < 200
    assert len(fit.validation_loss_curve_) == fit.n_iter_
    assert fit.loss_ == min(fit.validation_loss_curve_)


@pytest.mark.parametrize("way", WAYS)
def test_partial_fit_and_warm_start_go_on(way):
    arguments = WAYS[way][1]
    parts = make(way)
    for _ in range(8):
        parts.partial_fit(*arguments)
    assert parts._adam.steps >= 16
    first = make(way).partial_fit(*arguments)
    assert parts.loss_ < first.loss_
    warm = make(way, warm_start=True, max_iter=5).fit(*arguments)
    begun = maps(warm)
    again = warm.fit(*arguments)
    assert again.loss_curve_[0] < make(way, max_iter=5).fit(*arguments).loss_curve_[0]
    assert not np.array_equal(begun, maps(again))


BLOCKS = (slice(0, 60), slice(60, 90), slice(90, 120))


def in_blocks(way):
    """Fit to three blocks of rows of the tables."""
    fit = make(way)
    for rows in BLOCKS:
        fit.partial_fit(X[rows], (Y if way == "matched" else KIND)[rows])
    return fit


@pytest.mark.parametrize(("way", "table"), [("labels", X), ("matched", Y)])
def test_retrieve_after_partial_fit_takes_the_table(way, table, tmp_path):
    """All rows are found under their own number, not only those of the last block, counted from 0."""
    fit = in_blocks(way)
    maps = (fit.phi_, getattr(fit, "psi_", None))
    expected = rk.retrieve(X, table, 5, *maps)
    assert {0, 1, 2} == {int(at) // 60 + int(at) // 90 for at in np.unique(expected[1])}
    for found in (fit.retrieve(X, 5, table), fit.retrieve(X, 5, Y=table.tolist())):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
    said = "^Y: expected a table to search after partial_fit, which keeps none.*got None"
    with pytest.raises(ValueError, match=said):
        fit.retrieve(X, 5)
    fit.save(tmp_path / "f")
    again = type(fit).load(tmp_path / "f")
    with pytest.raises(ValueError, match=said):
        again.retrieve(X, 5)
    np.testing.assert_array_equal(again.retrieve(X, 5, table)[1], expected[1])


@pytest.mark.parametrize("way", ["labels", "matched"])
def test_the_keys_of_the_table_are_made_once(way, monkeypatch, tmp_path):
    """And again after a fit, for features that were replaced, and in a copy; they are not pickled."""
    made = []
    monkeypatch.setattr(retrieval, "Keys", lambda a: made.append(a) or rk.Keys(a))
    fit = make(way).fit(*WAYS[way][1])
    size = len(pickle.dumps(fit))
    expected = rk.retrieve(fit.phi_(X), fit.features_fit_.copy(), 5)
    for _ in range(3):
        np.testing.assert_array_equal(fit.retrieve(X, 5), expected)
    assert len(made) == 1
    assert np.shares_memory(fit._keys[1]._stored.features, fit.features_fit_)
    assert len(pickle.dumps(fit)) == size
    fit.save(tmp_path / "f")
    for again in (pickle.loads(pickle.dumps(fit)), copy.copy(fit), type(fit).load(tmp_path / "f")):
        np.testing.assert_array_equal(again.retrieve(X, 5), expected)
    assert len(made) == 4
    fit.features_fit_ = fit.features_fit_[::-1].copy()
    np.testing.assert_array_equal(fit.retrieve(X, 1)[1][:, 0], 119 - expected[1][:, 0])
    fit.fit(*WAYS[way][1])
    np.testing.assert_array_equal(fit.retrieve(X, 5), rk.retrieve(fit.phi_(X), fit.features_fit_, 5))
    assert len(made) == 6


@pytest.mark.parametrize("way", ["labels", "matched", "choices"])
def test_what_belongs_to_a_table_goes_with_partial_fit(way):
    """The maps have changed since, so features and margins of the last fit are outdated."""
    fit = make(way).fit(*WAYS[way][1])
    kept = {"features_fit_", "margins_", "n_best_", "set_sizes_"}
    assert kept & set(vars(fit))
    fit.partial_fit(*WAYS[way][1])
    assert not kept & set(vars(fit))
    assert kept & set(vars(fit.fit(*WAYS[way][1])))


@pytest.mark.parametrize(("way", "table"), [("labels", X), ("matched", Y)])
def test_retrieve_with_a_mask_and_another_table(way, table):
    import pandas as pd

    fit = make(way).fit(*WAYS[way][1])
    others = table[::-1] + 0.5
    mask = np.arange(120) % 2 == 0
    expected = rk.retrieve(X, others, 3, fit.phi_, getattr(fit, "psi_", None), mask=mask)
    for got, wanted in zip(fit.retrieve(X, 3, others, mask=mask), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert (fit.retrieve(X, 3, mask=mask)[1] % 2 == 0).all()
    fit.set_output(transform="pandas")
    names = list("abcd")
    fit.fit(pd.DataFrame(X, columns=names), *WAYS[way][1][1:])
    assert fit.retrieve(pd.DataFrame(X, columns=names), 3)[1].shape == (120, 3)
    with pytest.raises(ValueError, match="k: expected at most 4"):
        fit.retrieve(pd.DataFrame(X, columns=names), 5, table[:4])
    with pytest.raises(TypeError, match="pad: expected True or False"):
        fit.retrieve(X, 3, pad="yes")


@pytest.mark.parametrize(("way", "table"), [("labels", X), ("matched", Y)])
def test_retrieve_pads(way, table):
    fit = make(way).fit(*WAYS[way][1])
    for found in (fit.retrieve(X, 122, pad=True), fit.retrieve(X, 122, table, pad=True)):
        assert (found[1][:, 120:] == -1).all()
        assert (found[0][:, 120:] == -np.inf).all()
        np.testing.assert_array_equal(found[1][:, :120], fit.retrieve(X, 120)[1])


@pytest.mark.parametrize("way", ["labels", "matched", "choices"])
@pytest.mark.parametrize("changed", [{"n_features": 5}, {"hidden_widths": (9,)}, {"activation": "tanh"}])
def test_maps_of_other_parameters_are_not_dropped_in_silence(way, changed):
    arguments = WAYS[way][1]
    fit = make(way, warm_start=True).fit(*arguments)
    kept = maps(fit)
    for name in ("partial_fit", "fit"):
        said = f"^{'warm_start' if name == 'fit' else name}: expected parameters and tables that phi_ fits"
        with pytest.raises(ValueError, match=said):
            getattr(fit.set_params(**changed), name)(*arguments)
    np.testing.assert_array_equal(maps(fit), kept)
    assert fit.set_params(warm_start=False).fit(*arguments).phi_.activation.name in ("relu", "tanh")


def test_partial_fit_draws_on_from_call_to_call():
    """Batches and negatives differ between calls; the sequence is the same for the same random_state."""
    fits = [make("labels by pairs", learning_rate=1e-12) for _ in range(2)]
    losses = [[fit.partial_fit(X, KIND).loss_ for _ in range(3)] for fit in fits]
    assert losses[0] == losses[1]
    assert len(set(np.round(losses[0], 8))) == 3


def test_partial_fit_is_not_there_for_lbfgs():
    assert not hasattr(SymmetricRelation(solver="lbfgs"), "partial_fit")
    with pytest.raises(ValueError, match="early_stopping"):
        SymmetricRelation(early_stopping=True).partial_fit(X, KIND)
    with pytest.raises(ValueError, match="4 features"):
        SymmetricRelation(max_iter=1).fit(X, KIND).partial_fit(X[:, :2], KIND)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_interrupted_fits_keep_the_best_so_far(way, solver, monkeypatch):
    """After an interruption in epoch four: the parameters of the best previous epoch."""
    arguments = WAYS[way][1]
    calls, seen = [0], []
    original = training.Adam.step

    def step(self, flat, gradient, *rest):
        calls[0] += 1
        seen.append(flat)
        if calls[0] > 30:
            raise KeyboardInterrupt
        return original(self, flat, gradient, *rest)

    fit = make(way, solver=solver, max_iter=1000, tol=0.0, standardize=False)
    if solver == "adam":
        monkeypatch.setattr(training.Adam, "step", step)
    else:
        count = [0]

        def stop(_):
            count[0] += 1
            if count[0] > 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(training, "progress_bar", lambda verbose, total: _Bar(stop))
    with pytest.raises(KeyboardInterrupt):
        fit.fit(*arguments)
    assert np.isfinite(maps(fit)).all()
    assert 0 < fit.n_iter_ < 40
    assert fit.transform(X).shape == (120, 4)
    if solver == "adam":
        kept = np.sort(maps(fit))
        assert any(np.array_equal(np.sort(flat[: len(kept)]), kept) for flat in seen)
        assert fit.loss_curve_[-1] < fit.loss_curve_[0]


class _Bar:
    """A progress bar that calls a function."""

    def __init__(self, call):
        self.call = call

    def __enter__(self):
        return lambda loss, pairs: self.call(loss)

    def __exit__(self, *_):
        return False


def test_ctrl_c():
    """The real signal, from another thread, at an arbitrary moment."""
    fit = SymmetricRelation((64,), max_iter=10**9, tol=0.0, batch_size=40, random_state=0)
    fit.set_params(learning_rate=1e-5, early_stopping=False)
    sent = threading.Event()

    def send():
        time.sleep(0.3)
        sent.set()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send).start()

    def fit_for_ever():
        while True:  # restart a fit that has converged
            fit.fit(X, KIND)

    # In a suite started in the background by a shell, the signal is ignored, and the fit would never end.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit_for_ever()
    finally:
        signal.signal(signal.SIGINT, before)
    assert sent.is_set()
    assert np.isfinite(maps(fit)).all()


@pytest.mark.parametrize("way", WAYS)
def test_divergence_names_the_step_and_keeps_finite_parameters(way):
    arguments = WAYS[way][1]
    arguments = (arguments[0].astype("f4"), *arguments[1:])
    fit = make(way, learning_rate=1e18, max_iter=50)
    words = r"(loss became|gradient stopped).*step \d+: scale the features.*learning_rate"
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=words):
        fit.fit(*arguments)
    assert np.isfinite(maps(fit)).all()


def test_lbfgs_diverges_too():
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="step 1: scale the features"):
        SymmetricRelation(solver="lbfgs", standardize=False).fit(1e30 * X.astype("f4"), KIND)


def test_weight_decay_shrinks_weights():
    plain = make("labels", max_iter=30).fit(X, KIND)
    for solver, decay in (("adam", 30.0), ("adamw", 5.0)):
        small = make("labels", max_iter=30, solver=solver, weight_decay=decay).fit(X, KIND)
        assert np.linalg.norm(small.phi_.weights[0]) < 0.97 * np.linalg.norm(plain.phi_.weights[0])
    with pytest.raises(ValueError, match="weight_decay"):
        make("labels", solver="adamw").fit(X, KIND)


def test_adamw_is_its_definition():
    """One step from zero moments: flat - rate * (sign of the gradient + decay * flat)."""
    adam = training.Adam(3, np.dtype("f8"))
    flat, gradient = np.array([1.0, -2.0, 0.5]), np.array([3.0, -0.1, 2.0])
    shrink = np.array([0.1, 0.0, 0.1])
    expected = flat - 1e-2 * (np.sign(gradient) + shrink * flat)
    np.testing.assert_allclose(adam.step(flat, gradient, 1e-2, shrink), expected, rtol=1e-6)


@pytest.mark.parametrize("way", ["labels", "matched", "values", "choices", "shared set"])
def test_weight_zero_is_absence(way):
    """For the ways of learning without randomness."""
    x, *rest = WAYS[way][1]
    weight = np.ones(120)
    weight[90:] = 0
    full = make(way, solver="lbfgs", max_iter=5)
    part = clone(full)
    kept = slice(0, 90)
    if way == "values":
        less = (x[kept], rest[0], rest[1][kept])
    else:
        less = tuple(a if len(a) != 120 else a[kept] for a in (x, *rest))
    np.testing.assert_allclose(
        maps(full.fit(x, *rest, sample_weight=weight)), maps(part.fit(*less)), rtol=1e-6, atol=1e-8
    )
    with pytest.raises(ValueError, match=r"[Ss]ample.weight"):
        full.fit(x, *rest, sample_weight=-weight)


def test_progress_shows_loss_and_throughput(capfd):
    for way in ("labels", "matched", "choices"):
        make(way, max_iter=3, verbose=True).fit(*WAYS[way][1])
        captured = capfd.readouterr()
        assert "loss" in captured.err
        assert "pairs/s" in captured.err
        assert captured.out == ""


@pytest.mark.parametrize("way", WAYS)
def test_save_and_load(way, tmp_path):
    path = tmp_path / "relation.safetensors"
    fit = make(way, activation=rk.leaky_relu(0.2)).fit(*WAYS[way][1])
    fit.save(path)
    again = type(fit).load(path)
    assert again.get_params() == fit.get_params()
    assert set(vars(again)) == set(vars(fit))
    np.testing.assert_array_equal(again.transform(X), fit.transform(X))
    assert again.loss_curve_ == fit.loss_curve_
    np.testing.assert_array_equal(maps(again), maps(fit))
    if hasattr(fit, "retrieve"):
        np.testing.assert_array_equal(again.retrieve(X, 3)[1], fit.retrieve(X, 3)[1])
    else:
        assert again.temperature_for(0.1, coverage=0.5) == fit.temperature_for(0.1, coverage=0.5)
    again.partial_fit(*WAYS[way][1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["relation.safetensors"]


def test_labels_and_names_are_saved(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(X, columns=list("abcd"))
    fit = make("labels", random_state=np.random.RandomState(1)).fit(frame, np.array(["x", "y", "z"])[KIND])
    fit.save(tmp_path / "f")
    again = SymmetricRelation.load(tmp_path / "f")
    assert list(again.classes_) == ["x", "y", "z"]
    assert list(again.feature_names_in_) == list("abcd")
    assert again.random_state is None


@pytest.mark.parametrize(("way", "names"), [
    ("labels", {"phi_": "mlp_"}),
    ("matched", {"hidden_widths_psi": "hidden_widths_y"}),
    ("choices", {"hidden_widths_psi": "hidden_widths_items"}),
])  # fmt: skip
def test_files_with_earlier_names(way, names, tmp_path):
    fit = make(way).fit(*WAYS[way][1])
    fit.save(tmp_path / "f")
    with safe_open(tmp_path / "f", framework="numpy") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for name, earlier in names.items():
        metadata["state"] = metadata["state"].replace(f'"{name}"', f'"{earlier}"')
        tensors = {key.replace(f"{name}.", f"{earlier}."): value for key, value in tensors.items()}
    save_file(tensors, tmp_path / "earlier", metadata=metadata)
    again = type(fit).load(tmp_path / "earlier")
    assert again.get_params() == fit.get_params()
    assert set(vars(again)) == set(vars(fit))
    np.testing.assert_array_equal(maps(again), maps(fit))


def test_the_earlier_name_of_a_map_is_deprecated():
    fit = make("labels", max_iter=1)
    assert not hasattr(fit, "mlp_")
    with pytest.warns(FutureWarning, match="mlp_ is deprecated: use phi_"):
        assert fit.fit(X, KIND).mlp_ is fit.phi_


def test_bad_files(tmp_path):
    path = tmp_path / "f"
    with pytest.raises(NotFittedError):
        SymmetricRelation().save(path)
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        SymmetricRelation.load(path)
    fit = make("labels").fit(X, KIND)
    fit.save(path)
    with pytest.raises(ValueError, match="expected estimator 'AsymmetricRelation', got 'SymmetricRelation'"):
        AsymmetricRelation.load(path)
    data = path.read_bytes()
    for bad in (data[: len(data) // 2], data[:3], b"", b"\x80\x04pickle", data[:8] + b"x" + data[9:]):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(ValueError, match="bad: not a readable safetensors file"):
            SymmetricRelation.load(tmp_path / "bad")
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def changed(**changes):
        save_file(tensors, tmp_path / "bad", metadata={**metadata, **changes})
        return tmp_path / "bad"

    with pytest.raises(ValueError, match="expected version '1', got '2'"):
        SymmetricRelation.load(changed(version="2"))
    with pytest.raises(ValueError, match="expected format"):
        SymmetricRelation.load(changed(format="another"))
    state = json.loads(metadata["state"])
    for wrong in ("{", "[]", "{}", json.dumps({**state, "fitted": {"transform": "x"}})):
        with pytest.raises(ValueError, match="bad"):
            SymmetricRelation.load(changed(state=wrong))
    with pytest.raises(ValueError, match="bad: unknown metadata: 'calibration'"):
        SymmetricRelation.load(changed(calibration="isotonic"))
    with pytest.raises(ValueError, match="bad: unknown metadata: 'adapter'"):
        SymmetricRelation.load(changed(state=json.dumps({**state, "adapter": None})))
    tensors["phi_.9"] = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"bad: unknown tensors: 'phi_\.9'"):
        SymmetricRelation.load(changed())
    del tensors["phi_.9"]
    del state["parameters"]["loss"]
    state["parameters"]["lose"] = 1
    with pytest.raises(ValueError, match="lose"):
        SymmetricRelation.load(changed(state=json.dumps(state)))
    tensors.pop("features_fit_")
    with pytest.raises(ValueError, match="'features_fit_' is missing"):
        SymmetricRelation.load(changed())
    rk.MLP.random([2, 3], random_state=0).save(path)
    with pytest.raises(ValueError, match="expected format"):
        SymmetricRelation.load(path)
