"""Estimators that learn relations, after scikit-learn's conventions."""

from .hilbert_cube import HilbertCubeEncoder
from .nngp import NNGPKernel
from .random_features import MultiLayerRandomFeatures
from .symmetric import SymmetricRelation
from .zonal import ZonalFeatures

__all__ = [
    "HilbertCubeEncoder",
    "MultiLayerRandomFeatures",
    "NNGPKernel",
    "SymmetricRelation",
    "ZonalFeatures",
]
