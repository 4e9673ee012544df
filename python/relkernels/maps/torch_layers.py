"""Reading of PyTorch's Sequential, for `MLP.from_torch`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .activations import Activation


def read_sequential(
    sequential: Any,
) -> tuple[list[np.ndarray], list[np.ndarray] | None, Activation]:
    """Return weights, biases and activation of a torch.nn.Sequential."""
    import torch.nn as nn

    if not isinstance(sequential, nn.Sequential):
        raise TypeError(f"sequential: expected a torch.nn.Sequential, got {type(sequential).__name__}")
    _own_forward("sequential", sequential, nn.Sequential)
    plain = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
    linear: list[Any] = []
    between: list[list[Activation]] = []  # what follows each linear layer
    for i, layer in enumerate(sequential):
        where = f"sequential[{i}]"
        if isinstance(layer, nn.Linear):
            _own_forward(where, layer, nn.Linear)
            linear.append(layer)
            between.append([])
            continue
        if isinstance(layer, (nn.Dropout, nn.Identity)):
            continue
        if type(layer) in plain:
            found = Activation(plain[type(layer)])
        elif type(layer) is nn.LeakyReLU:
            found = Activation("leaky_relu", float(layer.negative_slope))
        elif type(layer) is nn.GELU:
            found = Activation("gelu" if layer.approximate == "none" else "gelu_tanh")
        elif type(layer) is nn.Softplus and layer.beta == 1:
            found = Activation("softplus")
        else:
            raise TypeError(f"{where}: expected a linear layer or an activation, got {layer!r}")
        if not linear:
            raise ValueError(f"{where}: expected a linear layer first, got {layer!r}")
        between[-1].append(found)
    if not linear:
        raise ValueError("sequential: expected at least one linear layer, got none")
    if between[-1]:
        raise ValueError(
            f"sequential: expected a linear output, got {between[-1][0].name} after the last layer"
        )
    kinds = {tuple(found) for found in between[:-1]} or {()}
    if len(kinds) > 1 or len(next(iter(kinds))) > 1:
        names = [[a.name for a in found] for found in between[:-1]]
        raise ValueError(f"sequential: expected the same activation after each hidden layer, got {names}")
    kind = next(iter(kinds))
    activation = kind[0] if kind else Activation("identity")

    def numpy(tensor: Any) -> np.ndarray:
        return tensor.detach().cpu().numpy()

    weights = [np.ascontiguousarray(numpy(layer.weight).T) for layer in linear]
    with_bias = [layer.bias is not None for layer in linear]
    if not any(with_bias):
        return weights, None, activation
    biases = [
        numpy(layer.bias) if has else np.zeros(layer.out_features, weights[0].dtype)
        for layer, has in zip(linear, with_bias, strict=True)
    ]
    return weights, biases, activation


def _own_forward(name: str, layer: Any, kind: Any) -> None:
    """Refuse a subclass that computes something else than the class whose parameters are read."""
    if type(layer).forward is not kind.forward:
        raise TypeError(
            f"{name}: expected the forward of {kind.__name__}, got {type(layer).__name__} with its own"
        )
