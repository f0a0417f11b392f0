"""Runs one request under one plan: load, encode, denoise, decode, with the result written as the frames come.

Knows pipelines, plans and files of one job's folder; nothing of the job store, of processes or of pages. It reports
through one callable and is stopped through another.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from i2v import __version__
from i2v.engine.checkpoint import load_latents, save_latents
from i2v.engine.doors import free_cached_memory, open_doors, stop_if_cancelled
from i2v.engine.preview import write_preview
from i2v.engine.progress import ProgressClock, Stage
from i2v.errors import Cancelled, GenerationError, I2VError, OutOfMemoryError
from i2v.media.formats import open_writer, poster
from i2v.media.image import fit_picture, load_picture
from i2v.memory.plan import DTYPES, Plan, make_plan
from i2v.memory.watch import MemoryWatch
from i2v.models import family
from i2v.models.base import Conditions, ImageToVideo, cpu_generator
from i2v.models.download import model_folder
from i2v.presets import ModelPreset, preset_named
from i2v.request import GenerationRequest

__all__ = ["Engine", "RunSpec"]

_log = logging.getLogger(__name__)
Report = Callable[[str, dict[str, Any]], None]
_SUFFIXES = {"gif": ".gif", "webp": ".webp", "png": ".zip"}
_LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class RunSpec:
    """One run: what to make, of which picture, in which folder. `attempt` goes onto every event."""

    job_id: str
    attempt: int
    request: GenerationRequest
    home: Path
    folder: Path

    @property
    def picture(self) -> Path:
        return self.folder / "picture.png"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "latents.safetensors"


class Engine:
    """Holds at most one loaded model and runs requests with it, one after another."""

    def __init__(self) -> None:
        self._pipeline: ImageToVideo | None = None
        self._loaded: tuple[str, str, str] | None = None
        self._seconds_before: dict[tuple[str, int, int], dict[Stage, float]] = {}

    def unload(self) -> None:
        """Drop the loaded model and give its memory back."""
        self._pipeline, self._loaded = None, None
        free_cached_memory()

    def run(self, spec: RunSpec, report: Report, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Make the video and return what is known of it. Raises I2VError.

        Events reported: "plan", "progress", "memory", "preview".
        """
        failure: I2VError
        try:
            return self._run(spec, report, cancelled)
        except torch.OutOfMemoryError:
            failure = OutOfMemoryError("the graphics card ran out of memory", "Choose fewer frames or a smaller size.")
        except I2VError as error:
            failure = error.with_traceback(None)  # the frames of a failed run would keep its tensors alive
        if not isinstance(failure, Cancelled):
            self.unload()
        free_cached_memory()
        raise failure

    def _run(self, spec: RunSpec, report: Report, cancelled: Callable[[], bool]) -> dict[str, Any]:
        preset = preset_named(spec.request.model)
        plan = make_plan(spec.request, preset)
        report("plan", plan.to_dict())
        with (
            MemoryWatch(torch.device(plan.device), lambda s: report("memory", s.to_dict())) as watch,
            torch.inference_mode(),
        ):
            run = _Run(spec, preset, plan, watch, report, cancelled, self._last_speed(spec.request))
            self._pipeline = self._load(run)
            result = run.make(self._pipeline) | {"weights_bytes": _weight_bytes(self._pipeline)}
        self._seconds_before[_speed_key(spec.request)] = run.clock.seconds_each()
        return result

    def _last_speed(self, request: GenerationRequest) -> dict[Stage, float]:
        return self._seconds_before.get(_speed_key(request), {})

    def _load(self, run: _Run) -> ImageToVideo:
        run.progress(Stage.LOAD, 0)
        key = (run.preset.name, run.plan.device, run.plan.precision)
        if self._pipeline is None or self._loaded != key:
            self.unload()
            pipeline_class = family(run.preset.family)
            folder = model_folder(run.preset, run.spec.home)
            pipeline = pipeline_class.load(
                folder, run.preset, torch.device(run.plan.device), DTYPES[run.plan.precision]
            )
            self._loaded = key
            _log.info("%s is loaded: %.1f MiB of weights in %s", key[0], _weight_bytes(pipeline) / 2**20, key[2])
        else:
            pipeline = self._pipeline
        run.progress(Stage.LOAD, 1)
        return pipeline


def _weight_bytes(pipeline: ImageToVideo) -> int:
    return sum(p.numel() * p.element_size() for part in pipeline.modules().values() for p in part.parameters())


def _speed_key(request: GenerationRequest) -> tuple[str, int, int]:
    return request.model, request.width, request.height


class _Run:
    """The state of one run, from the first event to the result."""

    def __init__(
        self,
        spec: RunSpec,
        preset: ModelPreset,
        plan: Plan,
        watch: MemoryWatch,
        report: Report,
        cancelled: Callable[[], bool],
        seconds_before: dict[Stage, float],
    ):
        self.spec, self.preset, self.plan, self.watch = spec, preset, plan, watch
        self._report, self._cancelled = report, cancelled
        request = spec.request
        self.clock = ProgressClock(request.num_inference_steps, request.num_frames, seconds_before)

    def progress(self, stage: Stage, step: int) -> None:
        self._report("progress", self.clock.at(stage, step).to_dict())

    def make(self, pipeline: ImageToVideo) -> dict[str, Any]:
        """Encode, denoise, decode."""
        request = self.spec.request
        stop_if_cancelled(self._cancelled)
        self.progress(Stage.ENCODE, 0)
        generator = cpu_generator(request.seed)
        image = fit_picture(load_picture(self.spec.picture), request.width, request.height)
        conditions = pipeline.encode(request, image, generator)
        self.progress(Stage.ENCODE, 1)
        latents = load_latents(self.spec.checkpoint, request)
        if latents is None:
            latents = self._denoise(pipeline, conditions, generator)
        else:
            latents = latents.to(pipeline.device)
            _log.info("the finished latents of an earlier attempt are used")
        frames_sha256 = self._decode(pipeline, latents, conditions)
        self.spec.checkpoint.unlink(missing_ok=True)
        return self._result(frames_sha256)

    def _denoise(self, pipeline: ImageToVideo, conditions: Conditions, generator: torch.Generator) -> torch.Tensor:
        request = self.spec.request
        steps_done = 0
        self._log_memory(0)
        self.progress(Stage.DENOISE, 0)

        def step_seen(latents: torch.Tensor, clean: torch.Tensor) -> None:
            nonlocal steps_done
            steps_done += 1
            self.progress(Stage.DENOISE, min(steps_done, request.num_inference_steps))
            self._report("memory", self.watch.sample().to_dict())
            try:
                write_preview(pipeline.preview(clean, conditions, request), self.spec.folder)
                self._report("preview", {"number": steps_done})
            except OSError as error:  # a full disk, or the page reading the old one just now: the run is worth more
                _log.warning("no preview: %s", error)
            if steps_done % _LOG_EVERY_STEPS == 0:
                self._log_memory(steps_done)

        with open_doors(pipeline, self._cancelled, step_seen):
            latents = pipeline.denoise(pipeline.draw_latents(request, generator), conditions, request)
        save_latents(self.spec.checkpoint, request, latents)
        return latents

    def _log_memory(self, step: int) -> None:
        sample = self.watch.sample()
        mib = 1024 * 1024
        _log.info(
            "step %d: %s allocated %d MiB, reserved %d MiB, peak %d MiB",
            step,
            sample.kind,
            sample.allocated_bytes // mib,
            sample.reserved_bytes // mib,
            sample.peak_bytes // mib,
        )

    def _decode(self, pipeline: ImageToVideo, latents: torch.Tensor, conditions: Conditions) -> str:
        """Write every frame to every file as it comes, and return the hash of all frames."""
        request, digest = self.spec.request, hashlib.sha256()
        metadata = {
            "i2v": __version__,
            "request": request.model_dump(mode="json"),
            "plan": self.plan.to_dict(),
        }
        size = (request.width, request.height)
        with ExitStack() as files:
            writers = [
                files.enter_context(open_writer(self.spec.folder / name, request.fps, size, metadata))
                for name in self._files().values()
            ]
            for index, frame in enumerate(self._frames(pipeline, latents, conditions)):
                digest.update(frame.tobytes())
                if index == 0:
                    poster(frame, self.spec.folder / "poster.jpg")
                for writer in writers:
                    writer.write(frame)
                self.progress(Stage.DECODE, index + 1)
        self.progress(Stage.DECODE, request.num_frames)  # the files are whole now; their time is decoding's
        return digest.hexdigest()

    def _frames(self, pipeline: ImageToVideo, latents: torch.Tensor, conditions: Conditions) -> Iterator[np.ndarray]:
        self.progress(Stage.DECODE, 0)
        count = 0
        for frame in pipeline.decode(latents, conditions, self.spec.request):
            stop_if_cancelled(self._cancelled)
            count += 1
            yield frame
        if count != self.spec.request.num_frames:
            raise GenerationError(f"the model gave {count} frames instead of {self.spec.request.num_frames}")

    def _files(self) -> dict[str, str]:
        stem = f"i2v-{self.spec.job_id[:8]}"
        return {"mp4": f"{stem}.mp4"} | {kind: stem + _SUFFIXES[kind] for kind in self.spec.request.formats}

    def _result(self, frames_sha256: str) -> dict[str, Any]:
        sample, files = self.watch.sample(), self._files()
        return {
            "files": files,
            "file_bytes": {kind: os.path.getsize(self.spec.folder / name) for kind, name in files.items()},
            "seconds": round(self.clock.elapsed_s, 3),
            "stage_seconds": {stage.value: round(s, 3) for stage, s in self.clock.stage_seconds.items()},
            "peak_bytes": sample.peak_bytes,
            "peak_kind": sample.kind,
            "frames_sha256": frames_sha256,
            "plan": self.plan.to_dict(),
        }
