"""What every face (page, REST, command line) may do: submit, cancel, retry, list, look, download. No torch, no gradio.

The only module of i2v that a face imports besides the values it hands on (request, presets, settings, errors).
"""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from i2v.errors import InputError, ModelFilesError, StorageError, UnknownJobError
from i2v.jobs.folder import JobFolder
from i2v.jobs.model import Job, JobState
from i2v.jobs.store import JobStore
from i2v.log_file import LogFile
from i2v.machine import devices
from i2v.machine.facts import SPARE_DISK_BYTES, MachineFacts, describe_machine, machine_facts
from i2v.media.image import CheckedPicture, check_picture, fit_picture, picture_sha256, save_png
from i2v.memory.ladder import Ladder
from i2v.models import download
from i2v.models.files import check_family, check_folder
from i2v.models.prompt_length import measure_prompt
from i2v.presets.model_preset import ModelPreset, preset_named
from i2v.presets.saved import SavedPresets
from i2v.request import GenerationRequest, build_request
from i2v.service.expectations import Expectations, Fit
from i2v.service.library import Library
from i2v.service.models_on_disk import ModelsOnDisk, ModelState
from i2v.service.snapshot import Snapshot
from i2v.settings import Settings
from i2v.worker.dispatcher import Dispatcher
from i2v.worker.executor import LocalExecutor, WorkerState
from i2v.worker.forecaster import Forecaster

__all__ = ["Counts", "Service"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """How many jobs there are by state; since this app started, runs that ended, stages of runs and worker processes.

    `ended_runs` by state; `stages` by name: how many runs went through it, and their seconds together.
    """

    jobs: Mapping[JobState, int]
    ended_runs: Mapping[JobState, int]
    stages: Mapping[str, tuple[int, float]]
    worker_starts: int


class Service:
    """The app behind the faces. One per process; several processes may share a home folder.

    `library` has the jobs that were made and their files, `models_on_disk` the models, `presets` what a person saved.
    """

    def __init__(self, settings: Settings, runner: str = "web"):
        settings.make_folders()
        self.settings, self.runner = settings, runner
        self._store = JobStore(settings.database)
        self._executor = executor = LocalExecutor(settings.log_level)
        self._dispatcher = Dispatcher(self._store, executor, settings, runner)
        self._forecaster = Forecaster(self._store, settings.home, lambda: executor.pid)
        self._expectations = Expectations(self._store, self._forecaster, self._live_eta_s)
        self.library = Library(self._store, settings)
        self.models_on_disk = ModelsOnDisk(settings.home, self._store, self._forecaster.forget)
        self.presets = SavedPresets(self._store.engine)
        self.log_file = LogFile(settings.home)

    def start(self) -> None:
        """Settle what an earlier process left behind, then begin to run jobs."""
        for job in self._store.requeue_or_fail_orphans(devices.process_exists):
            _log.warning("job %s was interrupted and is now %s", job.id, job.state)
            shutil.rmtree(JobFolder(self.settings.job_folder(job.id)).frames, ignore_errors=True)
        self._dispatcher.start()
        self.library.start()

    def warm_up(self) -> None:
        """Get the worker ready while a person is still choosing a picture."""
        self._dispatcher.warm_up()

    def close(self) -> None:
        """Stop running jobs and release everything."""
        self._dispatcher.close()
        self.models_on_disk.close()
        self.library.close()
        self._forecaster.close()
        self._store.close()

    # Submitting

    def check(self, values: Mapping[str, Any], image_size: tuple[int, int]) -> GenerationRequest:
        """Return the complete request. Raises InputError naming the field and the remedy; ModelFilesError."""
        request = self._build(values, image_size)
        preset = preset_named(request.model)
        folder = download.model_folder(preset, self.settings.home)
        if not folder.is_dir():
            raise ModelFilesError(
                f"the model {preset.name} is not downloaded",
                f"Download it on the System tab, or run: python -m i2v models --download {preset.name}",
                field="model",
            )
        check_folder(folder)
        check_family(folder, preset.declared)
        self._check_prompts(request, preset)
        return request

    def _build(self, values: Mapping[str, Any], image_size: tuple[int, int]) -> GenerationRequest:
        """Build a request in which what the environment fixes stands where nothing was said."""
        fixed = {"chunk_frames": self.settings.chunk_frames, "precision": self.settings.precision}
        said = {name: value for name, value in values.items() if value is not None}
        if said.get("precision") == "auto":
            del said["precision"]
        return build_request({k: v for k, v in fixed.items() if v is not None} | said, image_size)

    def forecast(
        self, values: Mapping[str, Any], image_size: tuple[int, int], wait: bool = False, pretend: bool = False
    ) -> Ladder | None:
        """Return the ladder of plans for these settings as the machine is now, before anything is submitted.

        None while the model's memory is still being traced, unless told to `wait`. With `pretend`, `vram_gib` and
        `ram_gib` are a card and a main memory that need not be there. Raises InputError for settings that cannot be.
        """
        return self._forecaster.ladder(self._build(values, image_size), wait, pretend)

    def _check_fits(self, request: GenerationRequest) -> None:
        ladder = self._forecaster.ladder(request)
        if ladder is None or ladder.chosen:
            return  # while nothing is known yet, the worker finds out
        flags = [suggestion.flag for suggestion in ladder.suggestions()]
        raise InputError(
            f"this does not fit: {ladder.smallest.plan.reason.rstrip('.')}",
            f"What fits: {', or '.join(flags)}." if flags else "Close other programs, or choose a smaller model.",
            field="width",
        )

    def _check_prompts(self, request: GenerationRequest, preset: ModelPreset) -> None:
        rule = preset.declared.prompt
        if rule is None:
            return
        folder = download.model_folder(preset, self.settings.home) / rule.tokenizer
        for name in ("prompt", "negative_prompt"):
            try:
                length = measure_prompt(folder, getattr(request, name), preset.prompt_tokens, rule.marks)
            except (OSError, ValueError) as error:
                raise ModelFilesError(
                    f"the tokenizer in {folder} cannot be read", "Download the model again."
                ) from error
            if length.cut:
                what = name.replace("_", " ")
                raise InputError(
                    f"the {what} has {length.tokens} tokens and {preset.name} reads {length.limit}: "
                    f"“{length.cut}” would be cut",
                    "Shorten it.",
                    field=name,
                )

    def submit(
        self, values: Mapping[str, Any], image: CheckedPicture | Path | None, image_name: str | None = None
    ) -> Job:
        """Check everything, store the picture and queue the job.

        A file is decoded and checked here; a picture that the caller has checked is taken as it is. Raises InputError,
        ModelFilesError, StorageError, and GenerationError for a model whose memory could not be traced, for the worker
        could not plan it either; then nothing is left behind.
        """
        if image is None:
            raise InputError("there is no start picture", "Choose a picture first.", field="image")
        picture = check_picture(image) if isinstance(image, Path) else image
        request = self.check(values, picture.size)
        request = request.model_copy(update={"image_sha256": picture_sha256(picture.pixels)})
        self._check_fits(request)
        self._check_disk(request)
        job_id = secrets.token_hex(16)
        folder = JobFolder(self.settings.job_folder(job_id))
        try:
            folder.path.mkdir(parents=True)
            save_png(picture.pixels, folder.picture)
            fitted = fit_picture(picture.pixels, request.width, request.height, request.image_fit)
            save_png(Image.fromarray(fitted), folder.fitted)
            job = self._store.submit(
                request.model_dump(mode="json"), image_name or picture.name, self.runner, job_id=job_id
            )
        except StorageError:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        except OSError as error:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise StorageError(
                f"the job cannot be stored in {folder.path}: {error.strerror}", "Free disk space, or set I2V_HOME."
            ) from error
        self._dispatcher.wake()
        return job

    def _check_disk(self, request: GenerationRequest) -> None:
        per_frame = request.width * request.height * (3 if "png" in request.formats else 1)
        needed = SPARE_DISK_BYTES + per_frame * request.num_frames
        free = devices.free_disk_bytes(self.settings.home)
        if free < needed:
            raise StorageError(
                f"only {free >> 20} MiB are free on the disk of {self.settings.home}; {needed >> 20} MiB are needed",
                "Free disk space, or set I2V_HOME to another disk.",
            )

    # Moving jobs along

    def cancel(self, job_id: str) -> Job:
        """Ask for a job to stop; it is cancelled once the worker confirms."""
        job = self._store.request_cancel(job_id)
        self._dispatcher.wake()
        return job

    def stop_and_keep(self, job_id: str) -> Job:
        """Ask for a running job to end early with a video of what is there. Raises InputError for one that waits."""
        job = self._store.request_stop(job_id)
        self._dispatcher.wake()
        return job

    def retry(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again; finished latents of the last attempt are used."""
        job = self._store.retry(job_id, self.runner)
        self._dispatcher.wake()
        return job

    def wait(self, job_id: str, seen: Callable[[Snapshot], None], every_s: float = 0.1) -> Snapshot:
        """Block until a job is over, showing it meanwhile."""
        while True:
            snapshot = self.snapshot(job_id)
            if snapshot is None:
                raise UnknownJobError(f"there is no job {job_id}")
            seen(snapshot)
            if snapshot.is_over:
                return snapshot
            time.sleep(every_s)

    # Looking

    def snapshot(self, job_id: str) -> Snapshot | None:
        """Return one job as it stands now, or None."""
        job = self._store.get(job_id)
        return self._snapshot(job) if job else None

    def _snapshot(self, job: Job) -> Snapshot:
        position = self._store.queue_position(job.id) if job.state == JobState.QUEUED else None
        return Snapshot(job, self._dispatcher.live(job.id), position, JobFolder(self.settings.job_folder(job.id)))

    def active_jobs(self) -> list[Job]:
        """Return queued and running jobs of every process, oldest first."""
        return self._store.active()

    def history(
        self,
        limit: int = 20,
        offset: int = 0,
        search: str = "",
        states: Collection[JobState] | None = None,
        favourites: bool = False,
    ) -> list[Snapshot]:
        """Return a page of jobs, newest first; each word of `search` is in the prompt or the picture's name."""
        return [self._snapshot(job) for job in self._store.list(limit, offset, search, favourites, states)]

    def count_jobs(self, search: str = "", states: Collection[JobState] | None = None, favourites: bool = False) -> int:
        """Return how many jobs `history` would give without a limit."""
        return self._store.count(search, favourites, states)

    def wait_s(self, job_id: str) -> float | None:
        """Return the seconds until a queued job begins; None if unknown, or it is not queued."""
        return self._expectations.wait_s(job_id)

    def _live_eta_s(self, job_id: str) -> float | None:
        live = self._dispatcher.live(job_id)
        return live.progress.eta_s if live and live.progress else None

    def counts(self) -> Counts:
        """Return what is counted for those who watch over i2v."""
        totals = self._dispatcher.totals
        return Counts(self._store.count_by_state(), totals.ended(), totals.stages(), self._executor.starts)

    def worker_state(self) -> WorkerState:
        """Return what this app's worker process is and holds now."""
        return self._executor.state()

    def unload(self) -> None:
        """Have the idle worker drop its model and give the memory back. Raises InputError while a job runs."""
        self._executor.unload()

    def health(self) -> dict[str, bool]:
        """Say of each part that must live whether it does: the store answers, the dispatcher takes jobs."""
        try:
            self._store.get("")
            store_answers = True
        except StorageError as error:
            _log.warning("the job store does not answer: %s", error)
            store_answers = False
        return {"store": store_answers, "dispatcher": self._dispatcher.is_alive}

    # Models and machine

    def models(self) -> list[ModelState]:
        """Return every model with what is on disk of it."""
        return self.models_on_disk.models()

    def download_model(
        self, name: str, progress: Callable[[int, int], None], cancelled: Callable[[], bool] = lambda: False
    ) -> Path:
        """Fetch a model's files; goes on where an interrupted download stopped. Raises ModelFilesError."""
        return self.models_on_disk.download(name, progress, cancelled)

    def fits(self, model_name: str) -> Fit | None:
        """Say whether a model's defaults fit this machine now; None while its memory is being traced."""
        return self._expectations.fits(model_name)

    def machine(self) -> MachineFacts:
        """Return what the machine has now."""
        return machine_facts(self.settings.home)

    def doctor(self) -> dict[str, Any]:
        """Return what the machine has and what is wrong with it, each problem with its remedy."""
        return describe_machine(self.machine(), [state.preset.name for state in self.models() if state.installed])

    def log_tail(self, lines: int = 80) -> list[str]:
        """Return the last lines of the log, secrets hidden."""
        return self.log_file.tail(lines)
