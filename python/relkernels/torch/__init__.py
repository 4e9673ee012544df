"""Relations inside PyTorch: the kernels as differentiable operators on tensors, and modules of them.

`feature_map`, `relation_matrix`, `relation_matvec`, `attention`, `attention_scores`, `relational_attention`,
`retrieve` and `relation_loss` compute what the functions of the same names in `relkernels` do, with
gradients of the inputs, of the scale and of every parameter; `scaled_dot_product_attention` is `attention`
with PyTorch's signature. `FeatureMap`, `InnerProductRelation` and `RelationAttention` are modules that hold
the parameters; `RelationalAttention`, `DualAttention` and modules of symbols are layers of relational
networks. Tensors are float32 or float64, with any strides, on the CPU, where they are read and written
without a copy, or on a CUDA device, forward and backward. Bfloat16 and float16, also those of autocast, are
computed in float32 and give results of their dtype. `torch.compile` and `torch.export` treat each operator
as one node. `torch.vmap` makes the batch a leading dimension. Forward-mode derivatives, second derivatives
and the derivatives of `torch.func` are computed by formulas in PyTorch's own operations, which store the
relation.

The kernels run on PyTorch's OpenMP threads, which spin for some milliseconds after each operation, and use at
most `relkernels.get_num_threads` of them. They use the threads of relkernels instead if PyTorch has fewer
threads than that, is not built with OpenMP, or was forked (`_threads.py`).
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    from ..base.extras import install

    raise ImportError(f"relkernels.torch needs PyTorch: {install('torch')}") from None

from .attentions import attention, attention_scores, scaled_dot_product_attention
from .dual_attention import DualAttention, DualAttentionBlock
from .losses import relation_loss
from .maps import FeatureMap, feature_map
from .modules import InnerProductRelation, RelationAttention
from .networks import MultiDimensionalRelation, RelationalAttention, RelationalCrossAttention
from .relational import relational_attention
from .relations import relation_matrix, relation_matvec
from .search import retrieve
from .symbols import PositionalSymbolRetriever, PositionRelativeSymbolRetriever, SymbolicAttention

__all__ = [
    "DualAttention",
    "DualAttentionBlock",
    "FeatureMap",
    "InnerProductRelation",
    "MultiDimensionalRelation",
    "PositionRelativeSymbolRetriever",
    "PositionalSymbolRetriever",
    "RelationAttention",
    "RelationalAttention",
    "RelationalCrossAttention",
    "SymbolicAttention",
    "attention",
    "attention_scores",
    "feature_map",
    "relation_loss",
    "relation_matrix",
    "relation_matvec",
    "relational_attention",
    "retrieve",
    "scaled_dot_product_attention",
]
