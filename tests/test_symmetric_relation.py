"""SymmetricRelation: scikit-learn's own checks, and learning of given relations."""

import pickle

import numpy as np
import pytest
import relkernels as rk
from relkernels import SymmetricRelation
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    return StandardScaler().fit_transform(X)[order], y[order]


@pytest.mark.parametrize("loss", ["squared", "logistic", "hinge", "softmax"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_learns_labels(loss, solver, iris):
    X, y = iris
    relation = SymmetricRelation(
        (32,),
        n_features=8,
        loss=loss,
        solver=solver,
        max_iter=150,
        learning_rate=5e-3,
        random_state=0,
    )
    relation.fit(X[::2], y[::2])
    assert relation.score(X[1::2], y[1::2]) > 0.85
    values, found = relation.retrieve(X[1::2], 5)
    assert (np.diff(values, axis=1) <= 0).all()
    assert (y[::2][found] == y[1::2][:, None]).mean() > 0.85


@pytest.mark.parametrize("as_callable", [False, True])
def test_learns_a_kernel(as_callable, iris):
    X, _ = iris
    relation = SymmetricRelation((64,), n_features=16, activation="tanh", solver="lbfgs", random_state=0)

    def kernel(a, b):
        return rbf_kernel(a, b, gamma=0.1)

    relation.fit(X, kernel if as_callable else kernel(X, X))
    assert not hasattr(relation, "classes_")
    assert relation.score(X, kernel) > 0.999
    assert relation.score(X, kernel(X, X)) == pytest.approx(relation.score(X, kernel))


def test_transform_relation_and_retrieve_agree(iris):
    X, y = iris
    relation = SymmetricRelation(max_iter=5, random_state=0).fit(X, y)
    features = relation.transform(X)
    assert features.dtype == np.float64
    np.testing.assert_array_equal(features, relation.features_fit_)
    np.testing.assert_array_equal(relation.relation_matrix(X), rk.relation_matrix(X, phi=relation.phi_))
    np.testing.assert_array_equal(
        relation.relation_matrix(X[:3], X), rk.relation_matrix(X[:3], X, relation.phi_)
    )
    _, found = relation.retrieve(X[:3], 4)
    np.testing.assert_array_equal(
        found, np.argsort(-rk.relation_matrix(features[:3], features), kind="stable")[:, :4]
    )
    _, others = relation.retrieve(X, 1, exclude=np.arange(len(X)))
    r = relation.relation_matrix(X)
    np.fill_diagonal(r, -np.inf)
    np.testing.assert_array_equal(others[:, 0], r.argmax(axis=1))
    np.testing.assert_array_equal(relation.retrieve(X, 1, X, exclude=np.arange(len(X)))[1], others)
    assert list(relation.get_feature_names_out()[:2]) == [
        "symmetricrelation0",
        "symmetricrelation1",
    ]
    assert relation.fit(X.astype("f4"), y).transform(X.astype("f4")).dtype == np.float32


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_reproducible_to_the_last_bit(solver, iris):
    X, y = iris
    make = SymmetricRelation(solver=solver, max_iter=10, random_state=7, batch_size=32)
    before = rk.get_num_threads()
    fits = []
    for threads in (1, 2, 5):
        rk.set_num_threads(threads)
        fits.append(clone(make).fit(X, y).transform(X))
    rk.set_num_threads(before)
    np.testing.assert_array_equal(fits[0], fits[1])
    np.testing.assert_array_equal(fits[0], fits[2])
    fitted = clone(make).fit(X, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(X), fits[0])


def test_early_stopping_keeps_the_best(iris):
    X, y = iris
    relation = SymmetricRelation(
        max_iter=400,
        early_stopping=True,
        validation_fraction=0.3,
        learning_rate=3e-2,
        tol=1e-3,
        random_state=0,
    ).fit(X, y)
    assert relation.n_iter_ < 400
    assert len(relation.validation_loss_curve_) == relation.n_iter_
    assert relation.loss_ == min(relation.validation_loss_curve_)


def test_in_pipelines_and_searches(iris):
    X, y = iris
    pipeline = make_pipeline(StandardScaler(), SymmetricRelation(max_iter=20, random_state=0))
    assert cross_val_score(pipeline, X, y, cv=3).min() > 0.7
    search = GridSearchCV(SymmetricRelation(max_iter=5, random_state=0), {"n_features": [2, 8]}, cv=2)
    assert search.fit(X, y).best_params_["n_features"] in (2, 8)


def test_loss_falls_on_real_images():
    X, y = load_digits(return_X_y=True)
    relation = SymmetricRelation(max_iter=15, random_state=0).fit((X / 16).astype("f4")[:500], y[:500])
    assert relation.loss_curve_[-1] < 0.5 * relation.loss_curve_[0]


def test_verbose_shows_progress(iris, capfd):
    SymmetricRelation(max_iter=3, verbose=True, random_state=0).fit(*iris)
    captured = capfd.readouterr()
    assert "fitting" in captured.err
    assert captured.out == ""


def test_divergence_is_an_error(iris):
    X, y = iris
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"step \d+: scale"):
        SymmetricRelation(learning_rate=1e12, max_iter=50, random_state=0).fit(X.astype("f4"), y)


BAD = [
    ({"hidden_widths": (0,)}, ValueError, "hidden_widths"),
    ({"hidden_widths": 5}, TypeError, "hidden_widths"),
    ({"n_features": 0}, ValueError, "n_features"),
    ({"activation": "swish"}, ValueError, "activation"),
    ({"loss": "l2"}, ValueError, "loss"),
    ({"solver": "sgd"}, ValueError, "solver"),
    ({"max_iter": 0}, ValueError, "max_iter"),
    ({"batch_size": 1}, ValueError, "batch_size"),
    ({"batch_size": "all"}, TypeError, "batch_size"),
    ({"learning_rate": 0.0}, ValueError, "learning_rate"),
    ({"tol": -1.0}, ValueError, "tol"),
    ({"validation_fraction": 1.0}, ValueError, "validation_fraction"),
    ({"early_stopping": True, "solver": "lbfgs"}, ValueError, "early_stopping"),
]


@pytest.mark.parametrize(("parameters", "error", "name"), BAD, ids=[str(b[0]) for b in BAD])
def test_bad_parameters(parameters, error, name, iris):
    with pytest.raises(error, match=f"^{name}"):
        SymmetricRelation(**parameters).fit(*iris)


def test_bad_targets(iris):
    X, y = iris
    fit = SymmetricRelation(max_iter=2).fit
    asymmetric = np.eye(150)
    asymmetric[0, 1] = 0.5
    with pytest.raises(ValueError, match="y: expected labels of at least 2 classes"):
        fit(X, np.zeros(150, int))
    with pytest.raises(ValueError, match=r"y: expected a square matrix of shape \(150, 150\).*\(150, 3\)"):
        fit(X, np.ones((150, 3)))
    with pytest.raises(ValueError, match=r"y: expected a symmetric matrix.*0\.5"):
        fit(X, asymmetric)
    with pytest.raises(ValueError, match="continuous"):
        fit(X, np.linspace(0, 1, 150))
    with pytest.raises(ValueError, match="150 labels"):
        fit(X, y[:10])
    with pytest.raises(ValueError, match="kernel that returns shape"):
        fit(X, lambda a, b: np.ones(3))
    with pytest.raises(ValueError, match="y: expected at least one pair"):
        SymmetricRelation(loss="softmax", batch_of="pairs", max_iter=1).fit(X, np.arange(150))
    with pytest.raises(ValueError, match="batch_of: expected 'objects' where y is a kernel"):
        SymmetricRelation(batch_of="pairs").fit(X, rbf_kernel)
    with pytest.raises(ValueError, match="y: expected finite relation values, got 1 NaN"):
        fit(X, np.where(asymmetric == 0.5, np.nan, asymmetric))
