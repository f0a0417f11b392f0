"""What every process of i2v that uses a card is told by its environment, and what follows from it. No torch.

PyTorch's caching allocator keeps memory in segments of fixed size, or in one that grows page by page ("expandable
segments"), which wastes less; i2v asks for the second where the platform has it, unless the person chose otherwise.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from i2v.machine.devices import CUDA_ORDER

__all__ = ["cuda_environment", "has_expandable_segments"]

_NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the second is the older name of the first
_SETTING = "expandable_segments"


def cuda_environment(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> dict[str, str]:
    """Return the variables to set: how cards are counted, and how the allocator keeps memory."""
    if platform != "linux" or any(environ.get(name) for name in _NAMES):
        return dict(CUDA_ORDER)
    return CUDA_ORDER | {_NAMES[0]: f"{_SETTING}:True"}


def has_expandable_segments(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> bool:
    """Say whether the allocator of a process that is given `cuda_environment` has expandable segments."""
    told = dict(environ) | cuda_environment(environ, platform)
    options = next((told[name] for name in _NAMES if told.get(name)), "")
    chosen = dict(option.strip().split(":", 1) for option in options.split(",") if ":" in option)
    return chosen.get(_SETTING, "False").strip() == "True"
