"""Mergeable states of operations, and the blocks of rows they are computed from."""

from .block_retrieval import retrieve_blocks
from .blocks import NpyBlocks
from .consumers import LinkedSum, SoftmaxAccumulate, State, TopK

__all__ = ["LinkedSum", "NpyBlocks", "SoftmaxAccumulate", "State", "TopK", "retrieve_blocks"]
