"""Inner products of neural feature maps: relations, attention, retrieval and their gradients.

The relation of two objects is ``r(x, y) = <phi(x), psi(y)>``, where phi and psi are multi-layer perceptrons
(`MLP`). Compiled kernels compute its matrix (`relation_matrix`) or work with it without storing it:
`attention`, `retrieve`, `retrieve_above`, `relation_matvec` and `relation_loss`; functions that end in
``_vjp`` are their gradients. `SymmetricRelation`, `AsymmetricRelation` and `PreferenceRetriever` learn
relations from data. `relkernels.torch`, `relkernels.jax` and `relkernels.dask` are imported separately.
"""

from __future__ import annotations

import sys as _sys
from collections.abc import Callable
from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

try:
    from ._core import __version__
except ImportError as error:
    from .base.startup import leave_on_wrong_environment

    leave_on_wrong_environment(error)
    raise
from .arrays.engine import register_device
from .config import get_num_threads, set_num_threads, show_config
from .gradients import (
    MLPGradient,
    attention_scores_vjp,
    attention_vjp,
    feature_map_vjp,
    normalize_vjp,
    relation_loss,
    relation_matrix_vjp,
    relation_matvec_vjp,
)
from .maps import MLP, Activation, leaky_relu, relu_power
from .ops import (
    Keys,
    attention,
    attention_scores,
    feature_map,
    normalize,
    relation_matrix,
    relation_matvec,
    retrieve,
    retrieve_above,
)
from .ops.linear_operator import as_linear_operator
from .ops.nngp import nngp_kernel
from .samples import RelationValues, RowPairs
from .states.block_retrieval import retrieve_blocks
from .states.block_retrieval_above import retrieve_above_blocks
from .states.blocks import NpyBlocks

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
    "Keys",
    "MLPGradient",
    "MultiLayerRandomFeatures",
    "NNGPKernel",
    "NpyBlocks",
    "PreferenceRetriever",
    "RandomFeatureRidge",
    "RelationKernel",
    "RelationValues",
    "RowPairs",
    "SymmetricRelation",
    "ZonalFeatures",
    "__version__",
    "as_linear_operator",
    "attention",
    "attention_scores",
    "attention_scores_vjp",
    "attention_vjp",
    "feature_map",
    "feature_map_vjp",
    "get_num_threads",
    "leaky_relu",
    "nngp_kernel",
    "normalize",
    "normalize_vjp",
    "relation_loss",
    "relation_matrix",
    "relation_matrix_vjp",
    "relation_matvec",
    "relation_matvec_vjp",
    "relu_power",
    "retrieve",
    "retrieve_above",
    "retrieve_above_blocks",
    "retrieve_blocks",
    "set_num_threads",
    "show_config",
]


def _cuda_call() -> Callable[..., Any]:
    from .cuda.calls import run

    return run


# DLPack's number for CUDA. Loaded with the first array on such a device.
register_device(2, _cuda_call)

# Modules as they were called before, for imports and pickles that name them.
for _old, _new in {
    "activations": "maps.activations",
    "blocks": "states.blocks",
    "linear_operator": "ops.linear_operator",
    "mlp": "maps.mlp",
    "nngp": "ops.nngp",
}.items():
    globals()[_old] = _sys.modules[f"{__name__}.{_old}"] = _sys.modules[f"{__name__}.{_new}"]

# Submodules that are loaded on first use.
_SUBMODULES = {"bounds", "cuda", "metrics", "plot", "spectra"}
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
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
