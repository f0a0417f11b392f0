"""Weights that stay in their safetensors files: mapped into memory, read when somebody reads them.

A mapping is read-only. So it takes no memory of its own: what is read of it is the file's page cache, which the system
gives up when it needs room, and no memory is promised for it either. (A private writable mapping, which is what
safetensors' own `safe_open` makes, counts in full against what Linux and Windows allow a process.) Nothing may write to
such a weight.

A mapped weight may be wished in another dtype than its file has: it is cast on its way to the device.
Format: https://huggingface.co/docs/safetensors: eight bytes that say how long the JSON header is, the header, the data.
"""

from __future__ import annotations

import json
import mmap
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["MappedFile", "cast_own", "is_mapped", "mark_mapped", "module_dtype", "read_ahead", "wished_dtype"]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_MARK = "_i2v_mapped"


@dataclass(frozen=True)
class _Mark:
    """What is known of a mapped weight: the dtype it is wished in, and where in which mapping it lies."""

    wished: torch.dtype
    address: int
    mapping: mmap.mmap
    start: int
    length: int


class MappedFile:
    """One safetensors file in memory, as tensors by name. Raises OSError, and ValueError for what it cannot read."""

    def __init__(self, path: Path):
        with path.open("rb") as file:
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():  # torch warns that it cannot be written to, which is what we want
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            self._bytes = torch.frombuffer(self._mapping, dtype=torch.uint8)
        self._data = 8 + int.from_bytes(self._mapping[:8], "little")
        header = json.loads(self._mapping[8 : self._data])
        self.tensors = {name: self._tensor(**entry) for name, entry in header.items() if name != "__metadata__"}

    def _tensor(self, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
        if dtype not in _DTYPES:
            raise ValueError(f"there are numbers of type {dtype!r} in it, which are not known")
        kind = _DTYPES[dtype]
        part = self._bytes[self._data + data_offsets[0] : self._data + data_offsets[1]]
        if part.storage_offset() % kind.itemsize:
            part = part.clone()  # the usual writers align the data, but the format does not say so
        return part.view(kind).view(shape)

    def holds(self, weight: Tensor) -> bool:
        """Whether a weight lies in this file."""
        return weight.numel() > 0 and 0 <= weight.data_ptr() - self._bytes.data_ptr() < self._bytes.numel()

    def mark(self, weight: Tensor, wished: torch.dtype) -> None:
        """Note on a weight that it lies in this file, if it does, and in which dtype it is wished."""
        if self.holds(weight):
            address, length = weight.data_ptr(), weight.numel() * weight.element_size()
            mark = _Mark(wished, address, self._mapping, address - self._bytes.data_ptr(), length)
            setattr(weight, _MARK, mark)


def mark_mapped(weight: Tensor, files: list[MappedFile], wished: torch.dtype) -> None:
    """Note on a weight in which of these files it lies, if in any, and in which dtype it is wished."""
    for file in files:
        file.mark(weight, wished)


def is_mapped(weight: Tensor) -> bool:
    """Whether a weight lies in a mapped file, still: assigning to its `data` takes it out of it."""
    mark = _mark_of(weight)
    return mark is not None and weight.data_ptr() == mark.address


def wished_dtype(weight: Tensor) -> torch.dtype:
    """Return the dtype that a weight is to have on the device."""
    mark = _mark_of(weight)
    return mark.wished if mark is not None and is_mapped(weight) else weight.dtype


def module_dtype(module: nn.Module) -> torch.dtype:
    """Return the dtype that most floating-point numbers of a module are to have on the device."""
    counts: Counter[torch.dtype] = Counter()
    for weight in module.parameters():
        if weight.is_floating_point():
            counts[wished_dtype(weight)] += weight.numel()
    return counts.most_common(1)[0][0] if counts else torch.get_default_dtype()


def cast_own(part: nn.Module) -> None:
    """Cast a module's own mapped weights that are wished in another dtype, into ordinary memory."""
    for tables in (part._parameters, part._buffers):
        for name, weight in tables.items():
            if weight is not None and wished_dtype(weight) != weight.dtype:
                cast = weight.detach().to(wished_dtype(weight))
                is_parameter = isinstance(weight, nn.Parameter)
                tables[name] = nn.Parameter(cast, requires_grad=False) if is_parameter else cast  # type: ignore[assignment]


def read_ahead(weight: Tensor) -> None:
    """Have the system read a mapped weight from disk in the background; nothing for any other, or on Windows."""
    mark = _mark_of(weight)
    if mark is not None and is_mapped(weight) and hasattr(mmap, "MADV_WILLNEED"):
        before = mark.start % mmap.PAGESIZE
        mark.mapping.madvise(mmap.MADV_WILLNEED, mark.start - before, mark.length + before)


def _mark_of(weight: Tensor) -> _Mark | None:
    mark: _Mark | None = getattr(weight, _MARK, None)
    return mark
