"""`choice_log_loss_scorer`: the log-loss of choices, for searches and cross-validation."""

from __future__ import annotations

from typing import Any

from sklearn.utils.metadata_routing import MetadataRequest

_REQUESTED = ("chosen", "alternatives", "available")


class ChoiceLogLossScorer:
    """Scores a `PreferenceRetriever` by minus its log-loss: larger is better.

    Examples
    --------
    >>> import numpy as np, sklearn
    >>> from relkernels import PreferenceRetriever
    >>> from relkernels.metrics import choice_log_loss_scorer
    >>> from sklearn.model_selection import cross_val_score
    >>> rng = np.random.default_rng(0)
    >>> Q, sets = rng.standard_normal((200, 2)), rng.standard_normal((200, 4, 2))
    >>> chosen = (sets @ [1, 2] + rng.gumbel(size=(200, 4))).argmax(axis=1)
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     scores = cross_val_score(
    ...         PreferenceRetriever(()), Q, sets, params={"chosen": chosen}, scoring=choice_log_loss_scorer
    ...     )
    >>> bool((scores > -np.log(4)).all())
    True
    """

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
        return "choice_log_loss_scorer"


choice_log_loss_scorer = ChoiceLogLossScorer()
