"""Activations of the hidden layers, by name or, where they have a parameter, by a function."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import _core
from ..base import check

# Name -> default parameter; None if there is no parameter, or no default.
NAMES: dict[str, float | None] = dict.fromkeys(_core.ACTIVATIONS) | {"leaky_relu": 0.01}
# Variance of initial weights times their fan-in.
GAINS: dict[str, float] = {name: gain for name, (gain, _) in _core.ACTIVATIONS.items()}


@dataclass(frozen=True)
class Activation:
    """An activation function with its parameter.

    Attributes
    ----------
    name : str
        One of the names that `MLP` takes.
    parameter : float or None
        Slope of ``leaky_relu``, exponent of ``relu_power``, None for the others.

    Examples
    --------
    >>> import relkernels as rk
    >>> rk.relu_power(1.5)
    Activation(name='relu_power', parameter=1.5)
    """

    name: str
    parameter: float | None = None


def relu_power(r: float) -> Activation:
    """Return the activation z -> max(z, 0)**r.

    Parameters
    ----------
    r : float
        Exponent, finite and greater than 0; 1 is relu.

    Returns
    -------
    Activation

    Raises
    ------
    ValueError
        If `r` is not a finite number greater than 0.

    Examples
    --------
    >>> import relkernels as rk
    >>> rk.MLP.random([2, 8, 1], activation=rk.relu_power(2)).activation
    Activation(name='relu_power', parameter=2.0)
    """
    exponent = check.real("r", r)
    if not 0 < exponent < float("inf"):
        check.fail("r", "a finite number > 0", repr(r))
    return Activation("relu_power", exponent)


def leaky_relu(slope: float = 0.01) -> Activation:
    """Return the activation z -> z for z > 0 and slope * z otherwise.

    Parameters
    ----------
    slope : float, default 0.01
        Finite slope for negative z.

    Returns
    -------
    Activation

    Raises
    ------
    ValueError
        If `slope` is not finite.

    Examples
    --------
    >>> import relkernels as rk
    >>> rk.leaky_relu(0.2)
    Activation(name='leaky_relu', parameter=0.2)
    """
    number = check.real("slope", slope)
    if not abs(number) < float("inf"):
        check.fail("slope", "a finite number", repr(slope))
    return Activation("leaky_relu", number)


def lipschitz(activation: Activation) -> float:
    """Return the Lipschitz constant of an activation on the whole line: its largest slope.

    That of relu_power(r) is infinite unless r is 1: the slope ``r z**(r - 1)`` grows without limit as z does
    (r > 1), or as z comes to 0 (r < 1).
    """
    name, parameter = activation.name, activation.parameter
    if name == "leaky_relu" and parameter is not None:
        return max(1.0, abs(parameter))
    if name == "relu_power":
        return 1.0 if parameter == 1 else math.inf
    constant: float = _core.ACTIVATIONS[name][1]
    return constant


def resolve(activation: str | Activation) -> Activation:
    """Return the activation of that name, or the `Activation` itself."""
    if isinstance(activation, Activation):
        if activation.name == "relu_power":
            return relu_power(activation.parameter)  # type: ignore[arg-type]
        if activation.name == "leaky_relu" and activation.parameter is not None:
            return leaky_relu(activation.parameter)
        name = activation.name
        if name in NAMES and activation.parameter is not None:
            check.fail("activation", f"no parameter for {name}", repr(activation.parameter))
    else:
        name = activation
    name = check.choice("activation", name, tuple(NAMES))
    if name == "relu_power":
        check.fail("activation", "relkernels.relu_power(r), which gives the exponent", repr(name))
    return Activation(name, NAMES[name])
