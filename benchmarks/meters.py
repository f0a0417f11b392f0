"""Measures what tensors take of a card, and makes a card smaller: a real one, or the CPU standing for one.

On a card torch's own allocator is asked and limited. On the CPU storage is counted
(i2v.memory.forecast.count), and an operation that goes over the limit runs out of memory as it would on a card. Knows
nothing of models.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from i2v.memory.forecast.count import LiveStorage

__all__ = ["CardMeter", "CountingMeter", "Meter"]


class Meter(Protocol):
    """Where peaks come from: those since `restart`.

    `watching` sees operations; what the modules hold at its begin is in main memory and counts nothing. Within
    `limited`, tensors that take more run out of memory.
    """

    device: str

    def watching(self, modules: Iterable[nn.Module]) -> AbstractContextManager[None]: ...
    def limited(self, tensor_bytes: int) -> AbstractContextManager[None]: ...
    def restart(self) -> None: ...
    def peak_bytes(self) -> int: ...
    def now_s(self) -> float:
        """Return the time, once everything that was started is done."""


class CardMeter:
    """The first CUDA card, as the engine uses it."""

    device = "cuda:0"

    @contextmanager
    def watching(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        with torch.inference_mode():
            yield

    @contextmanager
    def limited(self, tensor_bytes: int) -> Iterator[None]:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, tensor_bytes / total), 0)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, 0)

    def restart(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(0)

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(0)

    def now_s(self) -> float:
        torch.cuda.synchronize()
        return time.perf_counter()


class CountingMeter:
    """The CPU in a card's place: plans take "cpu:0" for a card, and weights are really copied to it and dropped.

    Only the way back is none: weights that were resident stay where they are, and go on counting.
    """

    device = "cpu:0"

    def __init__(self) -> None:
        self._counter = _Limited()

    @contextmanager
    def watching(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        self._counter = _Limited()
        for module in modules:
            self._counter.adopt(*module.parameters(), *module.buffers())
        # Not inference mode, in which an operation made of others is seen as one, without what it allocates inside.
        with torch.no_grad(), self._counter:
            yield

    @contextmanager
    def limited(self, tensor_bytes: int) -> Iterator[None]:
        self._counter.limit_bytes = tensor_bytes
        try:
            yield
        finally:
            self._counter.limit_bytes = math.inf

    def restart(self) -> None:
        self._counter.peak_bytes = self._counter.live_bytes

    def peak_bytes(self) -> int:
        return self._counter.peak_bytes

    def now_s(self) -> float:
        return time.perf_counter()


class _Limited(LiveStorage):
    """Counts, and runs out of memory above a limit."""

    def __init__(self) -> None:
        super().__init__()
        self.limit_bytes = math.inf

    def adopt(self, *tensors: torch.Tensor) -> None:
        super().adopt(*tensors)
        for tensor in tensors:  # whoever has its address later is not adopted
            storage = tensor.untyped_storage()
            weakref.finalize(storage, self._known.discard, storage._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = super().__torch_dispatch__(func, types, args, kwargs)
        if self.live_bytes > self.limit_bytes:
            raise torch.OutOfMemoryError("the CPU stands for a card whose memory ran out")
        return output
