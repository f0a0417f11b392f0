"""Keeps the numbers of the few small tensors whose data the code asks for: timesteps, noise levels, indices.

A fake tensor has no data. Where all inputs of an operation are small and known (made from Python's or numpy's
numbers), the operation is done once more on the CPU, and the result remembered beside the fake one; views share their
numbers as they share their memory. What is random or large, or was written with something unknown, is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._pytree import tree_map

__all__ = ["MOST_NUMBERS", "Values"]

MOST_NUMBERS = 4096  # of a tensor that can be known
_aten = torch.ops.aten
_NO_NUMBERS = {
    _aten.empty.memory_format, _aten.empty_strided.default, _aten.empty_like.default, _aten.new_empty.default,
    _aten.new_empty_strided.default,
}  # fmt: skip


class Values:
    """The numbers that are known. Memory is named by its storage's address, as in card.py."""

    def __init__(self) -> None:
        self._unknown: set[int] = set()  # memory that was written with unknown numbers

    def known(self, tensor: Tensor) -> Tensor | None:
        """Return the numbers of a tensor on the CPU, or None where they are not known."""
        if isinstance(tensor, FakeTensor):
            numbers: Tensor | None = getattr(tensor, "_rehearsed_numbers", None)
        else:
            numbers = tensor if tensor.numel() <= MOST_NUMBERS and tensor.device.type == "cpu" else None
        if numbers is None or tensor.untyped_storage()._cdata in self._unknown:
            return None
        return numbers

    def learn(self, tensor: Any, numbers: Any) -> None:
        """Remember the numbers of a fake tensor, where there are any."""
        if isinstance(tensor, FakeTensor) and isinstance(numbers, Tensor) and tensor.numel() <= MOST_NUMBERS:
            tensor._rehearsed_numbers = numbers  # type: ignore[attr-defined]

    def forget(self, memory: int) -> None:
        """Note that memory was given back, so that its name may come again."""
        self._unknown.discard(memory)

    def result(self, func: Any, given: Sequence[Tensor], written: Sequence[Tensor], args: Any, kwargs: Any) -> Any:
        """Return what an operation gives for known numbers, and do what it does to them; None where that is unknown."""
        known = func not in _NO_NUMBERS and torch.Tag.nondeterministic_seeded not in func.tags
        if not known or any(self.known(tensor) is None for tensor in given):
            self._unknown |= {tensor.untyped_storage()._cdata for tensor in written}
            return None

        def on_cpu(leaf: Any) -> Any:
            if isinstance(leaf, Tensor):
                return self.known(leaf)
            return torch.device("cpu") if isinstance(leaf, torch.device) else leaf

        args, kwargs = tree_map(on_cpu, (args, kwargs))
        with unset_fake_temporarily():
            return func(*args, **kwargs)
