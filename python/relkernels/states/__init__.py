"""Mergeable states of operations, and the blocks of rows they are computed from."""

from .consumers import LinkedSum, SoftmaxAccumulate, TopK

__all__ = ["LinkedSum", "SoftmaxAccumulate", "TopK"]
