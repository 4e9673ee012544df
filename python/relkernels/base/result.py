"""Results that unpack into a few values and have more of them by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, Self


class Result(tuple):
    """A tuple of the first few of its named values; the others are only attributes.

    A subclass lists its values in order, as annotations of its body, and says how many of them are
    `unpacked`: length, indices, iteration, equality and hash are those of the tuple of these.
    """

    _names: ClassVar[tuple[str, ...]]
    _unpacked: ClassVar[int]

    def __init_subclass__(cls, *, unpacked: int) -> None:
        super().__init_subclass__()
        cls._names, cls._unpacked = tuple(inspect.get_annotations(cls)), unpacked

    def __new__(cls, *values: Any) -> Self:
        """Make one of all values, in order."""
        made = super().__new__(cls, values[: cls._unpacked])
        made.__dict__.update(zip(cls._names, values, strict=True))
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Return all values, from which copies and pickles are made."""
        return tuple(self.__dict__[name] for name in self._names)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        """Refuse: the value in the tuple would stay."""
        raise AttributeError(f"{type(self).__name__}: expected no change, got a new {name}")

    def __repr__(self) -> str:
        """Return all values with their names."""
        values = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._names)
        return f"{type(self).__name__}({values})"


def rebuilt(change: Callable[[Any], Any], result: tuple[Any, ...]) -> Any:
    """Return a tuple, named tuple or `Result` of the same class with all of its values changed."""
    if isinstance(result, Result):
        return type(result)(*map(change, result.__getnewargs__()))
    parts = map(change, result)
    return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
