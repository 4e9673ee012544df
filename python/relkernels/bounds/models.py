"""The relation that a fitted model computes, for `report` and for pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..base.describe import described
from ..maps.mlp import MLP
from ..ops import relation_matrix

Relation = Callable[[np.ndarray, np.ndarray], np.ndarray]


def relation_of(model: Any) -> tuple[Relation, bool, int | None, int | None]:
    """Return the relation, whether it is <phi, phi>, hidden units and features."""
    if isinstance(model, MLP):
        return (lambda a, b: relation_matrix(a, b, model)), True, model.n_neurons, model.widths[-1]
    if isinstance(model, tuple) and len(model) == 2 and all(isinstance(m, MLP) for m in model):
        phi, psi = model
        neurons = phi.n_neurons + psi.n_neurons
        return (lambda a, b: relation_matrix(a, b, phi, psi)), False, neurons, phi.widths[-1]
    if not hasattr(model, "relation_matrix"):
        raise TypeError(
            "model: expected an MLP, a pair of MLPs or an estimator with relation_matrix, got "
            f"{described(model)}"
        )
    phi, psi = getattr(model, "phi_", None), getattr(model, "psi_", None)
    if isinstance(phi, MLP) and isinstance(psi, MLP):
        return model.relation_matrix, False, phi.n_neurons + psi.n_neurons, phi.widths[-1]
    if isinstance(phi, MLP):
        return model.relation_matrix, True, phi.n_neurons, phi.widths[-1]
    return model.relation_matrix, False, None, None
