"""Modules of relational networks: attention over relations, and relations of several dimensions.

Modules and parameters are named as in the code of Altabaa and Lafferty (arXiv 2405.16727, 2310.03240), so
that its `state_dict` loads.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..base import check
from ..ops.links import LINKS, LINKS_OF_DISTANCE
from ..ops.relational import REL_ACTIVATIONS
from . import _check as _tensors
from . import _formulas
from ._heads import Heads, flags, mask_of, size
from .attentions import attention
from .relational import relational_attention
from .relations import relation_matrix, relation_matvec


class RelationalAttention(Heads):
    """Attention that returns, for each object, its relations to what it attends to, and their symbols.

    ``out_i = sum_j alpha_ij (W_r r(x_i, x_j) + W_v s_j)`` for each head, with R relations
    ``r_l = act(<W_q_l x_i, W_k_l x_j> / sqrt(rel_proj_dim))`` that all heads share (Altabaa & Lafferty, arXiv
    2405.16727). Weights and relations are not stored, unless weights are returned or dropped, or symbols
    belong to pairs.

    Parameters
    ----------
    d_model : int
        Width of objects and symbols.
    n_heads : int
    n_relations : int, optional
        None is `n_heads`.
    dropout : float, default 0.0
        Probability of dropping an attention weight, and an element of the output, in training.
    key_dim : int, optional
        Width of queries and keys in each head; None is d_model / total_n_heads.
    n_kv_heads : int, optional
        Number of heads of keys and values, a divisor of `n_heads`; None is `n_heads`.
    rel_activation : str, default "identity"
        As in `relkernels.relational_attention`. The "gelu" of the authors' code is "gelu_tanh" here.
    rel_proj_dim : int, optional
        Width of each relation's projections; None is the width of all heads / `n_relations`.
    add_bias_kv, add_bias_out : bool, default False
        Whether the projections of keys and values, and of the output, have biases.
    total_n_heads : int, optional
        With other heads beside these, the number of all, which divides `d_model`; None is `n_heads`.
    symmetric_rels : bool, default False
        Whether both sides of the relations have the same projection.
    use_relative_positional_symbols : bool, default False
        Whether symbols belong to pairs, of shape (n, n, d_model).
    batch_first : bool, default True
        Whether batches are (b, n, d_model) or (n, b, d_model).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import RelationalAttention
    >>> attend = RelationalAttention(64, n_heads=4, n_relations=8, rel_activation="relu")
    >>> x, symbols = torch.randn(2, 2, 100, 64)
    >>> out, weights = attend(x, symbols, is_causal=True)
    >>> out.shape, weights
    (torch.Size([2, 100, 64]), None)
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_relations: int | None = None,
        dropout: float = 0.0,
        key_dim: int | None = None,
        n_kv_heads: int | None = None,
        rel_activation: str = "identity",
        rel_proj_dim: int | None = None,
        add_bias_kv: bool = False,
        add_bias_out: bool = False,
        total_n_heads: int | None = None,
        symmetric_rels: bool = False,
        use_relative_positional_symbols: bool = False,
        batch_first: bool = True,
    ) -> None:
        super().__init__(d_model, n_heads, n_kv_heads, total_n_heads, dropout, batch_first)
        width = self.n_heads * self.head_dim
        self.n_relations = n_heads if n_relations is None else size("n_relations", n_relations)
        if rel_proj_dim is None and width % self.n_relations:
            check.fail("n_relations", f"a divisor of {width}, the width of all heads", self.n_relations)
        self.rel_proj_dim = (
            width // self.n_relations if rel_proj_dim is None else size("rel_proj_dim", rel_proj_dim)
        )
        self.key_dim = self.head_dim if key_dim is None else size("key_dim", key_dim)
        self.rel_activation = check.choice("rel_activation", rel_activation, REL_ACTIVATIONS)
        self.symmetric_rels = check.flag("symmetric_rels", symmetric_rels)
        self.use_relative_positional_symbols = check.flag(
            "use_relative_positional_symbols", use_relative_positional_symbols
        )
        self.attn_scale, self.rel_scale = self.head_dim**-0.5, self.rel_proj_dim**-0.5
        of_kv = {"bias": check.flag("add_bias_kv", add_bias_kv)}
        related = self.n_relations * self.rel_proj_dim
        self.wq_attn = nn.Linear(d_model, self.n_heads * self.key_dim, bias=False)
        self.wk_attn = nn.Linear(d_model, self.n_kv_heads * self.key_dim, **of_kv)
        self.wq_rel = nn.Linear(d_model, related, bias=False)
        self.wk_rel = self.wq_rel if symmetric_rels else nn.Linear(d_model, related, bias=False)
        self.wr = nn.Parameter(torch.empty(self.n_heads, self.head_dim, self.n_relations))
        nn.init.kaiming_uniform_(self.wr, a=math.sqrt(5))
        self.wv = nn.Linear(d_model, self.n_kv_heads * self.head_dim, **of_kv)
        self.wo = nn.Linear(width, width, bias=check.flag("add_bias_out", add_bias_out))

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
        """Return the output (b, n, n_heads * head_dim), and the attention weights if `need_weights`.

        In `attn_mask`, broadcast to (b, n_heads, n, n), True means that a pair may attend, as in
        ``torch.nn.functional.scaled_dot_product_attention``; in `key_padding_mask` (b, n), that an object is
        ignored, as in ``torch.nn.MultiheadAttention``. Weights are (b, n_heads, n, n).

        `freqs_cos` and `freqs_sin`, both (n, key_dim / 2), are cosines and sines of the angles by which pairs
        of features of the attention's queries and keys are rotated: rotary position embeddings. Relations
        are not rotated.
        """
        causal, wanted = flags(is_causal, need_weights)
        x = self._points("x", x)
        of_pairs = self.use_relative_positional_symbols
        symbols = self.wv(self._symbols(x.shape[-2], symbols, of_pairs))
        mask = mask_of(attn_mask, key_padding_mask, x)
        q, k = self._of_queries(self.wq_attn(x)), self._of_keys(self.wk_attn(x))
        q, k = self._turned(q, k, freqs_cos, freqs_sin)
        q_rel, k_rel = (
            w(x).unflatten(-1, (self.n_relations, -1)).transpose(-2, -3) for w in (self.wq_rel, self.wk_rel)
        )
        weights = None
        if wanted or of_pairs or self._drops():
            weights = self._weights(q, k, self.attn_scale, mask, causal)
            scale = _tensors.scale(self.rel_scale)
            relations = _formulas.attended_relations(weights, q_rel, k_rel, scale, self.rel_activation)
            values = self._attended(weights, symbols, of_pairs)
        else:
            options: dict[str, Any] = {"scale": self.attn_scale, "rel_scale": self.rel_scale}
            relations, values = relational_attention(
                q, k, q_rel, k_rel, self._of_keys(symbols), mask=mask, causal=causal,
                rel_activation=self.rel_activation, **options,
            )  # fmt: skip
        out = self._merged(values + torch.einsum("...hir,hdr->...hid", relations, self.wr), self.wo)
        return out, weights if wanted else None


class RelationalCrossAttention(Heads):
    """Attention by relations of objects over symbols: ``out_i = sum_j act(<W_q x_i, W_k x_j>) W_v s_j``.

    Only relations between objects reach the output, not the objects themselves (Altabaa et al., arXiv
    2304.00195). The relation is not stored for activations "softmax", "identity", "exp", "relu" and "square"
    without a mask; with a mask only for "softmax".

    Parameters
    ----------
    d_model, n_heads, dropout, n_kv_heads, add_bias_kv, add_bias_out, total_n_heads, batch_first
        As in `RelationalAttention`.
    activation : str, default "softmax"
        Of the relation, scaled by 1 / sqrt(head_dim): "softmax", or a name of
        `relkernels.relational_attention`. With another than softmax, masked pairs count as 0.
    use_relative_positional_symbols : bool, default False
        Whether symbols belong to pairs, of shape (n, n, d_model).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import RelationalCrossAttention
    >>> x, symbols = torch.randn(2, 2, 100, 64)
    >>> RelationalCrossAttention(64, n_heads=4, activation="relu")(x, symbols)[0].shape
    torch.Size([2, 100, 64])
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        dropout: float = 0.0,
        n_kv_heads: int | None = None,
        activation: str = "softmax",
        add_bias_kv: bool = False,
        add_bias_out: bool = False,
        total_n_heads: int | None = None,
        use_relative_positional_symbols: bool = False,
        batch_first: bool = True,
    ) -> None:
        super().__init__(d_model, n_heads, n_kv_heads, total_n_heads, dropout, batch_first)
        self.activation = check.choice("activation", activation, ("softmax", *REL_ACTIVATIONS))
        self.use_relative_positional_symbols = check.flag(
            "use_relative_positional_symbols", use_relative_positional_symbols
        )
        self.attn_scale = self.head_dim**-0.5
        width, of_kv = self.n_heads * self.head_dim, {"bias": check.flag("add_bias_kv", add_bias_kv)}
        self.wq = nn.Linear(d_model, width, bias=False)
        self.wk = nn.Linear(d_model, self.n_kv_heads * self.head_dim, **of_kv)
        self.wv = nn.Linear(d_model, self.n_kv_heads * self.head_dim, **of_kv)
        self.wo = nn.Linear(width, width, bias=check.flag("add_bias_out", add_bias_out))

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
        """Return the output (b, n, n_heads * head_dim), and the relation if `need_weights`.

        Masks and rotary embeddings are those of `RelationalAttention`; the relation is computed from rotated
        queries and keys. It is (b, n_heads, n, n).
        """
        causal, wanted = flags(is_causal, need_weights)
        x = self._points("x", x)
        of_pairs = self.use_relative_positional_symbols
        symbols = self.wv(self._symbols(x.shape[-2], symbols, of_pairs))
        mask = mask_of(attn_mask, key_padding_mask, x)
        q, k = self._of_queries(self.wq(x)), self._of_keys(self.wk(x))
        q, k = self._turned(q, k, freqs_cos, freqs_sin)
        name, scale = self.activation, {"scale": self.attn_scale}
        weights = None
        if wanted or of_pairs or self._drops():
            weights = self._relation(q, k, mask, causal)
            values = self._attended(weights, symbols, of_pairs)
        elif name == "softmax":
            values = attention(q, k, self._of_keys(symbols), mask=mask, causal=causal, **scale)
        elif name in LINKS and name not in LINKS_OF_DISTANCE and mask is None and not causal:
            v = self._of_keys(symbols)
            values = relation_matvec(q, k.expand(*q.shape[:-2], *k.shape[-2:]), v, link=name, **scale)
        else:
            values = self._relation(q, k, mask, causal) @ self._of_keys(symbols)
        return self._merged(values, self.wo), weights if wanted else None

    def _relation(self, q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Return the relation (..., n_heads, n, m), some of it dropped in training."""
        if self.activation == "softmax":
            return self._weights(q, k, self.attn_scale, mask, causal)
        r = _formulas.activated(relation_matrix(q, k, scale=self.attn_scale), self.activation)
        if mask is not None:
            r = torch.where(mask, r, 0)
        return F.dropout(r.tril() if causal else r, self.dropout, self.training)


class MultiDimensionalRelation(nn.Module):
    """Relations of several dimensions, ``r_l(x, y) = <W_l x, V_l y>`` (Altabaa & Lafferty, arXiv 2310.03240).

    Parameters
    ----------
    object_dim : int
        Width of the objects.
    rel_dim : int
        Number of dimensions.
    proj_dim : int, optional
        Width of the projections; None is `object_dim`.
    symmetric : bool, default False
        Whether both sides have the same projections.
    bias : bool, default True
        Whether the projections have biases.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import MultiDimensionalRelation
    >>> MultiDimensionalRelation(16, rel_dim=3)(torch.randn(2, 10, 16)).shape
    torch.Size([2, 10, 10, 3])
    """

    def __init__(
        self,
        object_dim: int,
        rel_dim: int,
        proj_dim: int | None = None,
        symmetric: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.object_dim = size("object_dim", object_dim)
        self.rel_dim = size("rel_dim", rel_dim)
        self.proj_dim = object_dim if proj_dim is None else size("proj_dim", proj_dim)
        self.symmetric, bias = check.flag("symmetric", symmetric), check.flag("bias", bias)
        width = self.rel_dim * self.proj_dim
        self.left_encoder = nn.Linear(object_dim, width, bias=bias)
        self.right_encoder = self.left_encoder if symmetric else nn.Linear(object_dim, width, bias=bias)

    def forward(self, left_objects: Tensor, right_objects: Tensor | None = None) -> Tensor:
        """Return the relations (..., n, m, rel_dim) of objects with others, or with themselves."""
        given = {"left_objects": left_objects, "right_objects": right_objects}
        for name, a in given.items():
            if a is None and name == "right_objects":
                continue
            width = _tensors.floats(name, a).shape[-1]
            if width != self.object_dim:
                check.fail(name, f"{self.object_dim} features, object_dim", width)
        left = self.left_encoder(left_objects)
        same = right_objects is None and self.symmetric
        right = None if same else self.right_encoder(left_objects if right_objects is None else right_objects)
        found = relation_matrix(left, right, heads=self.rel_dim)
        return found[..., None] if self.rel_dim == 1 else found.movedim(-3, -1)
