"""Estimators that learn relations, after scikit-learn's conventions."""

from .asymmetric import AsymmetricRelation
from .preference import PreferenceRetriever
from .symmetric import SymmetricRelation

__all__ = ["AsymmetricRelation", "PreferenceRetriever", "SymmetricRelation"]
