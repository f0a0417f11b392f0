"""Where a model's files are, whether they are complete, and how they come from the hub. No torch.

huggingface_hub gives the list of files, the address and the person's token. The transfer is here, because its
`snapshot_download` (2.4) throws away what it has of a file when it is stopped: here a file goes on where it
was cut off, in a later process too, and gets its name only after its hash is the one that the hub lists.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from i2v.errors import Cancelled, ModelFilesError, StorageError
from i2v.machine.devices import folder_bytes
from i2v.models.files import check_family, check_folder
from i2v.presets.model_preset import HubSource, ModelPreset

__all__ = ["alone", "download", "is_installed", "is_unfinished", "model_folder", "size_on_disk"]

_log = logging.getLogger(__name__)
_PARTS = ".download"  # unfinished files, inside the model's folder, each named by its hash
_LIST_TIMEOUT_S = 20.0
_SILENCE_TIMEOUT_S = 30.0
_ATTEMPTS = 5  # without a single byte
_READ_BYTES = 1 << 18
_SPARE_DISK_BYTES = 1 << 28


def model_folder(preset: ModelPreset, home: Path) -> Path:
    """Return where the model's files are, or would be."""
    return preset.shipped_folder or home / "models" / preset.name


def is_installed(preset: ModelPreset, home: Path) -> bool:
    """Tell whether every part of the model is there and whole, from names and headers: milliseconds."""
    folder = model_folder(preset, home)
    try:
        check_folder(folder)
        check_family(folder, preset.declared)
    except ModelFilesError:
        return False
    return True


def is_unfinished(preset: ModelPreset, home: Path) -> bool:
    """Tell whether a download was begun and has not come to its end."""
    return (model_folder(preset, home) / _PARTS).is_dir()


def size_on_disk(preset: ModelPreset, home: Path) -> int:
    """Return how many bytes the model's folder takes, unfinished files included."""
    return folder_bytes(model_folder(preset, home))


def download(
    preset: ModelPreset, home: Path, progress: Callable[[int, int], None], cancelled: Callable[[], bool]
) -> Path:
    """Bring the model's folder to the pinned commit and return it; what is right already is left alone.

    `progress(done, total)` in bytes. Raises Cancelled, ModelFilesError, StorageError; what has come is kept.
    """
    folder = model_folder(preset, home)
    if preset.hub is None:
        return folder
    with _in_one_sentence(preset, folder), alone(preset, folder):
        files = _list_files(preset.hub)
        _check_disk(folder, sum(file.size for file in files) - size_on_disk(preset, home))
        meter = _Meter(sum(file.size for file in files), progress, cancelled)
        for file in files:
            _bring(folder, file, meter)
        shutil.rmtree(folder / _PARTS)
    check_folder(folder)
    _log.info("%s is complete: %d files, %d bytes", preset.name, len(files), meter.total)
    return folder


@dataclass(frozen=True)
class _RemoteFile:
    """One file at the pinned commit. `digest` is a SHA-256 for large files, a git blob id for small ones."""

    name: str
    size: int
    digest: str
    url: str

    def digest_of(self, path: Path, meter: _Meter) -> str:
        """Return the digest of a file on disk, of the kind that the hub lists for this one."""
        if len(self.digest) == 64:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        with path.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                meter.stop_if_cancelled()
                digest.update(block)
        return digest.hexdigest()


class _Meter:
    """Counts bytes over all files, and stops the work when the person cancels."""

    def __init__(self, total: int, progress: Callable[[int, int], None], cancelled: Callable[[], bool]):
        self.total, self._progress, self._cancelled = total, progress, cancelled
        self._finished = 0

    def stop_if_cancelled(self) -> None:
        if self._cancelled():
            raise Cancelled("the download was stopped", "Start it again to go on where it stopped.")

    def at(self, bytes_of_file: int) -> None:
        """Report that the current file has come so far."""
        self.stop_if_cancelled()
        self._progress(self._finished + bytes_of_file, self.total)

    def finish(self, file: _RemoteFile) -> None:
        self._finished += file.size
        self._progress(self._finished, self.total)


def _list_files(source: HubSource) -> list[_RemoteFile]:
    """Ask the hub for the allowed files of the pinned commit, with their sizes and hashes."""
    from huggingface_hub import HfApi, constants

    endpoint = constants.ENDPOINT
    try:
        info = HfApi(endpoint=endpoint).model_info(
            source.repo, revision=source.revision, files_metadata=True, timeout=_LIST_TIMEOUT_S
        )
        base = f"{endpoint}/{source.repo}/resolve/{quote(str(info.sha), safe='')}"
        files = [
            _RemoteFile(
                name=entry.rfilename,
                size=int(entry.size or 0),
                digest=str(entry.lfs.sha256 if entry.lfs else entry.blob_id),
                url=f"{base}/{quote(entry.rfilename)}",
            )
            for entry in info.siblings or []
            if any(fnmatchcase(entry.rfilename, pattern) for pattern in source.files)
        ]
    except (TypeError, ValueError, KeyError) as error:
        raise ModelFilesError(
            f"the answer from {endpoint} is not the hub's",
            "Check the network: a proxy or a login page may stand in between.",
        ) from error
    if not files or any(".." in PurePosixPath(file.name).parts for file in files):
        raise ModelFilesError(f"{source.repo} lacks the files that this model needs", "Please report this.")
    return files


def _check_disk(folder: Path, missing_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing_bytes + _SPARE_DISK_BYTES > free:
        raise StorageError(
            f"{missing_bytes / 1e9:.1f} GB are still to come, but {folder} has room for {free / 1e9:.1f} GB",
            "Free some space, or set I2V_HOME to a folder on a larger disk.",
        )


def _bring(folder: Path, file: _RemoteFile, meter: _Meter) -> None:
    """Make one file right: leave it, finish it, or fetch it."""
    path = folder / file.name
    if path.is_file() and path.stat().st_size == file.size and file.digest_of(path, meter) == file.digest:
        meter.finish(file)
        return
    part = folder / _PARTS / file.digest
    _fetch(file, part, meter)
    if file.digest_of(part, meter) != file.digest:
        part.unlink()
        raise ModelFilesError(f"the file {file.name} arrived damaged", "Start the download again.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.replace(path)
    meter.finish(file)


def _fetch(file: _RemoteFile, part: Path, meter: _Meter) -> None:
    """Bring the unfinished file to its full length, over as many connections as that takes."""
    from httpx2 import TransportError

    part.touch()
    if part.stat().st_size > file.size:
        part.write_bytes(b"")
    silent = 0  # connections in a row that gave nothing
    while (have := part.stat().st_size) < file.size:
        meter.stop_if_cancelled()
        try:
            _receive(file, part, meter)
        except TransportError as error:
            _log.warning("the connection broke in %s after byte %d: %s", file.name, have, type(error).__name__)
            if silent + 1 == _ATTEMPTS and part.stat().st_size == have:
                raise
        silent = silent + 1 if part.stat().st_size == have else 0
        if silent == _ATTEMPTS:
            raise ModelFilesError(f"the hub sends nothing of {file.name}", "Start the download again later.")
        if silent:
            time.sleep(2**silent / 4)


def _receive(file: _RemoteFile, part: Path, meter: _Meter) -> None:
    """Append what one connection gives. The token goes to the hub alone: a redirect elsewhere drops it."""
    from huggingface_hub import get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    with part.open("ab") as stream:
        have = stream.tell()
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with get_session().stream("GET", file.url, headers=headers, timeout=_SILENCE_TIMEOUT_S) as response:
            hf_raise_for_status(response)
            if have and response.status_code != 206:  # the server sends the whole file again
                stream.truncate(0)
                have = 0
            for block in response.iter_bytes(_READ_BYTES):
                stream.write(block)
                have += len(block)
                meter.at(have)


@contextmanager
def alone(preset: ModelPreset, folder: Path) -> Iterator[None]:
    """Keep a second download of the same model out, from another process too."""
    from filelock import FileLock, Timeout

    try:
        (folder / _PARTS).mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".download.lock", timeout=0)
        lock.acquire()
    except Timeout:
        message = f"{preset.name} is being downloaded already"
        raise ModelFilesError(message, "Wait until that is done.") from None
    try:
        (folder / _PARTS).mkdir(exist_ok=True)  # the one before us may have removed it as it finished
        yield
    finally:
        lock.release()


@contextmanager
def _in_one_sentence(preset: ModelPreset, folder: Path) -> Iterator[None]:
    """Turn what the network, the hub and the disk raise into errors that say what to do."""
    from httpx2 import HTTPError, TransportError
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    repo = preset.hub.repo if preset.hub else ""
    again = f"run: python -m i2v models --download {preset.name} - or copy a complete folder to {folder}"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ModelFilesError("HF_HUB_OFFLINE is set, so nothing is downloaded", f"Unset it and {again}.") from error
    except TransportError as error:
        raise ModelFilesError(
            f"the Hugging Face hub cannot be reached ({type(error).__name__})", f"When online, {again}."
        ) from error
    except GatedRepoError as error:
        raise ModelFilesError(
            f"{repo} is given only to people who accepted its terms",
            f"Accept them on its page at the hub, set HF_TOKEN, and {again}.",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelFilesError(f"the hub does not show {repo}", f"Check HF_TOKEN, and {again}.") from error
    except HTTPError as error:
        status: Any = getattr(getattr(error, "response", None), "status_code", "no status")
        raise ModelFilesError(f"the hub refused {repo} (HTTP {status})", f"Later, {again}.") from error
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror or error}", "Free some space, or set I2V_HOME."
        ) from error
