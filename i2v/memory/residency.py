"""Where one component's weights live while a request runs. Values only; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Home", "Residency"]


class Home(StrEnum):
    """Where a component's weights are when it is not computing."""

    RESIDENT = "resident"  # on the device, always
    TURNS = "turns"  # in main memory; the whole component is brought for its turn
    STREAMED = "streamed"  # in main memory; its blocks are brought one after another


@dataclass(frozen=True)
class Residency:
    """Where a component's weights live. `keep`: how many of its first blocks stay on the device when it is streamed."""

    home: Home = Home.RESIDENT
    keep: int = 0
