"""Cuts a dimension into pieces; the one way in which everything in this room loops over pieces.

A tracer that only wants to see the peak of memory need not look at every piece: see `first_pieces_only`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["first_pieces_only", "pieces"]

_first_only: ContextVar[bool] = ContextVar("first_only", default=False)


def pieces(total: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover range(total) in order."""
    starts = range(0, total, size)
    for start in starts[:2] if _first_only.get() else starts:
        yield slice(start, min(start + size, total))


@contextmanager
def first_pieces_only() -> Iterator[None]:
    """Have `pieces` yield only the first two inside: all pieces are treated alike, so two show the peak."""
    token = _first_only.set(True)
    try:
        yield
    finally:
        _first_only.reset(token)
