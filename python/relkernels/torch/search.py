"""Exact retrieval as a function of tensors."""

from __future__ import annotations

from torch import Tensor

from ..base import check
from . import _check as _tensors
from . import _retrieval
from .maps import Map
from .relations import both_features


def retrieve(
    q: Tensor,
    keys: Tensor,
    k: int,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    mask: Tensor | None = None,
    exclude: Tensor | None = None,
    pad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the `k` largest ``<phi(q_i), psi(keys_j)>`` of each row; the values have gradients.

    Parameters
    ----------
    q : Tensor of shape (..., n, d_q), or (d_q,) for a single query
        Float32 or float64, or 16-bit floats, which are computed in float32; on the CPU or on a CUDA device.
    keys : Tensor of shape (..., m, d_k)
    k : int
        How many to return for each row, at least 1; at most m unless `pad` is true.
    phi, psi : FeatureMap, optional
        Maps of `q` and of `keys`, as in `relation_matrix`.
    mask : Tensor of bool, optional
        True = may be retrieved; broadcast to (..., n, m), or to (..., m) for a single query.
    exclude : Tensor of int64 of shape (n,) or (..., n, e), optional
        Indices that a row may not return, -1 for none; for a single query of shape () or (..., e). On a CUDA
        device they are read back first.
    pad : bool, default False
        Accept `k` above m and fill the places without a key. False raises instead.

    Returns
    -------
    values : Tensor of shape (..., n, k), or (..., k) for a single query
        As those of `relkernels.retrieve`. Gradients go to the queries and to the keys that were found, and
        are zero for the others; a place without a key has none.
    indices : Tensor of int64 of the same shape

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import retrieve
    >>> keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], requires_grad=True)
    >>> values, indices = retrieve(torch.tensor([[1.0, 0.5]]), keys, 2)
    >>> indices
    tensor([[2, 0]])
    >>> values.sum().backward()
    >>> keys.grad.tolist()
    [[1.0, 0.5], [0.0, 0.0], [1.0, 0.5]]
    """
    if keys is None:  # not shorthand for the queries here
        _tensors.features("keys", keys)
    single = isinstance(q, Tensor) and q.ndim == 1
    f, g = both_features(q[None] if single else q, keys, phi, psi, ("q", "keys"))
    if mask is not None:
        mask = _tensors.dense("mask", mask, "a boolean tensor (True = may be retrieved)")
        _tensors.on_one_device(("q", q), ("mask", mask))
        mask = mask[..., None, :] if single and mask.ndim else mask
    if exclude is not None:
        exclude = _tensors.dense("exclude", exclude, "a tensor of integer indices")
        _tensors.on_one_device(("q", q), ("exclude", exclude))
        exclude = (exclude if exclude.ndim else exclude[None])[..., None, :] if single else exclude
        exclude = exclude[:, None] if exclude.ndim == 1 else exclude
    count = check.integer("k", k, 1, check.WIDEST)
    values, indices = _retrieval.retrieve(f, g, count, mask, exclude, check.flag("pad", pad))
    values = _tensors.narrowed(values, q)
    return (values[..., 0, :], indices[..., 0, :]) if single else (values, indices)
