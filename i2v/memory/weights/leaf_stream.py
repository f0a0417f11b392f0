"""Brings the weights of every submodule to the device for the time of its own forward, one path of the tree at a time.

Also what is outside the blocks of a model whose blocks come one after another (block_stream.py). The table of a large
embedding is never brought: a few of its rows are looked up on the CPU, and only those go to the device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from i2v.memory.weights.mapped import cast_own, wished_dtype
from i2v.memory.weights.masters import MainMemory, bytes_of
from i2v.memory.weights.parked import ParkedWeights, main_memory_for

__all__ = ["LARGE_TABLE_BYTES", "LeafStream", "stream_leaves"]

# Their forward reads the weights of children that are never called, so the children are brought with them.
_READS_ITS_CHILDREN = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
_SLAB_BYTES = 256 << 20
LARGE_TABLE_BYTES = 64 << 20  # from here on a table's rows are looked up on the CPU: UMT5 1.96 GiB, CLIP 72 MiB


class LeafStream:
    """Brings the weights of every submodule for the time of its own forward, until `remove` is called.

    `besides`: submodules that somebody else brings. `stays`: what was brought stays until `release`. `table_bytes`: the
    smallest embedding that is looked up on the CPU. `largest_bytes` is the most weights on the device at one time.
    Whoever reads a weight without calling its module finds the master.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device | str,
        *,
        pin: bool | MainMemory,
        besides: Collection[nn.Module] = (),
        stays: bool = False,
        table_bytes: int = LARGE_TABLE_BYTES,
    ):
        self._device, self._besides, self._stays = torch.device(device), set(besides), stays
        memory = main_memory_for(self._device, pin)
        parts = list(dict.fromkeys(self._called_parts(module)))
        self._tables = {
            part for part in parts if isinstance(part, nn.Embedding) and bytes_of([part.weight]) >= table_bytes
        }
        for table in self._tables:
            memory.leave_unpinned(table.weight)
        self._cast_now(parts)
        self._parked = dict(_parked(parts, self._device, memory))
        self._hooks: list[Any] = []
        for part, parked in self._parked.items():
            self._hook(part, parked)
        self.largest_bytes = self._largest(module)
        self.outer_bytes = sum(self._parked[part].nbytes for part in parts if self._is_around(part))
        if stays:
            self.largest_bytes = sum(self._brought(part) for part in parts)

    def _called_parts(self, module: nn.Module) -> Iterator[nn.Module]:
        yield module
        if not isinstance(module, _READS_ITS_CHILDREN):
            for child in module.children():
                if child not in self._besides:
                    yield from self._called_parts(child)

    def _is_around(self, part: nn.Module) -> bool:
        """Whether what others bring is inside this part, so that its weights are there at the same time."""
        return any(child in self._besides for child in part.modules())

    def _cast_now(self, parts: Iterable[nn.Module]) -> None:
        """Cast mapped weights wished in another dtype: a parent may ask for a child's dtype before it comes."""
        for part in parts:
            if type(part).forward is nn.Embedding.forward and part in self._tables:
                continue  # the rows that are looked up are cast
            cast_own(part)

    def _hook(self, part: nn.Module, parked: ParkedWeights) -> None:
        if part in self._tables:
            self._hooks.append(part.register_forward_pre_hook(_to_cpu, with_kwargs=True))
            self._hooks.append(part.register_forward_hook(self._to_device))
        elif parked.nbytes:
            self._hooks.append(part.register_forward_pre_hook(_bringing(parked)))
            if not self._stays:
                self._hooks.append(part.register_forward_hook(_dropping(parked), always_call=True))

    def _to_device(self, table: nn.Embedding, _: Any, rows: Tensor) -> Tensor:
        return rows.to(self._device, wished_dtype(table.weight))

    def _brought(self, part: nn.Module) -> int:
        return 0 if part in self._tables else self._parked[part].nbytes

    def _largest(self, part: nn.Module) -> int:
        """Return the most bytes on the device during a part's forward: its own, and those of one path below it."""
        children = [] if isinstance(part, _READS_ITS_CHILDREN) else list(part.children())
        below = [self._largest(child) for child in children if child not in self._besides]
        return self._brought(part) + max(below, default=0)

    def release(self) -> None:
        """Have everything back in main memory."""
        for parked in self._parked.values():
            parked.drop()

    def remove(self) -> None:
        """Take the hooks away; the weights stay in main memory."""
        for hook in self._hooks:
            hook.remove()
        self.release()


def stream_leaves(module: nn.Module, device: torch.device | str, pin: bool | MainMemory) -> LeafStream:
    """Keep a module's weights in main memory and bring each submodule's own for the time of its forward.

    For modules of which every part is called through its forward, wherever from: the encoders and the autoencoder.
    Whoever reads a weight without calling its module finds the master: so `module.device` is the CPU.
    """
    return LeafStream(module, device, pin=pin)


def _parked(
    parts: Iterable[nn.Module], device: torch.device, memory: MainMemory
) -> Iterator[tuple[nn.Module, ParkedWeights]]:
    """Yield parts with their parked weights, many small parts to a slab."""
    group: list[nn.Module] = []
    for part in parts:
        group.append(part)
        if bytes_of(weight for some in group for weight in _own(some)) >= _SLAB_BYTES:
            yield from _park_together(group, device, memory)
            group = []
    yield from _park_together(group, device, memory)


def _park_together(
    parts: Iterable[nn.Module], device: torch.device, memory: MainMemory
) -> Iterator[tuple[nn.Module, ParkedWeights]]:
    memory.reserve(weight for part in parts for weight in _own(part))
    for part in parts:
        yield part, ParkedWeights(part, device, own_only=not isinstance(part, _READS_ITS_CHILDREN), pin=memory)


def _own(part: nn.Module) -> list[Tensor]:
    """Return the weights that are brought together with a part."""
    parts = part.modules() if isinstance(part, _READS_ITS_CHILDREN) else [part]
    tables = [table for some in parts for table in (some._parameters, some._buffers)]
    return [weight for table in tables for weight in table.values() if weight is not None]


def _to_cpu(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def moved(value: Any) -> Any:
        return value.to("cpu") if isinstance(value, Tensor) else value

    return tuple(moved(value) for value in args), {name: moved(value) for name, value in kwargs.items()}


def _bringing(parked: ParkedWeights) -> Callable[..., None]:
    return lambda *_: parked.bring()


def _dropping(parked: ParkedWeights) -> Callable[..., None]:
    return lambda *_: parked.drop()
