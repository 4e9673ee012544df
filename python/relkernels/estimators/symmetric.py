"""`SymmetricRelation`: a relation <phi(x), phi(y)> learned from labels, values or a kernel."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets

from ..base import check
from ..base.random_state import RandomStateLike
from ..gradients import LOSSES
from ..maps.activations import Activation
from ..maps.mlp import MLP
from ..ops import feature_map, relation_matrix
from ..samples import RowPairs
from .base import AUTO_NEGATIVES, AUTO_PAIRS, TrainedEstimator, auto_batch, in_steps
from .fitting.labels import MOST_CLASSES
from .fitting.object_samples import ObjectSamples
from .fitting.parameters import Parameters
from .fitting.problems import all_pairs, drawn_pairs
from .fitting.sampling import LabelPairs, ObservedPairs, PairSampler, ValuePairs
from .fitting.starts import CONSTRUCTED, check_constructed, constructed_map
from .fitting.training import ClosedForm, Problem
from .fitting.unit_length import check_cosines
from .retrieval import RetrievalMixin
from .scores import (
    determination,
    pair_weights,
    score_of_labels,
    score_of_pairs,
    score_of_values,
)
from .targets import is_matrix, observed_pairs, symmetric_values, values_of
from .unwrap import among_rows, check_pairs


class SymmetricRelation(
    RetrievalMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, TrainedEstimator[ObjectSamples]
):
    """A symmetric relation ``r(x, y) = <phi(x), phi(y)>`` learned from data, where phi is an MLP.

    Inner products of one MLP's features approximate every continuous symmetric positive-definite relation
    (Altabaa & Lafferty, arXiv 2402.08856). By default, with `hidden_widths`, `loss`, `solver` and `max_iter`
    all "auto", labels and values are fitted by regression on a layer of hidden units that is not trained:

    - Labels: the features are the probabilities of the classes, whose inner product is the probability of
      equal labels. Ridge regression and, for up to 16 classes, logistic regression on 1,024 hidden units give
      scores of the classes, and further layers compute their softmax. Penalties, the weights of both
      regressions and the temperature are those that predict left-out objects best. Up to a quarter of the
      units depend on single columns, the others on random combinations. If cross-validation favours it, these
      are stretched along the directions in which the scores change.
    - Values, as a matrix or a kernel: the features are the leading eigenfunctions (Mercer's theorem),
      extended to other objects by ridge regression on 1,024 random hidden units (from at most 4,096 objects).

    Otherwise a solver trains the map on all pairs of batches of objects without storing them: memory is
    linear in the number of objects. A fit to values with the squared loss starts from that regression.

    Parameters
    ----------
    hidden_widths : sequence of int or "auto", default "auto"
        Widths of the hidden layers of phi. "auto" is what a fit in closed form builds, otherwise (256,).
    n_features : int or "auto", default "auto"
        Number of features that each map computes. "auto" is the number of classes of labels, or for values
        enough for 99.9% of their variance and at most 64, otherwise 32.
    activation : str or Activation, default "relu"
        Activation of the hidden layers, as in `MLP`.
    loss : {"auto", "squared", "logistic", "hinge", "softmax"}, default "auto"
        Loss between relation and target, as in `relation_loss`; "auto" is "squared", or "softmax" in
        `fit` for labels of more than 256 classes, where nearly all pairs are unrelated.
    solver : {"auto", "adam", "adamw", "lbfgs"}, default "auto"
        Adam or AdamW on mini-batches, or L-BFGS on all pairs. "auto" is a closed form where there is one, see
        above, otherwise Adam.
    max_iter : int or "auto", default "auto"
        Epochs of Adam, or iterations of the other solvers. "auto" is enough epochs for 1,000 steps and at
        least 10, or 200 iterations of L-BFGS.
    batch_of : {"objects", "pairs"}, default "objects"
        Contents of a mini-batch of Adam: objects, all of whose pairs are used, or pairs of each object with
        one related object and `n_negatives` unrelated ones. Pairs suit relations so sparse that a batch of
        objects contains few related ones. A sparse y is always fitted by pairs.
    batch_size : int or "auto", default "auto"
        Objects or pairs in a mini-batch; "auto" is an eighth of the objects, at least 64 and at most 512, or
        2,048 pairs.
    n_negatives : int or "auto", default "auto"
        Only for batches of pairs: number of random unrelated objects per related pair, with target 0. For a
        dense matrix of values: number of further random objects, with their values as targets. They are
        redrawn in each epoch, with "lbfgs" drawn once. "auto" is 5 for labels, for loss "softmax" and for a
        sparse y whose entries are all equal (which says nothing about unrelated objects), otherwise 0.
    learning_rate : float, default 1e-3
        Step size of Adam at the start of `fit`; it falls to zero along a half cosine. `partial_fit` keeps it.
    weight_decay : float, default 0.0
        Shrinks the weights, not the biases: "adamw" multiplies them by 1 - learning_rate * weight_decay in
        each step; "adam" and "lbfgs" add ``weight_decay / 2 * |weights|^2`` to the loss.
    tol : float, default 1e-6
        Adam stops after 10 consecutive epochs that do not improve the loss by `tol`; L-BFGS stops when an
        iteration improves it by less than this fraction.
    early_stopping : bool, default False
        Hold out some rows of the first table, evaluate each epoch by the loss on them, and keep the best
        parameters (Adam only).
    validation_fraction : float, default 0.1
        Fraction of the rows held out for early stopping.
    warm_start : bool, default False
        Start each fit from the maps of the last one instead of random maps.
    random_state : int, Generator, RandomState or None, default None
        Seeds the initial weights, the order of the batches, the negatives and the validation split; an int
        makes a fit reproducible to the last bit.
    verbose : bool, default False
        Show a progress bar on standard error, with the loss and pairs per second.
    standardize : bool, default True
        Train on columns of mean 0 and standard deviation 1. The maps take the columns as given: the change of
        units is part of their first layers. Constant columns and sparse tables keep their units.
    normalize : bool, default False
        Learn features of unit length, so that relation values are cosines. Values or a kernel are then fitted
        with the squared loss only if r(x, x) = 1 for all x. The losses "logistic" and "softmax" divide the
        cosines by a learned temperature.
    init : {"auto", "constructed"} or MLP, default "auto"
        Where a solver starts. "auto": a random map or, for values with the squared loss, the regression
        described above. "constructed": the map that interpolates the values of the relation between equally
        spaced knots, one per hidden unit. It needs X of one column, one hidden layer of relus, and y a kernel
        or a matrix of values; training from elsewhere often ends with larger errors. An MLP, such as the
        `phi` of `bounds.neurons`, is itself the start.

    Attributes
    ----------
    phi_ : MLP
        The feature map. `mlp_` is its deprecated name.
    features_fit_ : ndarray of shape (n_samples, n_features)
        Features of the training objects, which `retrieve` searches; absent after `partial_fit`.
    classes_ : ndarray
        The labels; only if y was labels.
    temperature_ : float
        The learned temperature, by which the loss divides relation values; only with `normalize` and the
        losses "logistic" and "softmax".
    loss_ : float
        Loss of the last epoch or iteration; with early stopping, the best validation loss.
    loss_curve_ : list of float
    validation_loss_curve_ : list of float
        Only with early stopping.
    n_iter_ : int
    column_means_, column_scales_ : list of ndarray of shape (n_columns,)
        The mean and the scale of each column of each table that `standardize` took.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had column names.

    Notes
    -----
    Tables may be SciPy sparse matrices: the first layer then takes time proportional to the number of stored
    entries (see `feature_map`). Its weights have a row for each column, and each step of the solver updates
    all of them.

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

    _losses = ("auto", *LOSSES)
    _renamed: ClassVar = {"mlp_": "phi_"}

    def __init__(
        self,
        hidden_widths: Sequence[int] | str = "auto",
        n_features: int | str = "auto",
        activation: str | Activation = "relu",
        loss: str = "auto",
        solver: str = "auto",
        max_iter: int | str = "auto",
        batch_of: str = "objects",
        batch_size: int | str = "auto",
        n_negatives: int | str = "auto",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        tol: float = 1e-6,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        random_state: RandomStateLike = None,
        verbose: bool = False,
        standardize: bool = True,
        normalize: bool = False,
        init: Any = "auto",
    ) -> None:
        self.hidden_widths = hidden_widths
        self.n_features = n_features
        self.activation = activation
        self.loss = loss
        self.solver = solver
        self.max_iter = max_iter
        self.batch_of = batch_of
        self.batch_size = batch_size
        self.n_negatives = n_negatives
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.standardize = standardize
        self.normalize = normalize
        self.init = init

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> SymmetricRelation:
        """Learn the relation.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features_in), or RowPairs
            With pairs of rows, y has the value of each pair.
        y : array-like, sparse matrix, RelationValues or callable
            Labels of shape (n_samples,): objects are related if their labels are equal. Or a square
            symmetric matrix of relation values. Or a symmetric sparse matrix of observed pairs: entries that
            are not stored are unknown and used only as negatives (`n_negatives`). Or a kernel ``y(A, B)``
            that returns the matrix of values between the rows of two arrays. Cross-validation requires
            matrices as `RelationValues`.
        sample_weight : array-like of shape (n_samples,), optional
            An object of weight w counts as w equal objects, a pair as the product of both weights.

        Returns
        -------
        self

        Raises
        ------
        FloatingPointError
            If the loss stops being finite; the last parameters with a finite loss are kept.
        KeyboardInterrupt
            On Ctrl-C; the best parameters so far are kept, and the estimator is fitted.
        """
        settings = self._settings()
        return self._learn(self._objects(X, y, sample_weight, settings), settings)

    @available_if(in_steps)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> SymmetricRelation:
        """Train for one epoch on these objects, continuing from the current map and state of Adam.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`; labels may all be equal.

        Returns
        -------
        self
        """
        settings = self._one_epoch(self._settings())
        return self._learn(self._objects(X, y, sample_weight, settings), settings)

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        settings["batch_of"] = check.choice("batch_of", self.batch_of, ("objects", "pairs"))
        settings["closed_form"] = settings["closed_form"] and settings["batch_of"] == "objects"
        self._n_negatives(0, settings["loss"])
        settings["loss"] = "squared" if settings["loss"] == "auto" else settings["loss"]
        return settings

    def _objects(self, X: Any, y: Any, sample_weight: Any, settings: dict[str, Any]) -> ObjectSamples:
        X, y = among_rows(X, y, sample_weight)
        X = self._rows(X, reset=settings["reset"], ensure_min_samples=2)
        weight = self._weights(sample_weight, X)
        targets = self._checked_targets(y, X, one_class=settings["partial"])
        if settings["normalize"] and settings["loss"] == "squared":
            check_cosines("y", targets, X)
        samples = ObjectSamples(X, targets, weight, X)
        if self.loss == "auto" and not settings["partial"] and samples.n_classes > MOST_CLASSES:
            settings["loss"] = "softmax"
        check_constructed(settings, self.activation, samples.tables, samples.gives_values)
        return samples

    def _start(
        self, samples: ObjectSamples, settings: dict[str, Any], rng: np.random.RandomState
    ) -> list[MLP]:
        (phi,) = super()._start(samples, settings, rng)
        if settings["init"] == CONSTRUCTED:
            phi = constructed_map(phi, samples.X, samples.unscaled, samples.y)
        elif settings["loss"] == "squared" and samples.gives_values:
            phi = samples.spectral_map(phi, rng)
        return [phi]

    def _closed_form(
        self, samples: ObjectSamples, settings: dict[str, Any], rng: np.random.RandomState
    ) -> ClosedForm | None:
        return samples.closed_form(
            settings["n_features"],
            self.activation,
            rng,
            auto=settings["auto_features"],
            normalize=settings["normalize"],
        )

    def _problem(self, parameters: Parameters, samples: ObjectSamples, settings: dict[str, Any]) -> Problem:
        X, y, weight = samples.X, samples.y, samples.weight
        loss, size = settings["loss"], settings["batch_size"]
        if settings["batch_of"] == "pairs" or sparse.issparse(y):
            sampler, n_negatives = self._pair_sampler(y, X.dtype, loss)
            return drawn_pairs(parameters, X, None, sampler, n_negatives, weight, loss, size or AUTO_PAIRS)
        if self.n_negatives != "auto":
            check.fail(
                "n_negatives",
                "'auto' unless batch_of='pairs' or y is sparse: all pairs of a batch are used",
                repr(self.n_negatives),
            )
        return all_pairs(parameters, X, samples.targets(), weight, loss, size or auto_batch(len(samples)))

    def _keep(self, samples: ObjectSamples, settings: dict[str, Any]) -> None:
        self._keep_table(samples.X, self.phi_, settings["partial"])

    def _pair_sampler(self, y: Any, dtype: np.dtype, loss: str) -> tuple[PairSampler, int]:
        """Return the sampler of partners and the number of negatives."""
        if callable(y):
            check.fail("batch_of", "'objects' where y is a kernel, which gives whole blocks", repr("pairs"))
        if sparse.issparse(y):
            n_negatives = self._n_negatives(AUTO_NEGATIVES if np.ptp(y.data) == 0 else 0, loss)
            return ObservedPairs(y, n_negatives), n_negatives
        if y.ndim == 2:
            if loss == "softmax":
                check.fail("batch_of", "'objects' for loss='softmax' and a matrix y", repr("pairs"))
            n_negatives = self._n_negatives(0, loss)
            return ValuePairs(y, n_negatives), n_negatives
        n_negatives = self._n_negatives(AUTO_NEGATIVES, loss)
        return LabelPairs(y, n_negatives, dtype, loss == "softmax"), n_negatives

    def _checked_targets(self, y: Any, X: np.ndarray, one_class: bool) -> Any:
        """Return labels as codes, a matrix of values, a sparse matrix of observed pairs, or a kernel."""
        if y is None:
            raise ValueError(
                "SymmetricRelation requires y to be passed, but the target y is None: expected labels, a "
                "square matrix of relation values or a callable kernel"
            )
        known = self.__dict__.pop("classes_", None)
        n = X.shape[0]
        if callable(y):
            return y
        if sparse.issparse(y):
            return observed_pairs("y", y, (n, n), X.dtype, self.loss, symmetric=True)
        if is_matrix(y):
            return symmetric_values("y", y, n, X.dtype)
        with check.naming("y"):
            labels = column_or_1d(y, warn=True)
        if len(labels) != n:
            check.fail("y", f"{n} labels, one for each row of X {X.shape}", labels.shape)
        with check.naming("y"):
            check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if one_class and known is not None:
            self.classes_ = np.union1d(known, self.classes_)
        if len(self.classes_) < 2 and not one_class:
            check.fail("y", "labels of at least 2 classes", f"1 class, {self.classes_[0]!r}")
        return codes

    def transform(self, X: Any) -> np.ndarray:
        """Return the features phi(X).

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features_in)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        return feature_map(self._rows(X), self.phi_)

    @property
    def mlp_(self) -> MLP:
        """The feature map under its deprecated name: use `phi_`."""
        mlp = self.phi_
        warnings.warn("SymmetricRelation.mlp_ is deprecated: use phi_", FutureWarning, stacklevel=2)
        return mlp

    def _searched(self, Y: Any) -> tuple[np.ndarray, MLP]:
        return self._rows(Y, "Y"), self.phi_

    def relation_matrix(self, X: Any, Y: Any = None) -> np.ndarray:
        """Return the learned relation between the rows of X and of Y.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, n_features_in)
        Y : array-like or sparse matrix of shape (m, n_features_in), optional
            None means X; the result is then symmetric to the last bit.

        Returns
        -------
        ndarray of shape (n, m)
        """
        X = self._rows(X)
        return relation_matrix(X, None if Y is None else self._rows(Y, "Y"), self.phi_)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return how well the relation among the rows of X fits y.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, n_features_in), or RowPairs
        y : array-like, sparse matrix, RelationValues or callable
            As in `fit`.
        sample_weight : array-like of shape (n,), optional
            A pair has the product of the weights of both rows.

        Returns
        -------
        float
            For labels, the area under the ROC curve of r(x_i, x_j), i < j, as a test of equal labels.
            For values or a kernel, the coefficient of determination over all pairs. For a sparse y, the
            coefficient of determination over its pairs or, if its values are equal, the area under the ROC
            curve of its pairs against all others. For `RowPairs` with values 0 and 1 (or -1 and 1), the area
            under the ROC curve; with equal values, against pairs that are in no split; otherwise the
            coefficient of determination. NaN, after a warning, if there are no two kinds of pairs to compare,
            as for rows of one class.
        """
        if isinstance(X, RowPairs):
            check_pairs(X, sample_weight, symmetric=True)
            features = self.transform(X.X)
            return score_of_pairs(X, y, features, features, symmetric=True)
        X, y = among_rows(X, y, sample_weight)
        relation = self.relation_matrix(X)
        weight = self._weights(sample_weight, relation)
        both = pair_weights(weight, weight)
        if sparse.issparse(y):
            values = observed_pairs("y", y, relation.shape, relation.dtype, "squared", symmetric=True)
            return score_of_values(relation, values, both)
        if callable(y) or is_matrix(y):
            X = self._rows(X)
            truth = values_of(y, X, X) if callable(y) else check.numbers("y", y).astype(relation.dtype)
            if truth.shape != relation.shape:
                check.fail("y", f"a matrix of shape {relation.shape}", truth.shape)
            return determination(relation, truth, both)
        return score_of_labels(relation, y, both)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
