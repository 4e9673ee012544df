"""Measures of rankings: how well a relation finds the relevant items of each row.

`recall_at_k`, `precision_at_k`, `ndcg_at_k` and `mean_reciprocal_rank` rank all items of each row exactly, a
block of rows at a time, so that the matrix of scores is never stored. `ranking_scorer` makes scikit-learn
scorers of them.
"""

from .ranking import mean_reciprocal_rank, ndcg_at_k, precision_at_k, recall_at_k
from .scorers import ranking_scorer

__all__ = ["mean_reciprocal_rank", "ndcg_at_k", "precision_at_k", "ranking_scorer", "recall_at_k"]
