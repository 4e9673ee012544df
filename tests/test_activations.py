"""Lipschitz constants of activations: every activation has one, and no slope anywhere is larger."""

import math

import numpy as np
import pytest
import reference
import relkernels as rk
from relkernels import _core
from relkernels.maps.activations import NAMES, Activation, lipschitz

KNOWN = [Activation(name, parameter) for name, parameter in NAMES.items() if name != "relu_power"]


@pytest.mark.parametrize("activation", [*KNOWN, rk.leaky_relu(-3.0), rk.relu_power(1)], ids=repr)
def test_the_constant_is_the_largest_slope(activation):
    """Slopes by central differences in float64 on a grid of 1e-4, over all z where one could be largest."""
    z = np.linspace(-20, 20, 400_001)
    step = 1e-5
    values = [reference.activation(activation.name, at, activation.parameter) for at in (z + step, z - step)]
    slope = np.abs(values[0] - values[1]).max() / (2 * step)
    assert slope <= lipschitz(activation) * (1 + 1e-8)
    assert slope >= lipschitz(activation) * (1 - 1e-6)


@pytest.mark.parametrize("r", [0.5, 1.5, 2.0])
def test_powers_have_none(r):
    assert lipschitz(rk.relu_power(r)) == math.inf


def test_the_list_is_complete():
    """An activation that is added without its constants, or whose rule is missing, fails here."""
    assert list(NAMES) == list(_core.ACTIVATIONS)
    for name, (gain, constant) in _core.ACTIVATIONS.items():
        assert gain in (1, 2)
        assert constant is None or constant > 0
        assert lipschitz(Activation(name, 1.0)) > 0


@pytest.mark.parametrize(("activation", "words"), [("gelu_tanh", ""), (rk.relu_power(2), "relu_power(2)")])
def test_check_continuity_says_why_a_bound_is_infinite(activation, words):
    rng = np.random.default_rng(0)
    Q, sets = rng.standard_normal((12, 3)), rng.standard_normal((12, 4, 2))
    model = rk.PreferenceRetriever((5,), n_features=2, activation=activation, max_iter=1, random_state=0)
    found = model.fit(Q, sets, np.arange(12) % 4).check_continuity(Q, sets, random_state=0)
    assert math.isinf(found.slope_bound) == bool(words)
    assert bool(found.note) == bool(words)
    assert words in found.note
    assert found.slope <= found.slope_bound


def test_a_parameter_that_nothing_reads_is_refused():
    with pytest.raises(ValueError, match=r"^activation: expected no parameter for relu, got 0\.5"):
        rk.MLP.random([3, 4, 2], activation=Activation("relu", 0.5))
