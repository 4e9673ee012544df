"""Estimators that learn relations, after scikit-learn's conventions."""

from .nngp import NNGPKernel
from .random_features import MultiLayerRandomFeatures
from .symmetric import SymmetricRelation

__all__ = ["MultiLayerRandomFeatures", "NNGPKernel", "SymmetricRelation"]
