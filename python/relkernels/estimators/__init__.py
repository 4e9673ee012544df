"""Estimators that learn relations, after scikit-learn's conventions."""

from .symmetric import SymmetricRelation

__all__ = ["SymmetricRelation"]
