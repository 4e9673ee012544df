"""Relations and attention over them: functions of tensors, and modules that hold the maps."""

from __future__ import annotations

import math

from torch import Tensor, nn

from .. import _check
from ..mlp import MLP
from . import _check as _tensors
from . import _ops
from .maps import FeatureMap, check_map, mapped


def _same_width(x_name: str, x: Tensor, f: Tensor, y_name: str, y: Tensor, g: Tensor) -> None:
    if f.shape[-1] != g.shape[-1]:
        _check.fail(
            y_name,
            f"features as wide as those of {x_name}, {f.shape[-1]} (from {x_name} of shape {tuple(x.shape)})",
            f"{g.shape[-1]} (from {y_name} of shape {tuple(y.shape)})",
        )


def both_features(
    x: Tensor, y: Tensor | None, phi: FeatureMap | None, psi: FeatureMap | None
) -> tuple[Tensor, Tensor | None]:
    """Check a relation's sides and map them; None for the second where it is the first."""
    x = _tensors.features("x", x)
    y_name = "x" if y is None else "y"
    other = x if y is None else _tensors.features("y", y)
    _check.same_dtype(("x", x), (y_name, other))
    phi, psi = check_map("phi", phi), check_map("psi", psi)
    one_map = psi is None or psi is phi
    f = mapped("x", x, "phi", phi)
    g = None
    if y is not None or not one_map:
        g = mapped(y_name, other, "phi", phi) if one_map else mapped(y_name, other, "psi", psi)
        _same_width("x", x, f, y_name, other, g)
        _tensors.same_batch(("x", x), (y_name, other))
    return f, g


def relation_matrix(
    x: Tensor,
    y: Tensor | None = None,
    phi: FeatureMap | None = None,
    psi: FeatureMap | None = None,
    *,
    scale: float = 1.0,
    heads: int = 1,
) -> Tensor:
    """Return the inner products ``R_ij = scale * <phi(x_i), psi(y_j)>``, with gradients.

    Parameters
    ----------
    x : Tensor of shape (..., n, d_x)
        Float32 or float64 on the CPU.
    y : Tensor of shape (..., m, d_y), optional
        None stands for `x`; the relation is then symmetric to the last bit unless `psi` differs from
        `phi`, and half of it is computed.
    phi : FeatureMap, optional
        Map of `x`; None is the identity, so that features of any other module can be given as `x`.
    psi : FeatureMap, optional
        Map of `y`; None stands for `phi`.
    scale : float, default 1.0
        Finite, not negative.
    heads : int, default 1
        With more than one, the features are split into so many groups of equal size, and each gives a
        relation of its own.

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
    f, g = both_features(x, y, phi, psi)
    factor, groups = _check.scale(scale), _check.heads(heads, f.shape[-1])
    relation: Tensor = _ops.relation_matrix(f, g, factor, groups)
    return relation


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    phi: FeatureMap | None = None,
    psi: FeatureMap | None = None,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Return attention ``softmax_j(scale * <phi(q_i), psi(k_j)>) @ v``, with gradients.

    Scores are stored neither on the way forward nor back: memory is O((n + m) d) (Dao et al. 2022).

    Parameters
    ----------
    q : Tensor of shape (..., n, d_q)
        Float32 or float64 on the CPU.
    k : Tensor of shape (..., m, d_k)
    v : Tensor of shape (..., m, d_v)
    phi, psi : FeatureMap, optional
        Maps of `q` and of `k`; `psi` None stands for `phi`, `phi` None for the identity.
    scale : float, optional
        None is 1 / sqrt(d), d the feature width.
    mask : Tensor of bool, optional
        True = may attend, as in ``torch.nn.functional.scaled_dot_product_attention``; broadcast to
        (..., n, m).
    causal : bool, default False
        Row i may attend to columns j <= i.

    Returns
    -------
    Tensor of shape (..., n, d_v)
        A row with nothing to attend to is zero.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import attention
    >>> q, k, v = torch.randn(3, 2, 100, 16)
    >>> attention(q, k, v, causal=True).shape
    torch.Size([2, 100, 16])
    """
    q, k, v = _tensors.features("q", q), _tensors.features("k", k), _tensors.floats("v", v)
    _check.same_dtype(("q", q), ("k", k), ("v", v))
    phi, psi = check_map("phi", phi), check_map("psi", psi)
    if v.shape[-2] != k.shape[-2]:
        _check.fail("v", f"{k.shape[-2]} rows, one for each row of k {tuple(k.shape)}", tuple(v.shape))
    allowed = _tensors.mask(mask, q.shape[-2], k.shape[-2])
    _tensors.same_batch(("q", q), ("k", k), ("v", v), ("mask", allowed))
    f = mapped("q", q, "phi", phi)
    g = mapped("k", k, "phi", phi) if psi is None or psi is phi else mapped("k", k, "psi", psi)
    _same_width("q", q, f, "k", k, g)
    factor = _check.scale(scale, 1 / math.sqrt(f.shape[-1]))
    out: Tensor = _ops.attention(f, g, v, allowed, _check.flag("causal", causal), factor)[0]
    return out


class _TwoMaps(nn.Module):
    """What both modules hold: phi, and psi where it is another map."""

    psi: FeatureMap | None

    def __init__(self, phi: FeatureMap, psi: FeatureMap | None) -> None:
        super().__init__()
        check_map("phi", phi, optional=False)
        check_map("psi", psi)
        if psi is not None and psi.widths[-1] != phi.widths[-1]:
            _check.fail("psi", f"{phi.widths[-1]} features, as many as phi gives", psi.widths[-1])
        self.phi = phi
        self.psi = None if psi is phi else psi

    def to_mlp(self) -> tuple[MLP, MLP]:
        """Return phi and psi as they are now; where one map serves both sides, it is returned twice.

        Returns
        -------
        phi, psi : relkernels.MLP
            Copies, as `relkernels.relation_matrix` and the others take them.
        """
        phi = self.phi.to_mlp()
        return phi, phi if self.psi is None else self.psi.to_mlp()


class InnerProductRelation(_TwoMaps):
    """A relation ``R_ij = scale * <phi(x_i), psi(y_j)>`` with trainable maps.

    With one map it is symmetric and positive semi-definite, with two any continuous relation can be
    approximated, across domains too (Altabaa & Lafferty, arXiv 2402.08856).

    Parameters
    ----------
    phi : FeatureMap
        Map of the rows.
    psi : FeatureMap, optional
        Map of the columns; None (or `phi` itself) makes the relation symmetric.
    scale : float, default 1.0
        Finite, not negative.
    heads : int, default 1
        Number of relations that share the features out, a divisor of their width.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import FeatureMap, InnerProductRelation
    >>> relation = InnerProductRelation(FeatureMap([64, 256, 16]), FeatureMap([32, 256, 16]))
    >>> relation(torch.randn(10, 64), torch.randn(20, 32)).shape
    torch.Size([10, 20])
    """

    def __init__(
        self, phi: FeatureMap, psi: FeatureMap | None = None, *, scale: float = 1.0, heads: int = 1
    ) -> None:
        super().__init__(phi, psi)
        self.scale = _check.scale(scale)
        self.heads = _check.heads(heads, phi.widths[-1])

    @classmethod
    def from_mlp(
        cls, phi: MLP, psi: MLP | None = None, *, scale: float = 1.0, heads: int = 1
    ) -> InnerProductRelation:
        """Return the relation of copies of one or two MLPs.

        Parameters
        ----------
        phi, psi : relkernels.MLP
            As `phi` and `psi` of the constructor.
        scale : float, default 1.0
        heads : int, default 1

        Returns
        -------
        InnerProductRelation

        Examples
        --------
        >>> import relkernels as rk
        >>> from relkernels.torch import InnerProductRelation
        >>> InnerProductRelation.from_mlp(rk.MLP.random([4, 8, 2])).symmetric
        True
        """
        return cls(*_modules(phi, psi), scale=scale, heads=heads)

    @property
    def symmetric(self) -> bool:
        """Whether one map serves both sides."""
        return self.psi is None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the relation matrix: as `relation_matrix` with these maps, scale and heads."""
        return relation_matrix(x, y, self.phi, self.psi, scale=self.scale, heads=self.heads)

    def extra_repr(self) -> str:
        """Return what the module's representation shows beside its maps."""
        return f"scale={self.scale:g}, heads={self.heads}"


class RelationAttention(_TwoMaps):
    """Relational cross-attention ``softmax_j(scale * <phi(q_i), psi(k_j)>) @ v`` with trainable maps.

    Attention weights come from relations between objects alone; what is averaged are values of their
    own, for example symbols that name the objects (Altabaa et al., arXiv 2304.00195). Nothing of the
    objects passes but their relations.

    Parameters
    ----------
    phi : FeatureMap
        Map of the queries.
    psi : FeatureMap, optional
        Map of the keys; None (or `phi` itself) makes the relation symmetric.
    scale : float, optional
        None is 1 / sqrt(d), d the feature width.
    causal : bool, default False
        Row i may attend to columns j <= i.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import FeatureMap, RelationAttention
    >>> attend = RelationAttention(FeatureMap([8, 32, 16]), FeatureMap([8, 32, 16]), causal=True)
    >>> objects, symbols = torch.randn(4, 10, 8), torch.randn(10, 5)
    >>> attend(objects, objects, symbols).shape
    torch.Size([4, 10, 5])
    """

    def __init__(
        self,
        phi: FeatureMap,
        psi: FeatureMap | None = None,
        *,
        scale: float | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__(phi, psi)
        self.scale = None if scale is None else _check.scale(scale)
        self.causal = _check.flag("causal", causal)

    @classmethod
    def from_mlp(
        cls, phi: MLP, psi: MLP | None = None, *, scale: float | None = None, causal: bool = False
    ) -> RelationAttention:
        """Return the attention over the relation of copies of one or two MLPs.

        Parameters
        ----------
        phi, psi : relkernels.MLP
            As `phi` and `psi` of the constructor.
        scale : float, optional
        causal : bool, default False

        Returns
        -------
        RelationAttention

        Examples
        --------
        >>> import relkernels as rk
        >>> from relkernels.torch import RelationAttention
        >>> RelationAttention.from_mlp(rk.MLP.random([4, 8, 2]), causal=True).causal
        True
        """
        return cls(*_modules(phi, psi), scale=scale, causal=causal)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attended values: as `attention` with these maps, scale and causal rule."""
        return attention(q, k, v, self.phi, self.psi, scale=self.scale, mask=mask, causal=self.causal)

    def extra_repr(self) -> str:
        """Return what the module's representation shows beside its maps."""
        scale = "1/sqrt(d)" if self.scale is None else f"{self.scale:g}"
        return f"scale={scale}, causal={self.causal}"


def _modules(phi: MLP, psi: MLP | None) -> tuple[FeatureMap, FeatureMap | None]:
    return FeatureMap.from_mlp(phi), None if psi is None or psi is phi else FeatureMap.from_mlp(psi)
