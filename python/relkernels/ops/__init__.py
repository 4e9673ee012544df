"""Operations on feature maps and relations: checks, output, call.

Shapes: `x` (..., n, d_x), `y` (..., m, d_y); leading dimensions broadcast. A map that is None is the
identity. Arrays of one call and the maps have one dtype, float32 or float64; strides are free, nothing
is copied. Arrays of bfloat16 and float16 are taken to float32, and results back to their dtype. Arrays
of other libraries come and go through `relkernels.arrays`. Bad arguments raise TypeError or ValueError
that names the argument; an output that would not fit raises MemoryError that names the bytes.
"""

from ..maps.mlp import feature_map
from .attended import attention, attention_scores
from .keys import Keys
from .links import LINKS, LINKS_OF_DISTANCE
from .normalize import normalize
from .relational import relational_attention
from .relations import relation_matrix, relation_matvec
from .retrieval import retrieve
from .retrieval_above import retrieve_above

__all__ = [
    "LINKS",
    "LINKS_OF_DISTANCE",
    "Keys",
    "attention",
    "attention_scores",
    "feature_map",
    "normalize",
    "relation_matrix",
    "relation_matvec",
    "relational_attention",
    "retrieve",
    "retrieve_above",
]
