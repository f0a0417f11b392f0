"""Everything that is stood in for during a rehearsal, and why. Nothing else of the code that is walked is replaced.

What torch without CUDA cannot do to a fake `cuda:0` tensor, though it needs no card:
- `x[...]`, `x[...] = y`: Python's indexing asks for the driver. The same operations are called one by one.
- `contiguous`, `copy_`, `int(x)`, `float(x)`, `bool(x)`, `nonzero`: likewise; the operation beneath is called.
- `Module.to`, `.half()` and all that go through `Module._apply`: moved parameter by parameter, tied ones once.
What needs a driver:
- `torch.cuda.Stream`, `Event`, `stream`, `current_stream`, `default_stream`, `synchronize`, `record_stream`: they
  keep the order of calls, so that a forgotten wait is found (order.py).
- `torch.cuda.is_available`, `mem_get_info` and what torch's allocator reports: the fake card's own count.
- pinned memory: a fake tensor that is noted as pinned; so `torch.frombuffer` and `torch.cuda.cudart`.
- main memory (`psutil.virtual_memory`): as large as the rehearsal says, or plans would differ from machine to machine.
What needs data:
- `data_ptr`: a number of its own for each place in memory.
- `isfinite(x).all()` is true; `.numpy()` and `.tolist()` give zeros where no numbers are known (values.py).
- `load_mapped`: a component of full size is built from its config.json, without weights, as if they were mapped. They
  are stored in fp16 where the names of the files say so, else in fp32; what is wished is what `load_mapped` wishes.
What a card does otherwise:
- `scaled_dot_product_attention`: fake tensors trace it as its formula, with the whole score matrix. Its fused kernels
  allocate their output and one float32 per query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from i2v.engine.rehearsal import streams
from i2v.engine.rehearsal.card import FakeCard, device_of
from i2v.engine.rehearsal.order import RehearsalError
from i2v.engine.rehearsal.values import MOST_NUMBERS
from i2v.memory.weights.mapped import MappedFile
from i2v.models import loading

__all__ = ["stand_ins"]

_aten = torch.ops.aten
_DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]


@contextmanager
def stand_ins(card: FakeCard, ram_bytes: int, vram_bytes: int) -> Iterator[None]:
    """Within it, all of the above stands in. `vram_bytes`: what the card says it has, whatever its budget."""
    memory = SimpleNamespace(total=ram_bytes, available=ram_bytes, percent=0.0, used=0, free=ram_bytes)
    with ExitStack() as stack:
        for name, double in streams.doubles(card, vram_bytes).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, double))
        stack.enter_context(mock.patch.object(psutil, "virtual_memory", return_value=memory))
        stack.enter_context(mock.patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(mock.patch.object(loading, "load_mapped", _load_mapped))
        functions = _Functions(card)
        stack.enter_context(mock.patch.object(torch, "frombuffer", functions.from_buffer))
        stack.enter_context(functions)
        yield


# Modules


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Replace every parameter and buffer by `fn` of it, as `Module._apply` does in place."""
    done: dict[int, Tensor] = {}
    with torch.no_grad():
        for part in module.modules() if recurse else [module]:
            tables: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
            for table in tables:
                for name, tensor in table.items():
                    if tensor is not None:
                        table[name] = _applied(tensor, fn, done)
    return module


def _applied(tensor: Tensor, fn: Callable[[Tensor], Tensor], done: dict[int, Tensor]) -> Tensor:
    if id(tensor) not in done:
        new = fn(tensor)
        if isinstance(tensor, nn.Parameter) and not isinstance(new, nn.Parameter):
            new = nn.Parameter(new, requires_grad=tensor.requires_grad and new.is_floating_point())
        done[id(tensor)] = done[id(new)] = new
    return done[id(tensor)]


def _load_mapped(path: Path, files: list[Path], cls: Any, dtype: torch.dtype) -> tuple[nn.Module, list[str]]:
    """Build a component as `load_mapped` would, but for the numbers."""
    with _disable_current_modes(), torch.device("meta"):
        if issubclass(cls, ModelMixin):
            module = cls.from_config(cls.load_config(path))
        else:
            module = cls(cls.config_class.from_pretrained(path))
    file = _AnyFile()
    stored = torch.float16 if all(".fp16." in file.name for file in files) else torch.float32
    kept = set(getattr(cls, "_keep_in_fp32_modules", None) or ())
    for name, part in module.named_modules():
        for own, weight in part._parameters.items():
            if weight is not None:
                part._parameters[own] = parameter = _without_data(weight, stored)
                file.mark(parameter, torch.float32 if kept & {*name.split("."), own} else dtype)
        for own, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[own] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
    return module, []


class _AnyFile(MappedFile):
    """A mapped file that holds whatever is asked for."""

    def __init__(self) -> None:
        self._mapping: Any = SimpleNamespace(madvise=lambda *_: None)
        self._bytes: Any = SimpleNamespace(data_ptr=lambda: 0)

    def holds(self, weight: Tensor) -> bool:
        return weight.numel() > 0


def _without_data(weight: Tensor, dtype: torch.dtype) -> nn.Parameter:
    kept = dtype if weight.is_floating_point() else weight.dtype
    return nn.Parameter(torch.empty(weight.shape, dtype=kept, device="cpu"), requires_grad=False)


# Functions


class _Functions(TorchFunctionMode):
    """Calls a stand-in where there is one, and torch itself everywhere else."""

    def __init__(self, card: FakeCard):
        super().__init__()
        self._card = card
        self._table: dict[Any, Callable[..., Any]] = {
            Tensor.__getitem__: _get,
            Tensor.__setitem__: _set,
            Tensor.contiguous: _contiguous,
            Tensor.copy_: lambda target, source, non_blocking=False: _aten.copy_.default(target, source, non_blocking),
            Tensor.nonzero: _aten.nonzero.default,
            torch.nonzero: _aten.nonzero.default,
            Tensor.numpy: self._numpy,
            Tensor.item: _item,
            Tensor.__int__: lambda tensor: int(_item(tensor)),
            Tensor.__index__: lambda tensor: int(_item(tensor)),
            Tensor.__float__: lambda tensor: float(_item(tensor)),
            Tensor.__bool__: lambda tensor: bool(_item(tensor)),
            Tensor.tolist: lambda tensor: self._numpy(tensor).tolist(),
            Tensor.isfinite: self._is_finite,
            torch.isfinite: self._is_finite,
            Tensor.all: self._all,
            torch.all: self._all,
            Tensor.data_ptr: _address,
            Tensor.pin_memory: lambda tensor: self._pinned(tensor.clone()),
            Tensor.is_pinned: lambda tensor: tensor.untyped_storage()._cdata in card.pinned,
            Tensor.record_stream: lambda tensor, stream: card.order.forgive(
                tensor.untyped_storage()._cdata, stream.lane
            ),
            F.scaled_dot_product_attention: self._attention,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE:
            return device_of(args[0])
        kwargs = kwargs or {}
        if kwargs.get("pin_memory"):
            return self._pinned(func(*args, **{name: value for name, value in kwargs.items() if name != "pin_memory"}))
        stand_in = self._table.get(func)
        if stand_in:
            return stand_in(*args, **kwargs)
        output = func(*args, **kwargs)
        from_numbers = func in (torch.from_numpy, torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor)
        if from_numbers and output.numel() <= MOST_NUMBERS:
            on_cpu = {name: value for name, value in kwargs.items() if name != "device"}
            with unset_fake_temporarily():
                self._card.values.learn(output, func(*args, **on_cpu))
        return output

    def from_buffer(self, buffer: Any, *, dtype: torch.dtype) -> Tensor:
        """Stand for `torch.frombuffer`, which is only called on pages that are about to be pinned."""
        return self._pinned(torch.empty(len(buffer) // dtype.itemsize, dtype=dtype, device="cpu"))

    def _pinned(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cpu":
            raise RehearsalError(f"only memory of the CPU can be pinned, not of {tensor.device}")
        self._card.pinned.setdefault(tensor.untyped_storage()._cdata, set())
        return tensor

    def _is_finite(self, tensor: Tensor) -> Tensor:
        finite = torch.ops.aten.isfinite.default(tensor)
        finite._is_finite = True
        return finite

    def _all(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = getattr(_aten.all, "dim" if args or kwargs else "default")(tensor, *args, **kwargs)
        if getattr(tensor, "_is_finite", False):
            with unset_fake_temporarily():
                self._card.values.learn(found, torch.ones(found.shape, dtype=torch.bool))
        return found

    def _numpy(self, tensor: Tensor) -> np.ndarray:
        """Return known numbers, else zeros. Raises TypeError for a tensor on the card, as torch does."""
        if tensor.device.type != "cpu":
            raise TypeError(f"can't convert {tensor.device} device type tensor to numpy")
        known = self._card.values.known(tensor)
        with unset_fake_temporarily(), torch._C.DisableTorchFunction():
            found: np.ndarray = (torch.zeros(tensor.shape, dtype=tensor.dtype) if known is None else known).numpy()
        return found

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Allocate what the fused kernels do; the checks are those of `scaled_dot_product_attention`."""
        masks = [] if attn_mask is None or attn_mask.dtype == torch.bool else [attn_mask]
        kinds = {(tensor.dtype, tensor.device) for tensor in (query, key, value, *masks)}
        if len(kinds) > 1 or (attn_mask is not None and attn_mask.device != query.device):
            raise RehearsalError(f"attention of tensors of several kinds: {sorted(map(str, kinds))}")
        if key.shape[-2] != value.shape[-2] or query.shape[-1] != key.shape[-1]:
            raise RehearsalError(f"attention of {tuple(query.shape)} to {tuple(key.shape)} and {tuple(value.shape)}")
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        self._card.kernel([query, key, value, *masks])
        found = query.new_empty((*query.shape[:-3], query.shape[-2], query.shape[-3], value.shape[-1])).transpose(
            -3, -2
        )
        del sums
        return found


def _contiguous(tensor: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    if tensor.is_contiguous(memory_format=memory_format):
        return tensor
    return _aten.clone.default(tensor, memory_format=memory_format)


def _get(tensor: Tensor, index: Any) -> Tensor:
    """Do what `tensor[index]` does."""
    view, chosen = _view(tensor, index)
    return _aten.index.Tensor(view, chosen) if chosen else view


def _set(tensor: Tensor, index: Any, value: Any) -> None:
    """Do what `tensor[index] = value` does."""
    view, chosen = _view(tensor, index)
    if chosen:
        given = value if isinstance(value, Tensor) else torch.full((), value, dtype=view.dtype, device=view.device)
        _aten.index_put_.default(view, chosen, given)
    elif isinstance(value, Tensor):
        _aten.copy_.default(view, value)
    else:
        _aten.fill_.Scalar(view, value)


def _view(tensor: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None]]:
    """Return what the numbers and slices of an index leave of a tensor, and the tensors by which that is indexed."""
    entries = list(index) if isinstance(index, tuple) else [index]
    entries = [torch.tensor(entry, device=tensor.device) if isinstance(entry, list) else entry for entry in entries]
    rest = [slice(None)] * (tensor.ndim - sum(_dimensions(entry) for entry in entries))
    at = next((at for at, entry in enumerate(entries) if entry is Ellipsis), len(entries))
    chosen: list[Tensor | None] = []
    for entry in [*entries[:at], *rest, *entries[at + 1 :]]:
        dim = len(chosen)
        if entry is None:
            tensor = _aten.unsqueeze.default(tensor, dim)
            chosen.append(None)
        elif isinstance(entry, slice):
            if entry != slice(None):
                tensor = _aten.slice.Tensor(tensor, dim, entry.start, entry.stop, entry.step or 1)
            chosen.append(None)
        elif isinstance(entry, Tensor) and (entry.ndim or entry.dtype == torch.bool):
            chosen.extend([entry, *[None] * (_dimensions(entry) - 1)])
        else:
            tensor = _aten.select.int(tensor, dim, int(_item(entry) if isinstance(entry, Tensor) else entry))
    while chosen and chosen[-1] is None:
        chosen.pop()
    return tensor, chosen


def _dimensions(entry: Any) -> int:
    """Return how many of a tensor's dimensions an entry of an index takes."""
    if entry is None or entry is Ellipsis:
        return 0
    return entry.ndim if isinstance(entry, Tensor) and entry.dtype == torch.bool else 1


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata + tensor.storage_offset() * tensor.element_size()


def _item(tensor: Tensor) -> Any:
    return _aten._local_scalar_dense.default(tensor)
