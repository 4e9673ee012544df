"""Part of the demo: preorders learned from choices.

Digits: from a set of 8 images, select the one with the largest digit, or the smallest, depending on the
query. Attention over the same utilities approaches the selection as its inverse temperature increases; the
bound of `relkernels.bounds.attention_error`, with each set's utilities, guarantees how closely.

Travellers: 210 real choices among air, train, bus and car (statsmodels' modechoice), compared with a
conditional logit with the same attributes and their products with income and party size. In these data the
terminal times of the modes that were not chosen are a few imputed constants, which a nonlinear map
recognises; therefore results without that attribute are also reported.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import bounds
from ..base.extras import install
from ..estimators import PreferenceRetriever
from .digits import Split, load, shifted
from .part import Part

_SET = 8
_TRAINING_SETS = 20_000
_HELD_OUT_SETS = 4_000
_LARGEST = np.float32(1)
_BETAS = tuple(float(b) for b in np.geomspace(0.01, 100, 13))
# A difference of one digit makes an image exp(3) times as likely to be preferred.
_GRADES = 3


def _sets(
    images: np.ndarray, digits: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    drawn = rng.integers(len(images), size=(count, _SET))
    return images[drawn], digits[drawn]


def learn_order(split: Split) -> PreferenceRetriever:
    """Learn to prefer large or small digits, depending on the query, from sets of training images.

    Images are used unchanged and shifted by one pixel; three fits with decreasing learning rates each start
    from the previous one.
    """
    rng = np.random.default_rng(0)
    moves = [(0, 0), (0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
    images = np.concatenate([shifted(split.train, *move) for move in moves])
    sets, digits = _sets(images, np.tile(split.train_digits, len(moves)), _TRAINING_SETS, rng)
    queries = np.where(rng.integers(2, size=(_TRAINING_SETS, 1)) > 0, _LARGEST, -_LARGEST)
    order = PreferenceRetriever(
        hidden_widths=(8,),
        hidden_widths_psi=(256, 256),
        n_features=8,
        activation="gelu",
        solver="adamw",
        weight_decay=0.3,
        batch_size=64,
        warm_start=True,
        random_state=0,
        standardize=False,  # pixels share one unit; those at the edges would be magnified
    )
    for learning_rate, epochs in ((1e-3, 8), (3e-4, 3), (1e-4, 1)):
        order.set_params(learning_rate=learning_rate, max_iter=epochs)
        order.fit_graded(queries, sets, _GRADES * queries * digits)
    return order


def largest_digit(report: Callable[[str], None]) -> dict[str, Any]:
    """Return the accuracy of hard selection and of attention on sets of held-out images."""
    split = load()
    report(f"learning the order of digits from {_TRAINING_SETS:,} sets of {_SET} images")
    begin = time.perf_counter()
    order = learn_order(split)
    seconds = time.perf_counter() - begin
    sets, digits = _sets(split.held_out, split.held_out_digits, _HELD_OUT_SETS, np.random.default_rng(1))
    row = np.arange(len(sets))
    largest = np.full((len(sets), 1), _LARGEST)
    selected = digits[row, order.select(largest, sets)]
    right = selected == digits.max(axis=1)
    smallest = digits[row, order.select(-largest, sets)] == digits.min(axis=1)
    margin = bounds.margin_of(order.utility(largest, sets))
    values = digits[..., None].astype(np.float32)
    attention = []
    for beta in _BETAS:
        attended = order.attend(largest, sets, values, beta)[:, 0]
        share = bounds.attention_error(margin, _SET, 1.0, beta).details["per_set"]
        bound = np.ptp(digits, axis=1) * share
        attention.append(
            {
                "beta": beta,
                "accuracy": float((np.abs(attended - digits.max(axis=1)) < 0.5).mean()),
                "guaranteed_accuracy": float((right & (bound < 0.5)).mean()),
                "error": float(np.abs(attended - selected).mean()),
                "error_bound": float(bound.mean()),
            }
        )
    transitivity = order.check_transitivity(largest, sets, random_state=0)
    continuity = order.check_continuity(largest, sets, random_state=0)
    return {
        "accuracy": float(right.mean()),
        "accuracy_smallest": float(smallest.mean()),
        "chance": float((digits == digits.max(axis=1)[:, None]).mean()),
        "attention": attention,
        "beta_for_5_percent_on_9_of_10_sets": order.temperature_for(0.05, coverage=0.9),
        "transitivity_violations": transitivity.n_violations + transitivity.n_incomparable,
        "transitivity_triples": transitivity.n_triples,
        "slope_in_query": continuity.slope,
        "slope_bound": continuity.slope_bound,
        "seconds": seconds,
    }


def _travellers(attributes: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the travellers (income, party size), the attributes of the four modes, and the choices."""
    from statsmodels.datasets import modechoice

    table = modechoice.load_pandas().data
    travellers = table[["hinc", "psize"]].to_numpy()[::4]
    items = table[attributes].to_numpy().reshape(-1, 4, len(attributes))
    return travellers, items, table["choice"].to_numpy().reshape(-1, 4).argmax(axis=1)


def _conditional_logit(
    travellers: np.ndarray, items: np.ndarray, chosen: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Return the logit's utilities: constants and attributes, and constants times income and party size."""
    from statsmodels.discrete.conditional_models import ConditionalLogit

    n = len(items)
    constants = np.broadcast_to(np.eye(4)[:, :3], (n, 4, 3))
    crossed = np.einsum("bi,bnj->bnij", travellers, constants).reshape(n, 4, -1)
    design = np.concatenate([constants, items, crossed], axis=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = ConditionalLogit(
            np.eye(4)[chosen[train]].ravel(),
            design[train].reshape(4 * len(train), -1),
            groups=np.repeat(np.arange(len(train)), 4),
        ).fit(disp=False)
    return design[test] @ fitted.params


def _learned(
    travellers: np.ndarray, items: np.ndarray, chosen: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Return the utilities of a small PreferenceRetriever."""
    modes = np.concatenate([np.broadcast_to(np.eye(4), (len(items), 4, 4)), items], axis=2)
    order = PreferenceRetriever(
        hidden_widths=(),
        hidden_widths_psi=(16,),
        n_features=8,
        activation="tanh",
        solver="lbfgs",
        max_iter=200,
        weight_decay=1e-2,
        random_state=0,
    ).fit(travellers[train], modes[train], chosen[train])
    return order.utility(travellers[test], modes[test])


def mode_choice(attributes: list[str]) -> dict[str, float]:
    """Return 5-fold cross-validated accuracy and log-loss of the learned preorder and of the logit."""
    from scipy.special import log_softmax
    from sklearn.model_selection import StratifiedKFold

    travellers, items, chosen = _travellers(attributes)
    figures = {}
    for prefix, utilities in (("", _learned), ("baseline_", _conditional_logit)):
        u = np.empty((len(chosen), 4))
        for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(travellers, chosen):
            who = (travellers - travellers[train].mean(0)) / travellers[train].std(0)
            what = (items - items[train].mean((0, 1))) / items[train].std((0, 1))
            u[test] = utilities(who, what, chosen, train, test)
        figures[prefix + "accuracy"] = float((u.argmax(axis=1) == chosen).mean())
        log_likelihood = log_softmax(u, axis=1)[np.arange(len(chosen)), chosen]
        figures[prefix + "log_loss"] = float(-log_likelihood.mean())
    return figures


def run(report: Callable[[str], None]) -> Part:
    """Run both studies; without statsmodels the figures of the second are None."""
    digits = largest_digit(report)
    travellers = None
    if importlib.util.find_spec("statsmodels") is None:
        report(f"the travellers' choices need statsmodels: {install('statsmodels')}")
    else:
        report("learning 210 travellers' choices, 5-fold cross-validation")
        travellers = {
            "all_attributes": mode_choice(["ttme", "invc", "invt", "gc"]),
            "without_terminal_time": mode_choice(["invc", "invt", "gc"]),
        }
    figures = {"largest_digit": digits, "modechoice": travellers}
    return Part(figures, {"accuracy_against_beta.png": lambda: _draw(digits)})


def _draw(figures: dict[str, Any]) -> Any:
    """Draw attention's accuracy against beta with the guaranteed accuracy."""
    from ..plot import attention_against_beta

    rows = figures["attention"]
    return attention_against_beta(
        [row["beta"] for row in rows],
        [row["accuracy"] for row in rows],
        bound=[row["guaranteed_accuracy"] for row in rows],
        measure="accuracy",
        references={"hard selection": figures["accuracy"], "chance": figures["chance"]},
        ylabel="accuracy, sets of 8 held-out images",
        title="The largest digit, by attention over ⟨φ(q), ψ(x)⟩",
    ).figure
