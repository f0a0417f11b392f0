"""Counts the memory that tensors take, operation by operation: on real tensors, or on fake ones that hold no data.

What is counted is storage: a view costs nothing, two tensors on one storage count once, and a storage counts until the
last tensor on it is gone. Memory that an operation takes and gives back inside itself is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LiveStorage", "main_memory"]

_in_main_memory: ContextVar[bool] = ContextVar("in_main_memory", default=False)


@contextmanager
def main_memory() -> Iterator[None]:
    """Mark what is allocated inside as main memory on purpose: `LiveStorage` does not count it."""
    token = _in_main_memory.set(True)
    try:
        yield
    finally:
        _in_main_memory.reset(token)


class LiveStorage(TorchDispatchMode):
    """Context manager that counts the bytes of every storage that operations make inside it.

    `log` lists what happened: (number, bytes) when a storage came, (number, 0) when it went.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes, self.peak_bytes = 0, 0
        self.log: list[tuple[int, int]] = []
        self._known: set[int] = set()
        self._made = 0

    def adopt(self, *tensors: torch.Tensor) -> None:
        """Exclude these tensors (weights, inputs) from the count."""
        self._known |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return output

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        counted = 0 if _in_main_memory.get() else size
        number, self._made = self._made, self._made + 1
        self.live_bytes += counted
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.log.append((number, counted))
        weakref.finalize(storage, self._gone, key, number, counted)

    def _gone(self, key: int, number: int, counted: int) -> None:
        self._known.discard(key)
        self.live_bytes -= counted
        self.log.append((number, 0))
