"""Keeps a model's weights where the plan wants them: on the device, one component at a time, or block by block.

Knows components by name; nothing of what they compute. Moving from one way to another is possible at any time between
two calls, also in the middle of denoising: a component that is in use stays usable. When memory runs out on the way,
what was being placed is in main memory as a whole, and `arrange` can be called again with less.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from i2v.machine.devices import machine_memory
from i2v.memory.masters_choice import MasterMemory, choose_masters
from i2v.memory.residency import Home, Residency
from i2v.memory.weights.block_stream import BlockStream
from i2v.memory.weights.leaf_stream import LeafStream
from i2v.memory.weights.mapped import is_mapped, wished_dtype
from i2v.memory.weights.masters import MainMemory, as_weight, brought_sizes, rebuilt
from i2v.memory.weights.parked import ParkedWeights

__all__ = ["Placement", "Streamable"]

_log = logging.getLogger(__name__)

_RING_SLAB_BYTES = 256 << 20  # of a component without blocks; those that have some make it as large as a block


@dataclass(frozen=True)
class Streamable:
    """A component: its blocks in the order they run, none to stream it leaf by leaf, and how many it needs at once."""

    module: nn.Module
    blocks: Sequence[nn.Module] = ()
    held_at_once: int = 1


_InFile = tuple[dict[str, Any], str, Tensor]  # a place in a module, and the mapped weight that belongs there


class Placement:
    """Where the components' weights are."""

    def __init__(self, components: Mapping[str, Streamable], device: torch.device):
        self._components, self._device = dict(components), device
        self._residencies: dict[str, Residency | None] = dict.fromkeys(components)  # None: not placed yet
        self._whole: dict[str, ParkedWeights] = {}
        self._streams: dict[str, BlockStream | LeafStream] = {}
        self._in_files: dict[str, list[_InFile]] = {}  # as found when first placed: what is loaded may be rounded first
        self._pinned: dict[str, MainMemory] = {}
        self._unpinned = MainMemory(False)
        self._in_use: list[str] = []  # the last one has its turn

    def stream(self, name: str) -> BlockStream | None:
        """Return what brings a component's blocks while it is streamed."""
        stream = self._streams.get(name)
        return stream if isinstance(stream, BlockStream) else None

    # Arranging

    def arrange(self, residencies: Mapping[str, Residency], from_disk: bool = False) -> None:
        """Put the weights where a plan wants them; components that stay as they are are not touched.

        What leaves the device goes first. `from_disk`: what lies in mapped files stays there, whatever RAM is free.
        Raises what bringing weights raises, such as torch.OutOfMemoryError.
        """
        changed = {
            name: residency
            for name, residency in residencies.items()
            if name in self._components and residency != self._residencies[name] and not self._kept(name, residency)
        }
        for name in changed:
            self._release(name)
            if name not in self._in_files:
                self._in_files[name] = list(_in_files(self._components[name].module))
        away = [name for name, residency in changed.items() if residency.home is not Home.RESIDENT]
        self._choose_memory(away, from_disk)
        for name, residency in sorted(changed.items(), key=lambda item: item[1].home is Home.RESIDENT):
            self._place(name, residency)
            self._residencies[name] = residency
        if self._in_use and self._in_use[-1] in changed:
            self._give_turn(self._in_use[-1])

    def _kept(self, name: str, residency: Residency) -> bool:
        """Change only how many blocks stay, if that is all that a change of residency means."""
        now, stream = self._residencies[name], self.stream(name)
        if now is None or now.home is not residency.home or stream is None:
            return False
        stream.set_keep(residency.keep)
        self._residencies[name] = residency
        return True

    def _place(self, name: str, residency: Residency) -> None:
        component = self._components[name]
        module, memory = component.module, self._pinned.get(name, self._unpinned)
        if residency.home is Home.RESIDENT:
            self._settle(name, module)
        elif residency.home is Home.TURNS:
            self._whole[name] = ParkedWeights(module, self._device, pin=memory)
            memory.expect(min(_RING_SLAB_BYTES, self._whole[name].slab_bytes))
        elif component.blocks:
            self._streams[name] = BlockStream(
                module,
                component.blocks,
                self._device,
                pin=memory,
                prefetch=self._device.type != "cpu",  # which would gain nothing by it
                keep=residency.keep,
                held_at_once=component.held_at_once,
            )
        else:
            self._streams[name] = leaves = LeafStream(module, self._device, pin=memory)
            memory.expect(min(_RING_SLAB_BYTES, leaves.largest_bytes))

    def _settle(self, name: str, module: nn.Module) -> None:
        """Have a component on the device for good."""
        if not self._in_files[name]:
            _move(module, self._device)
        elif any(weight.device != self._device or wished_dtype(weight) != weight.dtype for weight in _weights(module)):
            parked = ParkedWeights(module, self._device, pin=self._unpinned)  # its files stay its masters
            parked.bring()
            self._whole[name] = parked

    def _release(self, name: str) -> None:
        """Take turns and streams of a component away; every weight that was parked is in main memory then."""
        self._residencies[name] = None
        if name in self._streams:
            self._streams.pop(name).remove()
        if name in self._whole:
            self._whole.pop(name).drop()

    def _choose_memory(self, names: Sequence[str], from_disk: bool) -> None:
        """Choose how the masters of components that leave the device are kept; those that are pinned stay so."""
        for name in self._pinned.keys() - names:
            if self._residencies[name] is None:
                self._leave_pinned(name)
        new = [name for name in names if name not in self._pinned]
        weights = [weight for name in new for weight in _weights(self._components[name].module)]
        if not weights:
            return
        here = sum(brought_sizes(w for w in weights if w.device.type == "cpu" and not is_mapped(w)))
        choice = choose_masters(
            sum(brought_sizes(weights)),
            0 if from_disk else machine_memory().available_bytes + here,
            from_files=any(self._in_files[name] for name in new),
            to_card=self._device.type == "cuda",
        )
        _log.info("weights of %s are %s: %s", ", ".join(new), choice.memory, choice.reason)
        if choice.memory is MasterMemory.PINNED:
            self._pinned |= {name: MainMemory(True) for name in new}
        elif choice.memory is MasterMemory.MAPPED and self._device.type == "cuda":
            self._unpinned.has_ring = True

    def _leave_pinned(self, name: str) -> None:
        """Forget pinned masters of a component that goes to the device: its files are its masters again, if any."""
        del self._pinned[name]
        for table, key, weight in self._in_files[name]:
            table[key] = weight

    # Turns

    @contextmanager
    def in_use(self, name: str) -> Iterator[None]:
        """Have a component's weights at hand within. Those of any other in turns are away meanwhile."""
        self._in_use.append(name)
        try:
            self._give_turn(name)
            yield
        except BaseException:
            self._end_use(name)
            raise
        self._end_use(name)
        if self._in_use:
            self._give_turn(self._in_use[-1])

    def bring(self, name: str) -> None:
        """Have a component's weights at hand until `drop`; those of any other in turns go."""
        self._give_turn(name)
        if name not in self._in_use:
            self._in_use.append(name)

    def drop(self, name: str) -> None:
        """Take a component's weights from the device, what was fetched ahead of them too, unless it is resident."""
        self._in_use = [used for used in self._in_use if used != name]
        self._take_away(name)

    def _end_use(self, name: str) -> None:
        if name in self._in_use:  # not dropped meanwhile
            at = len(self._in_use) - 1 - self._in_use[::-1].index(name)
            del self._in_use[at]
        if name not in self._in_use:
            self._take_away(name)

    def _give_turn(self, name: str) -> None:
        for other in self._components:
            if other != name:
                self._take_away(other)
        if name in self._whole:
            self._whole[name].bring()
            self._whole[name].arrive()

    def _take_away(self, name: str) -> None:
        residency = self._residencies[name]
        if residency is None or residency.home is Home.RESIDENT:
            return
        if name in self._whole:
            self._whole[name].drop()
        if name in self._streams:
            self._streams[name].release()


def _tables(module: nn.Module) -> Iterator[dict[str, Any]]:
    for part in module.modules():
        yield part._parameters
        yield part._buffers


def _weights(module: nn.Module) -> Iterable[Tensor]:
    return (weight for table in _tables(module) for weight in table.values() if weight is not None)


def _in_files(module: nn.Module) -> Iterator[_InFile]:
    """Yield the places of weights that lie in mapped files, with those weights."""
    for table in _tables(module):
        for name, weight in table.items():
            if weight is not None and is_mapped(weight):
                yield table, name, weight


def _move(module: nn.Module, device: torch.device) -> None:
    """Move a module to a device as a whole or not at all. Raises what taking memory raises."""
    moved: dict[int, Tensor] = {}
    try:
        with torch.no_grad():
            for weight in _weights(module):
                if weight.device != device and id(weight) not in moved:
                    moved[id(weight)] = as_weight(rebuilt(weight, lambda plain: plain.to(device)), weight)
    except BaseException:  # whoever looks at the error must not hold half the weights by it
        moved.clear()
        raise
    for table in _tables(module):
        for name, weight in table.items():
            if weight is not None:
                table[name] = moved.get(id(weight), weight)
