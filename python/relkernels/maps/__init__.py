"""Feature maps: multi-layer perceptrons, their activations, and their files."""

from .activations import Activation, leaky_relu, relu_power
from .mlp import MLP

__all__ = ["MLP", "Activation", "leaky_relu", "relu_power"]
