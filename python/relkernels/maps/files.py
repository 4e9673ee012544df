"""Files of MLPs: safetensors with the arrays, and metadata that says what they are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..base import check
from ..base.files import read_safetensors, refuse_rest, write_whole
from .activations import Activation

_FORMAT = "relkernels.MLP"
_FORMAT_VERSION = "1"


def write(
    path: str | os.PathLike[str],
    weights: Sequence[np.ndarray],
    biases: Sequence[np.ndarray] | None,
    activation: Activation,
) -> None:
    """Write the parts of an MLP to a file, which appears whole or not at all."""
    from safetensors.numpy import save

    tensors = {f"weights.{i}": w for i, w in enumerate(weights)}
    tensors.update({f"biases.{i}": b for i, b in enumerate(biases or ())})
    metadata = {
        "format": _FORMAT,
        "version": _FORMAT_VERSION,
        "activation": activation.name,
        "layers": str(len(weights)),
        "bias": str(biases is not None),
    }
    if activation.parameter is not None:
        metadata["parameter"] = repr(activation.parameter)
    write_whole(path, save(tensors, metadata=metadata))


@contextmanager
def read(
    path: str | os.PathLike[str],
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray] | None, Activation]]:
    """Give weights, biases and activation from a file.

    Errors of the block that makes an MLP of them also name the file.
    """
    name, metadata, tensors = read_safetensors(path)
    kind, version = metadata.pop("format", None), metadata.pop("version", None)
    if kind != _FORMAT:
        raise ValueError(f"{name}: expected a file of format {_FORMAT!r}, got {kind!r}")
    if version != _FORMAT_VERSION:
        raise ValueError(f"{name}: expected version {_FORMAT_VERSION} of {_FORMAT}, got {version!r}")
    try:
        layers = range(int(metadata.pop("layers")))
        weights: list[Any] = [tensors.pop(f"weights.{i}") for i in layers]
        has_bias = check.choice("bias", metadata.pop("bias"), ("True", "False")) == "True"
        biases: list[Any] | None = [tensors.pop(f"biases.{i}") for i in layers] if has_bias else None
        parameter = float(metadata.pop("parameter")) if "parameter" in metadata else None
        activation = Activation(metadata.pop("activation"), parameter)
        refuse_rest(metadata, tensors)
        yield weights, biases, activation
    except KeyError as error:
        raise ValueError(f"{name}: {error.args[0]!r} is missing") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None
