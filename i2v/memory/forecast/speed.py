"""How fast this machine multiplies matrices: what a time forecast starts from before the first run. No torch.

The CPU is measured here, with numpy; a card is measured by the worker (engine/card_speed.py), and kept in the home
folder by the card's name.
"""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path

import numpy as np

__all__ = ["cpu_rate", "known_rates", "remember_rate"]

_SIDE = 1024


@lru_cache(maxsize=1)
def cpu_rate() -> float:
    """Return float32 operations per second of a matrix product on all cores; measured once, in about 0.1 s."""
    left = np.ones((_SIDE, _SIDE), dtype=np.float32)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - began)
    return 2 * _SIDE**3 / best


def known_rates(home: Path, card: str | None) -> dict[str, float]:
    """Return rates in operations per second by device and precision, such as "cuda:0 fp16"."""
    rates = {"cpu fp32": cpu_rate()}
    if card:
        found = _read(home / "speed.json").get(card, {})
        rates |= {f"cuda:0 {precision}": rate for precision, rate in found.items()}
    return rates


def remember_rate(home: Path, card: str, rates: dict[str, float]) -> None:
    """Keep a card's rates by precision."""
    path = home / "speed.json"
    path.write_text(json.dumps(_read(path) | {card: rates}, indent=1), encoding="utf-8")


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}
