"""`Bound`: the value of an evaluated theorem, with everything needed to judge it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from ..base import check
from ..base.describe import described


@dataclass(frozen=True)
class Constant:
    """A number in a formula, and where it comes from."""

    symbol: str
    value: float
    source: str


@dataclass(frozen=True)
class Assumption:
    """An assumption of a bound; `checked` describes how the data was checked, or is None if it was not."""

    text: str
    checked: str | None = None


@dataclass(frozen=True, repr=False)
class Bound:
    """A bound with everything that it depends on.

    Attributes
    ----------
    name : str
        The function of `relkernels.bounds` that returned it.
    quantity : str
        Description of `value`.
    value : float
        Infinite if the bound is vacuous; `note` then gives the reason.
    formula, latex : str
        As text and as LaTeX (without dollar signs).
    source : str
        Paper and theorem, or the derivation in a few words.
    constants : tuple of Constant
        Every number of the formula with its source.
    assumptions : tuple of Assumption
        Each with the check that was made on the data, or None.
    cited : str
        The published rate, for comparison.
    note : str
        A caveat about the value; may be empty.
    details : Mapping
        Intermediate results by name, such as a truncation rank.
    arguments : Mapping
        The arguments, which `curve` varies.

    Examples
    --------
    >>> from relkernels import bounds
    >>> bound = bounds.attention(margin=0.5, n=10, diameter=2.0, eps=0.01)
    >>> bound
    Bound(attention: inverse temperature beta that suffices = 14.98)
    >>> bound.curve("eps", [0.1, 0.01, 0.001]).round(2)
    array([10.28, 14.98, 19.6 ])
    >>> print(bound)  # doctest: +ELLIPSIS
    attention: inverse temperature beta that suffices = 14.98
      beta = max(0, [log((n - k)/k) + log(diam/eps - 1)] / (m - 2 eta))
    ...
    """

    name: str
    quantity: str
    value: float
    formula: str
    latex: str
    source: str
    constants: tuple[Constant, ...]
    assumptions: tuple[Assumption, ...]
    cited: str = ""
    note: str = ""
    details: Mapping[str, Any] = field(default_factory=dict, compare=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, compare=False)
    function: Callable[..., Bound] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "details", MappingProxyType(dict(self.details)))
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))

    def __reduce__(self) -> tuple[Any, ...]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["details"], values["arguments"] = dict(self.details), dict(self.arguments)
        return _restore, (values,)

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"Bound({self.name}: {self.quantity} = {self.value:.4g})"

    def curve(self, argument: str, values: Iterable[float]) -> np.ndarray:
        """Return the bound's value with one argument varied and the others unchanged.

        Parameters
        ----------
        argument : str
            One of `arguments`.
        values : iterable of float

        Returns
        -------
        ndarray of float64
            One value for each of `values`.

        Raises
        ------
        ValueError
            If the bound has no such argument, or a value is not valid for it.
        """
        if not isinstance(argument, str) or argument not in self.arguments or self.function is None:
            check.fail("argument", f"one of {', '.join(self.arguments)}", check.option(argument))
        if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
            raise TypeError(f"values: expected a sequence of numbers, got {described(values)}")
        changed = dict(self.arguments)
        with check.naming("values"):
            return np.array([self.function(**{**changed, argument: v}).value for v in values], np.float64)

    def _lines(self) -> list[str]:
        lines = [f"  {self.formula}", f"  source: {self.source}"]
        lines += [f"  {c.symbol} = {c.value:.6g}  ({c.source})" for c in self.constants]
        for a in self.assumptions:
            lines.append(f"  assumes {a.text} [{'checked: ' + a.checked if a.checked else 'not checked'}]")
        for title, text in (("cited rate", self.cited), ("note", self.note)):
            if text:
                lines.append(f"  {title}: {text}")
        return lines

    def __str__(self) -> str:
        return "\n".join([f"{self.name}: {self.quantity} = {self.value:.4g}", *self._lines()])

    def __rich__(self) -> Any:
        from rich.panel import Panel
        from rich.text import Text

        text = "\n".join(line[2:] for line in self._lines())
        return Panel(Text(text), title=f"{self.name}: {self.quantity} = {self.value:.4g}", title_align="left")


def _restore(values: dict[str, Any]) -> Bound:
    return Bound(**values)


def positive(name: str, value: Any, finite: bool = True) -> float:
    """Return a real number > 0."""
    number = check.real(name, value)
    if not number > 0 or (finite and number == float("inf")):
        check.fail(name, "a finite number > 0" if finite else "a number > 0", repr(number))
    return number


def non_negative(name: str, value: Any, finite: bool = True) -> float:
    """Return a real number >= 0."""
    number = check.real(name, value)
    if not number >= 0 or (finite and number == float("inf")):
        check.fail(name, "a finite number >= 0" if finite else "a number >= 0", repr(number))
    return number
