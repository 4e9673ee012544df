"""Part of the demo: which of three symbols is the same as the first? Two networks learn it from few examples.

Match to sample: an example has a sample and three choices, one of which is the same symbol; the answer is its
place. Symbols are random images of 5 x 5 pixels, new in each example, so that no held-out symbol occurs in
training. Only a relation between symbols can be learned.

One network has blocks of dual attention (`relkernels.torch.DualAttentionBlock`, with symmetric relations and
a symbol for each position), the other PyTorch's `TransformerEncoderLayer`. Everything else is the same:
embedding, positions, width, heads, depth, classifier, examples, batches, optimiser, number of steps and, by
the width of the Transformer's hidden layers, the number of parameters. The learning rate of each network is
the best of three on validation examples, whose symbols are also new, after training on the most examples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..config import get_num_threads, set_num_threads
from ..torch import DualAttentionBlock, PositionalSymbolRetriever
from .part import Part

NETWORKS = ("dual attention", "Transformer")
CHOICES = 3
SIDE = 5
_WIDTH, _HEADS, _LAYERS, _HIDDEN = 32, 4, 2, 64
_BATCH = 32
_RATES = (1e-3, 3e-3, 1e-2)
_HELD_OUT = 1_000
# Accuracy is measured this many times in a training run.
_MEASURED = 10


class Examples(NamedTuple):
    """Symbols (n, 4, 25) with pixels -1 and 1, the sample first, and the places of the matching choices."""

    symbols: Tensor
    answers: Tensor


def draw(count: int, random_state: int) -> Examples:
    """Return examples whose symbols are all new."""
    rng = np.random.default_rng(random_state)
    symbols = rng.choice([-1.0, 1.0], size=(count, 1 + CHOICES, SIDE * SIDE)).astype(np.float32)
    answers = rng.integers(CHOICES, size=count)
    symbols[:, 0] = symbols[np.arange(count), 1 + answers]
    return Examples(torch.from_numpy(symbols), torch.from_numpy(answers))


class Network(nn.Module):
    """Blocks over embedded symbols, and a linear classifier of their mean."""

    def __init__(self, blocks: Sequence[nn.Module], retriever: nn.Module | None = None) -> None:
        super().__init__()
        self.embed = nn.Linear(SIDE * SIDE, _WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(1 + CHOICES, _WIDTH))
        self.retriever = retriever
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.classify = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, CHOICES)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return the logits (n, 3)."""
        x = self.embed(symbols) + self.positions
        more = () if self.retriever is None else (self.retriever(x),)
        for block in self.blocks:
            x = block(x, *more)
        logits: Tensor = self.classify(self.norm(x).mean(1))
        return logits


def parameters(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())


def make(name: str, seed: int) -> Network:
    """Return an untrained network."""
    torch.manual_seed(seed)
    if name == "dual attention":
        half, options = _HEADS // 2, {"symmetric_rels": True}
        blocks = [DualAttentionBlock(_WIDTH, half, half, _HIDDEN, ra_kwargs=options) for _ in range(_LAYERS)]
        return Network(blocks, PositionalSymbolRetriever(_WIDTH, 1 + CHOICES))

    def transformer(hidden: int) -> Network:
        how: Any = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        return Network([nn.TransformerEncoderLayer(_WIDTH, _HEADS, hidden, **how) for _ in range(_LAYERS)])

    # Each unit of a hidden layer has 2 width + 1 parameters.
    missing = parameters(make("dual attention", seed)) - parameters(transformer(_HIDDEN))
    torch.manual_seed(seed)
    return transformer(_HIDDEN + max(0, -(-missing // (_LAYERS * (2 * _WIDTH + 1)))))


def accuracy(network: Network, examples: Examples) -> float:
    """Return the share of right answers."""
    with torch.no_grad():
        found = network(examples.symbols).argmax(1)
    return float((found == examples.answers).double().mean())


def train(
    name: str,
    rate: float,
    examples: Examples,
    held_out: Examples,
    steps: int,
    measured: Sequence[int],
    seed: int,
) -> list[float]:
    """Train a new network; return its accuracy on held-out examples after each of the measured steps."""
    network, rng = make(name, seed), np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(network.parameters(), rate, fused=True)
    found = []
    for step in range(1, steps + 1):
        batch = torch.from_numpy(rng.integers(len(examples.answers), size=_BATCH))
        optimiser.zero_grad()
        logits = network(examples.symbols[batch])
        nn.functional.cross_entropy(logits, examples.answers[batch]).backward()
        optimiser.step()
        if step in measured:
            found.append(accuracy(network, held_out))
    return found


def run(
    report: Callable[[str], None],
    *,
    examples: Sequence[int] = (300, 1_000, 10_000),
    steps: int = 600,
    seeds: int = 2,
    n_held_out: int = _HELD_OUT,
) -> Part:
    """Train both networks on each number of examples, with several seeds; measure on held-out symbols."""
    begin = time.perf_counter()
    with torch.random.fork_rng(devices=[]), _one_thread():
        figures = _study(report, examples, steps, seeds, n_held_out)
    figures["seconds"] = time.perf_counter() - begin
    return Part(
        figures,
        {
            "match_to_sample_examples.png": lambda: _draw_examples(figures),
            "match_to_sample_steps.png": lambda: _draw_steps(figures),
        },
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: in networks this small, threads would only wait for one another."""
    of_torch, ours = torch.get_num_threads(), get_num_threads()
    torch.set_num_threads(1)
    set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(of_torch)
        set_num_threads(ours)


def _study(
    report: Callable[[str], None], examples: Sequence[int], steps: int, seeds: int, n_held_out: int
) -> dict[str, Any]:
    validation, held_out = draw(n_held_out, 1), draw(n_held_out, 2)
    most = max(examples)
    every = max(1, steps // _MEASURED)
    measured = [*range(every, steps, every), steps]
    report(f"choosing the learning rates of both networks on {len(validation.answers):,} validation examples")
    rates, tried = {}, {}
    for name in NETWORKS:
        data = draw(most, 3)
        tried[name] = [train(name, rate, data, validation, steps, (steps,), 0)[-1] for rate in _RATES]
        rates[name] = _RATES[int(np.argmax(tried[name]))]
    rows = []
    for count in examples:
        report(f"learning to match samples from {count:,} examples, {seeds} times with each network")
        for name in NETWORKS:
            curves = [
                train(name, rates[name], draw(count, 10 + seed), held_out, steps, measured, seed)
                for seed in range(1, seeds + 1)
            ]
            rows.append(
                {
                    "network": name,
                    "examples": count,
                    "accuracy": float(np.mean([curve[-1] for curve in curves])),
                    "accuracies": [curve[-1] for curve in curves],
                    "curves": curves,
                }
            )
    return {
        "parameters": {name: parameters(make(name, 0)) for name in NETWORKS},
        "learning_rates": rates,
        "validation_accuracies": {
            name: dict(zip(map(str, _RATES), tried[name], strict=True)) for name in NETWORKS
        },
        "measured_steps": measured,
        "batch": _BATCH,
        "chance": 1 / CHOICES,
        "results": rows,
    }


def _draw_examples(figures: dict[str, Any]) -> Any:
    """Draw accuracy against the number of training examples."""
    from ..plot.style import drawing, finish, label_ticks

    with drawing(None) as ax:
        ax.set_xscale("log")
        for name in NETWORKS:
            rows = [row for row in figures["results"] if row["network"] == name]
            counts = [row["examples"] for row in rows]
            _curve(ax, counts, [row["accuracies"] for row in rows], name)
        label_ticks(ax, counts)
        _chance(ax, figures)
        finish(ax, "training examples", "accuracy on held-out symbols", "Match to sample, by examples")
    return ax.figure


def _draw_steps(figures: dict[str, Any]) -> Any:
    """Draw accuracy against training steps, with the most examples."""
    from ..plot.style import drawing, finish

    most = max(row["examples"] for row in figures["results"])
    with drawing(None) as ax:
        for row in figures["results"]:
            if row["examples"] == most:
                _curve(ax, figures["measured_steps"], np.transpose(row["curves"]), row["network"])
        _chance(ax, figures)
        title = f"Match to sample, by training steps, {most:,} examples"
        finish(ax, f"training steps of {figures['batch']} examples", "accuracy on held-out symbols", title)
    return ax.figure


def _curve(ax: Any, x: Any, found: Any, name: str) -> None:
    """Draw the mean over seeds, and their range as a band, of accuracies (points, seeds)."""
    from ..plot.style import series

    found = np.asarray(found)
    line = series(ax, x, found.mean(1), name)
    ax.fill_between(x, found.min(1), found.max(1), color=line.get_color(), alpha=0.2, linewidth=0)


def _chance(ax: Any, figures: dict[str, Any]) -> None:
    from ..plot.style import INK

    ax.axhline(figures["chance"], color=INK, linestyle=":", label="chance")
