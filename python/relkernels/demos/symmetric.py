"""Part of the demo: learn "shows the same digit" from labels; evaluate it on held-out images."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..estimators import SymmetricRelation
from ..ops import retrieve
from .digits import Split, draw_rows, load
from .part import Part

# Retrieved images shown per query in the picture.
_SHOWN = 6


def precision_at(k: int, queries: np.ndarray, keys: np.ndarray, split: Split) -> float:
    """Return the mean share of images of the query's digit among the k retrieved."""
    _, found = retrieve(queries, keys, k)
    return float((split.train_digits[found] == split.held_out_digits[:, None]).mean())


def run(report: Callable[[str], None]) -> Part:
    """Learn the same-digit relation; return figures on held-out images.

    The area under the ROC curve is over all pairs of held-out images. For retrieval, queries are the
    held-out images and keys the training images, both for the learned relation and for raw pixels.
    """
    split = load()
    report(f"learning the same-digit relation from {len(split.train)} images")
    begin = time.perf_counter()
    relation = SymmetricRelation(
        hidden_widths=(256, 256),
        n_features=16,
        activation="gelu",
        max_iter=100,
        batch_size=256,
        random_state=0,
    ).fit(split.train, split.train_digits)
    seconds = time.perf_counter() - begin
    features = relation.transform(split.held_out)
    figures = {
        "auc": relation.score(split.held_out, split.held_out_digits),
        "precision_at_10": precision_at(10, features, relation.features_fit_, split),
        "baseline_precision_at_10": precision_at(10, split.held_out, split.train, split),
        "seconds": seconds,
    }
    return Part(
        figures,
        {
            "relation_matrix.png": lambda: _draw_relation(split, relation),
            "retrieved.png": lambda: _draw_retrieved(split, relation),
        },
    )


def _draw_relation(split: Split, relation: SymmetricRelation) -> Any:
    """Draw the relation of the held-out images ordered by digit."""
    from ..plot import relation_matrix

    title = f"Learned same-digit relation, {len(split.held_out)} held-out images"
    return relation_matrix(
        relation,
        split.held_out,
        labels=split.held_out_digits,
        limits=(-1, 1),
        xlabel="digit",
        ylabel="digit",
        title=title,
    ).figure


def _draw_retrieved(split: Split, relation: SymmetricRelation) -> Any:
    """Draw the first held-out image of each digit with the training images most related to it."""
    queries = [int(np.flatnonzero(split.held_out_digits == d)[0]) for d in range(10)]
    values, found = relation.retrieve(split.held_out[queries], _SHOWN)
    rows = [
        [
            (split.held_out[query], "query"),
            *((split.train[j], f"{value:.2f}") for j, value in zip(line, row, strict=True)),
        ]
        for query, line, row in zip(queries, found, values, strict=True)
    ]
    return draw_rows(rows, "Held-out images, and the training images most related to them")
