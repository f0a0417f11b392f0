"""Masters: weights in main memory, plain or quantised, pinned where the card is to fetch them by itself.

Takes quantised weights apart into the plain tensors they are made of (torchao's tensor subclasses, bitsandbytes'
parameters), so that whoever copies or counts weights need not know their kinds. Knows nothing of modules in use.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.weak import WeakIdKeyDictionary

from i2v.memory.forecast.count import main_memory
from i2v.memory.weights.mapped import is_mapped, wished_dtype
from i2v.memory.weights.slabs import Ring, aligned, pinned_slab

__all__ = ["MainMemory", "as_weight", "brought_sizes", "bytes_of", "plain_tensors", "rebuilt"]

_log = logging.getLogger(__name__)


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


def brought_sizes(weights: Iterable[Tensor]) -> list[int]:
    """Return the bytes of each plain tensor of these weights on the device, as it is wished; each weight once."""
    sizes: list[int] = []
    for weight in {id(weight): weight for weight in weights}.values():
        if is_mapped(weight):
            sizes.append(weight.numel() * wished_dtype(weight).itemsize)
        else:
            sizes += [plain.numel() * plain.element_size() for plain in plain_tensors(weight)]
    return sizes


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


class MainMemory:
    """Where masters are kept: pinned where that is asked for and possible, so that the card can fetch them by itself.

    Pinned masters lie in slabs, one for what is reserved together (a block's weights): no byte more than they hold and
    what aligns them. `with_ring`: masters stay where they are (in their files) and pass through a small pinned ring.
    Where memory cannot be pinned, a log line says so and everything works without.
    """

    def __init__(
        self, pin: bool, allocate: Callable[[int], Tensor] = pinned_slab, *, with_ring: bool = False, slabs: int = 3
    ):
        self.is_pinned, self.has_ring, self._allocate, self._slabs_in_ring = pin, with_ring, allocate, slabs
        self._slabs: list[tuple[Tensor, int]] = []  # with the bytes taken of each
        self._masters = WeakIdKeyDictionary()  # by the tensor they stand for: a tied weight is kept once
        self._settled = WeakIdKeyDictionary()  # the masters themselves, and what is never pinned
        self._ring: Ring | None = None

    @property
    def lets_the_card_fetch(self) -> bool:
        """Whether copies to the card run by themselves, so that fetching ahead does not keep the CPU waiting."""
        return self.is_pinned or self.has_ring

    def reserve(self, weights: Iterable[Tensor]) -> None:
        """Take one slab for these weights together, unless they are here already or a slab has room for them."""
        size = sum(map(aligned, brought_sizes(weight for weight in weights if not self._is_here(weight))))
        if self.is_pinned and size and self._room(size) is None:
            self._add_slab(size)

    def leave_unpinned(self, weight: Tensor) -> None:
        """Never pin this weight, as it is never brought to the card."""
        self._settled[weight] = True

    def keep(self, weight: Tensor) -> Tensor:
        """Return the master of a weight: itself when it is where it should be."""
        on_cpu = weight.device.type in ("cpu", "meta")
        if on_cpu and (not self.is_pinned or weight in self._settled):
            return weight
        if weight not in self._masters:
            place = _to_cpu if weight in self._settled else self._placing(wished_dtype(weight), is_mapped(weight))
            with main_memory(), torch.no_grad():
                master = as_weight(rebuilt(weight, place), weight)
            if on_cpu and not self.is_pinned:  # not any more
                return weight
            self._masters[weight] = master
            self._settled[master] = True
        found: Tensor = self._masters[weight]
        return found

    def expect(self, block_bytes: int) -> None:
        """Make the ring, if there is to be one, large enough for blocks of this size."""
        if not self.has_ring or (self._ring is not None and self._ring.slab_bytes >= block_bytes) or not block_bytes:
            return
        self._ring = None  # before a larger one is made
        try:
            self._ring = Ring(block_bytes, self._allocate, self._slabs_in_ring)
        except RuntimeError as error:
            self.has_ring = False
            _tell_that_nothing_is_pinned(error)

    def send(self, moves: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Copy masters to the device, as (target, master), on the current stream."""
        if self._ring is not None:
            self._ring.send(moves)
            return
        for target, master in moves:
            target.copy_(master, non_blocking=self.is_pinned)

    def _is_here(self, weight: Tensor) -> bool:
        return weight in self._masters or weight in self._settled

    def _placing(self, wished: torch.dtype, casts: bool) -> Callable[[Tensor], Tensor]:
        def place(plain: Tensor) -> Tensor:
            dtype = wished if casts else plain.dtype
            size = plain.numel() * dtype.itemsize
            room = self._take(size) if self.is_pinned and size else None
            if room is None:
                return plain.to("cpu")
            return room.view(dtype).view(plain.shape).copy_(plain)

        return place

    def _take(self, size: int) -> Tensor | None:
        """Return pinned bytes of the first slab that has them left, or of a new one; None when there is no more."""
        at = self._room(size)
        if at is None:
            self._add_slab(aligned(size))
            at = self._room(size)
        if at is None:
            return None
        slab, used = self._slabs[at]
        self._slabs[at] = (slab, used + aligned(size))
        return slab[used : used + size]

    def _room(self, size: int) -> int | None:
        return next((at for at, (slab, used) in enumerate(self._slabs) if used + size <= slab.numel()), None)

    def _add_slab(self, size: int) -> None:
        try:
            self._slabs.append((self._allocate(size), 0))
        except RuntimeError as error:  # no CUDA, or no memory left that may be pinned
            self.is_pinned = False
            _tell_that_nothing_is_pinned(error)


def _tell_that_nothing_is_pinned(error: RuntimeError) -> None:
    _log.warning("weights stay in unpinned memory, which is slower: %s", str(error).partition("\n")[0])


def _to_cpu(plain: Tensor) -> Tensor:
    return plain.to("cpu")
