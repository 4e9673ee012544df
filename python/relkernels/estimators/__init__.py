"""Estimators that learn relations, after scikit-learn's conventions."""

from .asymmetric import AsymmetricRelation
from .hilbert_cube import HilbertCubeEncoder
from .nngp import NNGPKernel
from .preference import PreferenceRetriever
from .random_features import MultiLayerRandomFeatures
from .relation_kernel import RelationKernel
from .ridge import RandomFeatureRidge
from .symmetric import SymmetricRelation
from .zonal import ZonalFeatures

__all__ = [
    "AsymmetricRelation",
    "HilbertCubeEncoder",
    "MultiLayerRandomFeatures",
    "NNGPKernel",
    "PreferenceRetriever",
    "RandomFeatureRidge",
    "RelationKernel",
    "SymmetricRelation",
    "ZonalFeatures",
]
