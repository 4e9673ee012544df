"""Part of the demo: which bottom half belongs to a top half? Two maps learned from matched halves of digits.

phi takes the 32 pixels of the top half, psi those of the bottom half. Each top half of the 360 held-out
images is a query for its own bottom half. The baselines are the linear methods for two tables, canonical
correlation analysis (CCA) and partial least squares (PLSCanonical), which rank by the inner product of their
scores, and also by the cosine, which suits them better. The reported baseline is the better of the two by
inner product.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ..estimators import AsymmetricRelation
from ..ops import retrieve
from .digits import Split, draw_rows, load
from .part import Part

_HALF = 32
# Bottom halves shown per top half in the picture.
_SHOWN = 6
# Numbers of components to try on a part of the training images.
_COMPONENTS = (5, 10, 20)


def _recall(f: np.ndarray, g: np.ndarray) -> dict[str, float]:
    """Return the share of rows of f whose own row of g ranks first, and among the first ten."""
    _, found = retrieve(np.ascontiguousarray(f), np.ascontiguousarray(g), 10)
    own = found == np.arange(len(f))[:, None]
    return {"recall_at_1": float(own[:, 0].mean()), "recall_at_10": float(own.any(axis=1).mean())}


def _unit(scores: np.ndarray) -> np.ndarray:
    return scores / np.linalg.norm(scores, axis=1, keepdims=True)


def _linear(method: Any, n_components: int, train: np.ndarray, test: np.ndarray) -> Any:
    """Return the scores of both halves of the test images."""
    seen = train.std(axis=0) > 0  # constant pixels carry no information, and would divide by zero
    top, bottom = seen.copy(), seen.copy()
    top[_HALF:], bottom[:_HALF] = False, False
    # With matrices of 32 columns, BLAS threads would only wait for one another.
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore")  # CCA warns that its last components have not converged
        fitted = method(n_components, max_iter=1000).fit(train[:, top], train[:, bottom])
    return fitted.transform(test[:, top], test[:, bottom])


def baselines(split: Split) -> dict[str, dict[str, float]]:
    """Return the recall of the linear methods, with components chosen on a fifth of the training images."""
    from sklearn.cross_decomposition import CCA, PLSCanonical

    kept = len(split.train) * 4 // 5
    part, rest = split.train[:kept], split.train[kept:]
    out = {}
    for name, method in (("PLSCanonical", PLSCanonical), ("CCA", CCA)):
        tried = {n: _linear(method, n, part, rest) for n in _COMPONENTS}
        for suffix, form in (("", np.asarray), (", cosine", _unit)):
            recall = {n: _recall(*map(form, scores))["recall_at_10"] for n, scores in tried.items()}
            best = max(_COMPONENTS, key=lambda n: recall[n])
            scores = _linear(method, best, split.train, split.held_out)
            out[name + suffix] = {"n_components": best, **_recall(*map(form, scores))}
    return out


def run(report: Callable[[str], None]) -> Part:
    """Learn from the matched halves of the training images; measure recall on the held-out ones."""
    split = load()
    report(f"learning which halves belong together from {len(split.train)} images")
    begin = time.perf_counter()
    relation = AsymmetricRelation(
        hidden_widths=(256, 256),
        n_features=32,
        activation="gelu",
        max_iter=60,
        batch_size=128,
        random_state=0,
    ).fit(split.train[:, :_HALF], split.train[:, _HALF:])
    seconds = time.perf_counter() - begin
    f, g = relation.transform(split.held_out[:, :_HALF], split.held_out[:, _HALF:])
    report("fitting the linear baselines")
    linear = baselines(split)
    best = max(("PLSCanonical", "CCA"), key=lambda name: linear[name]["recall_at_10"])
    n = len(split.held_out)
    figures = {
        **_recall(f, g),
        "baseline": best,
        "baseline_recall_at_1": linear[best]["recall_at_1"],
        "baseline_recall_at_10": linear[best]["recall_at_10"],
        "baselines": linear,
        "chance_recall_at_1": 1 / n,
        "chance_recall_at_10": 10 / n,
        "temperature": relation.temperature_,
        "seconds": seconds,
    }
    return Part(figures, {"halves.png": lambda: _draw(split, f, g)})


def _draw(split: Split, f: np.ndarray, g: np.ndarray) -> Any:
    """Draw top halves completed by their retrieved bottom halves."""
    _, found = retrieve(f, g, _SHOWN)
    rows = []
    for digit in range(10):
        query = int(np.flatnonzero(split.held_out_digits == digit)[0])
        image = split.held_out[query]
        blank = np.concatenate([image[:_HALF], np.zeros(_HALF, image.dtype)])
        joined = [np.concatenate([image[:_HALF], split.held_out[j, _HALF:]]) for j in found[query]]
        captions = ["own" if j == query else str(split.held_out_digits[j]) for j in found[query]]
        rows.append([(blank, "query"), *zip(joined, captions, strict=True)])
    return draw_rows(rows, "Top halves with the bottom halves most related to them")
