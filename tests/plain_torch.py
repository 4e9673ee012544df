"""The operations in plain PyTorch, slow and obvious, and maps for comparing them."""

import math

import torch
from relkernels.torch import FeatureMap
from torch.nn import functional as F  # noqa: N812

# Whether PyTorch has `enable_gqa`, and right gradients of jagged tensors.
SINCE_2_5 = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 5)


def normal(*shape, dtype=torch.float64, grad=False):
    return torch.randn(*shape, dtype=dtype).requires_grad_(grad)


def smooth_map(widths, bias=True, dtype=torch.float64):
    """Return a map with nonzero biases and no kinks."""
    phi = FeatureMap(widths, "tanh", bias=bias, dtype=dtype)
    with torch.no_grad():
        for b in phi.biases or ():
            b.normal_(std=0.3)
    return phi


PLAIN = {
    "identity": lambda z, _: z,
    "relu": lambda z, _: F.relu(z),
    "leaky_relu": lambda z, slope: F.leaky_relu(z, slope),
    "relu_power": lambda z, r: F.relu(z) ** r,
    "gelu": lambda z, _: F.gelu(z),
    "gelu_tanh": lambda z, _: F.gelu(z, approximate="tanh"),
    "silu": lambda z, _: F.silu(z),
    "tanh": lambda z, _: torch.tanh(z),
    "sigmoid": lambda z, _: torch.sigmoid(z),
    "softplus": lambda z, _: F.softplus(z),
    "erf": lambda z, _: torch.erf(z),
    "sin": lambda z, _: torch.sin(z),
    "cos": lambda z, _: torch.cos(z),
    "gaussian": lambda z, _: torch.exp(-z * z / 2),
    "sigma_1": lambda z, _: F.relu(z) - F.relu(z - 1),
}


def plain_map(x, phi):
    if phi is None:
        return x
    for i, w in enumerate(phi.weights):
        x = x @ w + (0 if phi.biases is None else phi.biases[i])
        if i < len(phi.weights) - 1:
            x = PLAIN[phi.activation.name](x, phi.activation.parameter)
    return x


def plain_relation(x, y=None, phi=None, psi=None, scale=1.0, heads=1):
    f = plain_map(x, phi)
    g = plain_map(x if y is None else y, phi if psi is None else psi)
    if heads > 1:
        f, g = (a.unflatten(-1, (heads, -1)).transpose(-2, -3) for a in (f, g))
    return scale * f @ g.transpose(-1, -2)


def plain_attention(q, k, v, phi=None, psi=None, scale=None, mask=None, causal=False):
    f = plain_map(q, phi)
    scale = 1 / math.sqrt(f.shape[-1]) if scale is None else scale
    r = plain_relation(q, k, phi, psi, scale)
    may = torch.ones(r.shape[-2:], dtype=torch.bool, device=r.device) if mask is None else mask
    if causal:
        may = may & torch.ones(r.shape[-2:], dtype=torch.bool, device=r.device).tril()
    r = r.masked_fill(~may, -torch.inf)
    return torch.softmax(r, -1).nan_to_num(0.0) @ v


def agree(ours, plain, leaves, rtol=1e-10):
    """Check for equal values, and equal gradients of a random combination of them."""
    torch.testing.assert_close(ours, plain, rtol=rtol, atol=rtol)
    above = torch.randn_like(plain)
    got = torch.autograd.grad(ours, leaves, above)
    expected = torch.autograd.grad(plain, leaves, above)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * (1 + float(b.norm())))


def plain_loss(r, target, loss="squared", weight=None):
    """Loss over all pairs of a relation, with target (n, m)."""
    if loss == "softmax":
        terms = torch.logsumexp(r, 1) - (target * r).sum(1) / target.sum(1)
    elif loss == "squared":
        terms = (r - target) ** 2
    elif loss == "logistic":
        terms = F.softplus(r) - target * r
    else:
        terms = F.relu(1 - (2 * target - 1) * r)
    w = torch.ones_like(terms) if weight is None else weight
    if w.ndim < terms.ndim:
        w = w[:, None].expand_as(terms)
    return (w * terms).sum() / w.sum()
