"""AsymmetricRelation: it learns given relations and reports bad input."""

import numpy as np
import pytest
import relkernels as rk
from relkernels import AsymmetricRelation
from scipy import sparse
from sklearn.exceptions import NotFittedError


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((200, 4)), rng.standard_normal((150, 3))
    return X, Y, np.tanh(X[:, :3] @ Y.T)


def make(**parameters):
    settings = {"hidden_widths": (64,), "hidden_widths_psi": (48,), "n_features": 12, "random_state": 0}
    return AsymmetricRelation(**{**settings, **parameters})


def test_two_maps_of_their_own(tables):
    X, Y, R = tables
    relation = make(max_iter=2).fit(X, Y, R)
    assert relation.phi_.widths == (4, 64, 12)
    assert relation.psi_.widths == (3, 48, 12)
    f, g = relation.transform(X, Y)
    np.testing.assert_array_equal(f, relation.transform(X))
    np.testing.assert_array_equal(g, relation.features_fit_)
    expected = rk.relation_matrix(X, Y, relation.phi_, relation.psi_)
    np.testing.assert_array_equal(relation.relation_matrix(X, Y), expected)
    values, found = relation.retrieve(X, 5)
    np.testing.assert_array_equal(found, np.argsort(-expected, axis=1, kind="stable")[:, :5])
    np.testing.assert_array_equal(values, np.take_along_axis(expected, found, axis=1))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_learns_values_on_new_rows_of_both_tables(tables, solver):
    X, Y, R = tables
    relation = make(solver=solver, activation="tanh", batch_size=50, max_iter=60, learning_rate=5e-3)
    relation.fit(X[:150], Y[:120], R[:150, :120])
    assert relation.score(X[150:], Y[120:], R[150:, 120:]) > 0.8


@pytest.mark.parametrize("loss", ["logistic", "hinge", "softmax"])
def test_learns_yes_and_no(tables, loss):
    X, Y, R = tables
    yes = (R > 0.5).astype(float)
    yes[yes.sum(axis=1) == 0, 0] = 1
    relation = make(loss=loss, batch_size=50, max_iter=100, learning_rate=5e-3).fit(X, Y, yes)
    assert relation.score(X, Y, yes) > 0.9


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param("squared", marks=pytest.mark.slow),
        "logistic",
        pytest.param("softmax", marks=pytest.mark.slow),
    ],
)
def test_learns_observed_pairs_from_negatives(tables, loss):
    X, Y, R = tables
    observed = sparse.csr_array((R > 0.8) & (np.random.default_rng(1).random(R.shape) < 0.5))
    relation = make(loss=loss, max_iter=20, batch_size=512, learning_rate=5e-3).fit(X, Y, observed)
    assert relation.score(X, Y, sparse.csr_array(R > 0.8)) > 0.88
    assert relation.score(X, Y, observed) > 0.8


def test_learns_observed_values_alone(tables):
    """Entries that are not stored are unknown, and not learned as zeros."""
    X, Y, R = tables
    there = np.random.default_rng(2).random(R.shape) < 0.3
    observed = sparse.coo_array((R[there], np.nonzero(there)), shape=R.shape)
    relation = make(activation="tanh", max_iter=60, batch_size=1024, learning_rate=5e-3)
    relation.fit(X, Y, observed)
    assert relation.score(X, Y, observed) > 0.85
    assert relation.score(X, Y, R) > 0.85


def test_learns_matched_rows_and_a_temperature(tables):
    X, _, _ = tables
    Y = np.tanh(X @ np.random.default_rng(3).standard_normal((4, 5)))
    relation = make(batch_size=40, max_iter=80, learning_rate=3e-3).fit(X[:150], Y[:150])
    assert relation.score(X[150:], Y[150:]) > 0.7
    assert 0 < relation.temperature_ != pytest.approx(np.sqrt(12))
    again = make(max_iter=1, temperature=0.5, learning_rate=1e-9).fit(X, Y)
    assert again.temperature_ == pytest.approx(0.5)
    again.set_params(temperature=None).fit(X, Y, X @ X.T)
    assert not hasattr(again, "temperature_")


def test_the_default_loss_is_that_of_the_arguments(tables):
    X, Y, R = tables
    for loss, arguments in (("softmax", (X, X)), ("squared", (X, Y, R))):
        auto, named = (make(max_iter=2, loss=name).fit(*arguments) for name in ("auto", loss))
        np.testing.assert_array_equal(auto.transform(X), named.transform(X))
        assert auto.loss_curve_ == named.loss_curve_


BAD = [
    (lambda X, Y, R: make().fit(X, Y), "y: expected 200 rows.*150, 3"),
    (lambda X, Y, R: make().fit(X, Y, R.T), r"R: expected a matrix of shape \(200, 150\), got \(150, 200\)"),
    (lambda X, Y, R: make().fit(X, Y, np.where(R > 0.9, np.nan, R)), "R: expected finite.*NaN.*sparse"),
    (lambda X, Y, R: make().fit(X, Y, sparse.csr_array(R.T)), r"R: expected pair indices below \(200, 150\)"),
    (lambda X, Y, R: make().fit(X, Y, sparse.csr_array(R.shape)), "R: expected at least one observed pair"),
    (lambda X, Y, R: make(loss="softmax").fit(X, Y, sparse.csr_array(R)), "R: expected values > 0"),
    (lambda X, Y, R: make(loss="softmax", n_negatives=0).fit(X, Y, R), "n_negatives: expected at least 1"),
    (lambda X, Y, R: make(temperature=2.0).fit(X, Y, R), "temperature: expected None with R"),
    (lambda X, Y, R: make(loss="hinge").fit(X, Y[:1].repeat(200, 0)), "loss: expected 'auto' or 'softmax'"),
    (lambda X, Y, R: make(loss="squared").partial_fit(X, X), "loss: expected 'auto' or 'softmax' without R"),
    (lambda X, Y, R: make(n_negatives=3).fit(X, Y, R), "n_negatives: expected 'auto' unless R is sparse"),
    (lambda X, Y, R: make(n_negatives=3).fit(X, X), "n_negatives: expected 'auto' unless R is sparse"),
    (lambda X, Y, R: make(hidden_widths_psi=(0,)).fit(X, Y, R), r"hidden_widths_psi\[0\]"),
    (lambda X, Y, R: make(temperature=-1.0).fit(X, Y, R), "temperature: expected a finite number > 0"),
    (lambda X, Y, R: make(max_iter=1).fit(X, Y, R).transform(X, Y[:, :2]), "y: expected 3 features"),
    (lambda X, Y, R: make(max_iter=1).fit(X, Y, R).transform(X[:, :2]), "2 features"),
    (lambda X, Y, R: make(max_iter=1).fit(X, Y, R).retrieve(X, 151), "k: expected at most 150"),
    (lambda X, Y, R: make(max_iter=1).fit(X, Y, R).score(X, Y), "y: expected 200 rows"),
    (lambda X, Y, R: make().fit(X, np.where(Y > 1, np.nan, Y), R), "y contains NaN"),
]


@pytest.mark.parametrize(("call", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input(tables, call, words):
    with pytest.raises(ValueError, match=words):
        call(*tables)


def test_wild_pair_indices_are_reported(tables):
    X, Y, R = tables
    wild = sparse.csr_array(R)
    wild.indices[5] = 10**6
    with pytest.raises(ValueError, match=r"R: expected pair indices below \(200, 150\)"):
        make().fit(X, Y, wild)


def test_before_fit(tables):
    X, Y, _ = tables
    for call in (
        lambda r: r.transform(X),
        lambda r: r.relation_matrix(X, Y),
        lambda r: r.retrieve(X, 1),
        lambda r: r.score(X, Y),
    ):
        with pytest.raises(NotFittedError):
            call(make())
