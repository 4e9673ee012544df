"""Symbols that relational attention averages: retrieved by content, by position or by relative position.

Modules and parameters are named as in the code of Altabaa and Lafferty (arXiv 2405.16727), so that its
`state_dict` loads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..base import check
from . import _check as _tensors
from ._heads import Heads, size
from .attentions import attention


class SymbolicAttention(Heads):
    """Retrieves symbols by attention over a learned library: a mixture of symbols for each object.

    Parameters
    ----------
    d_model : int
        Width of the objects and of the symbols.
    n_heads : int
        A divisor of `d_model`.
    n_symbols : int
        Size of the library.
    dropout : float, default 0.0
        Probability with which an attention weight is dropped in training.
    scale : float, optional
        Factor of the scores; None is 1 / sqrt(d_model / n_heads).
    trainable_symbols : bool, default True
        Whether the library is trained.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import SymbolicAttention
    >>> SymbolicAttention(32, 4, n_symbols=10)(torch.randn(2, 7, 32)).shape
    torch.Size([2, 7, 32])
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_symbols: int,
        dropout: float = 0.0,
        scale: float | None = None,
        trainable_symbols: bool = True,
    ) -> None:
        super().__init__(d_model, n_heads, None, None, dropout, True)
        self.n_symbols = size("n_symbols", n_symbols)
        self.scale = check.scale(scale, np.dtype(np.float64), self.head_dim**-0.5)
        self.trainable_symbols = check.flag("trainable_symbols", trainable_symbols)
        self.q_proj = nn.Linear(d_model, d_model)
        self.template_features = nn.Parameter(torch.empty(n_symbols, d_model))
        self.symbol_library = nn.Parameter(torch.empty(n_symbols, d_model), requires_grad=trainable_symbols)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the library and what its entries are found by from a standard normal distribution."""
        nn.init.normal_(self.template_features)
        nn.init.normal_(self.symbol_library)

    def forward(self, x: Tensor) -> Tensor:
        """Return a symbol (..., n, d_model) for each object."""
        q = self._of_queries(self.q_proj(self._points("x", x)))
        k, v = self._of_queries(self.template_features), self._of_queries(self.symbol_library)
        if self._drops():
            found = self._weights(q, k, self.scale, None, False) @ v
        else:
            found = attention(q, k, v, scale=self.scale)
        return found.transpose(-2, -3).flatten(-2)


class PositionalSymbolRetriever(nn.Module):
    """A learned symbol for each position.

    Parameters
    ----------
    symbol_dim : int
    max_length : int
        Most positions.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import PositionalSymbolRetriever
    >>> PositionalSymbolRetriever(16, 100)(torch.randn(2, 7, 32)).shape
    torch.Size([2, 7, 16])
    """

    def __init__(self, symbol_dim: int, max_length: int) -> None:
        super().__init__()
        self.symbol_dim = size("symbol_dim", symbol_dim)
        self.max_length = size("max_length", max_length)
        self.symbol_library = nn.Embedding(max_length, symbol_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the symbols (..., n, symbol_dim) of the positions of objects (..., n, d)."""
        *lead, n, _ = _tensors.floats("x", x).shape
        if n > self.max_length:
            check.fail("x", f"at most {self.max_length} rows, max_length", tuple(x.shape))
        return self.symbol_library.weight[:n].expand(*lead, n, self.symbol_dim)


class _RelativePositions(nn.Module):
    """The embeddings of differences of positions, those beyond the farthest being that of the farthest."""

    def __init__(self, dim: int, farthest: int) -> None:
        super().__init__()
        self.farthest = farthest
        self.rel_pos_embeddings = nn.Parameter(torch.empty(2 * farthest + 1, dim))
        nn.init.xavier_uniform_(self.rel_pos_embeddings)

    def forward(self, n: int) -> Tensor:
        at = torch.arange(n, device=self.rel_pos_embeddings.device)
        ahead = (at - at[:, None]).clamp(-self.farthest, self.farthest)
        return self.rel_pos_embeddings[ahead + self.farthest]


class PositionRelativeSymbolRetriever(nn.Module):
    """A learned symbol for each difference of positions j - i.

    The symbols are an array of n x n vectors, for modules with ``use_relative_positional_symbols=True``.

    Parameters
    ----------
    symbol_dim : int
    max_rel_pos : int
        The largest difference with a symbol of its own; larger ones share that symbol.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import PositionRelativeSymbolRetriever
    >>> PositionRelativeSymbolRetriever(16, 4)(torch.randn(2, 7, 32)).shape
    torch.Size([7, 7, 16])
    """

    def __init__(self, symbol_dim: int, max_rel_pos: int) -> None:
        super().__init__()
        self.symbol_dim = size("symbol_dim", symbol_dim)
        self.max_rel_pos = size("max_rel_pos", max_rel_pos, 0)
        self.rel_pos_enc = _RelativePositions(symbol_dim, max_rel_pos)

    def forward(self, x: Tensor) -> Tensor:
        """Return the symbols (n, n, symbol_dim) of the pairs of positions of objects (..., n, d)."""
        symbols: Any = self.rel_pos_enc(_tensors.floats("x", x).shape[-2])
        found: Tensor = symbols
        return found
