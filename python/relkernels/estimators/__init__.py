"""Estimators that learn relations, after scikit-learn's conventions."""

from .asymmetric import AsymmetricRelation
from .nngp import NNGPKernel
from .preference import PreferenceRetriever
from .random_features import MultiLayerRandomFeatures
from .symmetric import SymmetricRelation

__all__ = [
    "AsymmetricRelation",
    "MultiLayerRandomFeatures",
    "NNGPKernel",
    "PreferenceRetriever",
    "SymmetricRelation",
]
