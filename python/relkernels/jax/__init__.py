"""Relations inside JAX: the kernels under `jit`, `grad` and `vmap`.

The functions compute what those of the same names in `relkernels` do, on the CPU, with reverse-mode gradients
of the inputs, of the scale and of the parameters of maps; `MLP` is a map as a pytree. Arguments are not
copied, and results are written in place, in XLA's memory; gradients, indices of int32 and the results of
`relational_attention` and of `relation_loss` are copied once. Under `jax.vmap` the batch becomes a leading
dimension.

Bfloat16 and float16 are computed in float32. Forward mode and second derivatives are not provided: JAX raises
an error. Arguments are checked when JAX traces a call, values when it runs.
"""

from __future__ import annotations

try:
    import jax as _jax  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "jax":
        raise
    from ..base.extras import install

    raise ImportError(f"relkernels.jax needs JAX: {install('jax')}") from None

from .attentions import attention, attention_scores, retrieve
from .maps import MLP, feature_map
from .relational import relational_attention
from .relations import nngp_kernel, relation_loss, relation_matrix, relation_matvec

__all__ = [
    "MLP",
    "attention",
    "attention_scores",
    "feature_map",
    "nngp_kernel",
    "relation_loss",
    "relation_matrix",
    "relation_matvec",
    "relational_attention",
    "retrieve",
]
