"""Relations and their products with vectors, as functions of tensors."""

from __future__ import annotations

from torch import Tensor

from ..base import check
from ..ops.links import LINKS, as_columns
from . import _check as _tensors
from . import _ops
from .maps import Map, check_map, mapped


def both_features(
    x: Tensor, y: Tensor | None, phi: Map | None, psi: Map | None, names: tuple[str, str] = ("x", "y")
) -> tuple[Tensor, Tensor | None]:
    """Check the sides of a relation and map them, 16-bit features widened.

    The second is None if it is the first.
    """
    x_name, y_name = names if y is not None else (names[0], names[0])
    x = _tensors.features(x_name, x)
    other = x if y is None else _tensors.features(y_name, y)
    _tensors.alike((x_name, x), (y_name, other))
    phi, psi = check_map("phi", phi), check_map("psi", psi)
    f = _tensors.widened(mapped(x_name, x, "phi", phi))
    if psi is not None and psi is not phi:
        return f, _tensors.widened(mapped(y_name, other, "psi", psi))
    return f, None if y is None else _tensors.widened(mapped(y_name, other, "phi", phi))


def relation_matrix(
    x: Tensor,
    y: Tensor | None = None,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    link: str = "identity",
    scale: float | Tensor = 1.0,
    heads: int = 1,
) -> Tensor:
    """Return the inner products ``R_ij = scale * <phi(x_i), psi(y_j)>``, or a link of them, with gradients.

    Parameters
    ----------
    x : Tensor of shape (..., n, d_x)
        Float32 or float64, or 16-bit floats, which are computed in float32; on the CPU or on a CUDA device.
    y : Tensor of shape (..., m, d_y), optional
        None stands for `x`; the relation is then symmetric to the last bit unless `psi` differs from
        `phi`, and half of it is computed.
    phi : FeatureMap, optional
        Map of `x`; None is the identity. Any other module or callable from (..., n, d_x) to (..., n, d)
        of the same dtype will do.
    psi : FeatureMap, optional
        Map of `y`; None, or `phi` itself, is `phi`.
    link : str, default "identity"
        As in `relkernels.relation_matvec`.
    scale : float or Tensor of one element, default 1.0
        Any finite number; at least 0 with a link of distances. A tensor's gradient is computed without
        storing the relation.
    heads : int, default 1
        If greater than 1, the features are split into this many groups of equal size, each of which gives
        its own relation.

    Returns
    -------
    Tensor of shape (..., n, m), or (..., heads, n, m) with more than one head

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import relation_matrix
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> r = relation_matrix(x)
    >>> r.tolist()
    [[5.0, 11.0], [11.0, 25.0]]
    >>> r.trace().backward()
    >>> x.grad.tolist()
    [[2.0, 4.0], [6.0, 8.0]]
    """
    if phi is None and psi is None:
        found = _ops.relation_matrix.ordinary(x, y, _tensors.ordinary_scale(scale), heads, link)
        if found is not NotImplemented:
            return found
    f, g = both_features(x, y, phi, psi)
    link, h = check.choice("link", link, LINKS), check.heads(heads, f.shape[-1])
    relation: Tensor = _ops.relation_matrix(f, g, _tensors.scale(scale, ("x", x)), h, link)
    return _tensors.narrowed(relation, x)


def relation_matvec(
    x: Tensor,
    y: Tensor,
    v: Tensor,
    phi: Map | None = None,
    psi: Map | None = None,
    *,
    link: str = "identity",
    scale: float | Tensor = 1.0,
) -> Tensor:
    """Return ``sum_j link(scale * <phi(x_i), psi(y_j)>) v_j``, with gradients, the relation never stored.

    Parameters
    ----------
    x : Tensor of shape (..., n, d_x)
        Float32 or float64, or 16-bit floats, which are computed in float32; on the CPU or on a CUDA device.
    y : Tensor of shape (..., m, d_y)
    v : Tensor of shape (..., m) or (..., m, c)
        A tensor of fewer dimensions than `y` is one vector (..., m) per relation; any other is (..., m, c).
    phi, psi : FeatureMap, optional
        Maps of `x` and of `y`, as in `relation_matrix`.
    link : str, default "identity"
        As in `relkernels.relation_matvec`.
    scale : float or Tensor of one element, default 1.0
        Any finite number; at least 0 with a link of distances. A tensor has a gradient.

    Returns
    -------
    Tensor of shape (..., n) or (..., n, c)

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Notes
    -----
    If only `v` requires a gradient, it is computed as one product with the transposed relation.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import relation_matvec
    >>> x = torch.tensor([[0.0], [1.0]], requires_grad=True)
    >>> u = relation_matvec(x, x, torch.tensor([1.0, 0.0]), link="gaussian")
    >>> [round(a, 4) for a in u.tolist()]
    [1.0, 0.6065]
    >>> u.sum().backward()
    >>> [round(a, 4) for a in x.grad.ravel().tolist()]
    [0.6065, -0.6065]
    """
    if y is None:  # not shorthand for x here
        _tensors.features("y", y)
    f, g = both_features(x, y, phi, psi)
    _tensors.alike(("x", x), ("v", _tensors.floats("v", v, 1)))
    columns, single = as_columns(_tensors.widened(v), y)
    link = check.choice("link", link, LINKS)
    out = _ops.relation_matvec(f, g, columns, _tensors.scale(scale, ("x", x)), link)
    return _tensors.narrowed(out[..., 0] if single else out, x)
