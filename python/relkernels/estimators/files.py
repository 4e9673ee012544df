"""`save` and `load` of estimators: safetensors with JSON metadata, so that reading a file runs no code."""

from __future__ import annotations

import json
import os
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..base.files import read_safetensors, refuse_rest, write_whole
from ..maps.activations import Activation, resolve
from ..maps.mlp import MLP

_FORMAT = "relkernels.estimator"
_VERSION = "1"


def _encode(key: str, value: Any, tensors: dict[str, np.ndarray]) -> Any:
    """Return a value as JSON stores it; arrays of numbers are added to `tensors` under `key`."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    if isinstance(value, Activation):
        return {"kind": "activation", "name": value.name, "parameter": value.parameter}
    if isinstance(value, MLP):
        arrays = [*value.weights, *(value.biases or ())]
        tensors.update({f"{key}.{i}": a for i, a in enumerate(arrays)})
        activation = _encode(key, value.activation, tensors)
        return {
            "kind": "mlp",
            "layers": len(value.weights),
            "bias": value.biases is not None,
            "activation": activation,
            **({"normalize": True} if value.normalize else {}),
        }
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        tensors[key] = np.ascontiguousarray(value)
        return {"kind": "array"}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        items = [_encode(key, item, tensors) for item in value.tolist()]
        return {"kind": "array of objects", "dtype": value.dtype.str, "items": items}
    if isinstance(value, (list, tuple)):
        items = [_encode(f"{key}.{i}", item, tensors) for i, item in enumerate(value)]
        return {"kind": type(value).__name__, "items": items}
    raise TypeError(f"{key}: expected numbers, strings, arrays and maps, got {type(value).__name__}")


def _decode(key: str, stored: Any, tensors: dict[str, np.ndarray]) -> Any:
    """Return the value that `_encode` stored; its arrays are removed from `tensors`."""
    if not isinstance(stored, dict):
        return stored
    kind = stored["kind"]
    if kind == "array":
        return tensors.pop(key)
    if kind == "array of objects":
        return np.array(stored["items"], dtype=stored["dtype"])
    if kind == "activation":
        return resolve(Activation(stored["name"], stored["parameter"]))
    if kind == "mlp":
        layers = stored["layers"]
        arrays = [tensors.pop(f"{key}.{i}") for i in range(layers * (1 + stored["bias"]))]
        activation = _decode(key, stored["activation"], tensors)
        normalize = stored.get("normalize", False)
        return MLP(arrays[:layers], arrays[layers:] or None, activation, normalize=normalize)
    if kind in ("list", "tuple"):
        items = [_decode(f"{key}.{i}", item, tensors) for i, item in enumerate(stored["items"])]
        return items if kind == "list" else tuple(items)
    raise ValueError(f"{key!r} is of an unknown kind {kind!r}")


class SavedEstimator:
    """Adds `save` and `load` to an estimator.

    A file holds the constructor's parameters and the fitted attributes, whose names end in an underscore or
    are in `_saved`.
    """

    _saved: tuple[str, ...] = ("_n_features_out",)
    # Earlier names of parameters and attributes, found in older files.
    _renamed: ClassVar[dict[str, str]] = {}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to a safetensors file: arrays and JSON, never pickle.

        A `random_state` that is a generator is written as None. The moments of Adam are not saved: a
        `partial_fit` after `load` starts with new ones.

        Parameters
        ----------
        path : path-like
            The file is written completely or not at all.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If a parameter is not a number, a string or a collection of them.
        """
        from safetensors.numpy import save

        check_is_fitted(self)
        parameters = self.get_params(deep=False)  # type: ignore[attr-defined]
        if isinstance(parameters.get("random_state"), (np.random.Generator, np.random.RandomState)):
            parameters["random_state"] = None
        fitted = {
            name: value
            for name, value in vars(self).items()
            if (name.endswith("_") and not name.startswith("_")) or name in self._saved
        }
        tensors: dict[str, np.ndarray] = {}
        stored = {
            "parameters": {name: _encode(f"parameters.{name}", p, tensors) for name, p in parameters.items()},
            "fitted": {name: _encode(name, value, tensors) for name, value in fitted.items()},
        }
        metadata = {
            "format": _FORMAT,
            "version": _VERSION,
            "estimator": type(self).__name__,
            "state": json.dumps(stored),
        }
        data = save(tensors, metadata=metadata)
        write_whole(path, data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an estimator that `save` wrote.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        The fitted estimator, the same to the last bit.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, has another version, holds another estimator or anything else as well;
            the message names the cause.
        """
        name, metadata, tensors = read_safetensors(path)
        for key, expected in (
            ("format", _FORMAT),
            ("version", _VERSION),
            ("estimator", cls.__name__),
        ):
            if (found := metadata.pop(key, None)) != expected:
                raise ValueError(f"{name}: expected {key} {expected!r}, got {found!r}")
        try:
            stored = json.loads(metadata.pop("state"))
            parameters = {
                cls._renamed.get(key, key): _decode(f"parameters.{key}", value, tensors)
                for key, value in stored.pop("parameters").items()
            }
            estimator = cls(**parameters)
            for key, value in stored.pop("fitted").items():
                if not (key.endswith("_") and not key.startswith("_")) and key not in cls._saved:
                    raise ValueError(f"{key!r} is no fitted attribute")
                setattr(estimator, cls._renamed.get(key, key), _decode(key, value, tensors))
            refuse_rest({**metadata, **stored}, tensors)
        except KeyError as error:
            raise ValueError(f"{name}: {error.args[0]!r} is missing") from None
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{name}: {error}") from None
        return estimator
