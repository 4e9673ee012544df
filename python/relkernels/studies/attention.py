"""Attention selects by preorder: error against inverse temperature and its bound; recovery of a utility."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .. import bounds
from ..gradients import MLPGradient, feature_map_vjp
from ..maps.mlp import MLP
from ..ops import attention, relation_matrix
from .fitting import hidden_start, one_map, two_maps
from .study import Criterion, Row, Verdict, groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plot.panels import Panel

CLAIM = (
    "If preferences are a continuous preorder for each query, Debreu's theorem gives a utility, inner "
    "products of two networks approximate it, and attention with inverse temperature beta is within "
    "diam t/(1 + t) of the most preferred item, t = (1/k) sum over the others of exp(-beta (gap - 2 eta)) "
    "(derived)."
)
# Parameters of the network that recovers a utility, with widths 2, 64 and 1.
PARAMETERS = 2 * 64 + 64 + 64 + 1
PREORDERS = ("global", "query-dependent", "tied", "learned")


def pieces(quick: bool) -> list[Row]:
    """Return preorders and set sizes, and the recovery of a utility."""
    sizes, sets = ([4, 32, 256], 30) if quick else ([4, 8, 16, 32, 64, 128, 256, 512, 1024], 200)
    found: list[Row] = [
        {"part": "selection", "preorder": p, "n": n, "sets": sets} for p in PREORDERS for n in sizes
    ]
    comparisons = [300, 3000] if quick else [100, 300, 1000, 3000, 10000, 30000]
    return found + [{"part": "recovery", "comparisons": c} for c in comparisons]


def utility(preorder: str, q: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return u(q, x) for one query and the items of a set."""
    if preorder == "global":
        return x[:, 0] + 0.5 * np.sin(3 * x[:, 1])
    nearness = -np.linalg.norm(x - q, axis=1)
    return np.round(nearness * 4) / 4 if preorder == "tied" else nearness


def _learned(seed: int) -> tuple[MLP, MLP]:
    """Fit -|x - q| by two maps."""
    rng = np.random.default_rng(seed)
    q, x = rng.uniform(-1, 1, (2, 400, 2))
    values = -np.linalg.norm(q[:, None] - x[None], axis=2)
    return two_maps(q, x, values, 96, 24, "tanh", seed, 200)


def measure(piece: Row) -> list[Row]:
    """Return error and bound over a range of temperatures, or the accuracy of a recovered utility."""
    return _recover(piece) if piece["part"] == "recovery" else _select(piece)


def _select(piece: Row) -> list[Row]:
    preorder, n = piece["preorder"], piece["n"]
    rng = np.random.default_rng(n)
    maps = _learned(0) if preorder == "learned" else None
    betas = 10.0 ** np.linspace(-1, 4, 16)
    errors, limits = np.zeros((2, len(betas), piece["sets"]))
    margins, worst_eta, needed = [], 0.0, []
    for s in range(piece["sets"]):
        q, x = rng.uniform(-1, 1, (1, 2)), rng.uniform(-1, 1, (n, 2))
        values = rng.uniform(-1, 1, (n, 3))
        u = utility("query-dependent" if maps else preorder, q[0], x)
        scores = u if maps is None else relation_matrix(q, x, *maps)[0]
        gap = scores - u
        eta = float(gap.max() - gap.min()) / 2  # adding a constant per query changes no weight
        margin = bounds.margin_of([u])
        best, k = np.flatnonzero(u == u.max()), int(margin.n_best[0])
        diameter = float(np.linalg.norm(values.max(axis=0) - values.min(axis=0)))
        margins.append(margin.value)
        worst_eta = max(worst_eta, eta)
        for b, beta in enumerate(betas):
            if maps is None:
                out = attention(np.ones((1, 1)), u[:, None], values, scale=beta)[0]
            else:
                out = attention(q, x, values, *maps, scale=beta)[0]
            # The mixture of the best items only is in the hull of their values; for equal scores, their mean.
            weights = np.exp(beta * (scores[best] - scores[best].max()))
            target = weights @ values[best] / weights.sum()
            errors[b, s] = np.linalg.norm(out - target)
            limits[b, s] = bounds.attention_error(margin, n, diameter, beta, eta, n_best=k).value
        needed.append(bounds.attention(margin, n, diameter, 0.01, eta, n_best=k).value)
    finite = [b for b in needed if math.isfinite(b)]
    return [
        {
            "beta": beta,
            "error_mean": errors[b].mean(),
            "error_max": errors[b].max(),
            "bound_mean": limits[b].mean(),
            "bound_max": limits[b].max(),
            "ratio_max": float((errors[b] / np.maximum(limits[b], 1e-12)).max()),
            "margin_median": float(np.median(margins)),
            "relation_error": worst_eta,
            "beta_for_0.01_median": float(np.median(finite)) if finite else math.inf,
        }
        for b, beta in enumerate(betas)
    ]


def _recover(piece: Row) -> list[Row]:
    """Fit u so that winners of comparisons have the larger utility (logistic loss of the difference)."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    count = piece["comparisons"]
    items, fresh = rng.uniform(-1, 1, (2, 2000, 2))
    hidden = utility("global", fresh[0], items)
    pairs = rng.integers(0, len(items), (count, 2))
    first = hidden[pairs[:, 0]] >= hidden[pairs[:, 1]]
    winner, loser = np.where(first, pairs[:, 0], pairs[:, 1]), np.where(first, pairs[:, 1], pairs[:, 0])
    flat = 1e-5  # weight of the mean square of u, which comparisons do not determine

    def objective(mlp: MLP) -> tuple[float, MLPGradient]:
        u = mlp(items)[:, 0]
        difference = u[winner] - u[loser]
        value = float(np.logaddexp(0, -difference).mean() + flat * (u**2).mean())
        slope = -1 / (1 + np.exp(difference)) / count
        g = 2 * flat * u / len(u)
        np.add.at(g, winner, slope)
        np.add.at(g, loser, -slope)
        _, gradient = feature_map_vjp(items, mlp, np.ascontiguousarray(g[:, None]))
        return value, gradient

    mlp = one_map(hidden_start([2, 64, 1], "tanh", 0), objective, 200)
    got, true = mlp(fresh)[:, 0], utility("global", fresh[0], fresh)
    a, b = rng.integers(0, len(fresh), (2, 20000))
    agree = float(((got[a] > got[b]) == (true[a] > true[b]))[a != b].mean())
    return [{"agreement": agree, "rank_correlation": float(spearmanr(got, true).statistic)}]


def judge(rows: list[Row]) -> Verdict:
    """Check that the bound is never exceeded and that comparisons recover the utility."""
    chosen = [r for r in rows if r["part"] == "selection"]
    recovered = [r for r in rows if r["part"] == "recovery"]
    worst = max(r["ratio_max"] for r in chosen)
    exact = [r for r in chosen if r["preorder"] != "learned"]
    sharp = max(r["error_max"] for r in exact if r["beta"] == max(x["beta"] for x in exact) and r["n"] <= 32)
    learned = [r for r in chosen if r["preorder"] == "learned"]
    eta = max(r["relation_error"] for r in learned)
    largest = max(r["n"] for r in learned)
    rest = [r["error_mean"] for r in learned if r["n"] == largest][-1]
    last = recovered[-1]
    wrong, rate = 1 - last["agreement"], PARAMETERS / last["comparisons"]
    agreements = [r["agreement"] for r in recovered]
    return Verdict(
        f"Over n = {min(r['n'] for r in chosen)} to {max(r['n'] for r in chosen)} and beta = 0.1 to 10,000 "
        f"the error is at most {worst:.4g} of the bound; at beta = 10,000 it is {sharp:.2g} for sets of up "
        f"to 32. Learned utilities are off by up to eta = {eta:.3g}, which at n = {largest}, where margins "
        f"are smaller, leaves a mean error of {rest:.3g}. From {last['comparisons']} comparisons the "
        f"recovered utility agrees with the hidden one on {100 * last['agreement']:.1f} % of fresh pairs "
        f"(rank correlation {last['rank_correlation']:.4f}).",
        [
            Criterion(
                "The error of attention is at most the derived bound, for every set and temperature.",
                f"at most {worst:.4g} of the bound",
                worst <= 1 + 1e-9,
                proven=True,
            ),
            Criterion(
                "More comparisons never make the recovered utility agree with the hidden one on fewer pairs.",
                ", ".join(f"{100 * a:.1f} %" for a in agreements),
                all(a <= b for a, b in zip(agreements, agreements[1:], strict=False)),
            ),
            Criterion(
                f"With the most comparisons, the share of wrong pairs is at most parameters / comparisons "
                f"({PARAMETERS} / {last['comparisons']} = {100 * rate:.2g} %), the rate of a classifier that "
                "can be exact.",
                f"{100 * wrong:.2g} %",
                wrong <= rate,
            ),
        ],
    )


def panels(rows: list[Row]) -> list[Panel]:
    """Return panels of error and bound against beta, one per preorder."""
    from ..plot import attention_against_beta
    from ..plot.panels import Panel
    from ..plot.style import shades

    chosen = [r for r in rows if r["part"] == "selection"]
    sizes = sorted({r["n"] for r in chosen})
    colors = dict(zip(sizes, shades(len(sizes)), strict=True))

    def errors(ax: Axes, some: list[Row]) -> None:
        for (n,), line in groups(some, "n").items():
            attention_against_beta(
                [r["beta"] for r in line],
                [r["error_mean"] for r in line],
                bound=[r["bound_mean"] for r in line],
                label=f"n = {n}",
                color=colors[n],
                ylabel="mean error",
                ax=ax,
            )
        ax.set_ylim(1e-6, 5)

    return [Panel(name, partial(errors, some=some)) for (name,), some in groups(chosen, "preorder").items()]
