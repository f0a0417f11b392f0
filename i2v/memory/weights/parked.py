"""Where weights live: in main memory, and on the device only for as long as they are needed.

The tensors in main memory are the masters: nothing writes to them, and what is brought to the device is a copy that is
forgotten afterwards. A copy takes its master's place in the module itself, so the model's own code runs unchanged, with
quantised weights too, and with diffusers' layerwise casting (which casts the copy). For inference only: copies ask for
no gradient, and what a forward writes into a buffer is lost.

Tensors that are neither parameters nor buffers stay where they are. Knows nothing of models or plans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from i2v.memory.weights.masters import MainMemory, as_weight, bytes_of, rebuilt

__all__ = ["LayerStream", "LeafStream", "ParkedWeights", "stream_leaves", "weight_bytes"]

# Their forward reads the weights of children that are never called, so the children are brought with them.
_READS_ITS_CHILDREN = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def weight_bytes(module: nn.Module) -> int:
    """Return the bytes that a module's parameters and buffers really take, quantised ones included."""
    return bytes_of(chain(module.parameters(), module.buffers()))


@dataclass(frozen=True)
class _Slot:
    """One place in a module that holds a weight."""

    table: dict[str, Any]
    name: str
    master: Tensor


def _tables(parts: Iterable[nn.Module]) -> Iterator[dict[str, Any]]:
    for part in parts:
        yield part._parameters
        yield part._buffers


class ParkedWeights:
    """The weights of one module, kept in main memory and brought to the device for as long as they are needed.

    `own_only`: not those of its children. `pin`: whether masters are pinned, or the memory that keeps them.
    """

    def __init__(
        self, module: nn.Module, device: torch.device | str, *, own_only: bool = False, pin: bool | MainMemory = False
    ):
        self._device = torch.device(device)
        memory = pin if isinstance(pin, MainMemory) else MainMemory(pin and self._device.type == "cuda")
        parts = [module] if own_only else list(module.modules())
        self._slots = [
            _Slot(table, name, memory.keep(weight))
            for table in _tables(parts)
            for name, weight in table.items()
            if weight is not None
        ]
        self.is_pinned = memory.is_pinned
        self.nbytes = bytes_of(slot.master for slot in self._slots)
        self._is_here = False
        self._arrival: torch.cuda.Event | None = None
        self._put({})

    def bring(self, stream: torch.cuda.Stream | None = None) -> None:
        """Put copies on the device in the masters' place. With a `stream` they are on their way when this returns.

        Memory is always taken on the current stream, and the side stream waits for what is queued there before it
        writes: so the memory of a layer that was dropped may be used at once, while kernels that read it are still
        queued, and weights never pile up, however far the CPU runs ahead. `record_stream` would promise neither.
        """
        if self._is_here:
            return
        moves: list[tuple[Tensor, Tensor]] = []

        def place(plain: Tensor) -> Tensor:
            target = torch.empty_like(plain, device=self._device)
            moves.append((target, plain))
            return target

        copies: dict[int, Tensor] = {}
        try:
            with torch.no_grad():
                for master in (slot.master for slot in self._slots):
                    if id(master) not in copies:
                        copies[id(master)] = as_weight(rebuilt(master, place), master)
                self._copy(moves, stream)
        except BaseException:  # out of memory: whoever looks at the error must not hold half the weights by it
            copies.clear()
            moves.clear()
            raise
        self._put(copies)
        self._is_here = True

    def _copy(self, moves: list[tuple[Tensor, Tensor]], stream: torch.cuda.Stream | None) -> None:
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(self._device))
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            for target, plain in moves:
                target.copy_(plain, non_blocking=self.is_pinned)
        self._arrival = None if stream is None else stream.record_event()

    def arrive(self) -> None:
        """Have the current stream wait for copies that are still on their way."""
        if self._arrival is not None:
            torch.cuda.current_stream(self._device).wait_event(self._arrival)
            self._arrival = None

    def drop(self) -> None:
        """Put the masters back and forget the copies, whatever has become of them."""
        if self._is_here:
            self.arrive()  # or their memory might be used again while they are still being written
            self._put({})
            self._is_here = False

    def _put(self, copies: dict[int, Tensor]) -> None:
        for slot in self._slots:
            slot.table[slot.name] = copies.get(id(slot.master), slot.master)


class LayerStream:
    """Brings one layer at a time, in a known order, and fetches the next one meanwhile.

    `layers` come in this order, again and again. On a card the next one is copied by a side stream, from pinned memory;
    without pinned memory nothing is fetched ahead, as the copy would keep the CPU waiting. On a CPU, where tests and
    tracers run, fetching ahead is done at once. `held_at_once`: how many layers the caller ever holds, one within
    another, and `largest_bytes` is the most weights on the device then, before any casting.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        device: torch.device | str,
        *,
        pin: bool,
        prefetch: bool,
        held_at_once: int = 1,
    ):
        is_cuda = torch.device(device).type == "cuda"
        memory = MainMemory(pin and is_cuda)
        self._parked = {layer: ParkedWeights(layer, device, pin=memory) for layer in layers}
        self._following = dict(zip(layers, (*layers[1:], *layers[:1]), strict=True))
        self._prefetches = prefetch and (memory.is_pinned or not is_cuda)
        self._side = torch.cuda.Stream(device) if self._prefetches and is_cuda else None
        self._depth: Counter[nn.Module] = Counter()
        self._ahead: nn.Module | None = None
        sizes = [parked.nbytes for parked in self._parked.values()]
        together = min(len(sizes), held_at_once + self._prefetches)
        self.largest_bytes = max((sum((sizes + sizes)[at : at + together]) for at in range(len(sizes))), default=0)

    @contextmanager
    def held(self, layer: nn.Module) -> Iterator[None]:
        """Within it the layer's weights are on the device. Does nothing for a module that is not among the layers."""
        if layer not in self._parked:
            yield
            return
        self._depth[layer] += 1
        try:
            if self._depth[layer] == 1:
                self._fetch(layer)
            yield
        except BaseException:
            self._drop_ahead()
            raise
        finally:
            self._depth[layer] -= 1
            if not self._depth[layer]:
                self._parked[layer].drop()

    def _fetch(self, layer: nn.Module) -> None:
        if self._ahead is not layer:
            self._drop_ahead()
        self._ahead = None
        self._parked[layer].bring()
        self._parked[layer].arrive()
        following = self._following[layer]
        if self._prefetches and not self._depth[following]:
            self._ahead = following
            self._parked[following].bring(self._side)

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._parked[self._ahead].drop()
            self._ahead = None

    def release(self) -> None:
        """Have everything back in main memory, what was fetched ahead too."""
        self._ahead = None
        for parked in self._parked.values():
            parked.drop()


class LeafStream:
    """Brings the weights of every submodule for the time of its own forward, until `remove` is called.

    `largest_bytes` is the most weights on the device at one time.
    """

    def __init__(self, module: nn.Module, device: torch.device | str, *, pin: bool):
        memory = MainMemory(pin and torch.device(device).type == "cuda")
        self._parked = {
            part: ParkedWeights(part, device, own_only=not isinstance(part, _READS_ITS_CHILDREN), pin=memory)
            for part in _called_parts(module)
        }
        self._hooks = []
        for part, parked in self._parked.items():
            if parked.nbytes:
                self._hooks.append(part.register_forward_pre_hook(_bringing(parked)))
                self._hooks.append(part.register_forward_hook(_dropping(parked), always_call=True))
        self.largest_bytes = self._largest(module)

    def _largest(self, part: nn.Module) -> int:
        """Return the most bytes on the device during a part's forward: its own, and those of one path below it."""
        below = [] if isinstance(part, _READS_ITS_CHILDREN) else [self._largest(child) for child in part.children()]
        return self._parked[part].nbytes + max(below, default=0)

    def remove(self) -> None:
        """Take the hooks away; the weights stay in main memory."""
        for hook in self._hooks:
            hook.remove()
        for parked in self._parked.values():
            parked.drop()


def stream_leaves(module: nn.Module, device: torch.device | str, pin: bool) -> LeafStream:
    """Keep a module's weights in main memory and bring each submodule's own for the time of its forward.

    For modules of which every part is called through its forward, wherever from: the encoders and the autoencoder.
    Whoever reads a weight without calling its module finds the master: so `module.device` is the CPU.
    """
    return LeafStream(module, device, pin=pin)


def _called_parts(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    if not isinstance(module, _READS_ITS_CHILDREN):
        for child in module.children():
            yield from _called_parts(child)


def _bringing(parked: ParkedWeights) -> Callable[..., None]:
    return lambda *_: parked.bring()


def _dropping(parked: ParkedWeights) -> Callable[..., None]:
    return lambda *_: parked.drop()
