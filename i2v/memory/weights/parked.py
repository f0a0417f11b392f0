"""Where weights live: in main memory, and on the device only for as long as they are needed.

The tensors in main memory are the masters: nothing writes to them, and what is brought to the device is a copy that is
forgotten afterwards. A copy takes its master's place in the module itself, so the model's own code runs unchanged, with
quantised weights too, and with diffusers' layerwise casting (which casts the copy). For inference only: copies ask for
no gradient, and what a forward writes into a buffer is lost.

Tensors that are neither parameters nor buffers stay where they are. Knows nothing of models or plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from i2v.memory.weights.mapped import is_mapped, read_ahead, wished_dtype
from i2v.memory.weights.masters import MainMemory, as_weight, brought_sizes, rebuilt
from i2v.memory.weights.slabs import aligned

__all__ = ["ParkedWeights", "main_memory_for", "weight_bytes"]

_SLAB_BYTES = 1 << 30  # a whole component is pinned in slabs of this size; what a block holds is far less


def weight_bytes(module: nn.Module) -> int:
    """Return the bytes that a module's parameters and buffers really take, quantised ones included.

    Weights that lie in a file count as they are wished.
    """
    return sum(brought_sizes(chain(module.parameters(), module.buffers())))


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


def main_memory_for(device: torch.device, pin: bool | MainMemory) -> MainMemory:
    """Return the main memory that keeps masters for a device: the one that is given, or a new one."""
    return pin if isinstance(pin, MainMemory) else MainMemory(pin and device.type == "cuda")


def _in_slabs(places: Sequence[tuple[dict[str, Any], str]]) -> Iterator[list[tuple[dict[str, Any], str]]]:
    """Yield places in groups whose weights go into one slab."""
    group: list[tuple[dict[str, Any], str]] = []
    size = 0
    for table, name in places:
        more = sum(brought_sizes([table[name]]))
        if group and size + more > _SLAB_BYTES:
            yield group
            group, size = [], 0
        group.append((table, name))
        size += more
    yield group


class ParkedWeights:
    """The weights of one module, kept in main memory and brought to the device for as long as they are needed.

    `own_only`: not those of its children. `pin`: whether masters are pinned, or the memory that keeps them. `nbytes` is
    what the weights take on the device, `slab_bytes` in pinned memory, aligned.
    """

    def __init__(
        self, module: nn.Module, device: torch.device | str, *, own_only: bool = False, pin: bool | MainMemory = False
    ):
        self._device = torch.device(device)
        self._memory = main_memory_for(self._device, pin)
        places = [
            (table, name)
            for table in _tables([module] if own_only else module.modules())
            for name, weight in table.items()
            if weight is not None
        ]
        self._slots = [slot for group in _in_slabs(places) for slot in self._kept(group)]
        sizes = brought_sizes(slot.master for slot in self._slots)
        self.nbytes, self.slab_bytes = sum(sizes), sum(map(aligned, sizes))
        self._is_here = False
        self._arrival: torch.cuda.Event | None = None

    def _kept(self, places: Sequence[tuple[dict[str, Any], str]]) -> Iterator[_Slot]:
        """Put masters in these places at once, so that what they stand for is not held twice."""
        self._memory.reserve(table[name] for table, name in places)
        for table, name in places:
            table[name] = master = self._memory.keep(table[name])
            yield _Slot(table, name, master)

    @property
    def is_pinned(self) -> bool:
        """Whether the masters are pinned."""
        return self._memory.is_pinned

    @property
    def is_here(self) -> bool:
        """Whether the weights are on the device, or on their way there."""
        return self._is_here

    def bring(self, stream: torch.cuda.Stream | None = None) -> None:
        """Put copies on the device in the masters' place. With a `stream` they are on their way when this returns.

        Memory is always taken on the current stream, and the side stream waits for what is queued there before it
        writes: so the memory of a layer that was dropped may be used at once, while kernels that read it are still
        queued, and weights never pile up, however far the CPU runs ahead. `record_stream` would promise neither.
        """
        if self._is_here:
            return
        moves: list[tuple[Tensor, Tensor]] = []

        def placing(wished: torch.dtype, casts: bool) -> Callable[[Tensor], Tensor]:
            def place(plain: Tensor) -> Tensor:
                target = torch.empty_like(plain, device=self._device, dtype=wished if casts else plain.dtype)
                moves.append((target, plain))
                return target

            return place

        copies: dict[int, Tensor] = {}
        try:
            with torch.no_grad():
                for master in (slot.master for slot in self._slots):
                    if id(master) not in copies:
                        place = placing(wished_dtype(master), is_mapped(master))
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
            self._memory.send(moves)
        self._arrival = None if stream is None else stream.record_event()

    def arrive(self) -> None:
        """Have the current stream wait for copies that are still on their way."""
        if self._arrival is not None:
            torch.cuda.current_stream(self._device).wait_event(self._arrival)
            self._arrival = None

    def read_ahead(self) -> None:
        """Have masters that lie in files read from disk in the background."""
        for slot in self._slots:
            read_ahead(slot.master)

    def drop(self) -> None:
        """Put the masters back and forget the copies, whatever has become of them."""
        if self._is_here:
            self.arrive()  # or their memory might be used again while they are still being written
            self._put({})
            self._is_here = False

    def _put(self, copies: dict[int, Tensor]) -> None:
        for slot in self._slots:
            slot.table[slot.name] = copies.get(id(slot.master), slot.master)
