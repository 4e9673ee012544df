"""Relations inside PyTorch: the kernels as differentiable operators on CPU tensors, and modules of them.

`feature_map`, `relation_matrix` and `attention` compute what the functions of the same names in
`relkernels` do, with gradients of the inputs and of every parameter; `FeatureMap`,
`InnerProductRelation` and `RelationAttention` are modules that hold the parameters. Tensors are float32
or float64, of any strides, read and written in place of copies. `torch.compile` takes each operator as
one node. Second derivatives are not provided.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError("relkernels.torch needs PyTorch: pip install 'relkernels[torch]'") from None

from .maps import FeatureMap, feature_map
from .relations import InnerProductRelation, RelationAttention, attention, relation_matrix

__all__ = [
    "FeatureMap",
    "InnerProductRelation",
    "RelationAttention",
    "attention",
    "feature_map",
    "relation_matrix",
]
