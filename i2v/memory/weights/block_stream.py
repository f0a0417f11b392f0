"""Streams a model whose forward calls its blocks one after another: a transformer of diffusers or of transformers.

By forward hooks only: the model's own code runs unchanged, and `remove` leaves no trace. Knows no model: it is told
which submodules are blocks, in the order they run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from i2v.memory.weights.layer_stream import LayerStream
from i2v.memory.weights.leaf_stream import LARGE_TABLE_BYTES, LeafStream
from i2v.memory.weights.masters import MainMemory
from i2v.memory.weights.parked import main_memory_for

__all__ = ["BlockStream"]


class BlockStream:
    """Brings each block for the time of its forward and fetches the next one meanwhile, until `remove`.

    `blocks`: submodules of the component in the order they run, none inside another. The first `keep` of them stay on
    the device once they are there, until `release`. What is outside the blocks comes leaf by leaf in its turn, or
    stays on the device too (`rest_stays`); embeddings of `table_bytes` or more are looked up on the CPU.
    `held_at_once`: how many blocks run one within another. Raises ValueError for blocks that are not such.
    """

    def __init__(
        self,
        component: nn.Module,
        blocks: Sequence[nn.Module],
        device: torch.device | str,
        *,
        pin: bool | MainMemory = False,
        prefetch: bool = True,
        keep: int = 0,
        held_at_once: int = 1,
        rest_stays: bool = False,
        table_bytes: int = LARGE_TABLE_BYTES,
    ):
        _check(component, blocks)
        memory = main_memory_for(torch.device(device), pin)
        self._rest = LeafStream(
            component, device, pin=memory, besides=blocks, stays=rest_stays, table_bytes=table_bytes
        )
        self._layers = LayerStream(blocks, device, pin=memory, prefetch=prefetch, held_at_once=held_at_once, keep=keep)
        self._rest_stays = rest_stays
        self._hooks: list[Any] = []
        for block in blocks:
            self._hooks.append(block.register_forward_pre_hook(_beginning(self._layers)))
            self._hooks.append(block.register_forward_hook(_ending(self._layers), always_call=True))

    @property
    def largest_bytes(self) -> int:
        """The most weights on the device at one time: blocks with what is around them, or a part outside them."""
        rest, layers = self._rest, self._layers
        if self._rest_stays:
            return rest.largest_bytes + layers.largest_bytes
        outside = layers.kept_bytes + layers.ahead_bytes + rest.largest_bytes
        return max(rest.outer_bytes + layers.largest_bytes, outside)

    def held(self, block: nn.Module) -> AbstractContextManager[None]:
        """Within it a block's weights are on the device, for executors that do not call the block's forward.

        Does nothing for a module that is not among the blocks.
        """
        return self._layers.held(block)

    def set_keep(self, keep: int) -> None:
        """Have the first `keep` blocks stay on the device from now on; possible between any two calls."""
        self._layers.set_keep(keep)

    def release(self) -> None:
        """Have all weights back in main memory; the next call brings them again."""
        self._layers.release()
        self._rest.release()

    def remove(self) -> None:
        """Take the hooks away; the weights stay in main memory."""
        for hook in self._hooks:
            hook.remove()
        self._layers.release()
        self._rest.remove()


def _check(component: nn.Module, blocks: Sequence[nn.Module]) -> None:
    inside = set(component.modules()) - {component}
    for block in blocks:
        name = type(block).__name__
        if block not in inside:
            raise ValueError(f"the block {name} is not inside the {type(component).__name__}")
        if any(part in blocks for part in block.modules() if part is not block):
            raise ValueError(f"inside the block {name} there is another block")


def _beginning(layers: LayerStream) -> Callable[..., None]:
    return lambda block, *_: layers.begin(block)


def _ending(layers: LayerStream) -> Callable[..., None]:
    def end(block: nn.Module, _: Any, output: Any) -> None:
        layers.end(block, failed=output is None)  # torch gives no output to a hook that is called after an exception

    return end
