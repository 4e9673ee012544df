"""Mergeable states of operations, and the blocks of rows they are computed from."""

from .consumers import Above, LinkedSum, SoftmaxAccumulate, TopK

__all__ = ["Above", "LinkedSum", "SoftmaxAccumulate", "TopK"]
