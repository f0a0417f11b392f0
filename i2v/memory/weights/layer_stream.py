"""Brings the layers of a model to the device one after another, in a known order, and fetches the next one meanwhile.

Knows neither how layers are called (block_stream.py does it by hooks, an exact executor says `held`) nor what is
outside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from i2v.memory.weights.masters import MainMemory
from i2v.memory.weights.parked import ParkedWeights, main_memory_for

__all__ = ["LayerStream"]


class LayerStream:
    """Brings one layer at a time, in a known order, and fetches the next one meanwhile.

    `layers` come in this order, again and again. On a card the next one is copied by a side stream, from pinned memory;
    without pinned memory nothing is fetched ahead, as the copy would keep the CPU waiting. On a CPU, where tests and
    tracers run, fetching ahead is done at once. `keep`: how many of the first layers stay on the device once they are
    there, until `release`. `held_at_once`: how many layers the caller ever holds, one within another.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        device: torch.device | str,
        *,
        pin: bool | MainMemory,
        prefetch: bool,
        held_at_once: int = 1,
        keep: int = 0,
    ):
        is_cuda = torch.device(device).type == "cuda"
        memory = main_memory_for(torch.device(device), pin)
        self._layers = list(layers)
        self._parked = {layer: ParkedWeights(layer, device, pin=memory) for layer in layers}
        memory.expect(max((parked.slab_bytes for parked in self._parked.values()), default=0))
        self._prefetches = prefetch and (memory.lets_the_card_fetch or not is_cuda)
        self._side = torch.cuda.Stream(device) if self._prefetches and is_cuda else None
        self._held_at_once = held_at_once
        self._depth: Counter[nn.Module] = Counter()
        self._ahead: nn.Module | None = None
        self._kept: set[nn.Module] = set()
        self.set_keep(keep)

    @property
    def ahead_bytes(self) -> int:
        """The most that one layer fetched ahead takes."""
        return max(self._streamed_sizes(), default=0) if self._prefetches else 0

    @property
    def kept_bytes(self) -> int:
        """What the layers that stay on the device take."""
        return sum(self._parked[layer].nbytes for layer in self._kept)

    @property
    def largest_bytes(self) -> int:
        """The most weights on the device at one time, before any casting by the model itself."""
        sizes = self._streamed_sizes()
        together = min(len(sizes), self._held_at_once + self._prefetches)
        moving = max((sum((sizes + sizes)[at : at + together]) for at in range(len(sizes))), default=0)
        return self.kept_bytes + moving

    def _streamed_sizes(self) -> list[int]:
        return [self._parked[layer].nbytes for layer in self._layers if layer not in self._kept]

    def set_keep(self, keep: int) -> None:
        """Have the first `keep` layers stay on the device from now on; those no longer among them leave it."""
        if keep < 0:
            raise ValueError(f"{keep} layers cannot be kept")
        self._kept = set(self._layers[:keep])
        for layer, parked in self._parked.items():
            if layer not in self._kept and layer is not self._ahead and not self._depth[layer]:
                parked.drop()

    @contextmanager
    def held(self, layer: nn.Module) -> Iterator[None]:
        """Within it the layer's weights are on the device. Does nothing for a module that is not among the layers."""
        if layer not in self._parked:
            yield
            return
        failed = True
        try:
            self.begin(layer)
            yield
            failed = False
        finally:
            self.end(layer, failed=failed)

    def begin(self, layer: nn.Module) -> None:
        """Have a layer's weights on the device until `end`, which is also called when this raises."""
        self._depth[layer] += 1
        if self._depth[layer] == 1:
            self._fetch(layer)

    def end(self, layer: nn.Module, *, failed: bool) -> None:
        """Let a layer go. `failed`: by an exception, so that nobody knows which layer comes next."""
        if failed:
            self._drop_ahead()
        if self._depth[layer]:
            self._depth[layer] -= 1
        if not self._depth[layer] and layer not in self._kept:
            self._parked[layer].drop()

    def _fetch(self, layer: nn.Module) -> None:
        parked = self._parked[layer]
        if self._ahead is layer:
            self._ahead = None
        elif not parked.is_here:
            self._drop_ahead()
        parked.bring()
        parked.arrive()
        following = self._following(layer)
        if self._prefetches and self._ahead is None and following is not None:
            self._ahead = following
            self._parked[following].bring(self._side)
            after = self._following(following)
            if after is not None:
                self._parked[after].read_ahead()

    def _following(self, layer: nn.Module) -> nn.Module | None:
        """Return the layer to be fetched while this one runs: the next that does not stay on the device anyway."""
        at = self._layers.index(layer)
        for following in (*self._layers[at + 1 :], *self._layers[:at]):
            if following not in self._kept or not self._parked[following].is_here:
                return None if self._depth[following] else following
        return None

    def _drop_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not self._depth[ahead]:
            self._parked[ahead].drop()

    def release(self) -> None:
        """Have everything back in main memory, what was fetched ahead and what was kept too."""
        self._ahead = None
        self._depth.clear()
        for parked in self._parked.values():
            parked.drop()
