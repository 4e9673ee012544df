"""scikit-learn's own checks of every estimator, and its pipelines, searches and frames."""

import inspect
import pickle
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from relkernels import (
    AsymmetricRelation,
    MultiLayerRandomFeatures,
    PreferenceRetriever,
    RandomFeatureRidge,
    SymmetricRelation,
    ZonalFeatures,
)
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks


class TwoTables(PreferenceRetriever):
    """Renames the second argument to the name in scikit-learn's checks, so that everything else is tested."""

    def fit(self, Q, y, chosen=None, sample_weight=None):
        return super().fit(Q, y, chosen, sample_weight)

    def partial_fit(self, Q, y, chosen=None, sample_weight=None):
        return super().partial_fit(Q, y, chosen, sample_weight)

    def score(self, Q, y, chosen=None, sample_weight=None):
        return super().score(Q, y, chosen, sample_weight)


NAMED_SETS = "the second argument is called sets, because it holds alternatives and no target; see TwoTables"
REPEATED = "repeating a query repeats its item in the set that all choose from: another problem"
ROTATED = "15 rows of 10 columns leave tied coordinates, which are right in any rotation; the relation agrees"
EXPECTED_FAILURES = {
    "AsymmetricRelation": {"check_sample_weight_equivalence_on_dense_data": ROTATED},
    "PreferenceRetriever": {
        "check_fit_score_takes_y": NAMED_SETS,
        "check_n_features_in_after_fitting": NAMED_SETS,
        "check_sample_weight_equivalence_on_dense_data": NAMED_SETS,
    },
    "TwoTables": {"check_sample_weight_equivalence_on_dense_data": REPEATED},
}


@parametrize_with_checks(
    [
        SymmetricRelation(),
        SymmetricRelation(max_iter=5),
        SymmetricRelation(solver="lbfgs", max_iter=3),
        SymmetricRelation(solver="adamw", weight_decay=0.1, loss="softmax", max_iter=3),
        AsymmetricRelation(),
        AsymmetricRelation(max_iter=5),
        AsymmetricRelation(solver="lbfgs", max_iter=3),
        PreferenceRetriever(max_iter=5),
        TwoTables(max_iter=5),
        RandomFeatureRidge(MultiLayerRandomFeatures((64,), random_state=0)),
    ],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES.get(type(estimator).__name__, {}),
)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def tables():
    """Two views of the same objects, of three kinds."""
    rng = np.random.default_rng(0)
    kind = np.arange(90) % 3
    X = rng.standard_normal((90, 4)) + 2 * np.eye(4)[kind]
    return X, np.tanh(X @ rng.standard_normal((4, 3))), kind


ESTIMATORS = [SymmetricRelation, AsymmetricRelation, PreferenceRetriever]


# Parameters with a meaning that differs between the estimators, and so with descriptions that do.
DESCRIBED_APART = {
    "batch_size",
    "hidden_widths",
    "init",
    "learning_rate",
    "loss",
    "max_iter",
    "n_features",
    "n_negatives",
    "normalize",
    "solver",
    "weight_decay",
}


def described(kind_of):
    """Return the parameters in the docstring of a class, each with its type, default and description."""
    section = re.search(r"\nParameters\n-+\n(.*?)\n\nAttributes\n-", inspect.getdoc(kind_of), re.DOTALL)[1]
    return dict(re.findall(r"^(\w+) : (.*(?:\n .*)*)", section, re.MULTILINE))


def test_shared_parameters_are_described_alike():
    documented = [described(kind_of) for kind_of in ESTIMATORS]
    for kind_of, parameters in zip(ESTIMATORS, documented, strict=True):
        assert list(parameters) == list(inspect.signature(kind_of).parameters)
    names = set().union(*documented)
    texts = {name: {parameters[name] for parameters in documented if name in parameters} for name in names}
    assert {name for name in names if len(texts[name]) > 1} == DESCRIBED_APART


def fitted(kind_of, tables, **parameters):
    X, Y, kind = tables
    settings = {"hidden_widths": (16,), "n_features": 4, "max_iter": 5, "random_state": 0, **parameters}
    return kind_of(**settings).fit(X, kind if kind_of is SymmetricRelation else Y)


@pytest.mark.parametrize("kind_of", ESTIMATORS)
def test_pipelines_and_searches(kind_of, tables):
    X, Y, kind = tables
    y = kind if kind_of is SymmetricRelation else Y
    estimator = kind_of((16,), n_features=4, max_iter=10, random_state=0)
    pipeline = make_pipeline(StandardScaler(), estimator)
    scores = cross_val_score(pipeline, X, y, cv=3, error_score="raise")
    assert np.isfinite(scores).all()
    grid = {f"{kind_of.__name__.lower()}__n_features": [2, 4]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_estimator_.transform(X).shape == (90, next(iter(search.best_params_.values())))


def test_choices_are_routed_through_a_search(tables):
    X, _, _ = tables
    rng = np.random.default_rng(1)
    sets = rng.standard_normal((90, 5, 4))
    chosen = np.einsum("bd,bnd->bn", X, sets).argmax(axis=1)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = PreferenceRetriever((16,), n_features=4, max_iter=60, learning_rate=1e-2, random_state=0)
        estimator.set_fit_request(chosen=True).set_score_request(chosen=True)
        scores = cross_val_score(estimator, X, sets, params={"chosen": chosen}, cv=3, error_score="raise")
        search = GridSearchCV(estimator, {"n_features": [2, 4]}, cv=2, error_score="raise")
        search.fit(X, sets, chosen=chosen)
        assert search.score(X, sets, chosen=chosen) > 0.5
    assert scores.min() > 0.5


def choices_of(tables, shape):
    """Queries, sets of 5 items (in one array, a list of several sizes, or one set for all) and choices."""
    X, _, _ = tables
    sets = np.random.default_rng(1).standard_normal((90, 5, 4))
    if shape == "shared":
        sets = np.broadcast_to(sets[0], sets.shape)
    sizes = 2 + np.arange(90) % 4 if shape == "list" else np.full(90, 5)
    utilities = np.einsum("bd,bnd->bn", X, sets)
    chosen = np.array([row[:n].argmax() for row, n in zip(utilities, sizes, strict=True)])
    return X, [one[:n] for one, n in zip(sets, sizes, strict=True)] if shape == "list" else sets, chosen


@pytest.mark.parametrize("shape", ["array", "list", "shared"])
def test_a_search_over_choices(tables, shape):
    """With metadata routing on, nothing has to be requested: choices are split and passed like queries."""
    X, sets, chosen = choices_of(tables, shape)
    estimator = PreferenceRetriever((16,), n_features=4, max_iter=30, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(estimator, {"n_features": [2, 4]}, cv=3, error_score="raise")
        search.fit(X, sets, chosen=chosen)
        assert search.best_score_ > 0.5
        assert search.score(X, sets, chosen=chosen) == search.best_estimator_.score(X, sets, chosen)
        pipeline = make_pipeline(StandardScaler(), estimator)
        scores = cross_val_score(pipeline, X, sets, params={"chosen": chosen}, cv=3, error_score="raise")
        assert scores.min() > 0.5


def test_a_search_without_routing_says_what_to_do(tables):
    X, sets, chosen = choices_of(tables, "array")
    search = GridSearchCV(PreferenceRetriever(max_iter=1), {"n_features": [2]}, cv=2, error_score="raise")
    said = r"chosen: expected an index.*sklearn\.set_config\(enable_metadata_routing=True\)"
    with pytest.raises(ValueError, match=said):
        search.fit(X, sets, chosen=chosen)


@pytest.mark.parametrize("kind_of", ESTIMATORS)
@pytest.mark.parametrize("frames", [pd.DataFrame, pl.DataFrame])
def test_frames_in_and_out(kind_of, frames, tables):
    X, Y, kind = tables
    names, names_y = list("abcd"), list("uvw")
    X_frame = frames(dict(zip(names, X.T, strict=True)))
    Y_frame = frames(dict(zip(names_y, Y.T, strict=True)))
    y = kind if kind_of is SymmetricRelation else Y_frame
    estimator = kind_of((16,), n_features=4, max_iter=3, random_state=0)
    out = estimator.set_output(transform="pandas" if frames is pd.DataFrame else "polars").fit(X_frame, y)
    assert list(estimator.feature_names_in_) == names
    features = out.transform(X_frame)
    assert isinstance(features, frames)
    assert list(features.columns) == list(estimator.get_feature_names_out())
    assert features.columns[0] == kind_of.__name__.lower() + "0"
    np.testing.assert_array_equal(np.asarray(features), fitted(kind_of, tables, max_iter=3).transform(X))
    with pytest.raises(ValueError, match="feature names"):
        estimator.transform(frames(dict(zip("dcba", X.T, strict=True))))


@pytest.mark.parametrize("kind_of", ESTIMATORS)
def test_pickles_and_clones(kind_of, tables):
    estimator = fitted(kind_of, tables)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.transform(tables[0]), estimator.transform(tables[0]))
    blank = clone(estimator)
    assert blank.get_params() == estimator.get_params()
    assert not any(name.endswith("_") and not name.startswith("_") for name in vars(blank))


DRAWING = [*ESTIMATORS, MultiLayerRandomFeatures, ZonalFeatures]


@pytest.mark.parametrize("kind_of", DRAWING)
def test_every_kind_of_random_state(kind_of, tables):
    """An equal generator gives the same result, and the same generator another one in the next fit."""
    X, Y, kind = tables
    y = kind if kind_of is SymmetricRelation else Y

    def features(random_state):
        estimator = kind_of(random_state=random_state)
        return (estimator.set_params(max_iter=1) if hasattr(estimator, "max_iter") else estimator).fit(X, y)

    for make in (np.random.default_rng, np.random.RandomState):
        first = features(make(0))
        np.testing.assert_array_equal(first.transform(X), features(make(0)).transform(X))
        before = first.transform(X)
        assert not np.array_equal(before, first.fit(X, y).transform(X))
        pickle.loads(pickle.dumps(clone(first))).fit(X, y)
    assert not np.array_equal(features(None).transform(X), features(None).transform(X))
    with pytest.raises(TypeError, match="random_state: expected an integer >= 0, a Generator, a RandomState"):
        features("0")


def test_partial_fit_with_a_generator_is_copied_and_goes_on(tables):
    """Dask copies the estimator in each step, and pickles it if workers are processes."""
    X, _, kind = tables
    one = SymmetricRelation((8,), batch_size=16, random_state=np.random.default_rng(0)).partial_fit(X, kind)
    other = pickle.loads(pickle.dumps(one)).partial_fit(X, kind)
    np.testing.assert_array_equal(other.transform(X), one.partial_fit(X, kind).transform(X))


TABLES = [SymmetricRelation, AsymmetricRelation, PreferenceRetriever, MultiLayerRandomFeatures, ZonalFeatures]


@pytest.mark.parametrize("kind_of", TABLES)
@pytest.mark.parametrize("frames", [pd.DataFrame, pl.DataFrame])
def test_columns_that_are_not_numeric_are_named(kind_of, frames, tables):
    X, Y, kind = tables
    good = frames({"a": X[:, 0], "b": X[:, 1], "n": kind, "yes": kind > 1})
    bad = frames({"a": X[:, 0], "city": [f"c{k}" for k in kind], "b": X[:, 1], "when": ["noon"] * len(X)})
    estimator = kind_of(random_state=0)
    if hasattr(estimator, "max_iter"):
        estimator.set_params(max_iter=1)
    name = "Q" if kind_of is PreferenceRetriever else "X"
    y = kind if kind_of is SymmetricRelation else Y
    said = rf"^{name}: expected columns of numbers, got "
    with pytest.raises(ValueError, match=said + r"'city' of dtype .*, 'when' of dtype"):
        estimator.fit(bad, y)
    estimator.fit(good, y)
    assert list(estimator.feature_names_in_) == ["a", "b", "n", "yes"]
    with pytest.raises(ValueError, match=said + "'n' of dtype"):
        estimator.transform(frames({"a": X[:, 0], "b": X[:, 1], "n": ["x"] * len(X), "yes": kind > 1}))


@pytest.mark.parametrize("frames", [pd.DataFrame, pl.DataFrame])
def test_columns_of_the_second_table_are_named(frames, tables):
    X, Y, _ = tables
    bad = frames({"u": Y[:, 0], "city": ["here"] * len(Y)})
    with pytest.raises(ValueError, match=r"^y: expected columns of numbers, got 'city' of dtype"):
        AsymmetricRelation(max_iter=1).fit(X, bad)
    with pytest.raises(ValueError, match=r"^sets: expected columns of numbers, got 'city' of dtype"):
        PreferenceRetriever(max_iter=1).fit(X, bad)


def test_missing_values_are_reported_as_such(tables):
    X, _, kind = tables
    frame = pd.DataFrame(X, columns=list("abcd")).astype({"a": "Float64"})
    frame.loc[3, "a"] = pd.NA
    with pytest.raises(ValueError, match="NaN"):
        SymmetricRelation(max_iter=1).fit(frame, kind)


@pytest.mark.parametrize("kind_of", ESTIMATORS)
@pytest.mark.parametrize("library", ["array_api_strict", "torch", "jax.numpy"])
def test_arrays_of_other_libraries_are_tables(kind_of, library, tables):
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    X, Y, kind = tables
    y = kind if kind_of is SymmetricRelation else Y.astype(np.float32)
    estimator = fitted(kind_of, (X.astype(np.float32), Y.astype(np.float32), kind), max_iter=2)
    again = kind_of((16,), n_features=4, max_iter=2, random_state=0)
    again.fit(module.asarray(X.astype(np.float32)), y)
    features = again.transform(module.asarray(X.astype(np.float32)))
    assert type(features) is np.ndarray
    np.testing.assert_array_equal(features, estimator.transform(X.astype(np.float32)))
