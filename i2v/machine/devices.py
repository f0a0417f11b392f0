"""What the machine has: GPUs through NVML, memory, disk, versions. Never initialises CUDA, never imports torch."""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from i2v import __version__

__all__ = [
    "CUDA_ORDER",
    "Gpu",
    "Memory",
    "first_visible_gpu",
    "folder_bytes",
    "folder_entries",
    "free_disk_bytes",
    "gpus",
    "machine_memory",
    "process_exists",
    "process_memory_bytes",
    "process_started",
    "versions",
]

_log = logging.getLogger(__name__)
# How cards are counted, whatever the person's environment says, in every process of i2v that uses one: as the driver's
# own list and nvidia-smi do, so that this process, which never asks CUDA, knows which card that will be.
CUDA_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA card as the driver reports it, all processes counted; what it does not tell is "", None or 0.

    `index` counts by PCI bus. `mine_bytes`: held by the processes that were asked about, a part of `used_bytes`.
    """

    index: int
    name: str
    driver: str
    total_bytes: int
    used_bytes: int
    uuid: str = ""
    capability: tuple[int, int] | None = None
    mine_bytes: int = 0

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes


@dataclass(frozen=True)
class Memory:
    """The machine's main memory."""

    total_bytes: int
    available_bytes: int

    @property
    def used_bytes(self) -> int:
        return self.total_bytes - self.available_bytes


@lru_cache(maxsize=1)
def _nvml() -> ModuleType | None:
    """Return the initialised NVML binding, or None without it or on a machine without an NVIDIA driver."""
    try:
        import pynvml
    except ImportError as error:
        _log.warning("NVIDIA cards cannot be seen, for the package nvidia-ml-py is not installed: %s", error)
        return None
    binding: ModuleType = pynvml
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.info("no NVIDIA driver: %s", error)
        return None
    return binding


@lru_cache(maxsize=256)
def _log_once(level: int, sentence: str) -> None:
    _log.log(level, sentence)  # the page asks twice a second


def _ask(nvml: ModuleType, function: str, *arguments: Any, level: int = logging.INFO) -> Any:
    """Return what the driver answers, or None where it does not tell; said once in the log."""
    try:
        return getattr(nvml, function)(*arguments)
    except _refusals(nvml) as error:
        _log_once(level, f"the NVIDIA driver does not answer {function}: {error}")
        return None


def _refusals(nvml: ModuleType) -> tuple[type[Exception], ...]:
    return nvml.NVMLError, nvml.NVMLLibraryMismatchError  # the second, no NVMLError: a driver older than the binding


def gpus(own_pids: Collection[int] = ()) -> list[Gpu]:
    """Return the NVIDIA cards by PCI bus, none on a machine without a driver.

    A card whose memory cannot be read, for example because it fell off the bus, is left out. `own_pids`: the processes
    whose memory is counted as `mine_bytes`.
    """
    nvml = _nvml()
    if nvml is None:
        return []
    count = _ask(nvml, "nvmlDeviceGetCount", level=logging.WARNING) or 0
    driver = _text(_ask(nvml, "nvmlSystemGetDriverVersion")) or "not available"
    cards = (_read_card(nvml, index, driver, own_pids) for index in range(count))
    return [card for card in cards if card]


def _read_card(nvml: ModuleType, index: int, driver: str, own_pids: Collection[int]) -> Gpu | None:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except _refusals(nvml) as error:
        _log_once(logging.WARNING, f"card {index} cannot be read and is left out: {error}")
        return None
    capability = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    processes = (_ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or []) if own_pids else []
    return Gpu(
        index,
        _text(_ask(nvml, "nvmlDeviceGetName", handle)) or "NVIDIA card",
        driver,
        int(memory.total),
        int(memory.used),
        uuid=_text(_ask(nvml, "nvmlDeviceGetUUID", handle)),
        capability=(int(capability[0]), int(capability[1])) if capability else None,
        mine_bytes=sum(process.usedGpuMemory or 0 for process in processes if process.pid in own_pids),
    )


def _text(answer: Any) -> str:
    return answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer or "")


def first_visible_gpu(cards: Sequence[Gpu], environ: Mapping[str, str] = os.environ) -> Gpu | None:
    """Return the card that is device 0 under CUDA_ORDER, or None where CUDA_VISIBLE_DEVICES hides them all.

    CUDA_VISIBLE_DEVICES lists indices by PCI bus, or the beginnings of UUIDs; the first entry without a card ends the
    list, a card named twice empties it (CUDA C++ programming guide, environment variables;
    torch.cuda._parse_visible_devices). Parts of a card (MIG) are not cards.
    """
    in_order = sorted(cards, key=lambda card: card.index)
    entries = environ.get("CUDA_VISIBLE_DEVICES")
    if entries is None:
        return in_order[0] if in_order else None
    named = (_named_card(entry.strip(), in_order) for entry in entries.split(","))
    visible = list(takewhile(lambda card: card is not None, named))
    return visible[0] if visible and len(set(visible)) == len(visible) else None


def _named_card(entry: str, in_order: Sequence[Gpu]) -> Gpu | None:
    if entry.startswith("GPU-"):
        found = [card for card in in_order if card.uuid.startswith(entry)]
        return found[0] if len(found) == 1 else None
    number = re.match(r"\+?[0-9]+", entry)  # as strtoul reads it: what follows the digits is ignored
    position = int(number[0]) if number else len(in_order)
    return in_order[position] if position < len(in_order) else None


def machine_memory() -> Memory:
    """Return the machine's main memory now."""
    memory = psutil.virtual_memory()
    return Memory(memory.total, memory.available)


def free_disk_bytes(folder: Path) -> int:
    """Return the free space of the file system that holds a folder, or its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def folder_bytes(folder: Path | str) -> int:
    """Return the bytes of all files under a folder; links are not followed, and what vanishes meanwhile is nothing."""
    total = 0
    for entry in folder_entries(folder):
        with suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                total += folder_bytes(entry.path)
            elif entry.is_file(follow_symlinks=False):
                total += entry.stat(follow_symlinks=False).st_size
    return total


def folder_entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return what a folder holds, nothing if it is not there."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def process_started(pid: int | None = None) -> float:
    """Return when a process started (this one by default), on a clock that nobody sets: tells a recycled pid apart.

    On Linux in seconds since the boot, as psutil's time of creation moves with the wall clock; elsewhere since 1970.
    """
    created = float(psutil.Process(pid or os.getpid()).create_time())
    return created - float(psutil.boot_time()) if psutil.LINUX else created


def process_memory_bytes(pid: int) -> int:
    """Return the main memory that a process holds; 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def process_exists(pid: int, started: float) -> bool:
    """Say whether the process that had this pid at that time still runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and abs(process_started(pid) - started) < 0.05
    except psutil.Error:
        return False


def versions() -> dict[str, str]:
    """Return the versions that matter in a bug report; missing packages are named as such."""
    found = {"i2v": __version__, "python": platform.python_version(), "system": platform.platform(terse=True)}
    for package in ("torch", "diffusers", "transformers", "gradio", "imageio-ffmpeg", "sqlalchemy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
