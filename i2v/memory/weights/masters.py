"""Masters: weights in main memory, plain or quantised, pinned where the card is to fetch them by itself.

Takes quantised weights apart into the plain tensors they are made of (torchao's tensor subclasses, bitsandbytes'
parameters), so that whoever copies or counts weights need not know their kinds. Knows nothing of modules in use.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.weak import WeakIdKeyDictionary

from i2v.memory.forecast.count import main_memory

__all__ = ["MainMemory", "as_weight", "bytes_of", "plain_tensors", "rebuilt"]

_log = logging.getLogger(__name__)

_BLOCK_BYTES = 64 << 20
_ALIGNED_BYTES = 512  # as torch's own allocators align


def plain_tensors(weight: Tensor) -> list[Tensor]:
    """Return the tensors that hold a weight's data: itself, or the several that a quantised weight is made of."""
    found: list[Tensor] = []

    def note(plain: Tensor) -> Tensor:
        found.append(plain)
        return plain

    rebuilt(weight, note)
    return found


def bytes_of(weights: Iterable[Tensor]) -> int:
    """Return the bytes that weights take, each counted once."""
    unique = {id(tensor): tensor for tensor in weights}
    return sum(plain.numel() * plain.element_size() for tensor in unique.values() for plain in plain_tensors(tensor))


def rebuilt(weight: Any, place: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a weight of the same kind, with every plain tensor in it replaced by `place(plain)`."""
    if is_traceable_wrapper_subclass(weight):  # torchao
        names, context = weight.__tensor_flatten__()
        inner = {name: rebuilt(getattr(weight, name), place) for name in names}
        wrapped: Tensor = type(weight).__tensor_unflatten__(inner, context, weight.size(), weight.stride())
        return wrapped
    if getattr(weight, "quant_state", None) is None:
        return place(weight.detach())
    with torch._C.DisableTorchFunctionSubclass():  # bitsandbytes: the state says what the packed numbers mean
        packed = place(weight.detach())
    twin = copy.copy(weight)
    twin.data, twin.quant_state = packed, _rebuilt_state(weight.quant_state, place)
    return cast(Tensor, twin)


def _rebuilt_state(state: Any, place: Callable[[Tensor], Tensor]) -> Any:
    """Return a bitsandbytes QuantState with every tensor in it replaced, also in the state nested in it."""
    twin = copy.copy(state)
    for name, value in vars(state).items():
        if isinstance(value, Tensor):
            setattr(twin, name, place(value))
        elif isinstance(value, type(state)):
            setattr(twin, name, _rebuilt_state(value, place))
    return twin


def as_weight(tensor: Tensor, model: Tensor) -> Tensor:
    """Return a tensor as what `model` is to its module: a parameter or a buffer."""
    if isinstance(model, nn.Parameter) and not isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor, requires_grad=False)
    return tensor


def _pinned(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


class MainMemory:
    """Where masters are kept: pinned where that is asked for and possible, so that the card can fetch them by itself.

    Pinned memory is taken in blocks of a power of two, because torch rounds every request up to one: tensor by tensor,
    the weights of I2VGenXLUNet would take a third more than they hold.
    """

    def __init__(self, pin: bool, allocate: Callable[[int], Tensor] = _pinned):
        self.is_pinned, self._allocate = pin, allocate
        self._blocks: list[tuple[Tensor, int]] = []  # with the bytes taken of each
        self._masters = WeakIdKeyDictionary()  # by the tensor they stand for: a tied weight is kept once

    def keep(self, weight: Tensor) -> Tensor:
        """Return the master of a weight: itself when it is where it should be."""
        if not self.is_pinned and weight.device.type in ("cpu", "meta"):
            return weight
        if weight not in self._masters:
            with main_memory(), torch.no_grad():
                self._masters[weight] = as_weight(rebuilt(weight, self._place), weight)
        master: Tensor = self._masters[weight]
        return master

    def _place(self, plain: Tensor) -> Tensor:
        size = plain.numel() * plain.element_size()
        room = self._take(size) if self.is_pinned and size else None
        if room is None:
            return plain.to("cpu")
        return room.view(plain.dtype).view(plain.shape).copy_(plain)

    def _take(self, size: int) -> Tensor | None:
        """Return pinned bytes of the first block that has them left, or of a new one; None when there is no more."""
        at = next((at for at, (block, used) in enumerate(self._blocks) if used + size <= block.numel()), None)
        if at is None:
            try:
                self._blocks.append((self._allocate(max(_BLOCK_BYTES, 1 << (size - 1).bit_length())), 0))
            except RuntimeError as error:  # no CUDA, or no memory left that may be pinned
                self.is_pinned = False
                _log.warning("weights stay in unpinned memory, which is slower: %s", str(error).partition("\n")[0])
                return None
            at = -1
        block, used = self._blocks[at]
        self._blocks[at] = (block, used + math.ceil(size / _ALIGNED_BYTES) * _ALIGNED_BYTES)
        return block[used : used + size]
