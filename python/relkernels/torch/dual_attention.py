"""Dual attention: heads of attention beside heads of relational attention, and a block of a network of them.

Modules and parameters are named as in the code of Altabaa and Lafferty (arXiv 2405.16727), so that its
`state_dict` loads.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..base import check
from ..base.describe import described, option
from ..maps.activations import NAMES
from . import _check as _tensors
from . import _formulas
from ._heads import Heads, flags, mask_of, probability, size
from .attentions import attention
from .networks import RelationalAttention, RelationalCrossAttention

RA_TYPES = ("relational_attention", "rca")
NORMS = ("layernorm", "rmsnorm", "none")


class _SelfAttention(Heads):
    """Attention of objects to objects."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        dropout: float = 0.0,
        key_dim: int | None = None,
        n_kv_heads: int | None = None,
        add_bias_kv: bool = False,
        add_bias_out: bool = False,
        total_n_heads: int | None = None,
        batch_first: bool = True,
    ) -> None:
        super().__init__(d_model, n_heads, n_kv_heads, total_n_heads, dropout, batch_first)
        self.key_dim = self.head_dim if key_dim is None else size("key_dim", key_dim)
        self.attn_scale = self.head_dim**-0.5
        width, of_kv = self.n_heads * self.head_dim, {"bias": check.flag("add_bias_kv", add_bias_kv)}
        self.wq = nn.Linear(d_model, self.n_heads * self.key_dim, bias=False)
        self.wk = nn.Linear(d_model, self.n_kv_heads * self.key_dim, **of_kv)
        self.wv = nn.Linear(d_model, self.n_kv_heads * self.head_dim, **of_kv)
        self.wo = nn.Linear(width, width, bias=check.flag("add_bias_out", add_bias_out))

    def forward(
        self, x: Tensor, attn_mask: Any, is_causal: bool, key_padding_mask: Any, need_weights: bool, *,
        freqs_cos: Tensor | None, freqs_sin: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        causal, wanted = flags(is_causal, need_weights)
        x = self._points("x", x)
        mask = mask_of(attn_mask, key_padding_mask, x)
        q, k, v = self._of_queries(self.wq(x)), self._of_keys(self.wk(x)), self._of_keys(self.wv(x))
        q, k = self._turned(q, k, freqs_cos, freqs_sin)
        if wanted or self._drops():
            weights = self._weights(q, k, self.attn_scale, mask, causal)
            return self._merged(weights @ v, self.wo), weights if wanted else None
        out = attention(q, k, v, scale=self.attn_scale, mask=mask, causal=causal)
        return self._merged(out, self.wo), None


def _options(name: str, given: Any, kind: type[Heads]) -> dict[str, Any]:
    """Return more arguments for a module, which may not be those that `DualAttention` passes."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{name}: expected a dict of arguments, got {described(given)}")
    passed = ("self", "d_model", "n_heads", "dropout", "total_n_heads", "batch_first")
    names = tuple(arg for arg in inspect.signature(kind.__init__).parameters if arg not in passed)
    for key in given:
        if key not in names:
            check.fail(name, f"names of {', '.join(names)}", option(key))
    return dict(given)


class DualAttention(nn.Module):
    """Heads of attention and heads of relational attention, side by side (arXiv 2405.16727).

    Parameters
    ----------
    d_model : int
        Width of objects, symbols and outputs; a multiple of the number of all heads.
    n_heads_sa : int
        Heads of attention; may be 0.
    n_heads_ra : int
        Heads of relational attention; may be 0.
    dropout : float, default 0.0
    sa_kwargs : dict, optional
        More arguments for the attention: `key_dim`, `n_kv_heads`, `add_bias_kv`, `add_bias_out`.
    ra_kwargs : dict, optional
        More arguments for `RelationalAttention` (or `RelationalCrossAttention`).
    share_attn_params : bool, default False
        Whether both have the same projections of queries and keys. Needs as many heads of each, of one width.
    ra_type : {"relational_attention", "rca"}, default "relational_attention"
        "rca" is `RelationalCrossAttention`.
    batch_first : bool, default True
        Whether batches are (b, n, d_model) or (n, b, d_model).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import DualAttention, SymbolicAttention
    >>> attend, symbols = DualAttention(64, 4, 4), SymbolicAttention(64, 4, n_symbols=20)
    >>> x = torch.randn(2, 100, 64)
    >>> attend(x, symbols(x), is_causal=True)[0].shape
    torch.Size([2, 100, 64])
    """

    def __init__(
        self,
        d_model: int,
        n_heads_sa: int,
        n_heads_ra: int,
        dropout: float = 0.0,
        sa_kwargs: Mapping[str, Any] | None = None,
        ra_kwargs: Mapping[str, Any] | None = None,
        share_attn_params: bool = False,
        ra_type: str = "relational_attention",
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        self.n_heads_sa = size("n_heads_sa", n_heads_sa, 0)
        self.n_heads_ra = size("n_heads_ra", n_heads_ra, 0)
        total = n_heads_sa + n_heads_ra
        if total == 0:
            check.fail("n_heads_ra", "at least one head beside n_heads_sa of 0", n_heads_ra)
        self.ra_type = check.choice("ra_type", ra_type, RA_TYPES)
        self.share_attn_params = check.flag("share_attn_params", share_attn_params)
        kind = RelationalAttention if ra_type == "relational_attention" else RelationalCrossAttention
        more_sa = _options("sa_kwargs", sa_kwargs, _SelfAttention)
        more_ra = _options("ra_kwargs", ra_kwargs, kind)
        shared: dict[str, Any] = {"dropout": dropout, "total_n_heads": total, "batch_first": batch_first}
        self.self_attention = _SelfAttention(d_model, n_heads_sa, **shared, **more_sa) if n_heads_sa else None
        self.relational_attention = kind(d_model, n_heads_ra, **shared, **more_ra) if n_heads_ra else None
        if share_attn_params:
            self._share()

    def _share(self) -> None:
        own, related = self.self_attention, self.relational_attention
        names = ("wq_attn", "wk_attn") if isinstance(related, RelationalAttention) else ("wq", "wk")
        if own is None or related is None:
            check.fail("share_attn_params", "False without heads of both kinds", True)
        for mine, name in zip(("wq", "wk"), names, strict=True):
            projection = getattr(related, name)
            if projection.weight.shape != getattr(own, mine).weight.shape:
                check.fail("share_attn_params", "False with projections of different shapes", True)
            setattr(own, mine, projection)

    def forward(
        self,
        x: Tensor,
        symbols: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        *,
        freqs_cos: Tensor | None = None,
        freqs_sin: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output (b, n, d_model), and the weights of all heads if `need_weights`.

        Masks and rotary embeddings are those of `RelationalAttention`. Weights are (b, heads, n, n), those of
        attention first.
        """
        how = attn_mask, is_causal, key_padding_mask, need_weights
        turn = {"freqs_cos": freqs_cos, "freqs_sin": freqs_sin}
        found = [] if self.self_attention is None else [self.self_attention(x, *how, **turn)]
        if self.relational_attention is not None:
            found.append(self.relational_attention(x, symbols, *how, **turn))
        outs, weights = zip(*found, strict=True)
        return torch.cat(outs, -1), torch.cat(weights, -3) if need_weights else None


class _FeedForward(nn.Module):
    """Two layers, or with "swiglu" two of which one gates the other, and a third."""

    def __init__(self, d_model: int, dff: int | None, activation: str, bias: bool) -> None:
        super().__init__()
        names = (*(name for name in NAMES if name != "relu_power"), "swiglu")
        self.activation = check.choice("activation", activation, names)
        gated = activation == "swiglu"
        width = int(8 * d_model / 3) if gated else 4 * d_model
        width = width if dff is None else size("dff", dff)
        self.linear1 = nn.Linear(d_model, width, bias=bias)
        self.linear2 = nn.Linear(width, d_model, bias=bias)
        self.linear3 = nn.Linear(d_model, width, bias=bias) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear1(x)
        if self.linear3 is None:
            hidden = _formulas.activated(hidden, self.activation)
        else:
            hidden = nn.functional.silu(hidden) * self.linear3(x)
        out: Tensor = self.linear2(hidden)
        return out


class DualAttentionBlock(nn.Module):
    """Dual attention and a feed-forward network, each with a residual connection and a norm.

    Parameters
    ----------
    d_model, n_heads_sa, n_heads_ra
        As in `DualAttention`.
    dff : int, optional
        Width of the hidden layer; None is 4 d_model, and 8 d_model / 3 with "swiglu".
    activation : str, default "relu"
        Of the hidden layer: an activation of `MLP` without a parameter, or "swiglu".
    dropout_rate : float, default 0.0
    norm_first : bool, default True
        Whether norms come before attention and network, or after the sums.
    norm_type : {"layernorm", "rmsnorm", "none"}, default "layernorm"
    sa_kwargs, ra_kwargs, ra_type, share_attn_params, batch_first
        As in `DualAttention`.
    bias : bool, default True
        Whether the layers of the network have biases.
    causal : bool, default False
        Whether objects attend to themselves and to earlier ones only.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import DualAttentionBlock, PositionalSymbolRetriever
    >>> block, symbols = DualAttentionBlock(64, 4, 4, causal=True), PositionalSymbolRetriever(64, 200)
    >>> x = torch.randn(2, 100, 64)
    >>> block(x, symbols(x)).shape
    torch.Size([2, 100, 64])
    """

    def __init__(
        self,
        d_model: int,
        n_heads_sa: int,
        n_heads_ra: int,
        dff: int | None = None,
        activation: str = "relu",
        dropout_rate: float = 0.0,
        norm_first: bool = True,
        norm_type: str = "layernorm",
        sa_kwargs: Mapping[str, Any] | None = None,
        ra_kwargs: Mapping[str, Any] | None = None,
        ra_type: str = "relational_attention",
        share_attn_params: bool = False,
        bias: bool = True,
        causal: bool = False,
        batch_first: bool = True,
    ) -> None:
        super().__init__()
        self.norm_first, self.causal = check.flag("norm_first", norm_first), check.flag("causal", causal)
        check.choice("norm_type", norm_type, NORMS)
        self.d_model = size("d_model", d_model)
        self.dropout = nn.Dropout(probability("dropout_rate", dropout_rate))
        self.dual_attn = DualAttention(
            d_model, n_heads_sa, n_heads_ra, dropout_rate, sa_kwargs, ra_kwargs, share_attn_params, ra_type,
            batch_first,
        )  # fmt: skip
        norm: Any = {"layernorm": nn.LayerNorm, "rmsnorm": _rms_norm, "none": nn.Identity}[norm_type]
        self.norm1, self.norm2 = norm(d_model), norm(d_model)
        self.ff_block = _FeedForward(d_model, dff, activation, check.flag("bias", bias))

    def forward(
        self,
        x: Tensor,
        symbols: Tensor,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        *,
        freqs_cos: Tensor | None = None,
        freqs_sin: Tensor | None = None,
    ) -> Tensor:
        """Return the objects (b, n, d_model) after this block.

        Masks and rotary embeddings are those of `RelationalAttention`.
        """
        if _tensors.floats("x", x).shape[-1] != self.d_model:
            check.fail("x", f"last dimension {self.d_model}, d_model", tuple(x.shape))

        def attended(x: Tensor) -> Tensor:
            how = attn_mask, self.causal, key_padding_mask
            out = self.dual_attn(x, symbols, *how, freqs_cos=freqs_cos, freqs_sin=freqs_sin)[0]
            dropped: Tensor = self.dropout(out)
            return dropped

        if self.norm_first:
            x = x + attended(self.norm1(x))
            after: Tensor = x + self.dropout(self.ff_block(self.norm2(x)))
            return after
        x = self.dropout(self.norm1(x + attended(x)))
        normed: Tensor = self.norm2(x + self.dropout(self.ff_block(x)))
        return normed


def _rms_norm(d_model: int) -> nn.Module:
    return nn.RMSNorm(d_model, eps=1e-5)
