"""How inner products become the scores of attention, and which pairs have one."""

from __future__ import annotations

from typing import Any, NamedTuple

from .allowed import Allowed


class Scoring(NamedTuple):
    """Scores s_ij = cap(r_ij + bias_ij) of inner products r, as the parameters of `attention` define them.

    Attributes
    ----------
    allowed : Allowed
    bias : ndarray or None
        Broadcast to (..., n, m), of the dtype of the scores; -inf forbids a pair.
    softcap : float or None
        cap(s) = softcap * tanh(s / softcap); None: cap(s) = s.
    """

    allowed: Allowed
    bias: Any = None
    softcap: float | None = None
