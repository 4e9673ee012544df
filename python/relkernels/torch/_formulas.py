"""The operators written in differentiable operations of PyTorch, for derivatives that have no kernel.

Each function takes the arguments of the operator of the same name. They serve `torch.func`, forward-mode
derivatives and second derivatives. They store the relation, and with a link of distances all differences of
features, (n, m, d) numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..base import check
from ..ops.allowed import Allowed
from ..ops.links import LINKS_OF_DISTANCE
from . import _check as _tensors

# ---- phi(x)


def _relu_power(z: Tensor, r: float) -> Tensor:
    positive = z > 0
    return torch.where(positive, torch.where(positive, z, 1) ** r, torch.where(z.isnan(), z, 0))


_ACTIVATIONS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "identity": lambda z, _: z,
    "relu": lambda z, _: F.relu(z),
    "leaky_relu": lambda z, slope: torch.where(z > 0, z, z * slope),
    "relu_power": _relu_power,
    "gelu": lambda z, _: F.gelu(z),
    "gelu_tanh": lambda z, _: F.gelu(z, approximate="tanh"),
    "silu": lambda z, _: F.silu(z),
    "tanh": lambda z, _: torch.tanh(z),
    "sigmoid": lambda z, _: torch.sigmoid(z),
    "softplus": lambda z, _: -F.logsigmoid(-z),  # F.softplus is linear above 20
    "erf": lambda z, _: torch.erf(z),
    "sin": lambda z, _: torch.sin(z),
    "cos": lambda z, _: torch.cos(z),
    "gaussian": lambda z, _: torch.exp(z * z * -0.5),
    "sigma_1": lambda z, _: F.relu(z) - F.relu(z - 1),
}


def _normalized(z: Tensor) -> Tensor:
    largest = z.detach().abs().amax(-1, keepdim=True)
    zero = largest == 0
    z = z / torch.where(zero, 1, largest)  # its squares neither overflow nor underflow
    return torch.where(zero, 0, z) / torch.where(zero, 1, z).square().sum(-1, keepdim=True).sqrt()


def feature_map(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    parameter: float | None,
    normalize: bool = False,
) -> Tensor:
    """Features of the rows of x; no biases where the list is empty."""
    if biases and len(biases) != len(weights):
        check.fail("biases", f"{len(weights)} biases, as many as weights", len(biases))
    for i, w in enumerate(weights):
        x = x @ w
        if biases:
            x = x + biases[i]
        if i < len(weights) - 1:
            x = _ACTIVATIONS[activation](x, parameter)
    return _normalized(x) if normalize else x


def feature_map_vjp(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *rest: Any
) -> tuple[Tensor, ...]:
    """Gradients of x, of each of the weights and of each of the biases."""
    *map_, grad = rest
    n = len(weights)

    def features(x: Tensor, *parameters: Tensor) -> Tensor:
        return feature_map(x, parameters[:n], parameters[n:], *map_)

    return _pullback(features, (x, *weights, *biases), grad)


def _pullback(function: Callable[..., Any], inputs: Sequence[Any], grads: Any) -> tuple[Any, ...]:
    """Return the gradients of `inputs`, None for an input that is None."""

    def of_tensors(*tensors: Tensor) -> Any:
        given = iter(tensors)
        return function(*(None if a is None else next(given) for a in inputs))

    pull = torch.func.vjp(of_tensors, *(a for a in inputs if a is not None))[1]
    found = iter(pull(grads))
    return tuple(None if a is None else next(found) for a in inputs)


def _if(wanted: bool, grad: Tensor | None, like: Tensor) -> Tensor:
    return grad if wanted and grad is not None else like.new_zeros(0)


# ---- link(scale <f_i, g_j>) and its products


def _where_positive(
    t: Tensor, formula: Callable[[Tensor], Tensor], at_zero: Callable[[Tensor], Any]
) -> Tensor:
    """Return a function of sqrt(t), and near 0 a polynomial in t: the derivative of the root is infinite."""
    positive = ~(t <= 0)
    return torch.where(positive, formula(torch.where(positive, t, 1).clamp(max=1e8).sqrt()), at_zero(t))


_LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda r: r,
    "exp": torch.exp,
    "relu": F.relu,
    "square": lambda r: r * r,
    "gaussian": lambda t: torch.exp(t * -0.5),
    "matern12": lambda t: _where_positive(t, lambda s: torch.exp(-s), torch.ones_like),
    "matern32": lambda t: _where_positive(3 * t, lambda s: (1 + s) * torch.exp(-s), lambda u: 1 - u / 2),
    "matern52": lambda t: _where_positive(
        5 * t, lambda s: (1 + s + s * s / 3) * torch.exp(-s), lambda u: 1 - u / 6 + u * u / 24
    ),
}


def relation_matrix(f: Tensor, g: Tensor | None, scale: Tensor, heads: int, link: str = "identity") -> Tensor:
    """Links of inner products or distances; g None stands for f."""
    g, scale = f if g is None else g, scale.to(f.dtype)
    if f.shape[-1] != g.shape[-1]:
        check.fail("y", f"{f.shape[-1]} features, as many as x has", tuple(g.shape))
    if heads > 1:
        f, g = (a.unflatten(-1, (heads, a.shape[-1] // heads)).transpose(-2, -3) for a in (f, g))
    if link not in LINKS_OF_DISTANCE:
        return _LINKS[link](scale * (f @ g.transpose(-1, -2)))
    squares = (f[..., :, None, :] - g[..., None, :, :]).square().sum(-1)
    # The kernels refuse a negative scale; its value is not known under torch.vmap.
    return _LINKS[link](scale * torch.where(scale < 0, math.nan, 1.0).to(f.dtype) * squares)


def relation_matrix_vjp(
    f: Tensor,
    g: Tensor | None,
    scale: Tensor,
    heads: int,
    grad: Tensor,
    of_f: bool,
    of_g: bool,
    of_scale: bool,
    link: str = "identity",
) -> tuple[Tensor, ...]:
    """Gradients of f, of g and of the scale; one that is not wanted is empty."""
    found = _pullback(lambda f, g, scale: relation_matrix(f, g, scale, heads, link), (f, g, scale), grad)
    wanted = zip((of_f, of_g, of_scale), found, (f, f, scale), strict=True)
    return tuple(_if(*each) for each in wanted)


def relation_matvec(f: Tensor, g: Tensor, v: Tensor, scale: Tensor, link: str) -> Tensor:
    """Products with v of shape (..., m, c)."""
    return relation_matrix(f, g, scale, 1, link) @ v


def relation_matvec_vjp(
    f: Tensor, g: Tensor, v: Tensor, scale: Tensor, link: str, grad: Tensor, of_pairs: bool, of_v: bool
) -> tuple[Tensor, ...]:
    """Gradients of f, g, v and of the scale; those of the pairs, or that of v, are empty if not wanted."""
    inputs = f, g, v, scale
    found = _pullback(lambda f, g, v, scale: relation_matvec(f, g, v, scale, link), inputs, grad)
    wanted = of_pairs, of_pairs, of_pairs or of_v, of_pairs
    return tuple(_if(*each) for each in zip(wanted, found, inputs, strict=True))


# ---- softmax_j(cap(scale <f_i, g_j> + bias_ij)) v_j


def _positions(
    n: int, m: int, align: str, offsets: list[Tensor | None], device: Any
) -> tuple[Tensor, Tensor]:
    """Return the pairs of the same segment, and for each how far the key is ahead of the query."""
    i, j = torch.arange(n, device=device), torch.arange(m, device=device)
    whole = torch.tensor([0, n], device=device), torch.tensor([0, m], device=device)
    of_q, of_k = (a if b is None else b.to(device) for a, b in zip(whole, offsets, strict=True))
    of_i, of_j = (torch.searchsorted(a, at, right=True) - 1 for a, at in ((of_q, i), (of_k, j)))
    i = i - of_q[of_i]
    if align == "lower_right":
        i = i + (of_k.diff() - of_q.diff())[of_i]
    return of_i[:, None] == of_j, j - of_k[of_j] - i[:, None]


def _weights(
    f: Tensor,
    g: Tensor,
    mask: Tensor | None,
    causal: bool,
    left: int | None,
    right: int | None,
    align: str,
    scale: Tensor,
    bias: Tensor | None = None,
    softcap: float | None = None,
    q_offsets: Tensor | None = None,
    k_offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the attention weights, and the log-sum-exp of each row of scores."""
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(
            f"mask: expected a boolean tensor (True = may be attended), got {_tensors.kind(mask)}"
        )
    r = relation_matrix(f, g, scale, 1)
    n, m = r.shape[-2:]
    may, ahead = _positions(n, m, align, [q_offsets, k_offsets], r.device)
    least, most = Allowed(None, causal, (left, right), align).band(0, 0)
    may = may if least is None else may & (ahead >= least)
    may = may if most is None else may & (ahead <= most)
    may = may if mask is None else may & mask
    if bias is not None:
        if q_offsets is not None:
            check.fail("bias", "None with q_offsets", tuple(bias.shape))
        absent = bias == -torch.inf
        may, r = may & ~absent, r + torch.where(absent, 0, bias)
    if softcap is not None:
        r = softcap * torch.tanh(r / softcap)
    shape = torch.broadcast_shapes(r.shape, may.shape)
    if shape[-2:] != (n, m):
        check.fail("mask, bias", f"shapes that broadcast to (..., {n}, {m})", tuple(shape))
    r, may = r.expand(shape), may.expand(shape)
    if m == 0:
        return r, r.sum(-1) - torch.inf
    # A row without keys has scores of 0 here, so that no derivative is NaN.
    empty = ~may.any(-1, keepdim=True)
    r = torch.where(may, r, torch.where(empty, 0.0, -torch.inf).to(r.dtype))
    top = r.detach().amax(-1, keepdim=True)
    p = torch.exp(r - top)
    total = p.sum(-1, keepdim=True)
    lse = torch.where(top == torch.inf, top, top + torch.log(total))
    return torch.where(empty, 0, p / total), torch.where(empty, -torch.inf, lse)[..., 0]


def attention(f: Tensor, g: Tensor, v: Tensor, *scoring: Any) -> tuple[Tensor, Tensor]:
    """Attention over features, and the log-sum-exp of each row of scores."""
    weights, lse = _weights(f, g, *scoring)
    out = weights @ v
    return out, lse.expand(out.shape[:-1])


def attention_vjp(f: Tensor, g: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """Gradients of f, g, v, the scale and the bias; out and lse are functions of the others."""
    mask, causal, left, right, align, scale, bias, softcap, *offsets, _, _, grad, grad_lse, of_bias = rest

    def attended(f: Tensor, g: Tensor, v: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
        out, lse = attention(f, g, v, mask, causal, left, right, align, scale, bias, softcap, *offsets)
        return out if grad_lse is None else (out, lse)

    *found, of_terms = _pullback(
        attended, (f, g, v, scale, bias), grad if grad_lse is None else (grad, grad_lse)
    )
    return *found, _if(of_bias, of_terms, f)


def attention_scores(f: Tensor, g: Tensor, *scoring: Any) -> Tensor:
    """Attention weights over features."""
    return _weights(f, g, *scoring)[0]


def attention_scores_vjp(f: Tensor, g: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """Gradients of f, g, the scale and the bias."""
    mask, causal, left, right, align, scale, bias, softcap, grad, of_bias = rest

    def scores(f: Tensor, g: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        return attention_scores(f, g, mask, causal, left, right, align, scale, bias, softcap)

    *found, of_terms = _pullback(scores, (f, g, scale, bias), grad)
    return *found, _if(of_bias, of_terms, f)


# ---- the k largest <f_i, g_j>


def _inner_products(f: Tensor, g: Tensor, indices: Tensor) -> Tensor:
    """Return <f_i, g_j>, j the c-th index of row i, and -inf where it is -1."""
    *lead, n, k = indices.shape
    g = g.expand(*lead, *g.shape[-2:])
    places = indices.clamp(min=0).reshape(*lead, n * k, 1).expand(*lead, n * k, g.shape[-1])
    found = torch.gather(g, -2, places).reshape(*lead, n, k, g.shape[-1])
    return torch.where(indices < 0, -torch.inf, (f[..., :, None, :] * found).sum(-1))


def retrieve(f: Tensor, g: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Best inner products of each row, and their columns, which the kernel finds."""
    found = torch.ops.relkernels.retrieve(f.detach(), g.detach(), *rest)
    values, indices = found
    return (_inner_products(f, g, indices), indices) if g.shape[-2] else (values, indices)


def retrieve_vjp(
    f: Tensor, g: Tensor, indices: Tensor, grad: Tensor, of_f: bool, of_g: bool
) -> tuple[Tensor, ...]:
    """Gradients of f and of g."""
    if not g.shape[-2]:
        grads = torch.zeros_like(f), torch.zeros_like(g)
    else:
        grads = _pullback(lambda f, g: _inner_products(f, g, indices), (f, g), grad)
    return _if(of_f, grads[0], f), _if(of_g, grads[1], g)


# ---- losses over all pairs


def _targets(target: Tensor, columns: Tensor | None, f: Tensor, r: Tensor) -> Tensor:
    """Return the targets (n, m) that a matrix or labels give."""
    n, m = r.shape
    if columns is None and target.is_floating_point():
        check.same_dtype(("x", f), ("target", target))
        return target.expand(n, m)
    columns = target if columns is None else columns
    for name, labels, size in (("target[0]", target, n), ("target[1]", columns, m)):
        if labels.is_floating_point():
            raise TypeError(f"{name}: expected a tensor of integer labels, got {_tensors.kind(labels)}")
        if labels.shape != (size,):
            check.fail(name, f"labels of shape ({size},)", tuple(labels.shape))
    return (target[:, None] == columns).to(r.dtype)


def _value(f: Tensor, g: Tensor | None, scale: Tensor, *rest: Any) -> Tensor:
    target, columns, weight, loss = rest
    r = relation_matrix(f, g, scale, 1)
    t = _targets(target, columns, f, r)
    if loss == "softmax":
        terms = torch.logsumexp(r, 1) - (t * r).sum(1) / t.sum(1)
    elif loss == "squared":
        terms = (r - t).square()
    elif loss == "logistic":
        terms = -F.logsigmoid(-r) - t * r
    else:
        terms = F.relu(1 - (2 * t - 1) * r)
    if weight is None:
        return terms.mean()
    check.same_dtype(("x", f), ("sample_weight", weight))
    if weight.shape != (len(f),) and weight.shape != terms.shape:
        check.fail("sample_weight", f"shape ({len(f)},) or {tuple(terms.shape)}", tuple(weight.shape))
    if weight.ndim < terms.ndim:
        weight = weight[:, None].expand(terms.shape)
    return (weight * terms).sum() / weight.sum()


def relation_loss(f: Tensor, g: Tensor | None, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """Loss; its gradients, which the operator returns as well, are empty here."""
    return _value(f, g, scale, *rest), f.new_zeros(0), f.new_zeros(0), scale.new_zeros(0)


def relation_loss_vjp(f: Tensor, g: Tensor | None, scale: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """All gradients times that of the loss; those that the forward pass found are functions of the others."""
    *constants, _, _, _, grad = rest
    of_f, of_g, of_scale = _pullback(lambda *pairs: _value(*pairs, *constants), (f, g, scale), grad)
    return of_f, _if(g is not None, of_g, f), of_scale
