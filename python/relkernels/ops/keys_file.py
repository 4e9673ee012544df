"""Files of `Keys`: safetensors whose arrays are mapped into memory when they are read."""

from __future__ import annotations

import os

import numpy as np

from ..base import check
from ..base.files import checked_contents, map_safetensors, refuse_rest, write_safetensors
from ..maps.files import decoded, encoded
from ..maps.mlp import MLP, from_parts, parts_of
from .key_store import ELEMENTS, Stored

_FORMAT = "relkernels.Keys"
_FORMAT_VERSION = "1"


def write(path: str | os.PathLike[str], stored: Stored, psi: MLP | None) -> None:
    """Write keys to a file, atomically; rows that were removed must have been left out."""
    tensors = stored.contents()
    metadata = {
        "format": _FORMAT,
        "version": _FORMAT_VERSION,
        "dtype": stored.dtype,
        "next_id": str(tensors.pop("next_id")),
    }
    if psi is not None:
        of_psi, about_psi = encoded(parts_of(psi), "psi.")
        tensors.update(of_psi)
        metadata.update(about_psi)
    write_safetensors(path, tensors, metadata)


def read(path: str | os.PathLike[str]) -> tuple[Stored, MLP | None]:
    """Return the keys of a file, in a mapping of it, and their map."""
    name, metadata, tensors = map_safetensors(path)
    with checked_contents(name, metadata, _FORMAT, _FORMAT_VERSION):
        dtype = check.choice("dtype", metadata.pop("dtype"), tuple(ELEMENTS))
        next_id = int(metadata.pop("next_id"))
        features, ids = tensors.pop("features"), tensors.pop("ids").copy()
        _expect("features", features, ELEMENTS[dtype], (len(ids), *features.shape[1:2]))
        _expect("ids", ids, np.dtype(np.int64), (len(features),))
        if features.shape[1] == 0:
            check.fail("features", "at least one feature", features.shape)
        codes = {}
        for key, shape in Stored.shapes_of_codes(dtype, *features.shape).items():
            codes[key] = tensors.pop(key)
            _expect(key, codes[key], np.dtype(np.int8 if key == "codes" else np.float32), shape)
        if len(ids) and not (ids[0] >= 0 and ids[-1] < next_id and (ids[1:] > ids[:-1]).all()):
            check.fail("ids", f"ascending integers from 0 to {next_id - 1}", "others")
        psi = from_parts(decoded(metadata, tensors, "psi.")) if "psi.layers" in metadata else None
        if psi is not None and psi.widths[-1] != features.shape[1]:
            check.fail("psi", f"{features.shape[1]} features, as the keys have", psi.widths[-1])
        refuse_rest(metadata, tensors)
        return Stored.restored(dtype, features, ids, next_id, **codes), psi
    raise AssertionError


def _expect(name: str, a: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if a.dtype != dtype or a.shape != shape:
        check.fail(name, f"{dtype} of shape {shape}", f"{a.dtype} of shape {a.shape}")
