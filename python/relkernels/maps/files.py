"""MLPs in safetensors files: their arrays, and metadata about them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..base import check
from ..base.files import checked_contents, read_safetensors, refuse_rest, write_whole
from .activations import Activation

_FORMAT = "relkernels.MLP"
_FORMAT_VERSION = "1"


# Weights, biases and activation of an MLP, and whether it normalizes.
Parts = tuple[Sequence[np.ndarray], Sequence[np.ndarray] | None, Activation, bool]


def encoded(parts: Parts, prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the tensors and the metadata of an MLP, with names that begin with `prefix`."""
    weights, biases, activation, normalize = parts
    tensors = {f"{prefix}weights.{i}": w for i, w in enumerate(weights)}
    tensors.update({f"{prefix}biases.{i}": b for i, b in enumerate(biases or ())})
    metadata = {
        f"{prefix}activation": activation.name,
        f"{prefix}layers": str(len(weights)),
        f"{prefix}bias": str(biases is not None),
    }
    if normalize:  # absent otherwise, so that versions that cannot normalize refuse only such maps
        metadata[f"{prefix}normalize"] = "True"
    if activation.parameter is not None:
        metadata[f"{prefix}parameter"] = repr(activation.parameter)
    return tensors, metadata


def decoded(metadata: dict[str, str], tensors: dict[str, Any], prefix: str = "") -> Parts:
    """Return the parts that `encoded` named; their tensors and metadata are removed."""
    layers = range(int(metadata.pop(f"{prefix}layers")))
    weights = [tensors.pop(f"{prefix}weights.{i}") for i in layers]
    has_bias = check.choice(f"{prefix}bias", metadata.pop(f"{prefix}bias"), ("True", "False")) == "True"
    biases = [tensors.pop(f"{prefix}biases.{i}") for i in layers] if has_bias else None
    parameter = metadata.pop(f"{prefix}parameter", None)
    name = metadata.pop(f"{prefix}activation")
    key = f"{prefix}normalize"
    normalize = key in metadata and check.choice(key, metadata.pop(key), ("True", "False")) == "True"
    return weights, biases, Activation(name, None if parameter is None else float(parameter)), normalize


def write(path: str | os.PathLike[str], parts: Parts) -> None:
    """Write the parts of an MLP to a file, atomically."""
    from safetensors.numpy import save

    tensors, metadata = encoded(parts)
    write_whole(path, save(tensors, {"format": _FORMAT, "version": _FORMAT_VERSION, **metadata}))


@contextmanager
def read(path: str | os.PathLike[str]) -> Iterator[Parts]:
    """Yield the parts of an MLP from a file.

    Errors raised in the block, which makes an MLP of them, also name the file.
    """
    name, metadata, tensors = read_safetensors(path)
    with checked_contents(name, metadata, _FORMAT, _FORMAT_VERSION):
        parts = decoded(metadata, tensors)
        refuse_rest(metadata, tensors)
        yield parts
