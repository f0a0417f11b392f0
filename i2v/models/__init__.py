"""Model families: one file each says how to load it, its size rules, and its three doors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from i2v.models.base import ImageToVideo

__all__ = ["family"]


def family(name: str) -> type[ImageToVideo]:
    """Return the `Pipeline` class of the family in i2v/models/NAME.py (the name comes from a validated preset)."""
    pipeline: type[ImageToVideo] = import_module(f"i2v.models.{name}").Pipeline
    return pipeline
