"""The jobs that were made and the files of them: favourites, the bin, other formats, and back to the settings.

Deleting only marks a job; `purge` removes what was marked long enough ago. Knows nothing of running jobs.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from i2v.errors import Cancelled, I2VError, InputError, UnknownJobError
from i2v.jobs.folder import JobFolder, if_there
from i2v.jobs.model import Job
from i2v.jobs.store import JobStore
from i2v.machine.disk_use import DiskUse, DiskUseCounter
from i2v.media.formats import ENDINGS, open_writer, read_request
from i2v.media.image import save_png
from i2v.media.metadata import read_metadata, read_size
from i2v.media.video import read_frames
from i2v.request import GenerationRequest, build_request
from i2v.service.keyed_locks import KeyedLocks
from i2v.settings import Settings

__all__ = ["KEPT_IN_BIN_S", "DiskUse", "Library"]

_log = logging.getLogger(__name__)
KEPT_IN_BIN_S = 600.0
_PURGED_EVERY_S = 120.0
_MOST_FILE_BYTES = 1 << 30
_MOST_PROMPT_LETTERS = 20_000
_JOB_ID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OTHER_VERSION = "the settings in this file were made by another version of i2v"


class _OfJob(Protocol):
    @property
    def job(self) -> Job: ...


class Library:
    """The jobs of one home folder. Any number of threads may use it."""

    def __init__(self, store: JobStore, settings: Settings):
        self._store, self._settings = store, settings
        self._disk_use = DiskUseCounter(settings)
        self._locks = KeyedLocks()  # of files that are being made, by job and kind
        self._closing = threading.Event()
        self._purging = threading.Thread(target=self._purge_now_and_then, name="purge", daemon=True)

    def start(self) -> None:
        """Purge the bin, now and from time to time until closed, in a thread."""
        self._purging.start()

    def close(self) -> None:
        """Stop what is being done in threads."""
        self._closing.set()
        if self._purging.is_alive():
            self._purging.join()

    # Favourites and the bin

    def set_favourite(self, job_id: str, on: bool) -> None:
        """Mark or unmark a job. Raises UnknownJobError."""
        self._store.set_favourite(job_id, on)

    def delete(self, job_id: str) -> None:
        """Put a job that is over in the bin. Raises InputError for any other."""
        self._store.delete(job_id)

    def restore(self, job_id: str) -> None:
        """Take a job out of the bin again. Raises UnknownJobError once it is gone for good."""
        self._store.restore(job_id)

    def purge(self, older_than_s: float = KEPT_IN_BIN_S) -> int:
        """Remove the jobs deleted at least so long ago and their files; return how many. The rest waits when closed."""
        purged = 0
        for job_id in self._store.doom(older_than_s):
            if self._closing.is_set():
                break
            try:
                self._remove_folder(job_id)
            except OSError as error:
                _log.warning("the files of job %s cannot be removed yet: %s", job_id, error.strerror)
                continue
            self._store.forget(job_id)
            purged += 1
        return purged

    def _remove_folder(self, job_id: str) -> None:
        """Remove a job's folder, never anything outside of the folder of jobs: a link is removed, not followed."""
        if not _JOB_ID.fullmatch(job_id):
            _log.warning("the deleted job %r has no folder of i2v's", job_id)
            return
        folder = self._settings.job_folder(job_id)
        try:
            if folder.is_symlink():
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)
        except FileNotFoundError:  # another process purges too
            _log.info("the files of job %s are gone already", job_id)

    def _purge_now_and_then(self) -> None:
        while not self._closing.is_set():
            try:
                if purged := self.purge():
                    _log.info("%d deleted jobs were removed", purged)
            except I2VError as error:
                _log.warning("the bin cannot be purged now: %s", error)
            self._closing.wait(_PURGED_EVERY_S)

    def disk_use(self) -> DiskUse:
        """Return what jobs, bin and models take, and what is free."""
        return self._disk_use.count(self._store.deleted())

    # Files of a job

    def file_name(self, of: _OfJob, kind: str = "mp4") -> str:
        """Return a name to download a file of a job under, made from facts alone: nothing that a person wrote."""
        job, request = of.job, of.job.request
        model = re.sub(r"[^A-Za-z0-9.-]", "-", str(request.get("model", "")))
        size = f"{int(request.get('width', 0))}x{int(request.get('height', 0))}"
        made = time.strftime("%Y%m%d-%H%M", time.localtime(job.created_at))
        return f"i2v-{model}-{size}-seed{int(request.get('seed', 0))}-{made}-{job.id[:8]}{_ending(kind)}"

    def converted(self, job_id: str, kind: str) -> Path:
        """Return a job's file of another kind, made from its MP4 if there is none yet. May take as long as a decode.

        Two callers at once make it once. Raises InputError, StorageError; Cancelled when i2v is stopped meanwhile.
        """
        ending = _ending(kind)
        with self._locks.hold(job_id, kind):
            job = self._job(job_id)
            there = self._file(job, kind)
            if there:
                return there
            video = self._video(job)
            path = video.with_suffix(ending)
            self._convert(video, path, int(job.request["fps"]))
            self._store.add_file(job_id, kind, path.name, path.stat().st_size)
            return path

    def _convert(self, video: Path, path: Path, fps: int) -> None:
        size = read_size(video)
        if size is None:
            raise InputError("this video does not say how it was made", "Generate it anew.")
        with closing(read_frames(video)) as frames, open_writer(path, fps, size, read_metadata(video)) as writer:
            for frame in frames:
                if self._closing.is_set():
                    raise Cancelled("i2v was stopped while the file was made", "Ask for it again.")
                writer.write(frame)

    def last_frame(self, job_id: str) -> Path:
        """Return the last frame of a job's video as a PNG, taken from the MP4 if the job did not leave it."""
        job = self._job(job_id)
        video = self._video(job)
        path = self._folder(job).last
        with self._locks.hold(job_id, "last"):
            if not path.is_file():
                last = None
                with closing(read_frames(video)) as frames:
                    for last in frames:  # noqa: B007 - only the last one counts
                        pass
                if last is None:
                    raise InputError("this video has no frames", "Generate it anew.")
                save_png(Image.fromarray(last), path)
        return path

    def _job(self, job_id: str) -> Job:
        job = self._store.get(job_id)
        if job is None:
            raise UnknownJobError(f"there is no job {job_id}", "It may have been deleted.")
        return job

    def _video(self, job: Job) -> Path:
        video = self._file(job, "mp4")
        if video is None:
            raise InputError("this job has no video", "Generate it anew.")
        return video

    def _file(self, job: Job, kind: str) -> Path | None:
        name = job.result.files.get(kind) if job.result else None
        return if_there(self._folder(job).file(name)) if name else None

    def _folder(self, job: Job) -> JobFolder:
        return JobFolder(self._settings.job_folder(job.id))

    # From a file back to its settings

    def settings_of(self, path: Path) -> tuple[dict[str, Any], Path | None]:
        """Return the request that made a video of i2v, and its start picture if a job here has it.

        The file is a stranger's: only the text in it is read, and only settings that can be are returned. Raises
        InputError.
        """
        try:
            too_large = path.stat().st_size > _MOST_FILE_BYTES
        except OSError:
            too_large = False  # read_request says what is wrong
        if too_large:
            raise InputError("this file is larger than any video that i2v makes", "Choose a video that i2v made.")
        request = _checked(read_request(path)["request"])
        return request.model_dump(mode="json"), self._picture(request.image_sha256)

    def _picture(self, image_sha256: str) -> Path | None:
        if not _SHA256.fullmatch(image_sha256):
            return None
        pictures = (self._folder(job).picture for job in self._store.with_picture(image_sha256))
        return next(filter(if_there, pictures), None)


def _ending(kind: str) -> str:
    ending = ENDINGS.get(kind)
    if ending is None:
        raise InputError(f"there is no format {kind!r}", f"Use one of: {', '.join(ENDINGS)}.", field="kind")
    return ending


def _checked(values: dict[str, Any]) -> GenerationRequest:
    """Return the request, sure to be one that can be asked for here. Raises InputError."""
    remedy = "Enter them on the page instead."
    try:
        request = GenerationRequest.model_validate_json(json.dumps(values))
    except (ValueError, RecursionError) as error:  # pydantic's ValidationError is a ValueError
        raise InputError(_OTHER_VERSION, remedy) from error
    if len(request.prompt) + len(request.negative_prompt) > _MOST_PROMPT_LETTERS:
        raise InputError("the prompt in this file is too long", remedy)
    return build_request(request.model_dump(), (request.width, request.height))
