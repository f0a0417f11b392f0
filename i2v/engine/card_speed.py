"""Measures once how fast a card multiplies matrices, for time forecasts before the first run."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from i2v.memory.forecast.speed import known_rates, remember_rate
from i2v.memory.weights.precision import DTYPES

__all__ = ["measure_card"]

_log = logging.getLogger(__name__)
_SIDE, _REPEATS = 4096, 8


def measure_card(home: Path) -> None:
    """Measure the first card unless that was done before; without a card there is nothing to do."""
    if not torch.cuda.is_available():
        return
    name = torch.cuda.get_device_name(0)
    if any(key.startswith("cuda:0") for key in known_rates(home, name)):
        return
    rates = {precision: _rate(dtype) for precision, dtype in DTYPES.items()}
    torch.cuda.empty_cache()
    try:
        remember_rate(home, name, rates)
    except OSError as error:
        _log.warning("the speed of %s cannot be kept: %s", name, error)


def _rate(dtype: torch.dtype) -> float:
    left = torch.ones((_SIDE, _SIDE), dtype=dtype, device="cuda:0")
    left @ left  # the first one loads the library
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(_REPEATS):
        left @ left
    torch.cuda.synchronize()
    return 2 * _SIDE**3 * _REPEATS / (time.perf_counter() - began)
