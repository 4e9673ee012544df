"""`PreferenceRetriever`: a preorder of items for each query, learned from choices, pairs or grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from scipy.special import softmax
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.metaestimators import available_if

from ..base import check
from ..base.random_state import RandomStateLike
from ..maps.activations import Activation
from ..ops import feature_map
from .base import TrainedEstimator, auto_batch, in_steps
from .fitting.parameters import Parameters
from .fitting.problems import Weight, choices, part
from .fitting.scaling import Scaling
from .fitting.sets import ItemSets
from .fitting.training import Problem
from .utility import UtilityMixin


@dataclass(frozen=True)
class _Choices:
    """Queries, the sets they choose from and the targets of `choices`: the `Samples` of a fit.

    A selection shares all arrays and only lists its `queries`, since the sets may be large.
    """

    Q: np.ndarray
    sets: ItemSets
    target: np.ndarray
    all_weights: Weight
    queries: np.ndarray

    @property
    def weight(self) -> Weight:
        return part(self.all_weights, self.queries)

    @property
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        return self.Q, self.sets.items

    def __len__(self) -> int:
        return len(self.queries)

    def scalings(self) -> list[Scaling]:
        per_item = (
            None
            if self.all_weights is None or self.sets.shared
            else np.repeat(self.all_weights, self.sets.sizes)
        )
        return [Scaling.of(self.Q, self.all_weights), Scaling.of(self.sets.items, per_item)]

    def scaled(self, scalings: Sequence[Scaling]) -> _Choices:
        sets = ItemSets(scalings[1](self.sets.items), self.sets.sizes, self.sets.shared)
        return replace(self, Q=scalings[0](self.Q), sets=sets)

    def select(self, rows: np.ndarray) -> _Choices:
        return replace(self, queries=self.queries[rows])


class PreferenceRetriever(
    UtilityMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, TrainedEstimator[_Choices]
):
    """A preorder of items for each query by the utility ``u(q, x) = <phi(q), psi(x)>`` of two MLPs.

    Preorders that are continuous in items and query have a continuous utility (Debreu 1954), which two
    MLPs approximate; attention with a large inverse temperature then returns the most preferred item
    (Altabaa & Lafferty, arXiv 2402.08856). The loss is the cross-entropy of the softmax over each set, with
    one of three kinds of targets:

    - ``fit(Q, sets, chosen)``: the item that was chosen (McFadden's conditional logit, with MLPs);
    - ``fit_pairs(Q, winners, losers)``: the winner of each pair (Bradley and Terry);
    - ``fit_graded(Q, sets, grades)``: the softmax of grades of all items (ListNet, Cao et al. 2007).

    `sets` are an array (b, n, d_x), a list of b arrays of shapes (n_i, d_x), or one set (n, d_x) that all
    queries share. With a shared set of b items, `chosen` may be left out: query i then chose item i, and
    ``fit(Q, X)`` follows scikit-learn's convention for two tables.

    Parameters
    ----------
    hidden_widths : sequence of int or "auto", default "auto"
        Widths of the hidden layers of phi. "auto" is what a fit in closed form builds, otherwise (256,).
    hidden_widths_psi : sequence of int, optional
        Widths of the hidden layers of psi; None means those of phi.
    n_features : int or "auto", default "auto"
        Number of features that each map computes; "auto" is 32.
    activation : str or Activation, default "relu"
        Activation of the hidden layers, as in `MLP`.
    solver : {"auto", "adam", "adamw", "lbfgs"}, default "auto"
        Adam, which is "auto", or AdamW on mini-batches, or L-BFGS on all pairs.
    max_iter : int or "auto", default "auto"
        Epochs of Adam, or iterations of the other solvers. "auto" is enough epochs for 1,000 steps and at
        least 10, or 200 iterations of L-BFGS.
    batch_size : int or "auto", default "auto"
        Queries in a mini-batch; "auto" is an eighth of them, at least 64 and at most 512.
    n_negatives : int, optional
        Only for choices from one set that all queries share: number of random items per batch besides those
        chosen; None means all items.
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

    Attributes
    ----------
    phi_, psi_ : MLP
        The maps of queries and of items.
    margins_ : ndarray of shape (b,)
        Difference in utility between the most preferred item of each training set and the next one;
        infinite if all items are equal. Absent after `partial_fit`.
    n_best_, set_sizes_ : ndarray of shape (b,)
        Number of items of each training set that share the largest utility, and number of all its items.
        Absent after `partial_fit`.
    loss_ : float
        Loss of the last epoch or iteration; with early stopping, the best validation loss.
    loss_curve_ : list of float
    validation_loss_curve_ : list of float
        Only with early stopping.
    n_iter_ : int
    column_means_, column_scales_ : list of ndarray of shape (n_columns,)
        The mean and the scale of each column of each table that `standardize` took.
    n_features_in_ : int
        Columns of Q; items have ``psi_.widths[0]``.
    feature_names_in_ : ndarray of str
        Only if Q had column names.

    Notes
    -----
    With metadata routing, `GridSearchCV` and `cross_val_score` split `chosen` like `Q` and `sets`, and pass
    it to `fit` and `score`: ``sklearn.set_config(enable_metadata_routing=True)``, then
    ``GridSearchCV(estimator, grid).fit(Q, sets, chosen=chosen)``. They split a shared set, too, so it needs
    one item per query (the chosen one, with `chosen` left out) or has to be repeated for each query:
    ``np.broadcast_to(items, (len(Q), *items.shape))``.

    See Also
    --------
    relkernels.bounds.attention : The inverse temperature required for an accuracy.
    AsymmetricRelation : Retrieval from one table.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels import PreferenceRetriever
    >>> rng = np.random.default_rng(0)
    >>> Q, sets = rng.standard_normal((400, 2)), rng.standard_normal((400, 5, 2))
    >>> chosen = np.linalg.norm(sets - Q[:, None], axis=2).argmin(axis=1)  # the nearest
    >>> nearest = PreferenceRetriever((64,), n_features=8, batch_size=50, random_state=0)
    >>> nearest = nearest.fit(Q[:300], sets[:300], chosen[:300])
    >>> nearest.score(Q[300:], sets[300:], chosen[300:]) > 0.85
    True
    """

    _renamed: ClassVar = {"hidden_widths_items": "hidden_widths_psi"}

    # The two tables are not metadata; `chosen` is, and is routed without a call of set_fit_request.
    __metadata_request__fit = {"Q": UNUSED, "sets": UNUSED, "chosen": True}  # noqa: RUF012
    __metadata_request__partial_fit = {"Q": UNUSED, "sets": UNUSED, "chosen": True}  # noqa: RUF012
    __metadata_request__score = {"Q": UNUSED, "sets": UNUSED, "chosen": True}  # noqa: RUF012
    __metadata_request__transform = {"Q": UNUSED}  # noqa: RUF012

    def __init__(
        self,
        hidden_widths: Sequence[int] | str = "auto",
        hidden_widths_psi: Sequence[int] | None = None,
        n_features: int | str = "auto",
        activation: str | Activation = "relu",
        solver: str = "auto",
        max_iter: int | str = "auto",
        batch_size: int | str = "auto",
        n_negatives: int | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        tol: float = 1e-6,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        random_state: RandomStateLike = None,
        verbose: bool = False,
        standardize: bool = True,
    ) -> None:
        self.hidden_widths = hidden_widths
        self.hidden_widths_psi = hidden_widths_psi
        self.n_features = n_features
        self.activation = activation
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

    def fit(self, Q: Any, sets: Any, chosen: Any = None, sample_weight: Any = None) -> PreferenceRetriever:
        """Learn from the item that was chosen from each set.

        Parameters
        ----------
        Q : array-like of shape (b, n_features_in)
            Queries.
        sets : array-like of shape (b, n, d_x), list of b arrays (n_i, d_x), or array-like (n, d_x)
        chosen : array-like of int of shape (b,), optional
            Index of the chosen item in its set. Needed unless all queries share one set of b items.
        sample_weight : array-like of shape (b,), optional
            Weight of each choice.

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
        Q, items = self._read(Q, sets, reset=True)
        target = _choice_targets(items, chosen, Q)
        return self._learn(self._choices(Q, items, target, sample_weight), settings)

    def fit_pairs(self, Q: Any, winners: Any, losers: Any, sample_weight: Any = None) -> PreferenceRetriever:
        """Learn from pairs of a preferred and another item.

        Parameters
        ----------
        Q : array-like of shape (b, n_features_in)
        winners, losers : array-like of shape (b, d_x)
        sample_weight : array-like of shape (b,), optional
            Weight of each pair.

        Returns
        -------
        self
        """
        settings = self._settings()
        better, worse = _items("winners", winners), _items("losers", losers)
        if better.ndim != 2 or better.shape != worse.shape:
            check.fail("losers", f"the shape of winners, (b, d_x), {better.shape}", worse.shape)
        Q, items = self._read(Q, np.stack([better, worse], axis=1), reset=True, name="winners")
        target = _choice_targets(items, np.zeros(len(Q), np.int64), Q)
        return self._learn(self._choices(Q, items, target, sample_weight), settings)

    def fit_graded(self, Q: Any, sets: Any, grades: Any, sample_weight: Any = None) -> PreferenceRetriever:
        """Learn from grades of all items, where larger is better.

        Parameters
        ----------
        Q : array-like of shape (b, n_features_in)
        sets : as in `fit`
        grades : array-like of shape (b, n), or list of b arrays (n_i,)
            On the scale of the utility: an item graded higher by one is e times as likely to be chosen.
        sample_weight : array-like of shape (b,), optional
            Weight of each set.

        Returns
        -------
        self
        """
        settings = self._settings()
        Q, items = self._read(Q, sets, reset=True)
        rows = items.grades("grades", grades)
        join = np.stack if items.shared else np.concatenate
        target = join([softmax(row) for row in rows]).astype(Q.dtype)
        return self._learn(self._choices(Q, items, target, sample_weight), settings)

    @available_if(in_steps)
    def partial_fit(
        self, Q: Any, sets: Any, chosen: Any = None, sample_weight: Any = None
    ) -> PreferenceRetriever:
        """Train for one epoch on these choices, continuing from the current maps and state of Adam.

        Parameters
        ----------
        Q, sets, chosen, sample_weight
            As in `fit`.

        Returns
        -------
        self
        """
        settings = self._one_epoch(self._settings())
        Q, items = self._read(Q, sets, reset=settings["reset"])
        target = _choice_targets(items, chosen, Q)
        return self._learn(self._choices(Q, items, target, sample_weight), settings)

    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        if self.n_negatives is not None:
            check.integer("n_negatives", self.n_negatives, 1)
        return settings

    def _read(
        self, Q: Any, sets: Any, *, reset: bool = False, name: str = "sets"
    ) -> tuple[np.ndarray, ItemSets]:
        if sets is None:
            raise ValueError(f"PreferenceRetriever requires y to be passed, but the target y is None: {name}")
        Q = self._rows(Q, "Q", reset=reset)
        items = ItemSets.read(name, sets, len(Q), Q.dtype)
        if not reset and items.items.shape[1] != self.psi_.widths[0]:
            check.fail(name, f"items of {self.psi_.widths[0]} features, as in fit", items.items.shape[1])
        return Q, items

    def _choices(self, Q: np.ndarray, sets: ItemSets, target: np.ndarray, sample_weight: Any) -> _Choices:
        weight = self._weights(sample_weight, Q)
        if self.n_negatives is not None and (not sets.shared or target.ndim == 2):
            check.fail(
                "n_negatives",
                "None unless items are chosen from one set that all queries share: all items are used",
                self.n_negatives,
            )
        return _Choices(Q, sets, target, weight, np.arange(len(Q)))

    def _problem(self, parameters: Parameters, samples: _Choices, settings: dict[str, Any]) -> Problem:
        Q, sets, target, weight = samples.Q, samples.sets, samples.target, samples.all_weights
        size = settings["batch_size"] or auto_batch(len(samples))
        return choices(parameters, Q, sets, target, weight, samples.queries, size, self.n_negatives)

    def _keep(self, samples: _Choices, numbers: np.ndarray, settings: dict[str, Any]) -> None:
        self._keep_margins(samples.Q, samples.sets, settings["partial"])

    def transform(self, Q: Any) -> np.ndarray:
        """Return the features phi(Q) of queries.

        Parameters
        ----------
        Q : array-like of shape (n, n_features_in)

        Returns
        -------
        ndarray of shape (n, n_features)
        """
        return feature_map(self._rows(Q, "Q"), self.phi_)

    def score(self, Q: Any, sets: Any, chosen: Any = None, sample_weight: Any = None) -> float:
        """Return top-1 accuracy: the fraction of queries whose most preferred item is the chosen one.

        Parameters
        ----------
        Q, sets, chosen, sample_weight
            As in `fit`.

        Returns
        -------
        float
        """
        Q, sets = self._read(Q, sets)
        index = _chosen(sets, chosen, Q)
        found = self._selected(Q, sets)
        same = (sets.items[sets.starts + found] == sets.items[sets.starts + index]).all(axis=1)
        return float(np.average(same, weights=self._weights(sample_weight, Q)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _items(name: str, table: Any) -> np.ndarray:
    """Return a table of items as floats; float32 stays float32."""
    if isinstance(table, np.ndarray) and table.dtype.char == "f" and not isinstance(table, np.ma.MaskedArray):
        return table
    return check.numbers(name, table)


def _chosen(sets: ItemSets, chosen: Any, Q: np.ndarray) -> np.ndarray:
    """Return the index of the chosen item of each set."""
    if chosen is not None:
        return sets.indices("chosen", chosen)
    if not sets.shared or len(sets.items) != len(Q):
        check.fail(
            "chosen",
            f"an index for each query, unless all share one set of {len(Q)} items, as many as queries",
            f"None for {'one set' if sets.shared else 'sets'} of {int(sets.sizes.max())} items; searches and "
            "cross-validation pass chosen on after sklearn.set_config(enable_metadata_routing=True)",
        )
    return np.arange(len(Q))


def _choice_targets(sets: ItemSets, chosen: Any, Q: np.ndarray) -> np.ndarray:
    """Return the targets of `choices`: indices for a shared set, otherwise one number per item."""
    index = _chosen(sets, chosen, Q)
    if sets.shared:
        return index
    target = np.zeros(len(sets.items), Q.dtype)
    target[sets.starts + index] = 1
    return target
