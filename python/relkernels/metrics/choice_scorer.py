"""The log-loss of choices, as a scorer for searches and cross-validation."""

from __future__ import annotations

from typing import Any

from sklearn.utils.metadata_routing import MetadataRequest

_REQUESTED = ("chosen", "alternatives", "available")


class ChoiceLogLossScorer:
    """A scorer in scikit-learn's sense, which asks for what belongs to choices."""

    def __call__(self, estimator: Any, Q: Any, sets: Any, chosen: Any = None, **arguments: Any) -> float:
        """Return minus the log-loss of these choices."""
        return -float(estimator.log_loss(Q, sets, chosen, **arguments))

    def get_metadata_routing(self) -> MetadataRequest:
        """Return what scikit-learn passes on besides queries and sets."""
        request = MetadataRequest(owner=self)
        for name in _REQUESTED:
            request.score.add_request(param=name, alias=True)
        return request

    def __repr__(self) -> str:
        return "choice_log_loss_scorer()"


def choice_log_loss_scorer() -> ChoiceLogLossScorer:
    """Return a scikit-learn scorer that judges a `PreferenceRetriever` by its log-loss on held-out choices.

    Returns
    -------
    ChoiceLogLossScorer
        ``scorer(estimator, Q, sets, chosen)``, minus the log-loss; for `scoring` of `cross_val_score` and
        `GridSearchCV` with metadata routing.

    Examples
    --------
    >>> import numpy as np, sklearn
    >>> from relkernels import PreferenceRetriever
    >>> from relkernels.metrics import choice_log_loss_scorer
    >>> from sklearn.model_selection import cross_val_score
    >>> rng = np.random.default_rng(0)
    >>> Q, sets = rng.standard_normal((200, 2)), rng.standard_normal((200, 4, 2))
    >>> chosen = (sets @ [1, 2] + rng.gumbel(size=(200, 4))).argmax(axis=1)
    >>> logit, scorer = PreferenceRetriever(hidden_widths=()), choice_log_loss_scorer()
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     scores = cross_val_score(logit, Q, sets, params={"chosen": chosen}, scoring=scorer)
    >>> bool((scores > -np.log(4)).all())
    True
    """
    return ChoiceLogLossScorer()
