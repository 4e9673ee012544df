"""Shapes of results, stated once: for outputs, for checks of gradients, and for tracing without computing.

Sizes may be symbols (`torch.SymInt`): they are only compared and put into tuples.
"""

from __future__ import annotations

Shape = tuple[int, ...]


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape that shapes broadcast to; ValueError if they do not."""
    result = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for i, size in enumerate(shape, len(result) - len(shape)):
            if size != 1 and size != result[i]:
                if result[i] != 1:
                    raise ValueError(f"shapes {', '.join(map(str, shapes))} do not broadcast together")
                result[i] = size
    return tuple(result)


def leading(*shapes: Shape) -> Shape:
    """Return the leading dimensions of a result for the shapes (..., n, d) of its arguments."""
    return broadcast(*(shape[:-2] for shape in shapes))


def features(x: Shape, width: int) -> Shape:
    """Return the shape of the features of `x`, of shape (..., n, d_x), through a map of this width."""
    return (*x[:-1], width)


def relation(lead: Shape, n: int, m: int, heads: int = 1) -> Shape:
    """Return the shape of a relation matrix, which has a dimension of heads if there are several."""
    return (*lead, heads, n, m) if heads > 1 else (*lead, n, m)


def attention(lead: Shape, n: int, width: int) -> tuple[Shape, Shape]:
    """Return the shapes of attention over values of this width, and of its log-sum-exp."""
    return (*lead, n, width), (*lead, n)


def relational(lead: Shape, heads: int, n: int, relations: int, width: int) -> tuple[Shape, Shape, Shape]:
    """Return the shapes of the relations and values of relational attention, and of its log-sum-exp."""
    return (*lead, heads, n, relations), (*lead, heads, n, width), (*lead, heads, n)
