"""Estimators that learn relations, after scikit-learn's conventions."""

import sys as _sys

from .asymmetric import AsymmetricRelation
from .fitting import training as _training
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

# Pickles of estimators after `partial_fit` name the module of `Adam` as it was called before.
_sys.modules[f"{__name__}.training"] = _training
