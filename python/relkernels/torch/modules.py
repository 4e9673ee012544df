"""Modules that hold the maps of a relation and its scale."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..base import check
from ..maps.mlp import MLP
from ..ops.allowed import Allowed, Window
from . import _check as _tensors
from .attentions import attention
from .maps import FeatureMap, check_map, computes_mlp
from .relations import relation_matrix


def _width(phi: nn.Module) -> int | None:
    """Return the number of features of a map, if it is known without calling it."""
    return phi.widths[-1] if isinstance(phi, FeatureMap) and computes_mlp(phi) else None


class _Relation(nn.Module):
    """The parts of both modules: phi, psi if it is another map, and the scale."""

    psi: nn.Module | None
    log_scale: nn.Parameter

    def __init__(
        self, phi: nn.Module, psi: nn.Module | None, scale: float | Tensor | None, learn_scale: bool
    ) -> None:
        super().__init__()
        check_map("phi", phi, optional=False, module=True)
        check_map("psi", psi, module=True)
        if psi is not None:
            widths = _width(phi), _width(psi)
            if None not in widths and widths[0] != widths[1]:
                check.fail("psi", f"{widths[0]} features, as many as phi gives", widths[1])
        self.phi = phi
        self.psi = None if psi is phi else psi
        self._scale: float | None = None
        if scale is not None:
            _tensors.scale(scale)
        if check.flag("learn_scale", learn_scale):
            self._learn_scale(scale)
        elif isinstance(scale, nn.Parameter):
            self._parameters["scale"] = scale  # register_parameter wants a name that is no property
        elif scale is not None:
            self.scale = scale

    def _learn_scale(self, scale: float | Tensor | None) -> None:
        if isinstance(scale, Tensor):
            raise TypeError(
                f"scale: expected a number beside learn_scale=True, got {_tensors.kind(scale)}; "
                "a Parameter is learned without it"
            )
        if scale is None:
            width = _width(self.phi)
            if width is None:
                check.fail("scale", "a number, as the width of phi is not known before it is called", None)
            scale = 1 / math.sqrt(width)
        number = check.real("scale", scale)
        if number <= 0:
            check.fail("scale", "a positive number to begin with, as its logarithm is learned", repr(scale))
        like = next(self.phi.parameters(), None)
        self.log_scale = nn.Parameter(
            torch.tensor(math.log(number), dtype=None if like is None else like.dtype, device="cpu")
        )

    @property
    def scale(self) -> Any:
        """The factor of the relation: a number, or a tensor if it was given as one or is learned."""
        if "log_scale" in self._parameters:
            return self.log_scale.exp()
        for held in (self._parameters, self._buffers):
            if "scale" in held:
                return held["scale"]
        return self._scale

    @scale.setter
    def scale(self, value: float | Tensor) -> None:
        if "log_scale" in self._parameters:
            raise AttributeError(
                "scale: cannot be set, as it is exp(log_scale), which is learned; set log_scale"
            )
        _tensors.scale(value)
        if isinstance(value, Tensor):
            self._buffers["scale"] = value
        else:
            self._scale = check.real("scale", value)

    def _scale_text(self) -> str:
        scale = self.scale
        if scale is None:
            return "1/sqrt(d)"
        learned = " (learned)" if {"scale", "log_scale"} & self._parameters.keys() else ""
        if not isinstance(scale, Tensor):
            return f"{scale:g}"
        return ("unknown" if scale.is_meta else f"{scale.detach().item():g}") + learned

    @classmethod
    def from_mlp(cls, phi: MLP, psi: MLP | None = None, **options: Any) -> Self:
        """Return the module with copies of the parameters of one or two MLPs.

        Parameters
        ----------
        phi, psi : relkernels.MLP
            As `phi` and `psi` of the constructor.
        **options
            The other arguments of the constructor.

        Returns
        -------
        InnerProductRelation or RelationAttention

        Examples
        --------
        >>> import relkernels as rk
        >>> from relkernels.torch import InnerProductRelation, RelationAttention
        >>> InnerProductRelation.from_mlp(rk.MLP.random([4, 8, 2])).symmetric
        True
        >>> RelationAttention.from_mlp(rk.MLP.random([4, 8, 2]), causal=True).causal
        True
        """
        copied = FeatureMap._copied("phi", phi)
        return cls(copied, None if psi is None or psi is phi else FeatureMap._copied("psi", psi), **options)

    def to_mlp(self) -> tuple[MLP, MLP]:
        """Return phi and psi as they are now; if one map serves both sides, it is returned twice.

        Returns
        -------
        phi, psi : relkernels.MLP
            Copies, for `relkernels.relation_matrix` and the other functions.

        Raises
        ------
        TypeError
            If a map is not a FeatureMap, or has its own `forward`.
        """
        mlps: list[MLP] = []
        for name, map_ in (("phi", self.phi), ("psi", self.phi if self.psi is None else self.psi)):
            if not isinstance(map_, FeatureMap):
                raise TypeError(
                    f"{name}: expected a FeatureMap, which an MLP can hold, got {type(map_).__name__}"
                )
            mlps.append(mlps[0] if name == "psi" and self.psi is None else map_.to_mlp())
        return mlps[0], mlps[1]


class InnerProductRelation(_Relation):
    """A relation ``R_ij = scale * <phi(x_i), psi(y_j)>`` with trainable maps.

    With one map it is symmetric and positive semi-definite, with two any continuous relation can be
    approximated, across domains too (Altabaa & Lafferty, arXiv 2402.08856).

    Parameters
    ----------
    phi : FeatureMap
        Map of the rows, or any other module from (..., n, d_x) to (..., n, d) of the same dtype.
    psi : FeatureMap, optional
        Map of the columns; None (or `phi` itself) makes the relation symmetric.
    scale : float or Tensor of one element, default 1.0
        Any finite number. A Parameter becomes one of the module's, any other tensor a buffer.
    learn_scale : bool, default False
        Train the scale, from the positive number given: its logarithm is the parameter `log_scale`, so that
        the factor, ``module.scale``, stays positive.
    heads : int, default 1
        Number of relations, among which the features are divided; a divisor of their width.

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
        self,
        phi: nn.Module,
        psi: nn.Module | None = None,
        *,
        scale: float | Tensor = 1.0,
        learn_scale: bool = False,
        heads: int = 1,
    ) -> None:
        if scale is None:
            raise TypeError("scale: expected a number or a tensor of one element, got None")
        super().__init__(phi, psi, scale, learn_scale)
        width = _width(phi)
        self.heads = check.integer("heads", heads, 1) if width is None else check.heads(heads, width)

    @property
    def symmetric(self) -> bool:
        """Whether one map serves both sides."""
        return self.psi is None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the relation matrix: as `relation_matrix` with these maps, scale and heads."""
        return relation_matrix(x, y, self.phi, self.psi, scale=self.scale, heads=self.heads)

    def extra_repr(self) -> str:
        """Return the options in the module's representation."""
        return f"scale={self._scale_text()}, heads={self.heads}"


class RelationAttention(_Relation):
    """Relational cross-attention ``softmax_j(scale * <phi(q_i), psi(k_j)>) @ v`` with trainable maps.

    Attention weights depend only on the relations between objects. The values that they average come from
    another table, for example symbols that name the objects (Altabaa et al., arXiv 2304.00195), so that only
    relations between objects reach the output.

    Parameters
    ----------
    phi : FeatureMap
        Map of the queries, or any other module from (..., n, d_q) to (..., n, d) of the same dtype.
    psi : FeatureMap, optional
        Map of the keys; None (or `phi` itself) makes the relation symmetric.
    scale : float or Tensor of one element, optional
        Any finite number; None is 1 / sqrt(d), d the feature width. A Parameter becomes one of the
        module's, any other tensor a buffer.
    learn_scale : bool, default False
        Train the scale, from the positive number given: its logarithm is the parameter `log_scale`, so that
        the factor, ``module.scale``, stays positive.
    causal : bool, default False
    window : int or (int or None, int or None), optional
    align : {"upper_left", "lower_right"}, default "upper_left"
    softcap : float, optional
        As in `relkernels.attention`.

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

    softcap: float | None = None  # of modules pickled before there was the option

    def __init__(
        self,
        phi: nn.Module,
        psi: nn.Module | None = None,
        *,
        scale: float | Tensor | None = None,
        learn_scale: bool = False,
        causal: bool = False,
        window: Window = None,
        align: str = "upper_left",
        softcap: float | None = None,
    ) -> None:
        super().__init__(phi, psi, scale, learn_scale)
        Allowed(None, causal, window, align).limits()  # raises an error if one is not as above
        self.causal, self.window, self.align = causal, window, align
        self.softcap = check.softcap(softcap, np.dtype(np.float64))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        *,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Return the attended values: `attention` with this mask, bias and the module's maps and options."""
        band: dict[str, Any] = {"causal": self.causal, "window": self.window, "align": self.align}
        terms: dict[str, Any] = {"scale": self.scale, "mask": mask, "bias": bias, "softcap": self.softcap}
        return attention(q, k, v, self.phi, self.psi, **band, **terms)

    def extra_repr(self) -> str:
        """Return the options in the module's representation."""
        window = "" if self.window is None else f", window={self.window}"
        align = "" if self.align == "upper_left" else f", align={self.align!r}"
        softcap = "" if self.softcap is None else f", softcap={self.softcap:g}"
        return f"scale={self._scale_text()}, causal={self.causal}{window}{align}{softcap}"
