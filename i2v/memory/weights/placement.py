"""Keeps a model's weights where the plan wants them: on the device, one component at a time, or block by block.

Knows components by name; nothing of what they compute. Moving from one way to another is possible at any time between
two calls, also in the middle of denoising: a component that is in use stays usable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from i2v.machine.devices import machine_memory
from i2v.memory.residency import Home, Residency
from i2v.memory.weights.parked import LayerStream, LeafStream, ParkedWeights, stream_leaves, weight_bytes

__all__ = ["Placement", "Streamable"]


@dataclass(frozen=True)
class Streamable:
    """A component: its blocks in the order they run, none to stream it leaf by leaf, and how many it needs at once."""

    module: nn.Module
    blocks: Sequence[nn.Module] = ()
    held_at_once: int = 1


class Placement:
    """Where the components' weights are."""

    def __init__(self, components: Mapping[str, Streamable], device: torch.device):
        self._components, self._device = dict(components), device
        self._residencies: dict[str, Residency | None] = dict.fromkeys(components)  # None: not placed yet
        self._in_turns: dict[str, ParkedWeights] = {}
        self._leaves: dict[str, LeafStream] = {}
        self._streams: dict[str, LayerStream] = {}
        self._in_use: set[str] = set()

    def stream(self, name: str) -> LayerStream | None:
        """Return what brings a component's blocks while it is streamed."""
        return self._streams.get(name)

    def arrange(self, residencies: Mapping[str, Residency]) -> None:
        """Put the weights where a plan wants them; components that stay as they are are not touched."""
        for name, residency in residencies.items():
            if name in self._components and residency != self._residencies[name]:
                self._release(name)
                self._residencies[name] = residency
                self._place(name, residency)

    def _place(self, name: str, residency: Residency) -> None:
        component = self._components[name]
        if residency.home is Home.RESIDENT:
            component.module.to(self._device)
            return
        pin = self._pins()
        if residency.home is Home.TURNS:
            self._in_turns[name] = ParkedWeights(component.module, self._device, pin=pin)
            if name in self._in_use:
                self._in_turns[name].bring()
        elif component.blocks:
            self._streams[name] = LayerStream(
                component.blocks, self._device, pin=pin, prefetch=pin, held_at_once=component.held_at_once
            )
        else:
            self._leaves[name] = stream_leaves(component.module, self._device, pin)

    @contextmanager
    def in_use(self, name: str) -> Iterator[None]:
        """Have a component's weights at hand within."""
        self._in_use.add(name)
        try:
            if name in self._in_turns:
                self._in_turns[name].bring()
            yield
        finally:
            self._in_use.discard(name)
            self.drop(name)

    def bring(self, name: str) -> None:
        """Have a component's weights at hand until `drop`."""
        self._in_use.add(name)
        if name in self._in_turns:
            self._in_turns[name].bring()

    def drop(self, name: str) -> None:
        """Take a component's weights from the device, what was fetched ahead of them too."""
        self._in_use.discard(name)
        if name in self._in_turns:
            self._in_turns[name].drop()
        if name in self._streams:
            self._streams[name].release()

    def _release(self, name: str) -> None:
        """Take turns and streams of a component away; every weight that was parked is in main memory then."""
        if name in self._streams:
            self._streams.pop(name).release()
        if name in self._leaves:
            self._leaves.pop(name).remove()
        if name in self._in_turns:
            self._in_turns.pop(name).drop()

    def _pins(self) -> bool:
        """Pinned memory cannot be swapped out: only where twice the weights would still fit."""
        needed = sum(weight_bytes(component.module) for component in self._components.values())
        return self._device.type == "cuda" and 2 * needed < machine_memory().available_bytes
