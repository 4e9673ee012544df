"""Checks of arguments, and the messages of those that fail.

A message names the argument, what was expected and what was given, shapes in full. Checks are ordered so that
a correct call costs a few attribute look-ups and builds no string.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np

from .describe import advice, described, near, option, shown
from .shapes import broadcast

FLOATS = "float32 or float64"
# No layer is wider: no memory could hold it.
WIDEST = 2**31 - 1
# The largest number of float32.
_LARGEST = float(np.finfo(np.float32).max)
# The smallest normal number of float32.
_SMALLEST = float(np.finfo(np.float32).tiny)
# Most characters kept of another library's error message.
LONGEST = 400


def floats(name: str, a: Any, ndim: int = 2, exact: bool = False) -> np.ndarray:
    """Return `a` if it is a native float32 or float64 array of at least `ndim` dimensions.

    Transposed, sliced, broadcast and read-only arrays pass as they are; only an array whose elements
    are not aligned in memory is copied. With `exact`, `a` must have exactly `ndim` dimensions.
    """
    if not isinstance(a, np.ndarray) or isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array of {FLOATS}, got {described(a)}{advice(name, a)}")
    dtype = a.dtype
    if dtype.char not in "fd" or not dtype.isnative:
        raise TypeError(f"{name}: expected {FLOATS}, got {described(a)}{advice(name, a)}")
    if a.ndim < ndim or (exact and a.ndim != ndim):
        bound = "" if exact else "at least "
        raise ValueError(f"{name}: expected {bound}{ndim} dimension{'s' * (ndim != 1)}, got shape {a.shape}")
    return a if a.flags.aligned else a.copy()


def features(name: str, a: Any, ndim: int = 2) -> np.ndarray:
    """Return `a` if its rows are points: at least `ndim` dimensions, the last not empty."""
    # The ordinary case first: a call on a few points takes a few microseconds in all.
    if (
        type(a) is np.ndarray
        and a.dtype.char in "fd"
        and a.dtype.isnative
        and a.ndim >= ndim
        and a.shape[-1]
        and a.flags.carray
    ):
        return a
    a = floats(name, a, ndim)
    if a.shape[-1] == 0:
        raise ValueError(
            f"{name}: expected rows of at least one feature (last dimension > 0), got shape {a.shape}"
        )
    return a


def same_dtype(*named: tuple[str, Any]) -> None:
    """All of the (name, array or MLP or None) pairs have one dtype; arrays may be of other libraries."""
    first_name, first = named[0]
    for name, other in named[1:]:
        if other is not None and other.dtype != first.dtype:
            cast = None
            if isinstance(other, np.ndarray):
                cast = f"{name}.astype(np.{first.dtype})"
            elif isinstance(first.dtype, np.dtype):  # maps cannot be converted: the arrays must be
                cast = f"{first_name}.astype(np.{other.dtype})"
            different_dtype(name, first_name, str(first.dtype), str(other.dtype), cast)


def different_dtype(name: str, first_name: str, expected: str, got: str, cast: str | None) -> NoReturn:
    """Refuse an argument whose dtype is not that of the first; `cast` is the missing conversion, if any."""
    advised = "" if cast is None else f": use {cast}"
    raise TypeError(f"{name}: expected {expected}, the dtype of {first_name}, got {got}{advised}")


def same_width(x_name: str, x: np.ndarray, width_x: int, y_name: str, y: np.ndarray, width_y: int) -> None:
    """Both sides of an inner product have the same number of features."""
    if width_x != width_y:
        raise ValueError(
            f"{y_name}: expected features as wide as those of {x_name}, {width_x} (from {x_name} of "
            f"shape {x.shape}), got {width_y} (from {y_name} of shape {y.shape})"
        )


def batch_shape(*named: tuple[str, np.ndarray, int]) -> tuple[int, ...]:
    """Broadcast the leading dimensions of (name, array, core dimensions)."""
    leading = [a.shape[: a.ndim - core] for _, a, core in named]
    if not any(leading):
        return ()
    try:
        return broadcast(*leading)
    except ValueError:
        shapes = ", ".join(f"{name} of shape {a.shape}" for name, a, _ in named)
        raise ValueError(
            f"{named[0][0]}: expected leading dimensions that broadcast together, got {shapes}"
        ) from None


def mask(value: Any, rows: int | None, columns: int) -> np.ndarray | None:
    """Return a boolean mask whose last dimensions broadcast to (rows, columns).

    With `rows` None `value` broadcasts to (..., columns), and the result to (..., 1, columns).
    """
    if value is None:
        return None
    masked = isinstance(value, np.ma.MaskedArray)  # whose own mask nothing here would look at
    if not isinstance(value, np.ndarray) or masked or value.dtype != np.bool_:
        raise TypeError(f"mask: expected a boolean array (True = may be attended), got {described(value)}")
    return _for_pairs("mask", value, rows, columns)


def bias(value: Any, rows: int, columns: int) -> np.ndarray | None:
    """Return an array of floats whose last dimensions broadcast to (rows, columns)."""
    return None if value is None else _for_pairs("bias", floats("bias", value, 0), rows, columns)


def _for_pairs(name: str, value: np.ndarray, rows: int | None, columns: int) -> np.ndarray:
    """Return an array with two dimensions or more, of which the last broadcast to (rows, columns)."""
    given = value.shape
    if rows is None and value.ndim:
        value = value[..., None, :]
    if value.ndim < 2:
        value = value.reshape((1,) * (2 - value.ndim) + value.shape)
    if value.shape[-2] not in (1, rows) or value.shape[-1] not in (1, columns):
        wanted = f"(..., {columns})" if rows is None else f"(..., {rows}, {columns})"
        fail(name, f"a shape that broadcasts to {wanted}", given)
    return value


def softcap(value: Any, dtype: np.dtype) -> float | None:
    """Return a positive finite cap that arrays of `dtype` can hold, or None."""
    if value is None:
        return None
    number = real("softcap", value)
    if not 0 < number < math.inf:
        fail("softcap", "a finite number > 0", repr(value))
    if dtype.char == "f" and number < _SMALLEST:
        fail("softcap", "a number that float32 can hold", repr(number))
    return held("softcap", number, dtype)


def offsets(name: str, value: Any, rows_name: str, rows: np.ndarray) -> np.ndarray:
    """Return the offsets of segments of `rows`, an array of shape (..., n, d): int64, 0 ... n."""
    if not isinstance(value, np.ndarray) or value.dtype != np.int64 or value.ndim != 1:
        raise TypeError(f"{name}: expected a vector of int64, got {described(value)}{advice(name, value)}")
    if value.size == 0:
        fail(name, "b + 1 offsets for b segments", value.shape)
    if value[0] != 0:
        fail(name, "0 as the first offset", int(value[0]))
    falls = np.flatnonzero(value[1:] < value[:-1])
    if falls.size:
        i = int(falls[0]) + 1
        fail(name, "offsets that do not decrease", f"{value[i - 1]} and then {value[i]} (at index {i})")
    n = rows.shape[-2]
    if value[-1] != n:
        fail(name, f"{n} as the last offset, the rows of {rows_name} {rows.shape}", int(value[-1]))
    return np.require(value, requirements=("C", "A"))


def scale(value: Any, dtype: np.dtype, default: float | None = None, name: str = "scale") -> float:
    """Return a finite factor for arrays of `dtype`; None stands for `default`, if given."""
    if value is None and default is not None:
        return default
    number = real(name, value)
    if not -math.inf < number < math.inf:  # which torch.compile can trace, unlike math.isfinite
        fail(name, "a finite number", repr(value))
    return held(name, number, dtype)


def held(name: str, number: float, dtype: np.dtype) -> float:
    """Return a finite number if arrays of `dtype` can hold it: in float32 a larger one would be infinite."""
    if dtype.char == "f" and not -_LARGEST <= number <= _LARGEST:
        fail(name, "a number that float32 can hold", repr(number))
    return number


def real(name: str, value: Any) -> float:
    """Return a real number as a float."""
    several = isinstance(value, np.ndarray) and (value.ndim > 0 or value.dtype.kind not in "fiu")
    if several or isinstance(value, (bool, np.bool_, str, bytes, np.complexfloating, np.ma.MaskedArray)):
        raise TypeError(f"{name}: expected a real number, got {described(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number that float64 can hold, got {described(value)}") from None
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a real number, got {described(value)}") from None


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return an integer of at least `low`, and at most `high` where that is given."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {described(value)}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {described(value)}") from None
    if number < low:
        fail(name, f"an integer >= {low}", number)
    if high is not None and number > high:
        fail(name, f"an integer from {low} to {high}", number)
    return number


def switch(name: str, value: Any) -> bool:
    """Return a boolean that may also be a level: an integer, 0 for off."""
    return bool(value) if isinstance(value, (bool, np.bool_)) else integer(name, value, 0) > 0


def widths(name: str, value: Any) -> list[int]:
    """Return the widths of layers."""
    several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if not several and not (isinstance(value, np.ndarray) and value.ndim == 1):
        raise TypeError(f"{name}: expected a sequence of integers, got {described(value)}")
    return [integer(f"{name}[{i}]", w, 1, WIDEST) for i, w in enumerate(value)]


def sequence(name: str, value: Any, what: str = "a sequence") -> Any:
    """Return a value with a length and indices: a list, a tuple, an array."""
    known = hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, type)
    known = known and not hasattr(value, "toarray")
    if not known or isinstance(value, (str, bytes, Mapping)) or getattr(value, "ndim", 1) == 0:
        raise TypeError(f"{name}: expected {what}, got {described(value)}{advice(name, value)}")
    return value


def numbers(name: str, value: Any) -> np.ndarray:
    """Return an array-like of real numbers as a float64 array, of any shape."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected real numbers, got {described(value)}{advice(name, value)}")
    try:
        found = np.asarray(value)
        if found.dtype.kind == "O":
            found = found.astype(np.float64)
    except (TypeError, ValueError, OverflowError):  # ragged, or not numbers
        found = np.empty(0, object)
    if found.dtype.kind not in "fiub":
        hint = advice(name, value) if hasattr(value, "toarray") else ""
        raise TypeError(f"{name}: expected real numbers, got {described(value)}{hint}")
    return found.astype(np.float64, copy=False)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Name an argument in the errors of another library that reads it, and cut those that print contents."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        text = str(error)
        named = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None
        if named and len(text) <= LONGEST and not isinstance(error, OverflowError):
            raise
        text = text if named else f"{name}: {text}"
        text = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
        raise (TypeError if isinstance(error, TypeError) else ValueError)(text) from error


def path(name: str, value: Any) -> str | bytes:
    """Return a path as text."""
    with naming(name):
        return os.fspath(value)


def flag(name: str, value: Any) -> bool:
    """Return a boolean."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {described(value)}")
    return bool(value)


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return one of the strings `choices`."""
    if isinstance(value, str) and value in choices:
        return value
    wanted = ", ".join(repr(c) for c in choices)
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {wanted}, got {described(value)}")
    fail(name, f"one of {wanted}", f"{option(value)}{near(value, choices)}")


def heads(value: Any, width: int) -> int:
    """Return a number of heads that divides the feature width."""
    number = integer("heads", value, 1)
    if width % number:
        raise ValueError(f"heads: expected a divisor of the feature width {width}, got {number}")
    return number


def fail(name: str, expected: str, got: object) -> NoReturn:
    """Raise the ValueError of a check that only one place makes."""
    raise ValueError(f"{name}: expected {expected}, got {shown(got)}")
