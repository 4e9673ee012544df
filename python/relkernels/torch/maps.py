"""Feature maps: an MLP whose parameters PyTorch trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..base import check
from ..base.describe import described
from ..maps.activations import Activation, resolve
from ..maps.mlp import MLP, initial_deviation
from . import _check as _tensors
from . import _feature_map

# What maps (..., n, d_in) to (..., n, d): a FeatureMap, any other module, or a function.
Map = Callable[[Tensor], Tensor]


class FeatureMap(nn.Module):
    """A multi-layer perceptron: hidden layers activated, output linear; `relkernels.MLP` as a module.

    Parameters
    ----------
    widths : sequence of int
        Width of the input, of each hidden layer and of the output.
    activation : str or Activation, default "relu"
        As in `relkernels.MLP`.
    bias : bool, default True
    normalize : bool, default False
        Divide the features of each row by their length, as `relkernels.MLP` does.
    dtype : torch.dtype, optional
        torch.float32 or torch.float64; None is PyTorch's default dtype. After ``module.bfloat16()`` or
        ``module.half()`` parameters are widened to float32 in each call.
    device : torch.device or str, optional
        Of the parameters; None is PyTorch's default device.

    Attributes
    ----------
    weights : ParameterList
        ``weights[l]`` has shape (d_in, d_out), the transpose of what ``nn.Linear`` holds.
    biases : ParameterList or None
        ``biases[l]`` has shape (d_out,).
    activation : Activation
    normalize : bool
    widths : tuple of int

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Notes
    -----
    A call with a gradient keeps the hidden layers for the backward pass, as ``nn.Sequential`` does
    (`torch.utils.checkpoint` computes them again instead). Gradients of parameters are sums over blocks of
    256 rows, in order, of all leading dimensions together: they do not depend on the number of threads.

    The state dict holds the activation and `normalize` too, as a uint8 tensor: loading one where they differ
    raises ValueError before a parameter of the map has changed.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import FeatureMap
    >>> phi = FeatureMap([64, 256, 16], activation="gelu")
    >>> phi(torch.ones(10, 64)).shape
    torch.Size([10, 16])
    """

    biases: nn.ParameterList | None
    normalize: bool = False  # of maps pickled before there was the option

    def __init__(
        self,
        widths: Sequence[int],
        activation: str | Activation = "relu",
        *,
        bias: bool = True,
        normalize: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        sizes = check.widths("widths", widths)
        if len(sizes) < 2:
            check.fail("widths", "at least an input and an output width", str(sizes))
        kind = torch.get_default_dtype() if dtype is None else dtype
        if not isinstance(kind, torch.dtype) or kind not in (torch.float32, torch.float64):
            got = repr(kind) if isinstance(kind, torch.dtype) else described(kind)
            raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {got}")
        made: dict[str, Any] = {"dtype": kind, "device": _tensors.device(device)}
        weights = [torch.empty(shape, **made) for shape in zip(sizes, sizes[1:], strict=False)]
        biases = [torch.empty(n, **made) for n in sizes[1:]] if check.flag("bias", bias) else None
        self._hold(weights, biases, resolve(activation), check.flag("normalize", normalize))
        self.reset_parameters()

    def _hold(
        self, weights: list[Tensor], biases: list[Tensor] | None, activation: Activation, normalize: bool
    ) -> None:
        self.activation = activation
        self.normalize = normalize
        self.weights = nn.ParameterList(nn.Parameter(w) for w in weights)
        self.biases = None if biases is None else nn.ParameterList(nn.Parameter(b) for b in biases)

    def reset_parameters(self) -> None:
        """Draw the weights anew from PyTorch's generator, scaled as in `MLP.random`; biases become 0."""
        last = len(self.weights) - 1
        for i, w in enumerate(self.weights):
            nn.init.normal_(w, std=initial_deviation(self.activation, w.shape[0], i < last))
        for b in self.biases or ():
            nn.init.zeros_(b)

    @classmethod
    def from_mlp(cls, mlp: MLP) -> FeatureMap:
        """Return the module with copies of an MLP's parameters.

        Parameters
        ----------
        mlp : relkernels.MLP

        Returns
        -------
        FeatureMap

        Examples
        --------
        >>> import relkernels as rk
        >>> from relkernels.torch import FeatureMap
        >>> FeatureMap.from_mlp(rk.MLP.random([4, 8, 2]))
        FeatureMap(widths=(4, 8, 2), relu)
        """
        return cls._copied("mlp", mlp)

    @classmethod
    def _copied(cls, name: str, mlp: MLP) -> FeatureMap:
        """Return the module with copies of the parameters of the argument `name`."""
        if not isinstance(mlp, MLP):
            raise TypeError(f"{name}: expected a relkernels.MLP, got {type(mlp).__name__}")
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        biases = None if mlp.biases is None else [torch.from_numpy(b.copy()) for b in mlp.biases]
        weights = [torch.from_numpy(w.copy()) for w in mlp.weights]
        module._hold(weights, biases, mlp.activation, mlp.normalize)
        return module

    @classmethod
    def from_torch(cls, sequential: nn.Sequential, *, normalize: bool = False) -> FeatureMap:
        """Return the module with copies of the parameters of a ``torch.nn.Sequential``.

        Parameters
        ----------
        sequential : torch.nn.Sequential
            ``Linear`` layers with one activation between them, as `relkernels.MLP.from_torch` takes
            them. Dropout counts as absent, as in evaluation; to train with it, give the Sequential
            itself as a map.
        normalize : bool, default False
            As in `FeatureMap`.

        Returns
        -------
        FeatureMap

        Raises
        ------
        TypeError, ValueError
            As `relkernels.MLP.from_torch`.

        Examples
        --------
        >>> from torch import nn
        >>> from relkernels.torch import FeatureMap
        >>> FeatureMap.from_torch(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)))
        FeatureMap(widths=(4, 8, 2), tanh)
        """
        return cls.from_mlp(MLP.from_torch(sequential, normalize=normalize))

    def to_mlp(self) -> MLP:
        """Return an MLP with copies of the parameters as they are now.

        Returns
        -------
        relkernels.MLP

        Raises
        ------
        TypeError
            If the class has its own `forward`.

        Examples
        --------
        >>> from relkernels.torch import FeatureMap
        >>> FeatureMap([4, 8, 2]).to_mlp()
        MLP(widths=(4, 8, 2), relu, float32)
        """
        if not computes_mlp(self):
            raise TypeError(
                f"to_mlp: expected a FeatureMap with the forward of FeatureMap, which an MLP computes, got "
                f"{type(self).__name__} with its own"
            )
        biases = None if self.biases is None else [b.numpy(force=True) for b in self.biases]
        weights = [w.numpy(force=True) for w in self.weights]
        return MLP(weights, biases, self.activation, normalize=self.normalize)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of the input, of each hidden layer and of the output."""
        return (self.weights[0].shape[0], *(w.shape[1] for w in self.weights))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of `x`, (..., n, d_x) -> (..., n, d), as `relkernels.torch.feature_map`."""
        x = _tensors.features("x", x)
        weights, biases = list(self.weights), list(self.biases or ())
        _check_input("x", x, "mlp", weights, biases)
        for kind, parameters in (("weights", self.weights), ("biases", self.biases)):
            if parameters is not None and parameters._forward_pre_hooks:
                raise RuntimeError(
                    f"mlp.{kind}: expected a parameter list without forward pre-hooks, which do not run as a "
                    "list is not called (older weight_norm, spectral_norm and pruning rely on them); use "
                    "torch.nn.utils.parametrizations"
                )
        name, parameter = self.activation.name, self.activation.parameter
        weights, biases = ([_tensors.widened(a) for a in of] for of in (weights, biases))
        features = _feature_map.mapped(_tensors.widened(x), weights, biases, name, parameter, self.normalize)
        return _tensors.narrowed(features, x)

    def get_extra_state(self) -> Tensor:
        """Return the rest of the state dict, the activation and `normalize`, as bytes of text."""
        return torch.tensor(list(self._text().encode()), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse parameters that were trained with another activation or another `normalize`."""
        found = bytes(state.tolist()).decode()
        if found != self._text():
            check.fail("state_dict", f"the parameters of a map with activation {self._text()}", found)

    def _text(self) -> str:
        name, parameter = self.activation.name, self.activation.parameter
        text = name if parameter is None else f"{name}({parameter!r})"
        return f"{text}, normalized" if self.normalize else text

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Parameters may come without it, for example from an optimiser or a file of tensors only.
        state_dict.setdefault(prefix + "_extra_state", self.get_extra_state())
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        """Return what the module's representation shows."""
        parameter = "" if self.activation.parameter is None else f"({self.activation.parameter:g})"
        bias = "" if self.biases is not None else ", no biases"
        normalized = ", normalized" if self.normalize else ""
        return f"widths={self.widths}, {self.activation.name}{parameter}{bias}{normalized}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def computes_mlp(value: Any) -> bool:
    """Whether `value` is a FeatureMap whose features are those of its MLP (hooks aside)."""
    return isinstance(value, FeatureMap) and type(value).forward is FeatureMap.forward


def check_map(name: str, value: Any, optional: bool = True, module: bool = False) -> Any:
    """Return `value` if it can be a map: a module, or any callable unless `module` insists on one."""
    if value is None and optional:
        return None
    if isinstance(value, nn.Module) or (
        callable(value) and not isinstance(value, (MLP, type)) and not module
    ):
        return value
    wanted = "a FeatureMap or another torch.nn.Module"
    hint = "; FeatureMap.from_mlp makes one of it" if isinstance(value, MLP) else ""
    raise TypeError(
        f"{name}: expected {wanted}{' or None (the identity map)' if optional else ''}, "
        f"got {_tensors.kind(value)}{hint}"
    )


def _check_input(x_name: str, x: Tensor, name: str, weights: list[Tensor], biases: list[Tensor]) -> None:
    for kind, parameters in (("weights", weights), ("biases", biases)):
        for i, parameter in enumerate(parameters):
            fits = parameter.dtype in (x.dtype, _tensors.arithmetic(x.dtype))
            if fits and parameter.device == x.device and parameter.ndim > 0:
                continue
            at = f"{name}.{kind}[{i}]"
            _tensors.floats(at, parameter, 1)
            if not fits:
                check.same_dtype((x_name, x), (at, parameter))
            if parameter.device != x.device:
                check.fail(at, f"a tensor on {x.device}, as {x_name} is", f"one on {parameter.device}")
    if x.shape[-1] != weights[0].shape[0]:
        widths = (weights[0].shape[0], *(w.shape[1] for w in weights))
        check.fail(
            x_name, f"rows of {widths[0]} features, the input of {name} (widths {widths})", tuple(x.shape)
        )


def mapped(x_name: str, x: Tensor, name: str, phi: Map | None) -> Tensor:
    """Return the features of a checked `x`; `phi` None is the identity map. A FeatureMap's are not rounded.

    Maps are called, so that a user's forward method or hook takes effect.
    """
    if phi is None:
        return x
    if isinstance(phi, FeatureMap) and computes_mlp(phi) and not phi._forward_pre_hooks:
        # The same checks as in forward, with the names of this call.
        _check_input(x_name, x, name, list(phi.weights), list(phi.biases or ()))
        x = _tensors.widened(x)
    result = f"{name}({x_name})"
    features = _tensors.features(result, phi(x))
    _tensors.alike((x_name, x), (result, features))
    if features.shape[:-1] != x.shape[:-1]:
        leading = ", ".join(str(n) for n in x.shape[:-1])
        check.fail(result, f"shape ({leading}, d), one row for each of {x_name}", tuple(features.shape))
    return features


def feature_map(x: Tensor, mlp: Map) -> Tensor:
    """Return the features of `x` through a map, with gradients of `x` and of the map's parameters.

    Parameters
    ----------
    x : Tensor of shape (..., n, d_x)
        Of the map's dtype, device and input width; bfloat16 or float16 with a FeatureMap of float32 also.
    mlp : FeatureMap
        Or another module or callable from (..., n, d_x) to (..., n, d), of the same dtype.

    Returns
    -------
    Tensor of shape (..., n, d)

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above; the message names it.

    Examples
    --------
    >>> import torch
    >>> from relkernels.torch import FeatureMap, feature_map
    >>> phi = FeatureMap([3, 8, 2])
    >>> feature_map(torch.ones(5, 3), phi).sum().backward()
    >>> phi.weights[0].grad.shape
    torch.Size([3, 8])
    """
    x = _tensors.features("x", x)
    return _tensors.narrowed(mapped("x", x, "mlp", check_map("mlp", mlp, optional=False)), x)
