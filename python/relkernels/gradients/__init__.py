"""Vector-Jacobian products of the operations, and losses over all pairs with their gradients.

Each function takes features through the maps once, has the kernels form the gradient with respect to
the features (streaming over pairs, so memory is O((n + m) d)), and takes it back through the maps.
Sums are taken in an order fixed by the shapes: results are the same to the last bit for any number of
threads.
"""

from .attention import attention_scores_vjp, attention_vjp
from .loss import LOSSES, feature_loss, relation_loss
from .results import (
    AttentionGradients,
    AttentionScoresGradients,
    FeatureLoss,
    LossGradients,
    MatvecGradients,
    MLPGradient,
    RelationGradients,
)
from .vjp import feature_map_vjp, normalize_vjp, relation_matrix_vjp, relation_matvec_vjp

__all__ = [
    "LOSSES",
    "AttentionGradients",
    "AttentionScoresGradients",
    "FeatureLoss",
    "LossGradients",
    "MLPGradient",
    "MatvecGradients",
    "RelationGradients",
    "attention_scores_vjp",
    "attention_vjp",
    "feature_loss",
    "feature_map_vjp",
    "normalize_vjp",
    "relation_loss",
    "relation_matrix_vjp",
    "relation_matvec_vjp",
]
