"""Utility that attention can lose, whatever the margin between the items.

n items with utilities u_j, of which k share the largest, u_*; scores s_j within eta of u_j; weights a =
softmax(beta s).

By Gibbs' variational principle a maximises sum_j a_j s_j + H(a) / beta over all weights, the maximum is
log(sum_j exp(beta s_j)) / beta >= max_j s_j, and H(a) <= log n. So sum_j a_j s_j >= max_j s_j - log(n) /
beta, and

    u_* - sum_j a_j u_j <= log(n) / beta + 2 eta;

if k items share u_*, the maximum is at least u_* - eta + log(k) / beta.
"""

from __future__ import annotations

import math

from ..base import check
from .bound import Assumption, Bound, Constant, non_negative


def attention_regret(n: int, beta: float, relation_error: float = 0.0, *, n_best: int = 1) -> Bound:
    """Return how much utility attention at inverse temperature `beta` can lose, whatever the margin.

    Parameters
    ----------
    n : int
        Number of items, at least 1.
    beta : float
        Inverse temperature, >= 0; may be infinite.
    relation_error : float, default 0.0
        Largest error of the scores as utilities, >= 0.
    n_best : int, default 1
        Number of items that share the largest utility.

    Returns
    -------
    Bound
        `value` bounds the largest utility minus the mean utility under attention's weights.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> from relkernels import bounds
    >>> round(bounds.attention_regret(1024, beta=1000.0).value, 4)  # log(1024) / 1000
    0.0069
    """
    items = check.integer("n", n, 1, 2**63 - 1)
    inverse_temperature = non_negative("beta", beta, finite=False)
    eta = non_negative("relation_error", relation_error)
    best = check.integer("n_best", n_best, 1)
    if best > items:
        check.fail("n_best", f"at most n = {items}", best)
    spread = math.log(items / best)
    lost = 0.0 if spread == 0 else math.inf if inverse_temperature == 0 else spread / inverse_temperature
    return Bound(
        "attention_regret",
        "largest loss of utility under attention",
        lost + 2 * eta,
        "u_* - sum_j a_j u_j <= log(n/k) / beta + 2 eta",
        r"u_* - \sum_j a_j u_j \le \frac{\log(n/k)}{\beta} + 2\eta",
        source="derived: Gibbs' variational principle",
        constants=(
            Constant("n", items, "number of items"),
            Constant("k", best, "number of best items"),
            Constant("beta", inverse_temperature, "inverse temperature used"),
            Constant("eta", eta, "largest error of the scores"),
        ),
        assumptions=(Assumption("scores lie within eta of the utility, up to a constant per query"),),
        note="without sharpening only the range of the utility bounds the loss" if lost == math.inf else "",
        arguments={"n": n, "beta": beta, "relation_error": relation_error, "n_best": n_best},
        function=attention_regret,
    )
