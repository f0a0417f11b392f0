"""Pinned memory in large pieces: slabs of any size, and a ring of them that weights from files pass through.

A card copies from pinned memory by itself, while it computes. torch's own pinned memory is rounded up to a power of two
(CachingHostAllocator.h of torch 2.13, `PowerOf2Ceil`): a 14B model of 26.6 GiB would take 40.7. A slab is taken from
the system and pinned in place by cudaHostRegister instead, as torch's own `torch.cuda._pin_memory_utils` does, and is
given back to the system when nothing uses it any more. (torch can be told to round less, `PYTORCH_ALLOC_CONF=
pinned_max_round_threshold_mb`; but that is one setting for the whole process, read before this code runs.)
"""

from __future__ import annotations

import logging
import math
import mmap
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["ALIGNED_BYTES", "Ring", "aligned", "pinned_slab"]

_log = logging.getLogger(__name__)

ALIGNED_BYTES = 512  # as torch's own allocators align
_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every card


def aligned(size: int) -> int:
    """Return a size rounded up so that what follows it is aligned."""
    return math.ceil(size / ALIGNED_BYTES) * ALIGNED_BYTES


class _PinnedPages(mmap.mmap):
    """Pages of this process that are pinned, until nothing uses them any more. Knows only whole slabs."""

    address = 0

    def __del__(self) -> None:
        if self.address and not sys.is_finalizing():  # at the end of the process CUDA gives everything back itself
            torch.cuda.synchronize()  # a copy may still be reading them
            error = torch.cuda.cudart().cudaHostUnregister(self.address)
            if int(error):
                _log.warning("pinned memory could not be given back: CUDA error %s", int(error))


def pinned_slab(size: int) -> Tensor:
    """Return `size` pinned bytes, rounded up to no more than a page. Raises RuntimeError where that is impossible."""
    if not torch.cuda.is_available():
        raise RuntimeError("memory can only be pinned for a card, and there is none")
    try:
        pages = _PinnedPages(-1, size)
    except OSError as error:
        raise RuntimeError(f"there are no {size >> 20} MiB of memory to pin") from error
    slab = torch.frombuffer(pages, dtype=torch.uint8)
    refused = int(torch.cuda.cudart().cudaHostRegister(slab.data_ptr(), size, _PORTABLE))
    if refused:
        _forget_last_error()
        raise RuntimeError(f"{size >> 20} MiB could not be pinned: CUDA error {refused}")
    pages.address = slab.data_ptr()
    return slab


def _forget_last_error() -> None:
    """Have torch meet the error that a refused call left behind, which it would else report at its next kernel."""
    try:
        torch.zeros(1, device="cuda").add_(1)
    except RuntimeError as error:
        _log.debug("CUDA's last error is told: %s", str(error).partition("\n")[0])


class Ring:
    """A few pinned slabs, one after another: weights are copied into them by the CPU and out of them by the card.

    Each slab holds the largest block, so that the next one can be on its way while the one before is still copied.
    Raises RuntimeError when the memory cannot be pinned.
    """

    def __init__(self, slab_bytes: int, allocate: Callable[[int], Tensor] = pinned_slab, slabs: int = 3):
        self._slabs = [allocate(slab_bytes) for _ in range(slabs)]
        self._copied: list[torch.cuda.Event | None] = [None] * slabs
        self._at = 0
        self.slab_bytes = slab_bytes

    def send(self, moves: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Copy each source to its target (target, source), cast where their dtypes differ, on the current stream."""
        used: int | None = None  # of the slab; none as long as this call has none of its own
        try:
            for target, source in moves:
                size = target.numel() * target.element_size()
                if size > self.slab_bytes or not target.is_contiguous():
                    target.copy_(source)
                    continue
                if used is None or used + size > self.slab_bytes:
                    if used is not None:
                        self._note(target.device)
                    self._advance()
                    used = 0
                room = self._slabs[self._at][used : used + size].view(target.dtype).view(target.shape)
                target.copy_(room.copy_(source), non_blocking=True)
                used += aligned(size)
        finally:
            if used is not None:
                self._note(moves[0][0].device)

    def _advance(self) -> None:
        """Go on to the next slab, once what it held is on the card."""
        self._at = (self._at + 1) % len(self._slabs)
        copied = self._copied[self._at]
        if copied is not None:
            copied.synchronize()

    def _note(self, device: torch.device) -> None:
        """Note the moment when the copies out of this slab, all queued on the current stream, are done."""
        if device.type == "cuda":
            self._copied[self._at] = torch.cuda.current_stream(device).record_event()
