"""Relations inside PyTorch: the kernels as differentiable operators on tensors, and modules of them.

`feature_map`, `relation_matrix`, `attention`, `retrieve` and `relation_loss` compute what the functions of
the same names in `relkernels` do, with gradients of the inputs, of the scale and of every parameter;
`FeatureMap`, `InnerProductRelation` and `RelationAttention` are modules that hold the parameters. Tensors are
float32 or float64, of any strides, on the CPU or, except for `relation_loss`, on a CUDA device; on the CPU they are
read and written without a copy. `torch.compile` and `torch.export` treat each operator as one node. Second
derivatives, forward-mode derivatives and the transforms of `torch.func` are not provided and raise an error.

PyTorch's OpenMP threads keep spinning for some milliseconds after each of its operations, on cores that
the kernels' threads need next. On a machine with few cores, steps shorter than about 20 ms run faster with
``GOMP_SPINCOUNT=20000`` in the environment of the process.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    from ..base.extras import install

    raise ImportError(f"relkernels.torch needs PyTorch: {install('torch')}") from None

from .losses import relation_loss
from .maps import FeatureMap, feature_map
from .modules import InnerProductRelation, RelationAttention
from .relations import attention, relation_matrix
from .search import retrieve

__all__ = [
    "FeatureMap",
    "InnerProductRelation",
    "RelationAttention",
    "attention",
    "feature_map",
    "relation_loss",
    "relation_matrix",
    "retrieve",
]
