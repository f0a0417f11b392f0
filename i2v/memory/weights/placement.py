"""Keeps a pipeline's weights where the plan wants them: all on the device, one component at a time, or layer by layer.

Knows modules by name; nothing of what they compute. Moving from one way to another is possible at any time between two
calls, also in the middle of denoising: a component that is in use stays usable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from i2v.machine.devices import machine_memory
from i2v.memory.weights.parked import LayerStream, LeafStream, ParkedWeights, stream_leaves, weight_bytes

__all__ = ["Placement"]

_HELD_AT_ONCE = 2  # exact_unet.py holds an upsampler together with the layer after it


class Placement:
    """Where the components' weights are. `layers`: of the component "unet", in the order they run.

    `weights` is "resident", "turns" or "streamed", see plan.Plan. When streaming, the denoiser comes layer by layer,
    the encoders leaf by leaf, and the small autoencoder as a whole in its turn.
    """

    def __init__(self, components: Mapping[str, nn.Module], layers: Sequence[nn.Module], device: torch.device):
        self._components, self._layers, self._device = dict(components), list(layers), device
        self._in_turns: dict[str, ParkedWeights] = {}
        self._leaves: list[LeafStream] = []
        self._in_use: set[str] = set()
        self.weights = "resident"
        self.layer_stream: LayerStream | None = None

    def arrange(self, weights: str) -> None:
        """Put the weights where a plan wants them."""
        if weights == self.weights:
            return
        self._release()
        self.weights = weights
        pin = weights != "resident" and self._pins()
        for name, module in self._components.items():
            if weights == "resident":
                module.to(self._device)
            elif weights == "turns" or name == "vae":
                self._in_turns[name] = ParkedWeights(module, self._device, pin=pin)
            elif name == "unet":
                self.layer_stream = LayerStream(
                    self._layers, self._device, pin=pin, prefetch=pin, held_at_once=_HELD_AT_ONCE
                )
            else:
                self._leaves.append(stream_leaves(module, self._device, pin))
        for name in self._in_use & self._in_turns.keys():
            self._in_turns[name].bring()

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
            if name in self._in_turns:
                self._in_turns[name].drop()
            if name == "unet" and self.layer_stream:
                self.layer_stream.release()  # what was fetched ahead for a step that does not come

    def _release(self) -> None:
        """Take turns and streams away; every weight that was parked is in main memory then."""
        if self.layer_stream:
            self.layer_stream.release()
        for leaf in self._leaves:
            leaf.remove()
        for parked in self._in_turns.values():
            parked.drop()
        self.layer_stream, self._leaves, self._in_turns = None, [], {}

    def _pins(self) -> bool:
        """Pinned memory cannot be swapped out: only where twice the weights would still fit."""
        needed = sum(weight_bytes(module) for module in self._components.values())
        return self._device.type == "cuda" and 2 * needed < machine_memory().available_bytes
