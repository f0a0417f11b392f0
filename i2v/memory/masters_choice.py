"""Decides how weights that are not on the card are kept in main memory, from figures alone.

One rule for the forecast and for the run. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from i2v.machine.devices import machine_memory

__all__ = ["MARGIN_BYTES", "MasterMemory", "MastersChoice", "choose_masters"]

_GIB = 1 << 30
MARGIN_BYTES = 2 * _GIB  # for Python, torch, the frames, the desktop: pinned memory cannot be swapped out to make room


class MasterMemory(StrEnum):
    """How the masters of weights are kept in main memory."""

    PINNED = "pinned"  # the card fetches them by itself, while it computes
    MAPPED = "mapped"  # they stay in their files, and pass through a small pinned ring
    UNPINNED = "unpinned"  # in ordinary memory: nothing is fetched ahead


@dataclass(frozen=True)
class MastersChoice:
    """A way to keep masters, with the reason in words."""

    memory: MasterMemory
    reason: str


def choose_masters(
    needed_bytes: int,
    free_ram_bytes: int | None = None,
    *,
    from_files: bool,
    to_card: bool = True,
    margin_bytes: int = MARGIN_BYTES,
) -> MastersChoice:
    """Choose how `needed_bytes` of weights are kept in main memory.

    `free_ram_bytes`: free, and what these very weights hold already; as the machine is now where it is not given.
    `from_files`: whether the weights can stay memory-mapped in their safetensors files. `to_card`: whether they are
    brought to a card; for a computer without one nothing is gained by pinning.
    """
    if not to_card:
        kept = MasterMemory.MAPPED if from_files else MasterMemory.UNPINNED
        return MastersChoice(kept, "there is no card that could fetch weights by itself")
    free = machine_memory().available_bytes if free_ram_bytes is None else free_ram_bytes
    sizes = f"{needed_bytes / _GIB:.1f} GiB of weights and {margin_bytes / _GIB:.1f} GiB to spare"
    if needed_bytes + margin_bytes <= free:
        return MastersChoice(MasterMemory.PINNED, f"{sizes} fit in {free / _GIB:.1f} GiB of free RAM")
    too_much = f"{sizes} do not fit in {free / _GIB:.1f} GiB of free RAM"
    if from_files:
        return MastersChoice(MasterMemory.MAPPED, f"{too_much}, so they are read from their files as they are needed")
    return MastersChoice(MasterMemory.UNPINNED, f"{too_much} that could be pinned")
