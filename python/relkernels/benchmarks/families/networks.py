"""MLPs implemented with the peers' libraries: forward and backward."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ...gradients import MLPGradient
from ...maps.mlp import MLP

WIDTHS = (64, 256, 256, 64)


def parameters(widths: tuple[int, ...]) -> int:
    """Return the number of weights, which is that of multiply-adds per row."""
    return sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))


def network(activation: str = "relu", widths: tuple[int, ...] = WIDTHS) -> MLP:
    """Return an MLP with nonzero biases."""
    phi = MLP.random(widths, activation=activation, random_state=0)
    rng = np.random.default_rng(1)
    biases = [0.1 * rng.standard_normal(d, dtype=np.float32) for d in widths[1:]]
    return MLP(phi.weights, biases, activation)


def _layers(phi: MLP) -> list[tuple[np.ndarray, np.ndarray]]:
    assert phi.biases is not None
    return list(zip(phi.weights, phi.biases, strict=True))


def _numpy_activation(name: str) -> Callable[[np.ndarray], Any]:
    def relu(h: np.ndarray) -> None:
        np.maximum(h, 0, out=h)

    def tanh(h: np.ndarray) -> None:
        np.tanh(h, out=h)

    def gelu_tanh(h: np.ndarray) -> None:
        t = h * h
        t *= np.float32(0.044715 * math.sqrt(2 / math.pi))
        t += np.float32(math.sqrt(2 / math.pi))
        t *= h
        np.tanh(t, out=t)
        t += 1
        t *= 0.5
        h *= t

    return {"relu": relu, "tanh": tanh, "gelu_tanh": gelu_tanh}[name]


def with_numpy(phi: MLP) -> Callable[[np.ndarray], np.ndarray]:
    """Return the MLP as a function of arrays, with activations in place."""
    *hidden, (last, last_bias) = _layers(phi)
    activate = _numpy_activation(phi.activation.name)

    def forward(h: np.ndarray) -> np.ndarray:
        for w, b in hidden:
            h = h @ w
            h += b
            activate(h)
        h = h @ last
        h += last_bias
        return h

    return forward


def relu_vjp_with_numpy(phi: MLP, x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
    """Return the features of x and the function from their gradient to those of x and the weights."""
    layers = _layers(phi)
    inputs = [x]
    for w, b in layers[:-1]:
        h = inputs[-1] @ w
        h += b
        inputs.append(np.maximum(h, 0, out=h))
    out = inputs[-1] @ layers[-1][0] + layers[-1][1]

    def back(grad: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        grad_weights, grad_biases = [], []
        for i in reversed(range(len(layers))):
            grad_weights.append(inputs[i].T @ grad)
            grad_biases.append(grad.sum(axis=0))
            grad = grad @ layers[i][0].T
            if i > 0:
                grad *= inputs[i] > 0
        return grad, grad_weights[::-1], grad_biases[::-1]

    return out, back


def with_torch(phi: MLP, bf16: bool = False) -> Callable[[Any], Any]:
    """Return the MLP as a function of tensors."""
    import torch

    kind = torch.bfloat16 if bf16 else torch.float32
    weights = [torch.from_numpy(np.ascontiguousarray(w.T)).to(kind) for w, _ in _layers(phi)]
    biases = [torch.from_numpy(b.copy()).to(kind) for _, b in _layers(phi)]
    return lambda x: torch_forward(x, weights, biases, phi.activation.name)


def torch_forward(h: Any, weights: list[Any], biases: list[Any], activation: str, grad: bool = False) -> Any:
    """Return linear layers with the activation between them; in place if no gradient is required."""
    import torch

    functional = torch.nn.functional
    activate = {
        "relu": torch.relu if grad else torch.relu_,
        "tanh": torch.tanh if grad else torch.tanh_,
        "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
    }[activation]
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        h = activate(functional.linear(h, w, b))
    return functional.linear(h, weights[-1], biases[-1])


def torch_parameters(phi: MLP) -> tuple[list[Any], list[Any]]:
    """Return weights and biases in PyTorch's layout, with requires_grad set."""
    import torch

    weights = [torch.from_numpy(w.T.copy()).requires_grad_() for w, _ in _layers(phi)]
    biases = [torch.from_numpy(b.copy()).requires_grad_() for _, b in _layers(phi)]
    return weights, biases


def gradient_arrays(grad: MLPGradient) -> list[np.ndarray]:
    """Return the gradients of weights, then of biases."""
    return [*grad.weights, *(grad.biases or [])]


def with_sklearn(phi: MLP) -> Any:
    """Return an MLPRegressor with these weights."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(hidden_layer_sizes=phi.widths[1:-1], activation=phi.activation.name, max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(np.zeros((2, phi.widths[0]), np.float32), np.zeros((2, phi.widths[-1]), np.float32))
    model.coefs_ = [w for w, _ in _layers(phi)]
    model.intercepts_ = [b for _, b in _layers(phi)]
    return model
