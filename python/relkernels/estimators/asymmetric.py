"""`AsymmetricRelation`: a relation <phi(x), psi(y)> between two kinds of objects, learned from data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ..base import check
from ..base.random_state import RandomStateLike
from ..gradients import LOSSES
from ..maps.activations import Activation
from ..maps.mlp import MLP
from ..ops import feature_map, relation_matrix, retrieve
from ..samples import RowPairs
from .base import AUTO_NEGATIVES, AUTO_PAIRS, TrainedEstimator, auto_batch, in_steps
from .fitting.implicit_maps import fit_linear, is_implicit
from .fitting.parameters import Parameters
from .fitting.problems import blocks_of_pairs, drawn_pairs, matched_rows
from .fitting.sampling import ObservedPairs
from .fitting.spectral_start import schmidt_start
from .fitting.starts import CONSTRUCTED, check_constructed, constructed_maps
from .fitting.table_samples import TableSamples
from .fitting.training import SOLVERS, ClosedForm, Problem
from .fitting.unit_length import START, check_values
from .retrieval import RetrievalMixin
from .scores import pair_weights, score_of_pairs, score_of_values
from .tables import check_array, equal_rows
from .targets import relation_values
from .unwrap import between_tables, check_pairs


class AsymmetricRelation(
    RetrievalMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, TrainedEstimator[TableSamples]
):
    """A relation ``r(x, y) = <phi(x), psi(y)>`` learned from two tables, where phi and psi are MLPs.

    Two MLPs approximate every continuous relation, symmetric or not, between objects of one or of two
    kinds (Altabaa & Lafferty, arXiv 2402.08856). There are two ways to learn one:

    - ``fit(X, Y)``: row i of X matches row i of Y. By default the relation is the pointwise mutual
      information of x and y, in closed form: each table is predicted from the other by ridge regression on
      1,024 random hidden units, and a pair is as related as its errors are likely. With other parameters, a
      solver minimizes InfoNCE in both directions over the rows of a batch, with a learned temperature
      (Radford et al. 2021), as in the training of two-tower retrieval.
    - ``fit(X, Y, R)``: R holds all values of the relation or, as a sparse matrix, those observed. By
      default, all values are fitted in closed form: the features are the leading singular functions
      (Schmidt's theorem), extended by ridge regression on 1,024 random hidden units (from at most 4,096 rows
      of each table). With other parameters and the squared loss, training starts from that. Observed pairs
      without values, between tables of ids, are fitted by alternating least squares; see `solver`.

    The tables follow scikit-learn's convention (`sklearn.cross_decomposition.PLSRegression`): the second
    argument is called `y`, a vector is a table of one column, and `transform` of both returns a pair. Unlike
    `PLSRegression`, `fit_transform` returns only the features of X, which a `Pipeline` passes on.

    Parameters
    ----------
    hidden_widths : sequence of int or "auto", default "auto"
        Widths of the hidden layers of phi. "auto" is what a fit in closed form builds, otherwise (256,).
    hidden_widths_psi : sequence of int, optional
        Widths of the hidden layers of psi; None means those of phi.
    n_features : int or "auto", default "auto"
        Number of features that each map computes. "auto" is for a dense R enough for 99.9% of its variance
        and at most 64, otherwise 32.
    activation : str or Activation, default "relu"
        Activation of the hidden layers, as in `MLP`.
    loss : {"auto", "squared", "logistic", "hinge", "softmax"}, default "auto"
        Loss between relation and R, as in `relation_loss`. "auto" is "squared" with R and "softmax" without:
        InfoNCE is the only loss for matched rows.
    temperature : float, optional
        Initial value of the learned temperature of InfoNCE; None is 1 / sqrt(n_features), or 0.1 with
        `normalize`. Only for fits without R.
    solver : {"auto", "als", "adam", "adamw", "lbfgs"}, default "auto"
        Adam or AdamW on mini-batches, L-BFGS on all pairs, or alternating least squares ("als") for a sparse
        R of observed pairs, whose values are their confidences. "als" fits linear maps, without hidden
        layers: the relation is drawn to 1 at the observed pairs and, with less weight, to 0 at all pairs,
        which are not visited. Its regularization is chosen on held-out pairs; it stops after `max_iter`
        iterations, or when one improves the objective by less than a fraction of 1e-4 (of `tol` if larger).
        "auto" is "als" if all values of R are equal, both tables are sparse or, as one-hot ids are, at least
        nine tenths zeros, and no parameter is set that "als" lacks; a closed form for a dense R, see above;
        otherwise "adam".
    max_iter : int or "auto", default "auto"
        Epochs of Adam, or iterations of the other solvers. "auto" is enough epochs for 1,000 steps and at
        least 10, or 200 iterations of L-BFGS.
    batch_size : int or "auto", default "auto"
        Rows of each table in a mini-batch, all of whose pairs are used ("auto" is an eighth of those of X, at
        least 64 and at most 512), or pairs if R is sparse ("auto" is 2,048).
    n_negatives : int or "auto", default "auto"
        Only for a sparse R: number of random rows of Y per observed pair (x, y), drawn from those not
        observed with x, with target 0; redrawn in each epoch, with "lbfgs" drawn once. "auto" is 5 if all
        observed values are equal (which says nothing about unrelated objects) or the loss is "softmax",
        otherwise 0.
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
        Learn features of unit length, so that relation values are cosines. Matched rows are then fitted in
        closed form, too; values, which the squared loss requires to be from -1 to 1, by Adam. The losses
        "logistic" and "softmax" divide the cosines by a learned temperature.
    init : {"auto", "constructed"} or pair of MLPs, default "auto"
        Where a solver starts. "auto": random maps or, for a dense R with the squared loss, the regression
        described above. "constructed": the maps that interpolate R between rows of about equally spaced
        values, one per hidden unit. They need tables of one column, one hidden layer of relus, and a dense R;
        training from elsewhere often ends with larger errors. Two MLPs, such as `phi` and `psi` of
        `bounds.neurons`, are themselves the start.

    Attributes
    ----------
    phi_, psi_ : MLP
        The feature maps.
    temperature_ : float
        The learned temperature, by which the loss divides relation values: of InfoNCE, after a fit without R,
        and with `normalize` of the losses "logistic" and "softmax".
    features_fit_ : ndarray of shape (n_samples_y, n_features)
        Features of the rows of Y, which `retrieve` searches; absent after `partial_fit`.
    loss_ : float
        Loss of the last epoch or iteration; with early stopping, the best validation loss.
    loss_curve_ : list of float
    validation_loss_curve_ : list of float
        Only with early stopping.
    n_iter_ : int
    column_means_, column_scales_ : list of ndarray of shape (n_columns,)
        The mean and the scale of each column of each table that `standardize` took.
    n_features_in_ : int
        Columns of X; Y has ``psi_.widths[0]``.
    feature_names_in_ : ndarray of str
        Only if X had column names.

    Notes
    -----
    Tables may be SciPy sparse matrices: the first layer then takes time proportional to the number of stored
    entries (see `feature_map`). Its weights have a row for each column, and each step of the solver updates
    all of them. One-hot ids beside other columns are ``scipy.sparse.hstack([ids, columns])``.

    See Also
    --------
    SymmetricRelation : A symmetric relation with one map.
    PreferenceRetriever : Choices from sets of alternatives.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels import AsymmetricRelation
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((300, 4))
    >>> Y = np.tanh(X @ rng.standard_normal((4, 6)))  # another view of the same objects
    >>> relation = AsymmetricRelation((64,), n_features=8, batch_size=20, learning_rate=3e-3, random_state=0)
    >>> relation = relation.fit(X[:200], Y[:200])
    >>> relation.score(X[200:], Y[200:]) > 0.6  # finds the right one of 100
    True
    """

    _losses = ("auto", *LOSSES)
    _solvers = ("auto", "als", *SOLVERS)
    _renamed: ClassVar = {"hidden_widths_y": "hidden_widths_psi"}

    def __init__(
        self,
        hidden_widths: Sequence[int] | str = "auto",
        hidden_widths_psi: Sequence[int] | None = None,
        n_features: int | str = "auto",
        activation: str | Activation = "relu",
        loss: str = "auto",
        temperature: float | None = None,
        solver: str = "auto",
        max_iter: int | str = "auto",
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
        self.hidden_widths_psi = hidden_widths_psi
        self.n_features = n_features
        self.activation = activation
        self.loss = loss
        self.temperature = temperature
        self.solver = solver
        self.max_iter = max_iter
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

    def fit(self, X: Any, y: Any, R: Any = None, sample_weight: Any = None) -> AsymmetricRelation:
        """Learn the relation between two tables.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features_in), or RowPairs
            With pairs of rows, y has the value of each pair.
        y : array-like, sparse matrix or RelationValues
            The second table, Y, of shape (n_samples_y, n_features_y) or (n_samples_y,). Without R, its row i
            matches row i of X. Or both Y and R as `RelationValues`, which cross-validation requires.
        R : array-like or sparse matrix of shape (n_samples, n_samples_y), optional
            Relation values. Entries that a sparse matrix does not store are unknown and used only as
            negatives (`n_negatives`).
        sample_weight : array-like of shape (n_samples,), optional
            A row of X of weight w counts as w equal rows; without R, so does its row of Y.

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
        return self._learn(self._two_tables(X, y, R, sample_weight, settings), settings)

    @available_if(in_steps)
    def partial_fit(self, X: Any, y: Any, R: Any = None, sample_weight: Any = None) -> AsymmetricRelation:
        """Train for one epoch on these rows, continuing from the current maps and state of Adam.

        Parameters
        ----------
        X, y, R, sample_weight
            As in `fit`.

        Returns
        -------
        self
        """
        settings = self._one_epoch(self._settings())
        return self._learn(self._two_tables(X, y, R, sample_weight, settings), settings)

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        self._n_negatives(0, settings["loss"])
        settings["temperature"] = START if settings["normalize"] else settings["n_features"] ** -0.5
        if self.temperature is not None:
            settings["temperature"] = check.real("temperature", self.temperature)
            if not 0 < settings["temperature"] < np.inf:
                check.fail("temperature", "a finite number > 0, or None", repr(self.temperature))
        return settings

    def _two_tables(
        self, X: Any, y: Any, R: Any, sample_weight: Any, settings: dict[str, Any]
    ) -> TableSamples:
        X, y, R = between_tables(X, y, R, sample_weight)
        X = self._rows(X, reset=settings["reset"], ensure_min_samples=2)
        Y = _table(y, X.dtype) if settings["reset"] else self._rows_y(y)
        weight = self._weights(sample_weight, X)
        if R is None and Y.shape[0] != X.shape[0]:
            check.fail("y", f"{X.shape[0]} rows, matched to those of X {X.shape}, without R", Y.shape)
        settings["loss"] = self._loss_for(R)
        if R is not None:
            R = relation_values(R, (X.shape[0], Y.shape[0]), X.dtype, settings["loss"])
            if settings["normalize"] and settings["loss"] == "squared":
                check_values("R", R)
        settings["solver"] = self._solver_for(X, Y, R, settings)
        check_constructed(settings, self.activation, (X, Y), not (R is None or sparse.issparse(R)))
        return TableSamples(X, Y, R, weight)

    def _solver_for(self, X: Any, Y: Any, R: Any, settings: dict[str, Any]) -> str:
        """Return the solver to use; refuse "als" with parameters that it does not have."""
        without: dict[str, tuple[Any, ...]] = {"loss": ("auto", "squared"), "n_negatives": ("auto",)}
        without |= {"early_stopping": (False,), "warm_start": (False,), "normalize": (False,)}
        without["init"] = ("auto",)
        other = [name for name, values in without.items() if getattr(self, name) not in values]
        if not settings["auto_hidden"] and any(settings["hidden_widths"]):
            other.append("hidden_widths")
            without["hidden_widths"] = ("auto", ())
        if settings["solver"] == "auto":
            als = not other and not settings["partial"] and is_implicit(X, Y, R)
            return "als" if als else "adam"
        if settings["solver"] == "als":
            if not sparse.issparse(R):
                check.fail("solver", "another one than 'als' unless R is a sparse matrix", "'als'")
            for name in other:
                allowed = " or ".join(map(repr, without[name]))
                check.fail(name, f"{allowed} with solver='als'", repr(getattr(self, name)))
        return str(settings["solver"])

    def _learn(self, samples: TableSamples, settings: dict[str, Any]) -> AsymmetricRelation:
        if settings["solver"] != "als":
            return super()._learn(samples, settings)
        given, weight = samples, samples.weight
        if weight is not None:
            samples = samples.select(np.flatnonzero(weight))
        rng = self._generator(False)
        fit = fit_linear(samples.X, samples.Y, samples.R, samples.weight, settings, rng)
        self.phi_, self.psi_ = fit.maps
        self._n_features_out = settings["n_features"]
        self.__dict__.pop("temperature_", None)
        self._keep(given, settings)
        self._keep_curves(fit.curve, len(fit.curve))
        if fit.stopped_by is not None:
            raise fit.stopped_by
        return self

    def _loss_for(self, R: Any) -> str:
        """Return the loss to minimize; refuse parameters that would have no effect."""
        if R is None and self.loss not in ("auto", "softmax"):
            check.fail("loss", "'auto' or 'softmax' without R, where it is InfoNCE", repr(self.loss))
        if R is not None and self.temperature is not None:
            check.fail("temperature", "None with R: only InfoNCE has one", repr(self.temperature))
        if not sparse.issparse(R) and self.n_negatives != "auto":
            check.fail(
                "n_negatives",
                "'auto' unless R is sparse: all pairs of a batch are used",
                repr(self.n_negatives),
            )
        default = "softmax" if R is None else "squared"
        return default if self.loss == "auto" else self.loss

    def _start(
        self, samples: TableSamples, settings: dict[str, Any], rng: np.random.RandomState
    ) -> list[MLP]:
        phi, psi = super()._start(samples, settings, rng)
        if settings["init"] == CONSTRUCTED:
            phi, psi = constructed_maps((phi, psi), samples.X, samples.Y, samples.R)
        elif samples.R is not None and settings["loss"] == "squared" and not sparse.issparse(samples.R):
            phi, psi = schmidt_start(phi, psi, samples.X, samples.Y, samples.R, rng)
        return [phi, psi]

    def _closed_form(
        self, samples: TableSamples, settings: dict[str, Any], rng: np.random.RandomState
    ) -> ClosedForm | None:
        return samples.closed_form(
            settings["n_features"],
            self.activation,
            rng,
            auto=settings["auto_features"],
            normalize=settings["normalize"],
        )

    def _has_temperature(self, samples: TableSamples, settings: dict[str, Any]) -> bool:
        return samples.R is None or super()._has_temperature(samples, settings)

    def _problem(self, parameters: Parameters, samples: TableSamples, settings: dict[str, Any]) -> Problem:
        X, Y, R, weight = samples.X, samples.Y, samples.R, samples.weight
        loss, size = settings["loss"], settings["batch_size"]
        if R is None:
            return matched_rows(parameters, X, Y, weight, size or auto_batch(len(samples)))
        if not sparse.issparse(R):
            return blocks_of_pairs(parameters, X, Y, R, weight, loss, size or auto_batch(len(samples)))
        n_negatives = self._n_negatives(AUTO_NEGATIVES if np.ptp(R.data) == 0 else 0, loss)
        sampler = ObservedPairs(R, n_negatives)
        return drawn_pairs(parameters, X, Y, sampler, n_negatives, weight, loss, size or AUTO_PAIRS)

    def _keep(self, samples: TableSamples, settings: dict[str, Any]) -> None:
        self._keep_table(samples.Y, self.psi_, settings["partial"])

    def transform(self, X: Any, y: Any = None) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Return the features phi(X), or the pair of phi(X) and psi(Y).

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, n_features_in)
        y : array-like or sparse matrix of shape (m, n_features_y), optional
            Rows of the second table, Y.

        Returns
        -------
        ndarray of shape (n, n_features), or a pair with one of shape (m, n_features)
        """
        features = feature_map(self._rows(X), self.phi_)
        return features if y is None else (features, feature_map(self._rows_y(y), self.psi_))

    def _rows_y(self, y: Any, name: str = "y") -> np.ndarray:
        check_is_fitted(self)
        Y = _table(y, self.psi_.dtype, name)
        if Y.shape[1] != self.psi_.widths[0]:
            check.fail(name, f"{self.psi_.widths[0]} features, as in fit", f"shape {Y.shape}")
        return Y

    def _searched(self, Y: Any) -> tuple[np.ndarray, MLP]:
        return self._rows_y(Y, "Y"), self.psi_

    def relation_matrix(self, X: Any, Y: Any) -> np.ndarray:
        """Return the learned relation between the rows of X and of Y.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, n_features_in)
        Y : array-like or sparse matrix of shape (m, n_features_y)

        Returns
        -------
        ndarray of shape (n, m)
        """
        return relation_matrix(self._rows(X), self._rows_y(Y, "Y"), self.phi_, self.psi_)

    def score(self, X: Any, y: Any, R: Any = None, sample_weight: Any = None) -> float:
        """Return how well the relation between X and Y fits.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, n_features_in), or RowPairs
        y : array-like or sparse matrix of shape (m, n_features_y), or RelationValues
            The second table, Y; other forms as in `fit`.
        R : array-like or sparse matrix of shape (n, m), optional
        sample_weight : array-like of shape (n,), optional
            Weights of the rows of X.

        Returns
        -------
        float
            Without R, the fraction of rows of X whose most related row of Y is the matching one. With R, the
            area under the ROC curve if its values are 0 and 1, or if it is sparse with equal values
            (observed pairs against all others); otherwise the coefficient of determination, for a sparse R
            over its observed pairs. For `RowPairs` with values 0 and 1 (or -1 and 1), the area under the ROC
            curve; with equal values, against pairs that are in no split; otherwise the coefficient of
            determination. NaN, after a warning, if there are no two kinds of pairs to compare.
        """
        if isinstance(X, RowPairs) and R is None:
            check_pairs(X, sample_weight, symmetric=False)
            first, second = self.transform(X.X, X.second)
            return score_of_pairs(X, y, first, second, symmetric=False)
        X, y, R = between_tables(X, y, R, sample_weight)
        X, Y = self._rows(X), self._rows_y(y)
        weight = self._weights(sample_weight, X)
        if R is None:
            if Y.shape[0] != X.shape[0]:
                check.fail("y", f"{X.shape[0]} rows, matched to those of X {X.shape}, without R", Y.shape)
            _, found = retrieve(X, Y, 1, self.phi_, self.psi_)
            best = found[:, 0]
            hits = (best == np.arange(len(best))) | equal_rows(Y[best], Y)
            return float(np.average(hits, weights=weight))
        R = relation_values(R, (X.shape[0], Y.shape[0]), X.dtype, "squared")
        return score_of_values(relation_matrix(X, Y, self.phi_, self.psi_), R, pair_weights(weight, None))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _table(y: Any, dtype: np.dtype, name: str = "y") -> np.ndarray:
    """Return the second table; a vector is one column."""
    if y is None:
        raise ValueError(f"AsymmetricRelation requires y to be passed, but the target y is None: {name}")
    Y = check_array(y, dtype=dtype, ensure_2d=False, accept_sparse="csr", input_name=name)
    return Y.reshape(-1, 1) if Y.ndim == 1 else Y
