"""What the modules of attention over heads share: arguments, projections, masks, dropout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..base import check
from . import _check as _tensors
from .attentions import attention_scores


class Heads(nn.Module):
    """Numbers of heads, of which `n_kv_heads` are of keys, and how tensors are split into them."""

    def __init__(
        self, d_model: int, n_heads: int, n_kv_heads: int | None, total_n_heads: int | None, dropout: float,
        batch_first: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.d_model = size("d_model", d_model)
        self.n_heads = size("n_heads", n_heads)
        self.n_kv_heads = n_heads if n_kv_heads is None else size("n_kv_heads", n_kv_heads)
        if self.n_heads % self.n_kv_heads:
            check.fail("n_kv_heads", f"a divisor of n_heads, {n_heads}", n_kv_heads)
        name = "n_heads" if total_n_heads is None else "total_n_heads"
        total = n_heads if total_n_heads is None else size(name, total_n_heads, n_heads)
        if self.d_model % total:
            check.fail(name, f"a divisor of d_model, {d_model}", total)
        self.total_n_heads, self.head_dim = total, d_model // total
        self.dropout = probability("dropout", dropout)
        self.batch_first = check.flag("batch_first", batch_first)
        self.resid_dropout = nn.Dropout(self.dropout)

    def _points(self, name: str, x: Any) -> Tensor:
        """Return a tensor (..., n, d_model), with the batch first."""
        x = _tensors.floats(name, x)
        if x.shape[-1] != self.d_model:
            check.fail(name, f"last dimension {self.d_model}, d_model", tuple(x.shape))
        return x if self.batch_first or x.ndim == 2 else x.transpose(-2, -3)

    def _of_queries(self, x: Tensor) -> Tensor:
        """Return heads (..., n_heads, n, d) of projected rows (..., n, n_heads * d)."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(-2, -3)

    def _of_keys(self, x: Tensor) -> Tensor:
        """Return heads of keys or values: as many as of queries, or one for all of them."""
        heads = x.unflatten(-1, (self.n_kv_heads, -1)).transpose(-2, -3)
        each = self.n_heads // self.n_kv_heads
        return heads if each == 1 or self.n_kv_heads == 1 else heads.repeat_interleave(each, -3)

    def _turned(
        self, q: Tensor, k: Tensor, freqs_cos: Tensor | None, freqs_sin: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return queries and keys with rotary embeddings of their positions, if there are any."""
        if freqs_cos is None and freqs_sin is None:
            return q, k
        n, d = q.shape[-2:]
        if d % 2:
            check.fail("freqs_cos", f"None, as the width of queries, {d}, is odd", _tensors.kind(freqs_cos))
        for name, a in (("freqs_cos", freqs_cos), ("freqs_sin", freqs_sin)):
            shape = tuple(_tensors.floats(name, a).shape)
            if shape != (n, d // 2):
                check.fail(name, f"shape {(n, d // 2)}, an angle for each pair of features", shape)
        return _rotated(q, freqs_cos, freqs_sin), _rotated(k, freqs_cos, freqs_sin)

    def _merged(self, heads: Tensor, wo: nn.Module) -> Tensor:
        """Return the output of heads (..., n_heads, n, d)."""
        out: Tensor = self.resid_dropout(wo(heads.transpose(-2, -3).flatten(-2)))
        return out if self.batch_first or out.ndim == 2 else out.transpose(-2, -3)

    def _drops(self) -> bool:
        """Return whether weights are dropped, so that they must be stored."""
        return self.training and self.dropout > 0

    def _weights(self, q: Tensor, k: Tensor, scale: float, mask: Tensor | None, causal: bool) -> Tensor:
        """Return attention weights (..., n_heads, n, m), some of them dropped in training."""
        found = attention_scores(q, k, scale=scale, mask=mask, causal=causal)
        return F.dropout(found, self.dropout, self.training)

    def _symbols(self, n: int, symbols: Any, of_pairs: bool) -> Tensor:
        """Return the symbols of n objects, or of all pairs of them, checked."""
        if not of_pairs:
            found = self._points("symbols", symbols)
            if found.shape[-2] != n:
                check.fail("symbols", f"{n} rows, one for each of x", tuple(symbols.shape))
            return found
        pairs: Tensor = _tensors.floats("symbols", symbols, 3)
        if pairs.shape != (n, n, self.d_model):
            check.fail("symbols", f"shape {(n, n, self.d_model)}", tuple(pairs.shape))
        return pairs

    def _attended(self, weights: Tensor, symbols: Tensor, of_pairs: bool) -> Tensor:
        """Return averages (..., n_heads, n, d), with given weights, of projected symbols."""
        if not of_pairs:
            return weights @ self._of_keys(symbols)
        each = symbols.unflatten(-1, (self.n_kv_heads, -1))
        of_queries = each.repeat_interleave(self.n_heads // self.n_kv_heads, -2)
        return torch.einsum("...hij,ijhd->...hid", weights, of_queries)


def _rotated(x: Tensor, cosines: Any, sines: Any) -> Tensor:
    """Return rows (..., n, d) whose pairs of features 2 i, 2 i + 1 are rotated by the angles (n, d / 2)."""
    first, second = _tensors.widened(x).unflatten(-1, (-1, 2)).unbind(-1)
    cosines, sines = cosines.to(first.dtype), sines.to(first.dtype)
    rotated = torch.stack((first * cosines - second * sines, first * sines + second * cosines), -1)
    return rotated.flatten(-2).to(x.dtype)


def size(name: str, value: Any, least: int = 1) -> int:
    """Return a width or a number of something, at least `least`."""
    return check.integer(name, value, least, check.WIDEST)


def probability(name: str, value: Any) -> float:
    """Return a probability below 1."""
    number = check.real(name, value)
    if not 0 <= number < 1:
        check.fail(name, "a probability, at least 0 and below 1", repr(value))
    return number


def flags(is_causal: Any, need_weights: Any) -> tuple[bool, bool]:
    """Return both arguments of `forward`, checked."""
    return check.flag("is_causal", is_causal), check.flag("need_weights", need_weights)


def mask_of(attn_mask: Any, key_padding_mask: Any, keys: Tensor) -> Tensor | None:
    """Return which pairs may attend, from a mask of these and one of the keys that may not be attended to."""
    for name, a, meaning in (
        ("attn_mask", attn_mask, "True = may be attended"),
        ("key_padding_mask", key_padding_mask, "True = ignored"),
    ):
        if a is not None and _tensors.dense(name, a, f"a boolean tensor ({meaning})").dtype != torch.bool:
            raise TypeError(f"{name}: expected a boolean tensor ({meaning}), got {_tensors.kind(a)}")
    if key_padding_mask is None:
        mask: Tensor | None = attn_mask
        return mask
    if key_padding_mask.shape != keys.shape[:-1]:
        check.fail("key_padding_mask", f"shape {tuple(keys.shape[:-1])}", tuple(key_padding_mask.shape))
    used = ~key_padding_mask[..., None, None, :]
    return used if attn_mask is None else used & attn_mask
