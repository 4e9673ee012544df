"""Probability that attention over a new set of items is accurate.

The bound of `attention_error` depends on the gaps of utility in a set. Let p be the probability that it is at
most eps for a set drawn at random. If c of b independent sets satisfy it, c is binomial with parameters b and
p, and the lower limit of Clopper & Pearson for p is the quantile 1 - confidence of Beta(c, b - c + 1).
"""

from __future__ import annotations

from ._attention import others_mass
from .bound import Assumption, Bound, Constant, non_negative, positive
from .margins import Margin, confidence_level, lower_limit


def attention_coverage(
    margin: Margin,
    diameter: float,
    eps: float,
    beta: float,
    relation_error: float = 0.0,
    *,
    confidence: float = 0.95,
) -> Bound:
    """Return a probability with which attention over a new set has an error of at most `eps`.

    The least margin of ever more sets tends to 0. Instead of a bound for all sets, this one is for most: from
    the fraction of measured sets whose bound is at most `eps`.

    Parameters
    ----------
    margin : Margin
        Measured on independent draws of sets, other than those from which utility or `beta` were chosen.
    diameter : float
        Largest distance between two values, >= 0.
    eps : float
        Accuracy, > 0.
    beta : float
        Inverse temperature, >= 0; may be infinite.
    relation_error : float, default 0.0
        Largest error of the scores as utilities, >= 0.
    confidence : float, default 0.95
        Probability, over draws of the measured sets, that the value is a lower bound.

    Returns
    -------
    Bound
        `value` is the lower limit of Clopper & Pearson; ``details["fraction"]`` is that of the measured sets.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> import numpy as np
    >>> from relkernels import bounds
    >>> margin = bounds.margin_of(np.random.default_rng(0).uniform(size=(1000, 8)))
    >>> bound = bounds.attention_coverage(margin, diameter=1.0, eps=0.05, beta=100.0)
    >>> bound.details["fraction"], round(bound.value, 3)
    (0.799, 0.777)
    """
    if not isinstance(margin, Margin):
        raise TypeError(f"margin: expected the result of margin_of, got {type(margin).__name__}")
    diam = non_negative("diameter", diameter)
    accuracy = positive("eps", eps)
    inverse_temperature = non_negative("beta", beta, finite=False)
    eta = non_negative("relation_error", relation_error)
    level = confidence_level("confidence", confidence)
    errors = diam * others_mass(margin, inverse_temperature, eta)
    count = int((errors <= accuracy).sum())
    return Bound(
        "attention_coverage",
        f"probability of an error of at most {accuracy:.4g}",
        lower_limit(count, len(margin), level),
        "quantile 1 - confidence of Beta(c, b - c + 1)",
        r"F^{-1}_{\mathrm{Beta}(c,\, b - c + 1)}(1 - \text{confidence})",
        source="derived: bound of attention_error in each set; lower limit of Clopper & Pearson 1934",
        constants=(
            Constant("c", count, "sets whose error is at most eps"),
            Constant("b", len(margin), "sets measured"),
            Constant("eps", accuracy, "requested accuracy"),
            Constant("beta", inverse_temperature, "inverse temperature used"),
            Constant("diam", diam, "diameter of the values"),
            Constant("eta", eta, "largest error of the scores"),
            Constant("confidence", level, "requested"),
        ),
        assumptions=(
            Assumption("the sets measured and the new one are independent draws from one distribution"),
            Assumption("utility and beta were chosen without the sets measured"),
            Assumption("scores lie within eta of the utility, up to a constant per query"),
            Assumption("values lie within diam of one another"),
        ),
        details={"fraction": count / len(margin), "per_set": errors},
        arguments={
            "margin": margin,
            "diameter": diameter,
            "eps": eps,
            "beta": beta,
            "relation_error": relation_error,
            "confidence": confidence,
        },
        function=attention_coverage,
    )
