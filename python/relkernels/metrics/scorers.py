"""scikit-learn scorers that rank with a fitted relation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..base import check
from ..samples import RelationValues, RowPairs
from ..samples.row_pairs import known_elsewhere, observed, values_of_pairs
from . import ranking
from .pairs import SameLabel

_MEASURES: dict[str, Callable[..., float]] = {
    name: getattr(ranking, name)
    for name in ("recall_at_k", "precision_at_k", "ndcg_at_k", "mean_reciprocal_rank")
}


class RankingScorer:
    """A scorer in scikit-learn's sense: called with an estimator and held-out data, it returns a measure."""

    def __init__(self, measure: str, k: int | None) -> None:
        self.measure = measure
        self.k = k

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        """Return the measure of a fitted relation on held-out rows."""
        measure, options = _MEASURES[self.measure], {} if self.k is None else {"k": self.k}
        relevant, features, exclude = _ranking(estimator, X, y)
        return measure(relevant, features, **options, exclude=exclude)

    def __repr__(self) -> str:
        k = "" if self.k is None else f", k={self.k}"
        return f"ranking_scorer({self.measure!r}{k})"


def _ranking(estimator: Any, X: Any, y: Any) -> tuple[Any, tuple[np.ndarray, np.ndarray], Any]:
    """Return which items are relevant to each row, features of both, and the items not to rank."""
    two = hasattr(estimator, "psi_")
    relevant, first, second, exclude = y, X, y, None
    if y is None:
        check.fail("y", "the matching rows, a label for each row of X, or relation values", None)
    if isinstance(X, RowPairs):
        relevant = observed(X, values_of_pairs(y, X), symmetric=not two)
        first, second, exclude = X.X, X.second, known_elsewhere(X, symmetric=not two)
    elif isinstance(y, RelationValues):
        relevant, second = y.values, X if y.Y is None else y.Y
    elif not two:
        labels = np.asarray(y)
        if labels.ndim != 1:
            check.fail("y", "one label for each row of X", labels.shape)
        relevant = SameLabel(labels)
    if two:
        rows, items = estimator.transform(first, second)
        return np.arange(len(rows)) if relevant is y else relevant, (rows, items), exclude
    from scipy.sparse import csr_array

    features = estimator.transform(first)
    n = len(features)
    own = csr_array((np.ones(n), np.arange(n), np.arange(n + 1)), shape=(n, n))
    return relevant, (features, features), own if exclude is None else exclude + own


def ranking_scorer(measure: str = "recall_at_k", k: int | None = None) -> RankingScorer:
    """Return a scikit-learn scorer that judges a relation by how it ranks held-out rows.

    For `AsymmetricRelation` fitted to matching rows, all rows of y are ranked for each row of X, and the
    matching one is relevant. For an estimator of one table (`SymmetricRelation`, or a pipeline that ends with
    it) all other rows are ranked, and those with the same label are relevant. If y is `RelationValues`, those
    with a value > 0 are relevant. If X is `RowPairs`, those paired with a value > 0 are, and rows that are
    paired with the same row in another split are not ranked.

    Parameters
    ----------
    measure : {"recall_at_k", "precision_at_k", "ndcg_at_k", "mean_reciprocal_rank"}, default "recall_at_k"
    k : int, optional
        How many of the best rows count; None is the default of the measure.

    Returns
    -------
    callable
        ``scorer(estimator, X, y)``, larger is better; for `scoring` of `cross_val_score` and `GridSearchCV`.
        It can be pickled.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels import AsymmetricRelation
    >>> from relkernels.metrics import ranking_scorer
    >>> from sklearn.model_selection import cross_val_score
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((150, 4))
    >>> Y = np.tanh(X @ rng.standard_normal((4, 6)))
    >>> relation = AsymmetricRelation((32,), n_features=8, batch_size=20, learning_rate=3e-3, random_state=0)
    >>> scores = cross_val_score(relation, X, Y, scoring=ranking_scorer("recall_at_k", k=5), cv=3)
    >>> bool(scores.min() > 0.8)  # the matching row is among the best 5 of 50
    True
    """
    name = check.choice("measure", measure, tuple(_MEASURES))
    return RankingScorer(name, None if k is None else check.integer("k", k, 1))
