"""Values in words, for error messages: what was given, how to convert it, what was probably meant.

Contents of containers are never printed, so that a message stays short whatever was passed.
"""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np

# Longest repr of a string or a number that a message quotes.
_LONGEST = 60


def described(value: object) -> str:
    """Return the type of a value with its length or shape, or a short value itself."""
    if isinstance(value, np.ndarray):
        article = "a masked array" if isinstance(value, np.ma.MaskedArray) else "an array"
        return f"{article} of dtype {value.dtype} and shape {value.shape}"
    if isinstance(value, ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, type):
        return f"class {value.__name__}"
    name = type(value).__name__
    if value is None or isinstance(value, (str, bytes, numbers.Number, np.generic)):
        return f"{name} {_quoted(value)}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and all(isinstance(n, (int, np.integer)) for n in shape):
        return f"{name} of shape {tuple(map(int, shape))}"
    if isinstance(value, (list, tuple, dict, set, frozenset, range, bytearray)):
        return f"{name} of length {len(value)}"
    function = getattr(value, "__name__", None)
    return f"{name} {function}" if isinstance(function, str) else name


def _quoted(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "of very many digits"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def shown(got: object) -> str:
    """Return the text after "got" in a message: text and shapes as they are, other values by `described`."""
    if isinstance(got, str):
        return got if len(got) <= 4 * _LONGEST else f"{got[: 4 * _LONGEST - 3]}..."
    if isinstance(got, (numbers.Number, np.generic)) or got is None:
        return _quoted(got) if isinstance(got, (int, float)) or got is None else str(got)
    if isinstance(got, tuple) and len(got) <= 64 and all(isinstance(n, (int, np.integer)) for n in got):
        return str(got)
    return described(got)


def option(value: object) -> str:
    """Return a value given for one of a few names: quoted if it is text, else by `described`."""
    return _quoted(value) if isinstance(value, str) else described(value)


def advice(name: str, value: Any) -> str:
    """Return how to make a float array of a value, as the end of a message; empty where that is unknown."""
    if isinstance(value, np.ma.MaskedArray):
        return f": masked arrays are not supported, fill the masked entries first, as {name}.filled(0) does"
    if isinstance(value, np.ndarray):
        cast = f"{name}.astype(np.{'float64' if value.dtype.itemsize > 4 else 'float32'})"
        if value.dtype.kind == "c":
            return f": complex numbers are not supported, use {name}.real or {name}.imag"
        if value.dtype.kind == "f" and not value.dtype.isnative:
            return f": its byte order is not this machine's, use {cast}"
        if value.dtype.kind in "OSU":
            return f": if its elements are numbers, use {cast}"
        return f": use {cast}" if value.dtype.kind in "fiub" else ""
    if isinstance(value, type):
        return ""
    if type(value).__module__.partition(".")[0] == "dask":
        return f": use a function of relkernels.dask, or {name}.compute()"
    if hasattr(value, "toarray"):
        return f": use {name}.toarray()"
    if hasattr(value, "to_numpy"):
        return f": use {name}.to_numpy()"
    if isinstance(value, (list, tuple, range)):
        return f": use np.asarray({name}, dtype=np.float32)"
    return ""


def near(value: str, choices: Iterable[str]) -> str:
    """Return the choice that a misspelt value resembles, as the end of a message; empty if there is none."""
    found = difflib.get_close_matches(value, list(choices), n=1)
    return f": did you mean {found[0]!r}?" if found else ""
