"""Measures of rankings: how well a relation finds the relevant items of each row.

`recall_at_k`, `precision_at_k`, `ndcg_at_k` and `mean_reciprocal_rank` rank all items of each row exactly, a
block of rows at a time, so that the matrix of scores is never stored. `ranking_scorer` makes scikit-learn
scorers of them; `choice_log_loss_scorer` makes one of choices from sets.
"""

from .choice_scorer import choice_log_loss_scorer
from .ranking import mean_reciprocal_rank, ndcg_at_k, precision_at_k, recall_at_k
from .scorers import ranking_scorer

__all__ = [
    "choice_log_loss_scorer",
    "mean_reciprocal_rank",
    "ndcg_at_k",
    "precision_at_k",
    "ranking_scorer",
    "recall_at_k",
]
