"""How much of the disk i2v takes, counted quickly: a folder is counted anew only after something in it changed."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from i2v.machine.devices import folder_bytes, folder_entries, free_disk_bytes
from i2v.settings import Settings

__all__ = ["DiskUse", "DiskUseCounter"]


@dataclass(frozen=True)
class DiskUse:
    """Bytes of the jobs, of those deleted but not yet removed (not among the former), of the models, and free."""

    jobs_bytes: int
    trash_bytes: int
    models_bytes: int
    free_bytes: int


class DiskUseCounter:
    """Counts, and remembers what each job's folder took when it last changed. For any number of threads."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._known: dict[str, tuple[int, int]] = {}  # by folder: when it changed, and its bytes

    def count(self, deleted: Collection[str]) -> DiskUse:
        """Count the disk use; `deleted` are the ids of deleted jobs."""
        bytes_of = self._bytes_of_jobs()
        trash = sum(size for job_id, size in bytes_of.items() if job_id in deleted)
        return DiskUse(
            sum(bytes_of.values()) - trash,
            trash,
            folder_bytes(self._settings.home / "models"),
            free_disk_bytes(self._settings.home),
        )

    def _bytes_of_jobs(self) -> dict[str, int]:
        before, now = self._known, {}
        for entry in folder_entries(self._settings.jobs):
            with suppress(FileNotFoundError):  # removed just now
                if entry.is_dir(follow_symlinks=False):
                    changed = entry.stat(follow_symlinks=False).st_mtime_ns
                    known = before.get(entry.name)
                    is_same = known is not None and known[0] == changed
                    now[entry.name] = known if known and is_same else (changed, folder_bytes(entry.path))
        self._known = now
        return {name: size for name, (_, size) in now.items()}
