"""Inner products of neural feature maps: relations, attention, retrieval and their gradients.

The relation of two objects is ``r(x, y) = <phi(x), psi(y)>``, where phi and psi are multi-layer perceptrons
(`MLP`). Compiled kernels compute its matrix (`relation_matrix`) or work with it without storing it:
`attention`, `retrieve`, `relation_matvec` and `relation_loss`. `SymmetricRelation`, `AsymmetricRelation` and
`PreferenceRetriever` learn relations from data. `relkernels.torch` and `relkernels.dask` are imported
separately.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from ._core import __version__
except ImportError as error:
    from ._startup import leave_on_wrong_environment

    leave_on_wrong_environment(error)
    raise
from .activations import Activation, leaky_relu, relu_power
from .block_retrieval import retrieve_blocks
from .blocks import NpyBlocks
from .config import get_num_threads, set_num_threads, show_config
from .gradients import (
    MLPGradient,
    attention_vjp,
    feature_map_vjp,
    relation_loss,
    relation_matrix_vjp,
)
from .linear_operator import as_linear_operator
from .mlp import MLP
from .nngp import nngp_kernel
from .ops import (
    attention,
    attention_scores,
    feature_map,
    relation_matrix,
    relation_matvec,
    retrieve,
)

if TYPE_CHECKING:
    from .estimators import (
        AsymmetricRelation,
        HilbertCubeEncoder,
        MultiLayerRandomFeatures,
        NNGPKernel,
        PreferenceRetriever,
        RandomFeatureRidge,
        RelationKernel,
        SymmetricRelation,
        ZonalFeatures,
    )

__all__ = [
    "MLP",
    "Activation",
    "AsymmetricRelation",
    "HilbertCubeEncoder",
    "MLPGradient",
    "MultiLayerRandomFeatures",
    "NNGPKernel",
    "NpyBlocks",
    "PreferenceRetriever",
    "RandomFeatureRidge",
    "RelationKernel",
    "SymmetricRelation",
    "ZonalFeatures",
    "__version__",
    "as_linear_operator",
    "attention",
    "attention_scores",
    "attention_vjp",
    "feature_map",
    "feature_map_vjp",
    "get_num_threads",
    "leaky_relu",
    "nngp_kernel",
    "relation_loss",
    "relation_matrix",
    "relation_matrix_vjp",
    "relation_matvec",
    "relu_power",
    "retrieve",
    "retrieve_blocks",
    "set_num_threads",
    "show_config",
]

# Submodules that are loaded on first use.
_SUBMODULES = {"bounds", "cuda", "plot", "spectra"}
# Estimators import scikit-learn, which takes longer than everything else here together.
_ESTIMATORS = {
    "AsymmetricRelation",
    "HilbertCubeEncoder",
    "MultiLayerRandomFeatures",
    "NNGPKernel",
    "PreferenceRetriever",
    "RandomFeatureRidge",
    "RelationKernel",
    "SymmetricRelation",
    "ZonalFeatures",
}


def __getattr__(name: str) -> Any:
    if name in _ESTIMATORS:
        from . import estimators

        return getattr(estimators, name)
    if name in _SUBMODULES:
        from importlib import import_module

        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
