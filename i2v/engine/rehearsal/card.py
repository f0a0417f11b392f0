"""A card that is not there: counts what fake `cuda:0` tensors take, and refuses what a real card would refuse.

Every operation passes here. It is refused when a tensor is on the wrong device or of the wrong dtype where torch's
fake kernels do not look; when it touches memory that another stream may still be at work on (order.py); and when
memory runs out, by the budget or by a script. Memory that a kernel takes and gives back inside itself is not seen.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from i2v.engine.rehearsal.order import CPU, MAIN, Order, RehearsalError
from i2v.engine.rehearsal.values import MOST_NUMBERS, Values

__all__ = ["DEVICE", "FakeCard", "RunOut", "device_of"]

DEVICE = torch.device("cuda:0")  # with an index: without one torch asks the driver which
_aten = torch.ops.aten
_DEVICE_OF = torch.ops.prim.device.default
_MOVES = {_aten._to_copy.default, _aten.copy_.default}
_TAKES_ONLY = {
    _aten.empty.memory_format, _aten.empty_strided.default, _aten.empty_like.default, _aten.new_empty.default,
    _aten.new_empty_strided.default, _aten.zeros_like.default, _aten.ones_like.default, _aten.full_like.default,
    _aten.new_zeros.default, _aten.new_ones.default, _aten.new_full.default,
}  # fmt: skip
_ASKS_FOR_DATA = {_aten._local_scalar_dense, _aten.nonzero, _aten.equal, _aten.unique_dim, _aten._unique2}
# Kernels of one dtype for all, of which torch's fake ones let others pass. (Batch norm takes float32 statistics.)
_ONE_DTYPE = {
    _aten.convolution, _aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.native_group_norm,
    _aten.native_layer_norm, _aten.addmv, _aten.mv,
}  # fmt: skip
_INDEXES = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}  # indices may be on the CPU


@dataclass(frozen=True)
class RunOut:
    """Where memory is to run out, once: at an allocation of a door's call, both counted from 0.

    Where a call runs out twice, the second allocation is counted from the first; stepping down belongs to the call.

    `within`: only allocations beneath a function of this name count, such as "bring".
    """

    door: str
    call: int = 0
    allocation: int = 0
    within: str = ""


class FakeCard(TorchDispatchMode):
    """Stands for `cuda:0` while it is entered, inside a FakeTensorMode.

    `budget_bytes`: what tensors may take. `run_outs` come one after another. `name_of` names memory in errors.
    """

    def __init__(self, budget_bytes: int | None = None, run_outs: tuple[RunOut, ...] = ()):
        super().__init__()
        self.budget_bytes, self._run_outs = budget_bytes, list(run_outs)
        self.live_bytes, self.peak_bytes, self.operations = 0, 0, 0
        self.order, self.stream = Order(), MAIN
        self.name_of: Callable[[int], str] = lambda memory: ""
        self.pinned: dict[int, set[tuple[int, int]]] = {}  # storages, and the parts of them that were used, in bytes
        self.values = Values()
        self._known: dict[int, tuple[bool, Any]] = {}  # storages: whether they are on the card, and of what
        self._late: list[str] = []  # what went wrong where nothing can be raised
        self._calls: dict[str, int] = {}
        self._door, self._allocations = "", 0

    # Memory

    def call(self, door: str) -> None:
        """Note that a door's next call begins."""
        self._door, self._allocations = door, 0
        self._calls[door] = self._calls.get(door, -1) + 1

    @property
    def calls(self) -> dict[str, int]:
        """How many calls each door had."""
        return {door: last + 1 for door, last in self._calls.items()}

    @property
    def run_outs_left(self) -> int:
        """How many scripted failures did not come to pass."""
        return len(self._run_outs)

    def start_peak(self) -> None:
        """Begin to look for the largest live bytes anew."""
        self.peak_bytes = self.live_bytes

    def _take(self, tensor: Tensor, lane: int) -> None:
        storage = tensor.untyped_storage()
        key, size, here = storage._cdata, storage.nbytes(), _is_here(tensor)
        if key in self._known:
            return
        if here:
            self._refuse_if_full(size)
            self.live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self._known[key] = here, (tuple(tensor.shape), tensor.dtype)
        self.order.born(lane, key)
        weakref.finalize(storage, self._gone, key, size if here else 0)

    def _refuse_if_full(self, size: int) -> None:
        script = self._run_outs[0] if self._run_outs else None
        if script and script.door == self._door and _beneath(script.within):
            self._allocations += 1
            if (script.call, script.allocation) == (self._calls[self._door], self._allocations - 1):
                del self._run_outs[0]
                self._allocations = 0
                raise _full(f"rehearsed at {script}")
        if self.budget_bytes is not None and self.live_bytes + size > self.budget_bytes:
            raise _full(f"{size} bytes asked for, {self.live_bytes} of {self.budget_bytes} taken")

    def _gone(self, key: int, size: int) -> None:
        here, what = self._known.pop(key)
        for part in self.pinned.pop(key, ()):
            self.order.forget((key, *part))
        self.values.forget(key)
        self.live_bytes -= size
        wrong = self.order.gone(key)
        if wrong and here:  # of pinned memory torch takes care itself
            self._late.append(f"the memory of a tensor {what[0]} {what[1]} was given back too early: {wrong}")

    # Operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE_OF:
            return device_of(args[0])
        kwargs = kwargs or {}
        self.raise_late()
        self.operations += 1
        given = list(_tensors(args))
        given.extend(_tensors(kwargs.values()))
        self._check_kinds(func, given)
        if func.overloadpacket in _ASKS_FOR_DATA:
            return self._data(func, given, args, kwargs)
        output = func(*args, **kwargs)
        made, written = list(_tensors((output,))), list(_written(func, args, kwargs))
        self._touch(func, args, kwargs, given, written, made)
        self._know(func, args, kwargs, given, written, made)
        return output

    def _know(
        self, func: Any, args: Any, kwargs: Any, given: list[Tensor], written: list[Tensor], made: list[Tensor]
    ) -> None:
        """Do an operation on known numbers too, where it is small."""
        if written or all(tensor.numel() <= MOST_NUMBERS for tensor in made):
            found = self.values.result(func, given, written, args, kwargs)
            if not written:
                for tensor, numbers in zip(made, _tensors((found,)), strict=found is not None):
                    self.values.learn(tensor, numbers)

    def kernel(self, read: list[Tensor]) -> None:
        """Note a kernel that reads these tensors and that no operation stands for."""
        self._act(self.stream if any(_is_here(tensor) for tensor in read) else CPU, read, [])

    def raise_late(self) -> None:
        """Raise what was found where nothing can be raised. Raises RehearsalError."""
        if self._late:
            raise RehearsalError(self._late.pop(0))

    def _check_kinds(self, func: Any, given: list[Tensor]) -> None:
        packet = func.overloadpacket
        if func not in _MOVES and packet not in _INDEXES:
            devices = {device_of(tensor) for tensor in given if tensor.ndim}
            if len(devices) > 1:
                raise RehearsalError(f"{func} of tensors on {_listed(devices)}; {self._names(given)}")
        if packet in _ONE_DTYPE:
            dtypes = {tensor.dtype for tensor in given}
            if len(dtypes) > 1:
                raise RehearsalError(f"{func} of tensors in {_listed(dtypes)}; {self._names(given)}")

    def _names(self, given: list[Tensor]) -> str:
        found = ((self.name_of(tensor.untyped_storage()._cdata), tensor) for tensor in given)
        return ", ".join(f"{name or 'a tensor'} {tuple(t.shape)} {t.dtype} on {device_of(t)}" for name, t in found)

    def _data(self, func: Any, given: list[Tensor], args: Any, kwargs: Any) -> Any:
        """Return the data of small tensors that are known. The CPU waits for it."""
        self._act(MAIN if any(_is_here(tensor) for tensor in given) else CPU, given, [], waits=True)
        found = self.values.result(func, given, [], args, kwargs)
        if found is None:
            raise RehearsalError(f"{func} asks for data that is not known; {self._names(given)}")
        if not isinstance(found, Tensor):
            return found
        output = torch.empty(found.shape, dtype=found.dtype, device=device_of(given[0]))
        self._take(output, self.stream if _is_here(output) else CPU)
        self.values.learn(output, found)
        return output

    def _touch(
        self, func: Any, args: Any, kwargs: Any, given: list[Tensor], written: list[Tensor], made: list[Tensor]
    ) -> None:
        if func.is_view:
            return
        ids = {id(tensor) for tensor in written}
        read = [] if func in _TAKES_ONLY else [tensor for tensor in given if id(tensor) not in ids]
        if func in _MOVES and len({device_of(tensor) for tensor in (*given, *made)}) > 1:
            self._move(read, written or made, made, bool(kwargs.get("non_blocking") or (args[2:] and args[2])))
            return
        lane = self.stream if any(_is_here(tensor) for tensor in (*given, *made)) else CPU
        for tensor in made:
            self._take(tensor, lane)
        self._act(lane, read, written)

    def _move(self, read: list[Tensor], written: list[Tensor], made: list[Tensor], non_blocking: bool) -> None:
        for tensor in made:
            self._take(tensor, self.stream if _is_here(tensor) else CPU)
        source, target = read[0], written[0]
        to_card = _is_here(target)
        if non_blocking and to_card and source.untyped_storage()._cdata not in self.pinned:
            self._act(CPU, read, [])  # what is not pinned is put aside before the call returns
            read = []
        self._act(self.stream, read, written, waits=not non_blocking)

    def _act(self, lane: int, read: list[Tensor], written: list[Tensor], waits: bool = False) -> None:
        order = self.order
        lane = self.stream if lane == MAIN else lane
        order.begin(lane)
        for tensor in read:
            # A number on the CPU is read when the kernel is queued.
            by = CPU if lane != CPU and not _is_here(tensor) and not tensor.ndim else lane
            for memory in self._memory(tensor):
                self._refuse(order.read(by, memory), tensor)
        for tensor in written:
            for memory in self._memory(tensor):
                self._refuse(order.write(lane, memory), tensor)
        if waits and lane != CPU:
            order.join(CPU, order.seen(lane))

    def _memory(self, tensor: Tensor) -> list[Hashable]:
        """Return what memory a tensor is in: a storage, or those parts of a pinned one that it overlaps.

        Much lies in one pinned storage, and some of it is copied while other is written.
        """
        key = tensor.untyped_storage()._cdata
        if key not in self.pinned:
            return [key]
        start = int(tensor.storage_offset()) * tensor.element_size()
        part, parts = (start, start + int(tensor.nbytes)), self.pinned[key]
        if part in parts:
            return [(key, *part)]
        parts.add(part)
        self.order.born(CPU, (key, *part))
        return [(key, *other) for other in parts if other[0] < part[1] and part[0] < other[1]]

    def _refuse(self, wrong: str, tensor: Tensor) -> None:
        if wrong:
            raise RehearsalError(f"{self._names([tensor])}: {wrong}")


def _tensors(leaves: Any) -> Iterator[Tensor]:
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, (list, tuple)):
            yield from _tensors(leaf)


def _full(why: str) -> torch.OutOfMemoryError:
    """Return what torch raises for a card without room; nobody reads its words."""
    return torch.OutOfMemoryError(why)


def device_of(tensor: Tensor) -> torch.device:
    """Return a tensor's device without asking torch, which would make an operation of it."""
    return tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device


def _is_here(tensor: Tensor) -> bool:
    return device_of(tensor).type == "cuda"


def _listed(things: set[Any]) -> str:
    return " and ".join(sorted(str(thing) for thing in things))


@cache
def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    arguments = enumerate(func._schema.arguments)
    return tuple((at, arg.name) for at, arg in arguments if arg.alias_info is not None and arg.alias_info.is_write)


def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for at, name in _written_arguments(func):
        yield from _tensors((args[at] if at < len(args) else kwargs.get(name),))


def _beneath(function: str) -> bool:
    """Whether this is called, however deep, by a function of this name."""
    frame: Any = sys._getframe(1)
    while function and frame and frame.f_code.co_name != function:
        frame = frame.f_back
    return frame is not None
