"""What the machine has: GPUs through NVML, memory, disk, versions. Never initialises CUDA, never imports torch."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

import psutil

__all__ = [
    "Gpu",
    "Memory",
    "free_disk_bytes",
    "gpus",
    "machine_memory",
    "process_exists",
    "process_started",
    "versions",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA card as the driver reports it, all processes counted."""

    index: int
    name: str
    driver: str
    total_bytes: int
    used_bytes: int

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
    """Return the initialised NVML binding, or None on a machine without an NVIDIA driver."""
    import pynvml

    binding: ModuleType = pynvml
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.info("no NVIDIA driver: %s", error)
        return None
    return binding


def gpus() -> list[Gpu]:
    """Return the NVIDIA cards, none on a machine without a driver."""
    nvml = _nvml()
    if nvml is None:
        return []
    found = []
    driver = str(nvml.nvmlSystemGetDriverVersion())
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory, name = nvml.nvmlDeviceGetMemoryInfo(handle), str(nvml.nvmlDeviceGetName(handle))
        except nvml.NVMLError as error:  # a card that fell off the bus must not take the page along
            _log.warning("card %d cannot be read: %s", index, error)
            continue
        found.append(Gpu(index, name, driver, int(memory.total), int(memory.used)))
    return found


def machine_memory() -> Memory:
    """Return the machine's main memory now."""
    memory = psutil.virtual_memory()
    return Memory(memory.total, memory.available)


def free_disk_bytes(folder: Path) -> int:
    """Return the free space of the file system that holds a folder, or its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def process_started(pid: int | None = None) -> float:
    """Return when a process started (this one by default), on a clock that nobody sets: tells a recycled pid apart.

    On Linux in seconds since the boot, as psutil's time of creation moves with the wall clock; elsewhere since 1970.
    """
    created = float(psutil.Process(pid or os.getpid()).create_time())
    return created - float(psutil.boot_time()) if psutil.LINUX else created


def process_exists(pid: int, started: float) -> bool:
    """Say whether the process that had this pid at that time still runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE and abs(process_started(pid) - started) < 0.05
    except psutil.Error:
        return False


def versions() -> dict[str, str]:
    """Return the versions that matter in a bug report; missing packages are named as such."""
    found = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    for package in ("torch", "diffusers", "transformers", "gradio", "imageio-ffmpeg", "sqlalchemy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
