"""The facts of this machine, and what is wrong with it: for the page, the command line and bug reports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from i2v.machine import devices

__all__ = ["SPARE_DISK_BYTES", "MachineFacts", "describe_machine", "machine_facts"]

SPARE_DISK_BYTES = 200 * 1024 * 1024
_LITTLE_RAM_BYTES = 2 << 30


@dataclass(frozen=True)
class MachineFacts:
    """What the machine has now. `versions` by package; `home` is the folder whose disk is meant."""

    gpus: tuple[devices.Gpu, ...]
    ram_total_bytes: int
    ram_available_bytes: int
    disk_total_bytes: int
    disk_free_bytes: int
    cpu_count: int
    versions: dict[str, str]
    home: Path


def machine_facts(home: Path) -> MachineFacts:
    """Look at the machine now: milliseconds, so that it can be asked again and again."""
    memory, disk = devices.machine_memory(), shutil.disk_usage(home)
    return MachineFacts(
        gpus=tuple(devices.gpus()),
        ram_total_bytes=memory.total_bytes,
        ram_available_bytes=memory.available_bytes,
        disk_total_bytes=disk.total,
        disk_free_bytes=disk.free,
        cpu_count=os.cpu_count() or 1,
        versions=dict(_versions()),
        home=home,
    )


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return devices.versions()  # reads files; what this process runs with does not change


def describe_machine(facts: MachineFacts, models_installed: Collection[str]) -> dict[str, Any]:
    """Return the facts as plain JSON values, with what is wrong and how to mend it."""
    return {
        "gpus": [
            {
                "name": gpu.name,
                "driver": gpu.driver,
                "vram_total_bytes": gpu.total_bytes,
                "vram_free_bytes": gpu.free_bytes,
            }
            for gpu in facts.gpus
        ],
        "ram_total_bytes": facts.ram_total_bytes,
        "ram_available_bytes": facts.ram_available_bytes,
        "cpu_count": facts.cpu_count,
        "home": str(facts.home),
        "disk_free_bytes": facts.disk_free_bytes,
        "versions": facts.versions,
        "models_installed": list(models_installed),
        "problems": _problems(facts),
    }


def _problems(facts: MachineFacts) -> list[dict[str, str]]:
    from imageio_ffmpeg import get_ffmpeg_exe

    found = []
    missing = [name for name, version in facts.versions.items() if version == "not installed"]
    if missing:
        found.append({"problem": f"not installed: {', '.join(missing)}", "remedy": "Run ./start_app.sh --check"})
    try:
        get_ffmpeg_exe()
    except RuntimeError:
        found.append({"problem": "ffmpeg was not found", "remedy": "Run: pip install --force-reinstall imageio-ffmpeg"})
    if facts.disk_free_bytes < 2 * SPARE_DISK_BYTES:
        free = facts.disk_free_bytes >> 20
        found.append({"problem": f"only {free} MiB of disk are free", "remedy": "Free disk space."})
    if facts.ram_available_bytes < _LITTLE_RAM_BYTES:
        free = facts.ram_available_bytes >> 20
        found.append({"problem": f"only {free} MiB of memory are free", "remedy": "Close programs."})
    return found
