"""The bounds on rounding errors of docs/accuracy.md: how many roundings each term of a sum goes through.

A sum of terms t_k whose terms are each rounded at most n times is off by at most gamma(n) sum |t_k|.
"""

import numpy as np

# kDepth of csrc/kernels/micro_kernel.hpp, kTileColumns of csrc/walk/factors.hpp, kChunk of
# csrc/walk/pairs.hpp, kVjpRows of csrc/walk/mlp.hpp and kParts of csrc/operations/map_gradient.hpp.
CHAIN, TILE, CHUNK, ROWS, PARTS = 256, 256, 2048, 128, 16
# exp, erf and the like are within 2 units in the last place.
FUNCTION = 4


def ceil_div(n, by):
    return -(-n // by)


def unit(dtype):
    """Unit roundoff: half the distance from 1 to the next number."""
    return float(np.finfo(dtype).eps) / 2


def gamma(n, dtype):
    u = unit(dtype)
    return n * u / (1 - n * u)


def of_product(d):
    """An inner product of d features: chains of CHAIN multiply-adds, added in order."""
    return min(d, CHAIN) + ceil_div(d, CHAIN) - 1


def of_layer(d):
    """One output of a layer of d inputs: an inner product, plus a bias."""
    return of_product(d) + 1


def of_columns(m):
    """A sum over m columns of a relation: a chain per tile, tiles of a chunk in order, chunks in order."""
    return min(m, TILE) + min(ceil_div(m, TILE), CHUNK // TILE) - 1 + ceil_div(m, CHUNK) - 1


def of_softmax(m, spread):
    """A sum over m columns of exp(r - max) v; `spread` is the largest max - r that matters.

    The difference is rounded, which exp turns into `spread` roundings of its result. Where a tile or a chunk
    has a new maximum, the sum so far is multiplied by exp of a difference: a rounding and an error of exp.
    """
    stages = min(ceil_div(m, TILE), CHUNK // TILE) + ceil_div(m, CHUNK)
    return of_columns(m) + FUNCTION + int(np.ceil(spread)) + stages * (1 + FUNCTION)


def of_given_weights(m):
    """A sum over m rows with weights from memory, as in relation_matrix_vjp."""
    return min(m, TILE) + ceil_div(m, TILE) - 1


def of_weights_gradient(n):
    """A gradient of a map's weights over n rows: blocks of ROWS, in at most PARTS parts, added in order."""
    blocks = ceil_div(n, ROWS)
    per_part = ceil_div(blocks, PARTS)
    return min(n, ROWS) + per_part - 1 + ceil_div(blocks, per_part) - 1
