"""Estimators that learn relations, after scikit-learn's conventions."""

from .hilbert_cube import HilbertCubeEncoder
from .symmetric import SymmetricRelation
from .zonal import ZonalFeatures

__all__ = ["HilbertCubeEncoder", "SymmetricRelation", "ZonalFeatures"]
