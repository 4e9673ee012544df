"""`SymmetricRelation`: a relation <phi(x), phi(y)> learned from labels, values or a kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import _check
from ..activations import Activation
from ..gradients import LOSSES, MLPGradient, relation_loss
from ..mlp import MLP
from ..ops import feature_map, relation_matrix, retrieve
from .mercer import mercer_start
from .training import FlatParameters, fit_adam, fit_lbfgs

# Pairs that the default batch of objects has at most: 512 objects, 262,144 pairs.
_AUTO_BATCH = 512


class SymmetricRelation(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A symmetric relation ``r(x, y) = <phi(x), phi(y)>`` learned from data, phi an MLP.

    One MLP with itself approximates every continuous symmetric positive-definite relation (Altabaa &
    Lafferty, arXiv 2402.08856). All pairs of a batch of objects enter the loss, streaming: memory is
    linear in the number of objects. Where relation values are given and the loss is squared, the output
    layer starts from Mercer's theorem: least squares from the hidden features onto the leading
    eigenvectors of the relation (on at most 2,048 objects).

    Parameters
    ----------
    hidden_widths : sequence of int, default (256,)
        Widths of the hidden layers of phi.
    n_features : int, default 32
        Number of features phi gives.
    activation : str or Activation, default "relu"
        Activation of the hidden layers, as in `MLP`.
    loss : {"squared", "logistic", "hinge", "softmax"}, default "squared"
        Loss between relation and target, as in `relation_loss`.
    solver : {"adam", "lbfgs"}, default "adam"
        Adam in mini-batches of objects, or L-BFGS over all pairs.
    max_iter : int, default 100
        Epochs of Adam, or iterations of L-BFGS.
    batch_size : int or "auto", default "auto"
        Objects in a mini-batch of Adam, all of whose pairs are used; "auto" is 512, or all objects if
        they are fewer.
    learning_rate : float, default 1e-3
        Step size of Adam.
    tol : float, default 1e-6
        Adam ends after 10 epochs none of which improved the loss by `tol`; L-BFGS when an iteration
        improves it by less than this fraction.
    early_stopping : bool, default False
        Hold out a part of the objects, judge epochs by its loss and keep the best parameters (Adam).
    validation_fraction : float, default 0.1
        Fraction of the objects held out for early stopping.
    random_state : int, RandomState instance or None, default None
        Initial weights, order of the batches and validation split; an int makes a fit reproducible to
        the last bit.
    verbose : bool, default False
        Show a progress bar on standard error.

    Attributes
    ----------
    mlp_ : MLP
        The feature map phi.
    features_fit_ : ndarray of shape (n_samples, n_features)
        Features of the training objects, which `retrieve` searches.
    classes_ : ndarray
        The labels; only where y was labels.
    loss_ : float
        Loss of the last epoch or iteration (with early stopping: the best validation loss).
    loss_curve_ : list of float
    validation_loss_curve_ : list of float
        Only with early stopping.
    n_iter_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X had names.

    See Also
    --------
    relkernels.relation_loss : The loss and its gradient.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from relkernels import SymmetricRelation
    >>> X, y = load_iris(return_X_y=True)
    >>> relation = SymmetricRelation((32,), n_features=4, batch_size=32, random_state=0).fit(X, y)
    >>> relation.score(X, y) > 0.85
    True
    """

    def __init__(
        self,
        hidden_widths: Sequence[int] = (256,),
        n_features: int = 32,
        activation: str | Activation = "relu",
        loss: str = "squared",
        solver: str = "adam",
        max_iter: int = 100,
        batch_size: int | str = "auto",
        learning_rate: float = 1e-3,
        tol: float = 1e-6,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_widths = hidden_widths
        self.n_features = n_features
        self.activation = activation
        self.loss = loss
        self.solver = solver
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> SymmetricRelation:
        """Learn the relation.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in)
        y : array-like or callable
            Labels of shape (n_samples,): objects are related if their labels are equal. Or a square
            symmetric matrix of relation values. Or a kernel ``y(A, B)`` that returns the matrix of
            values between the rows of two arrays.

        Returns
        -------
        self

        Raises
        ------
        FloatingPointError
            If the loss stops being finite.
        """
        settings = self._checked_parameters()
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        targets = self._targets(y, X)
        rng = check_random_state(self.random_state)
        widths = [X.shape[1], *settings["hidden_widths"], settings["n_features"]]
        start = MLP.random(widths, self.activation, int(rng.randint(2**31)), X.dtype)
        if self.loss == "squared" and not hasattr(self, "classes_"):
            start = mercer_start(start, X, targets, rng)
        parameters = FlatParameters(start)

        train = np.arange(len(X))
        validation_loss = None
        if settings["early_stopping"]:
            held = max(2, round(settings["validation_fraction"] * len(X)))
            if len(X) - held < 2:
                _check.fail(
                    "validation_fraction",
                    "a split with 2 samples on each side",
                    f"{len(X)} samples",
                )
            order = rng.permutation(len(X))
            train, held_out = np.sort(order[held:]), np.sort(order[:held])

            def validation_loss(mlp: MLP) -> float:
                return relation_loss(X[held_out], None, targets(held_out), mlp, loss=self.loss)[0]

        def objective(mlp: MLP, batch: np.ndarray) -> tuple[float, MLPGradient]:
            rows = train[batch]
            return _loss(X[rows], targets(rows), mlp, self.loss)

        if settings["solver"] == "adam":
            flat, self.loss_curve_, validation_curve = fit_adam(
                objective,
                parameters,
                len(train),
                max_iter=settings["max_iter"],
                batch_size=min(settings["batch_size"], len(train)),
                learning_rate=settings["learning_rate"],
                tol=settings["tol"],
                rng=rng,
                validation_loss=validation_loss,
                verbose=settings["verbose"],
            )
            self.n_iter_ = len(self.loss_curve_)
        else:
            validation_curve = []
            all_targets = targets(train)
            flat, self.loss_curve_, self.n_iter_ = fit_lbfgs(
                lambda mlp: _loss(X, all_targets, mlp, self.loss),
                parameters,
                max_iter=settings["max_iter"],
                tol=settings["tol"],
                verbose=settings["verbose"],
            )
        self.loss_ = self.loss_curve_[-1]
        if validation_curve:
            self.validation_loss_curve_ = validation_curve
            self.loss_ = min(validation_curve)
        self.mlp_ = parameters.mlp(flat)
        self._n_features_out = settings["n_features"]
        self.features_fit_ = feature_map(X, self.mlp_)
        return self

    def _checked_parameters(self) -> dict[str, Any]:
        hidden = self.hidden_widths
        if isinstance(hidden, str) or not isinstance(hidden, (Sequence, np.ndarray)):
            raise TypeError(f"hidden_widths: expected a sequence of integers, got {hidden!r}")
        fraction = _check.real("validation_fraction", self.validation_fraction)
        if not 0 < fraction < 1:
            _check.fail("validation_fraction", "a number between 0 and 1", repr(fraction))
        rate, tol = _check.real("learning_rate", self.learning_rate), _check.real("tol", self.tol)
        if not 0 < rate < np.inf:
            _check.fail("learning_rate", "a finite number > 0", repr(rate))
        if not 0 <= tol < np.inf:
            _check.fail("tol", "a finite number >= 0", repr(tol))
        _check.choice("loss", self.loss, LOSSES)
        settings = {
            "hidden_widths": [_check.integer(f"hidden_widths[{i}]", w, 1) for i, w in enumerate(hidden)],
            "n_features": _check.integer("n_features", self.n_features, 1),
            "solver": _check.choice("solver", self.solver, ("adam", "lbfgs")),
            "max_iter": _check.integer("max_iter", self.max_iter, 1),
            "batch_size": (
                _AUTO_BATCH
                if isinstance(self.batch_size, str) and self.batch_size == "auto"
                else _check.integer("batch_size", self.batch_size, 2)
            ),
            "learning_rate": rate,
            "tol": tol,
            "early_stopping": _check.flag("early_stopping", self.early_stopping),
            "validation_fraction": fraction,
            "verbose": bool(self.verbose),
        }
        if settings["early_stopping"] and settings["solver"] == "lbfgs":
            _check.fail("early_stopping", "False with solver='lbfgs', which sees all pairs", True)
        return settings

    def _targets(self, y: Any, X: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function from indices of objects to targets, as `relation_loss` takes them."""
        if y is None:
            raise ValueError(
                "SymmetricRelation requires y to be passed, but the target y is None: expected labels, a "
                "square matrix of relation values or a callable kernel"
            )
        self.__dict__.pop("classes_", None)
        if callable(y):
            return lambda rows: _values_of(y, X[rows], X[rows])
        if _is_matrix(y):
            values = check_array(y, dtype=X.dtype, input_name="y")
            if values.shape != (len(X), len(X)):
                _check.fail("y", f"a square matrix of shape {(len(X), len(X))}", values.shape)
            asymmetry = float(np.abs(values - values.T).max())
            if asymmetry > 1e-6 * max(float(np.abs(values).max()), 1e-30):
                _check.fail("y", "a symmetric matrix", f"entries that differ by {asymmetry:.3g}")
            return lambda rows: values[np.ix_(rows, rows)]
        labels = column_or_1d(y, warn=True)
        if len(labels) != len(X):
            _check.fail("y", f"{len(X)} labels, one for each row of X {X.shape}", labels.shape)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            _check.fail("y", "labels of at least 2 classes", f"1 class, {self.classes_[0]!r}")
        return lambda rows: codes[rows]

    def transform(self, X: Any) -> np.ndarray:
        """Return the features phi(X).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        return feature_map(self._rows(X), self.mlp_)

    def _rows(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, X, dtype=self.mlp_.dtype, reset=False)

    def relation_matrix(self, X: Any, Y: Any = None) -> np.ndarray:
        """Return the learned relation between the rows of X and of Y.

        Parameters
        ----------
        X : array-like of shape (n, n_features_in)
        Y : array-like of shape (m, n_features_in), optional
            None stands for X; the result is then symmetric to the last bit.

        Returns
        -------
        ndarray of shape (n, m)
        """
        X = self._rows(X)
        return relation_matrix(X, None if Y is None else self._rows(Y), self.mlp_)

    def retrieve(self, Q: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the training objects most related to each query.

        Parameters
        ----------
        Q : array-like of shape (n, n_features_in)
        k : int
            How many, at most the number of training objects.

        Returns
        -------
        values : ndarray of shape (n, k)
            Relation values, best first.
        indices : ndarray of shape (n, k)
            Rows of the training data.
        """
        return retrieve(self.transform(Q), self.features_fit_, k)

    def score(self, X: Any, y: Any) -> float:
        """Return how well the relation among the rows of X fits y.

        Parameters
        ----------
        X : array-like of shape (n, n_features_in)
        y : array-like or callable
            As in `fit`.

        Returns
        -------
        float
            For labels, the area under the ROC curve of r(x_i, x_j), i < j, as a test of equal labels.
            For values or a kernel, the coefficient of determination over all pairs.
        """
        relation = self.relation_matrix(X)
        if callable(y) or _is_matrix(y):
            X = self._rows(X)
            truth = _values_of(y, X, X) if callable(y) else np.asarray(y, relation.dtype)
            if truth.shape != relation.shape:
                _check.fail("y", f"a matrix of shape {relation.shape}", truth.shape)
            residual = float(np.square(relation - truth, dtype=np.float64).sum())
            return 1.0 - residual / float(np.square(truth - truth.mean(), dtype=np.float64).sum())
        from sklearn.metrics import roc_auc_score

        labels = column_or_1d(y)
        upper = np.triu_indices(len(labels), 1)
        return float(roc_auc_score(labels[upper[0]] == labels[upper[1]], relation[upper]))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _loss(X: np.ndarray, target: np.ndarray, mlp: MLP, loss: str) -> tuple[float, MLPGradient]:
    value, gradient, _ = relation_loss(X, None, target, mlp, loss=loss)
    assert gradient is not None
    return value, gradient


def _is_matrix(y: Any) -> bool:
    """Tell a matrix of values from one column of labels."""
    values = np.asarray(y)
    return values.ndim == 2 and values.shape[1] > 1


def _values_of(kernel: Callable[..., Any], A: np.ndarray, B: np.ndarray) -> np.ndarray:
    values = np.asarray(kernel(A, B))
    if values.shape != (len(A), len(B)):
        _check.fail("y", f"a kernel that returns shape {(len(A), len(B))}", values.shape)
    return values.astype(A.dtype, copy=False)
