"""`PreferenceRetriever`: a preorder of items for each query, learned from choices, pairs or grades."""

from __future__ import annotations

from collections.abc import Sequence
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
from .base import in_steps
from .choice_training import ChoiceTraining
from .fitting.alternatives import read_alternatives, with_alternatives
from .fitting.choice_samples import choice_targets
from .fitting.sets import ItemSets
from .utility import UtilityMixin


class PreferenceRetriever(UtilityMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ChoiceTraining):
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
    ``fit(Q, X)`` follows scikit-learn's convention for two tables. Alternatives with names (train, car, a
    brand) have constants and coefficients of their own: see `alternatives` of `fit`.

    A fit starts from a conditional logit: a utility that is linear in the items' columns, the constants of
    the alternatives and the products of all of these with the columns of Q. Cross-validation selects an L2
    penalty for each of these groups, or leaves it out. The MLPs carry this utility exactly (with relu, by
    pairs of units; with tanh, erf, sin and sigmoid nearly; not with cos and most relu_power) and learn the
    rest. By default (``max_iter="auto"``), choices held out from up to 5 folds select how long they are
    trained, if at all, and a factor that calibrates the utilities: their softmax is the probability of a
    choice.

    With ``hidden_widths=()`` the utility itself is linear, and is fitted by Newton's method: the conditional
    logit, with `coefficients_` and `standard_errors_`.

    Parameters
    ----------
    hidden_widths : sequence of int or "auto", default "auto"
        Widths of the hidden layers of phi. "auto" is one layer, a unit for every 16 choices: at least 16
        and at most 128, or four times the rank of a linear utility.
    hidden_widths_psi : sequence of int, optional
        Widths of the hidden layers of psi; None means those of phi.
    n_features : int or "auto", default "auto"
        Number of features that each map computes; "auto" is 32, or all that a linear utility needs.
    activation : str or Activation, default "relu"
        Activation of the hidden layers, as in `MLP`.
    solver : {"auto", "adam", "adamw", "lbfgs"}, default "auto"
        Adam, which is "auto", or AdamW on mini-batches, or L-BFGS on all pairs.
    max_iter : int or "auto", default "auto"
        Epochs of Adam, or iterations of L-BFGS or Newton's method. "auto" selects 0, 60, 200, 600 or 2,000
        steps of Adam by held-out choices; it is 200 iterations of L-BFGS, or 100 of Newton's method.
    batch_size : int or "auto", default "auto"
        Queries in a mini-batch; "auto" is a quarter of them, at least 64 and at most 512.
    n_negatives : int, optional
        Only for choices from one set that all queries share: number of random items per batch besides those
        chosen; None means all items.
    learning_rate : float, default 3e-3
        Step size of Adam at the start of `fit`; it falls to zero along a half cosine. `partial_fit` keeps it.
    weight_decay : float or "auto", default "auto"
        Shrinks the weights, not the biases: "adamw" multiplies them by 1 - learning_rate * weight_decay in
        each step; "adam" and "lbfgs" add ``weight_decay / 2 * |weights|^2`` to the loss. "auto" is 3 divided
        by the number of choices where held-out choices select the length of the fit, otherwise 0.
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
        Items have a further column for each alternative.
    alternatives_ : ndarray of shape (n_alternatives,)
        Names of the alternatives, sorted. Only if the fit had them.
    coefficients_, standard_errors_ : ndarray of shape (1 + n_features_in, d_x + n_alternatives)
        Only of a linear utility. Row 0 has the coefficients of the items' columns and the constants of the
        alternatives, row 1 + k those of their products with column k of Q: with alternatives, only the
        products with these are in the model. Constants and products are relative to the first alternative,
        whose coefficients are zero. Errors are the roots of the diagonal of the inverse of the observed
        information: infinite where choices do not determine a coefficient, NaN where the model has none.
    margins_ : ndarray of shape (b,)
        Difference in utility between the most preferred item of each training set and the next one;
        infinite if all items are equal. Absent after `partial_fit`.
    n_best_, set_sizes_ : ndarray of shape (b,)
        Number of items of each training set that share the largest utility, and number of all its items.
        Absent after `partial_fit`.
    loss_ : float
        Loss of the last epoch or iteration; if choices were held out, the best loss of these.
    loss_curve_ : list of float
    validation_loss_curve_ : list of float
        Only if choices were held out: the loss of each epoch with early stopping; otherwise of the start and
        of each length of training that was tried.
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
    ``GridSearchCV(estimator, grid).fit(Q, sets, chosen=chosen)``. The same holds for `alternatives` (names
    for the n places of all sets are passed as they are), `available` and `groups`; `sample_weight` has to be
    requested. ``scoring=relkernels.metrics.choice_log_loss_scorer()`` compares models by `log_loss`. A shared
    set is split, too, so it needs one item per query (the chosen one, with `chosen` left out) or has to be
    repeated for each query: ``np.broadcast_to(items, (len(Q), *items.shape))``.

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
    >>> nearest = PreferenceRetriever((64,), n_features=8, max_iter=100, random_state=0)
    >>> nearest = nearest.fit(Q[:300], sets[:300], chosen[:300])
    >>> nearest.score(Q[300:], sets[300:], chosen[300:]) > 0.85
    True

    Alternatives, some of them not available, and a conditional logit with standard errors:

    >>> names = ["bus", "car", "train"]
    >>> income, offers = rng.uniform(10, 90, (600, 1)), rng.uniform(1, 9, (600, 3, 2))  # cost, time
    >>> utility = offers @ [-0.5, -0.8] + [0, -2, 1] + income * [0, 0.05, 0]
    >>> available = rng.uniform(size=(600, 3)) < [1, 0.7, 0.8]
    >>> taken = np.where(available, utility + rng.gumbel(size=(600, 3)), -np.inf).argmax(axis=1)
    >>> logit = PreferenceRetriever(hidden_widths=())
    >>> logit = logit.fit(income, offers, taken, alternatives=names, available=available)
    >>> true = [[-0.5, -0.8, 0, -2, 1], [0, 0, 0, 0.05, 0]]
    >>> bool(np.nanmax(np.abs(logit.coefficients_ - true) / logit.standard_errors_) < 3)
    True
    """

    _renamed: ClassVar = {"hidden_widths_items": "hidden_widths_psi"}

    # The two tables are not metadata; what belongs to choices is, and is routed without a set_fit_request.
    __metadata_request__fit = {  # noqa: RUF012
        "Q": UNUSED,
        "sets": UNUSED,
        "chosen": True,
        "alternatives": True,
        "available": True,
        "groups": True,
    }
    __metadata_request__partial_fit = {  # noqa: RUF012
        "Q": UNUSED,
        "sets": UNUSED,
        "chosen": True,
        "alternatives": True,
        "available": True,
    }
    __metadata_request__score = __metadata_request__partial_fit
    __metadata_request__transform = {"Q": UNUSED}  # noqa: RUF012

    _saved = ("_n_features_out", "_gaps")

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
        learning_rate: float = 3e-3,
        weight_decay: float | str = "auto",
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

    def fit(
        self,
        Q: Any,
        sets: Any,
        chosen: Any = None,
        sample_weight: Any = None,
        *,
        alternatives: Any = None,
        available: Any = None,
        groups: Any = None,
    ) -> PreferenceRetriever:
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
        alternatives : array-like of str or int of shape (n,) or (b, n), or list of b sequences, optional
            Name of each item's alternative (train, car, a brand). An alternative has a constant, and
            coefficients of its own for the columns of Q. Other methods then need the names, too, and accept
            only those of the fit.
        available : array-like of bool of shape (b, n), optional
            Which items of sets of one size are available: the others cannot be chosen.
        groups : array-like of shape (b,), optional
            Who chooses. With groups, choices of one person are never on both sides of a validation split, and
            all 5 folds are used unless 500 persons are held out sooner: a fit to few persons takes longer.

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
        Q, items = self._read(Q, sets, alternatives, available, reset=True)
        target = choice_targets(items, chosen, Q)
        return self._learn(self._samples(Q, items, target, sample_weight, groups), settings)

    def fit_pairs(
        self,
        Q: Any,
        winners: Any,
        losers: Any,
        sample_weight: Any = None,
        *,
        alternatives: Any = None,
        groups: Any = None,
    ) -> PreferenceRetriever:
        """Learn from pairs of a preferred and another item.

        Parameters
        ----------
        Q : array-like of shape (b, n_features_in)
        winners, losers : array-like of shape (b, d_x)
        sample_weight : array-like of shape (b,), optional
            Weight of each pair.
        alternatives : array-like of str or int of shape (b, 2), optional
            Names of the alternatives of winner and loser, as in `fit`.
        groups : as in `fit`

        Returns
        -------
        self
        """
        settings = self._settings()
        better, worse = _items("winners", winners), _items("losers", losers)
        if better.ndim != 2 or better.shape != worse.shape:
            check.fail("losers", f"the shape of winners, (b, d_x), {better.shape}", worse.shape)
        pairs = np.stack([better, worse], axis=1)
        Q, items = self._read(Q, pairs, alternatives, reset=True, name="winners")
        target = choice_targets(items, np.zeros(len(Q), np.int64), Q)
        return self._learn(self._samples(Q, items, target, sample_weight, groups), settings)

    def fit_graded(
        self,
        Q: Any,
        sets: Any,
        grades: Any,
        sample_weight: Any = None,
        *,
        alternatives: Any = None,
        available: Any = None,
        groups: Any = None,
    ) -> PreferenceRetriever:
        """Learn from grades of all items, where larger is better.

        Parameters
        ----------
        Q : array-like of shape (b, n_features_in)
        sets : as in `fit`
        grades : array-like of shape (b, n), or list of b arrays (n_i,)
            On the scale of the utility: an item graded higher by one is e times as likely to be chosen.
        sample_weight : array-like of shape (b,), optional
            Weight of each set.
        alternatives, available, groups : as in `fit`

        Returns
        -------
        self
        """
        settings = self._settings()
        Q, items = self._read(Q, sets, alternatives, available, reset=True)
        rows = items.grades("grades", grades)
        join = np.stack if items.shared else np.concatenate
        target = join([softmax(row) for row in rows]).astype(Q.dtype)
        return self._learn(self._samples(Q, items, target, sample_weight, groups), settings)

    @available_if(in_steps)
    def partial_fit(
        self,
        Q: Any,
        sets: Any,
        chosen: Any = None,
        sample_weight: Any = None,
        *,
        alternatives: Any = None,
        available: Any = None,
    ) -> PreferenceRetriever:
        """Train for one epoch on these choices, continuing from the current maps and state of Adam.

        Parameters
        ----------
        Q, sets, chosen, sample_weight, alternatives, available
            As in `fit`. The first call names all alternatives.

        Returns
        -------
        self
        """
        settings = self._one_epoch(self._settings())
        Q, items = self._read(Q, sets, alternatives, available, reset=settings["reset"])
        target = choice_targets(items, chosen, Q)
        return self._learn(self._samples(Q, items, target, sample_weight, None), settings)

    def _read(
        self,
        Q: Any,
        sets: Any,
        alternatives: Any = None,
        available: Any = None,
        *,
        reset: bool = False,
        name: str = "sets",
    ) -> tuple[np.ndarray, ItemSets]:
        if sets is None:
            raise ValueError(f"PreferenceRetriever requires y to be passed, but the target y is None: {name}")
        Q = self._rows(Q, "Q", reset=reset)
        items = ItemSets.read(name, sets, len(Q), Q.dtype)
        if available is not None:
            items = items.of_available("available", available)
        known = None if reset else getattr(self, "alternatives_", None)
        if not reset:
            n_columns = self.psi_.widths[0] - (0 if known is None else len(known))
            if items.items.shape[1] != n_columns:
                check.fail(name, f"items of {n_columns} features, as in fit", items.items.shape[1])
            if (known is None) != (alternatives is None):
                wanted, got = (
                    ("None", "names") if known is None else (f"names among {known.tolist()}", "None")
                )
                check.fail("alternatives", f"{wanted}, as in fit", got)
        if reset:
            self.__dict__.pop("alternatives_", None)
        if alternatives is None:
            return Q, items
        names = read_alternatives("alternatives", alternatives, items, known)
        if reset:
            known = self.alternatives_ = np.unique(names)
        assert known is not None
        return Q, with_alternatives(items, names, known)

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
