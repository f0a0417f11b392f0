"""The models on this machine: which are here, and downloads in the background that every tab of the page shares.

What has come of a download is on disk, so that one that was paused, or cut off with the program, goes on from there.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from i2v.errors import Cancelled, I2VError, InputError, ModelFilesError, StorageError
from i2v.jobs.result import ErrorNote
from i2v.jobs.store import JobStore
from i2v.models import download
from i2v.presets.model_preset import ModelPreset, load_presets, preset_named

__all__ = ["DownloadState", "ModelState", "ModelsOnDisk"]

_log = logging.getLogger(__name__)
_SPEED_OVER_S = 5.0
_LEAP_BYTES = 1 << 20  # more at once than is ever received at once: it was on disk already
_END_LIMIT_S = 3.0
_DELETED = ".deleted-"


@dataclass(frozen=True)
class ModelState:
    """One model and whether this machine has its files."""

    preset: ModelPreset
    installed: bool
    folder: Path
    disk_bytes: int


class DownloadPhase(StrEnum):
    """Where a download stands that is not complete."""

    DOWNLOADING = "downloading"
    PAUSED = "paused"
    FAILED = "failed"


@dataclass(frozen=True)
class DownloadState:
    """A download that is not complete. `total_bytes` is the preset's estimate until the hub has been asked.

    `bytes_per_s` and `eta_s` are None while nothing is known of the speed; `error` is why it failed.
    """

    state: DownloadPhase
    done_bytes: int
    total_bytes: int
    bytes_per_s: float | None = None
    eta_s: float | None = None
    error: ErrorNote | None = None


class ModelsOnDisk:
    """The models of one home folder. `changed` is called when the files of a model came or went."""

    def __init__(self, home: Path, store: JobStore, changed: Callable[[], None]):
        self._home, self._store, self._changed = home, store, changed
        self._lock = threading.Lock()
        self._downloads: dict[str, _Download] = {}
        self._is_closed = False

    def models(self) -> list[ModelState]:
        """Return every model with what is on disk of it."""
        return [
            ModelState(
                preset,
                download.is_installed(preset, self._home),
                download.model_folder(preset, self._home),
                download.size_on_disk(preset, self._home),
            )
            for preset in load_presets().values()
        ]

    def download(
        self, name: str, progress: Callable[[int, int], None], cancelled: Callable[[], bool] = lambda: False
    ) -> Path:
        """Fetch a model's files before returning; goes on where an earlier download stopped. Raises ModelFilesError."""
        folder = download.download(preset_named(name), self._home, progress, cancelled)
        self._changed()
        return folder

    # Downloads in the background

    def start_download(self, name: str) -> None:
        """Begin a download or go on with it; nothing happens if it runs or the model is here. Raises InputError."""
        preset = _of_hub(name)
        with self._lock:
            if self._is_closed or download.is_installed(preset, self._home):
                return
            current = self._downloads.get(preset.name)
            if current is None or current.is_over:
                current = self._downloads[preset.name] = _Download(preset)
                current.thread = threading.Thread(
                    target=self._run, args=[current], name=f"download {preset.name}", daemon=True
                )
                current.thread.start()
            current.is_wanted = True  # one that was paused a moment ago just goes on

    def pause_download(self, name: str) -> None:
        """Stop a download soon; what has come of it stays."""
        preset = _of_hub(name)
        with self._lock:
            if current := self._downloads.get(preset.name):
                current.is_wanted = False

    def downloads(self) -> dict[str, DownloadState]:
        """Return every download that runs, waits to go on, or failed, by the model's name."""
        found = {}
        with self._lock:
            for preset in load_presets().values():
                if preset.hub and (state := self._state_of(preset, preset.hub.download_bytes)):
                    found[preset.name] = state
        return found

    def _state_of(self, preset: ModelPreset, estimate_bytes: int) -> DownloadState | None:
        current = self._downloads.get(preset.name)
        if current and not current.is_over and current.is_wanted:
            return current.state()
        if download.is_installed(preset, self._home):
            return None  # perhaps by another process
        if current is None and not download.is_unfinished(preset, self._home):
            return None
        waiting = current.state() if current else DownloadState(DownloadPhase.PAUSED, 0, estimate_bytes)
        done = download.size_on_disk(preset, self._home)
        return replace(waiting, done_bytes=done, total_bytes=max(done, waiting.total_bytes))

    def delete(self, name: str) -> None:
        """Remove a downloaded model, or what has come of it. Raises InputError while it is needed."""
        preset = _of_hub(name)
        if any(job.request.get("model") == preset.name for job in self._store.active()):
            raise InputError(f"a job needs the model {preset.name}", "Wait until it is done, or cancel it.")
        folder = download.model_folder(preset, self._home)
        self._await_pause(preset.name)
        with self._lock:
            current = self._downloads.get(preset.name)
            if current and not current.is_over:
                raise InputError(
                    f"the model {preset.name} is being downloaded",
                    "Pause the download first." if current.is_wanted else "Wait a moment and try again.",
                )
            self._downloads.pop(preset.name, None)
            _take_away(preset, folder)
        self._changed()
        for rest in folder.parent.glob(f"{_DELETED}*"):  # of earlier times too
            shutil.rmtree(rest, ignore_errors=True)

    def _await_pause(self, name: str) -> None:
        """Let a download that was paused come to its end: what it is receiving just now."""
        with self._lock:
            current = self._downloads.get(name)
        if current and current.thread and not current.is_wanted:
            current.thread.join(_END_LIMIT_S)

    def close(self) -> None:
        """End all downloads; they can be gone on with."""
        with self._lock:
            self._is_closed = True
            running = [current for current in self._downloads.values() if not current.is_over]
            for current in running:
                current.is_wanted = False
        for current in running:
            if current.thread:
                current.thread.join(_END_LIMIT_S)  # one that the network keeps waiting ends with the program

    def _run(self, current: _Download) -> None:
        try:
            while not self._bring(current):
                pass
        except Exception as error:  # the thread's outermost edge: the page must not show it as running for ever
            _log.exception("the download of %s failed", current.preset.name)
            with self._lock:
                current.fail(
                    ModelFilesError(f"the download stopped unexpectedly ({type(error).__name__})", "Try again.")
                )

    def _bring(self, current: _Download) -> bool:
        """Download until it is done, paused or fails; False if it was asked to go on meanwhile."""
        name = current.preset.name
        try:
            download.download(current.preset, self._home, current.see, lambda: not current.is_wanted)
        except Cancelled:
            with self._lock:
                current.is_over = not current.is_wanted
            return current.is_over
        except I2VError as error:
            _log.warning("the download of %s failed: %s", name, error)
            with self._lock:
                current.fail(error)
            return True
        with self._lock:
            current.is_over = True
            del self._downloads[name]
        self._changed()
        return True


class _Download:
    """One download in this process. `is_wanted`: not paused; `is_over`: its thread does no more."""

    def __init__(self, preset: ModelPreset):
        self.preset = preset
        self.thread: threading.Thread | None = None
        self.is_wanted, self.is_over = True, False
        self._error: ErrorNote | None = None
        self._done, self._total = 0, preset.hub.download_bytes if preset.hub else 0
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, done_bytes: int, total_bytes: int) -> None:
        """Take in a progress report."""
        now = time.monotonic()
        if done_bytes - self._done > _LEAP_BYTES:
            self._seen.clear()
        self._done, self._total = done_bytes, total_bytes
        self._seen.append((now, done_bytes))
        while now - self._seen[0][0] > _SPEED_OVER_S:
            self._seen.popleft()

    def fail(self, error: I2VError) -> None:
        self._error, self.is_over = ErrorNote.of(error), True

    def state(self) -> DownloadState:
        if self._error:
            return DownloadState(DownloadPhase.FAILED, self._done, self._total, error=self._error)
        if not self.is_wanted:
            return DownloadState(DownloadPhase.PAUSED, self._done, self._total)
        speed = self._bytes_per_s()
        left = self._total - self._done
        return DownloadState(DownloadPhase.DOWNLOADING, self._done, self._total, speed, left / speed if speed else None)

    def _bytes_per_s(self) -> float | None:
        seen, now = list(self._seen), time.monotonic()
        if len(seen) < 2 or now - seen[-1][0] > _SPEED_OVER_S:
            return None
        return (seen[-1][1] - seen[0][1]) / max(now - seen[0][0], 1e-3) or None


def _of_hub(name: str) -> ModelPreset:
    preset = preset_named(name)
    if preset.hub is None:
        raise InputError(f"the model {preset.name} ships with i2v", "It is here already, and stays.", field="model")
    return preset


def _take_away(preset: ModelPreset, folder: Path) -> None:
    """Have a model's folder vanish at once; a link to a person's own folder is removed, and nothing in it."""
    try:
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            with download.alone(preset, folder):  # another process may be downloading
                folder.rename(folder.with_name(f"{_DELETED}{secrets.token_hex(8)}"))
    except OSError as error:
        raise StorageError(
            f"the folder {folder} cannot be removed: {error.strerror}", "Check that it may be written."
        ) from error
