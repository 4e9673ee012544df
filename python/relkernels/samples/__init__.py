"""Relation values and pairs of rows that scikit-learn's cross-validation can split."""

from .relation_values import RelationValues
from .row_pairs import RowPairs

__all__ = ["RelationValues", "RowPairs"]
