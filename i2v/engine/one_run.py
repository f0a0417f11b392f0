"""One run of one request: encode, denoise, decode, with the result written as the frames come.

Holds the plan that is at work and steps it down when memory runs out; the step that failed is made again, and nothing
that was finished is made twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from i2v import __version__
from i2v.engine.checkpoint import load_latents, save_latents
from i2v.engine.doors import Doors, stop_if_cancelled, with_less_memory
from i2v.engine.frame_files import FrameFiles, write_last
from i2v.engine.memory_watch import MemoryWatch
from i2v.engine.preview import write_preview
from i2v.engine.progress import ProgressClock
from i2v.errors import GenerationError
from i2v.jobs.events import Planned, Preview, Report, Warned
from i2v.jobs.folder import JobFolder, video_name
from i2v.jobs.result import ForecastNote, MemoryKind, MemorySample, PlanNote, RunResult, Stage, StepDown, Stopped
from i2v.media.formats import ENDINGS, open_writer, poster
from i2v.media.image import fit_picture, load_picture
from i2v.memory.ladder import Rung
from i2v.memory.step_down import smaller_plans
from i2v.models.base import Conditions, ImageToVideo, cpu_generator
from i2v.request import GenerationRequest

__all__ = ["OneRun", "Spec"]

_log = logging.getLogger(__name__)
_LOG_EVERY_STEPS = 10
_FEWEST_FRAMES = 2  # fewer are no video
_HIGH_SHARE, _HIGH_SAMPLES = 0.9, 4  # the share of a card's memory that is worth a warning when it lasts


class Spec(Protocol):
    """What a run needs to know of its job."""

    @property
    def job_id(self) -> str: ...
    @property
    def request(self) -> GenerationRequest: ...
    @property
    def home(self) -> Path: ...
    @property
    def folder(self) -> JobFolder: ...


class OneRun:
    """The state of one run, from the first event to the result."""

    pipeline: ImageToVideo
    watch: MemoryWatch

    def __init__(
        self,
        spec: Spec,
        rung: Rung,
        report: Report,
        cancelled: Callable[[], bool],
        seconds_before: dict[Stage, float],
        kept: Callable[[], bool] = lambda: False,
    ):
        self.spec, self.plan, self._rung = spec, rung.plan, rung
        self.report, self._cancelled, self._kept = report, cancelled, kept
        self._stopped: Stopped | None = None  # where the person stopped the run to keep what was there
        self._frame_files = FrameFiles(spec.folder)
        self._step_downs: list[StepDown] = []
        self._warnings: list[str] = []
        self._high_samples = 0
        self._stage, self._step = Stage.LOAD, 0
        request = spec.request
        self.clock = ProgressClock(request.num_inference_steps, request.num_frames, seconds_before)

    def progress(self, stage: Stage, step: int) -> None:
        self._stage, self._step = stage, step
        self.report(self.clock.at(stage, step))

    # The plan

    def report_plan(self) -> None:
        """Tell which plan is at work."""
        self.report(Planned(plan=self._plan_note(), forecast=self._forecast()))

    def step_down(self, stage: Stage, why: str) -> bool:
        """Put the next smaller plan to work; False when there is none."""
        smaller = next(smaller_plans(self.plan, stage, self.spec.request.num_frames), None)
        if smaller is None:
            return False
        step = StepDown(
            stage=stage,
            step=self._step,
            t_s=round(self.clock.elapsed_s, 2),
            why=why,
            before=self.plan.words(),
            after=smaller.words(),
        )
        _log.warning("%s during %s: from %s to %s", why, stage, step.before, step.after)
        self.plan = smaller.because(f"{smaller.words()}: {why} during {stage}, so i2v stepped down.")
        if hasattr(self, "pipeline"):
            self.pipeline.arrange(self.plan)
        self._step_downs.append(step)
        self.report(step)
        self.report_plan()
        return True

    def _plan_note(self) -> PlanNote:
        return PlanNote.model_validate(self.plan.to_dict())

    def _forecast(self) -> ForecastNote:
        foreseen = self._rung.forecast
        return ForecastNote(
            peak_vram_bytes=foreseen.peak_vram_bytes,
            peak_ram_bytes=foreseen.peak_ram_bytes,
            comparable_bytes=foreseen.comparable_bytes,
            counted_bytes=foreseen.counted_bytes,
            operations=foreseen.operations,
            pixels=foreseen.pixels,
            seconds=foreseen.seconds.likely_s if foreseen.seconds else None,
        )

    def see_memory(self, sample: MemorySample) -> None:
        """Hand a sample on, and warn once when the card stays nearly full."""
        self.report(sample)
        full = sample.kind is MemoryKind.GPU and sample.device_used_bytes > _HIGH_SHARE * sample.device_total_bytes
        self._high_samples = self._high_samples + 1 if full else 0
        if self._high_samples == _HIGH_SAMPLES and not self._warnings:
            share = sample.device_used_bytes / sample.device_total_bytes
            request = self.spec.request
            fewer = max(2, request.num_frames * 3 // 4)
            message = (
                f"VRAM stays above {_HIGH_SHARE:.0%} ({share:.0%} now). If it gets slow, use fewer frames "
                f"({fewer} instead of {request.num_frames}), a smaller size, or close other programs."
            )
            self._warnings.append(message)
            self.report(Warned(message=message))

    # The stages

    def make(self) -> RunResult:
        """Encode, denoise, decode."""
        with self._frame_files:
            return self._make(self.spec.request)

    def _make(self, request: GenerationRequest) -> RunResult:
        stop_if_cancelled(self._cancelled)
        self.progress(Stage.ENCODE, 0)
        generator = cpu_generator(request.seed)
        conditions = self._encode(generator)
        self.progress(Stage.ENCODE, 1)
        latents = load_latents(self.spec.folder.latents, request)
        if latents is None:
            latents = self._denoise(conditions, generator)
        else:
            latents = latents.to(self.pipeline.device)
            _log.info("the finished latents of an earlier attempt are used")
        num_frames, frames_sha256 = self._decode(latents, conditions)
        for done_with in (self.spec.folder.latents, self.spec.folder.fitted):
            done_with.unlink(missing_ok=True)
        return self._result(num_frames, frames_sha256)

    def _encode(self, generator: torch.Generator) -> Conditions:
        request = self.spec.request
        folder = self.spec.folder
        source = folder.fitted if folder.fitted.is_file() else folder.picture
        image = fit_picture(load_picture(source), request.width, request.height, request.image_fit)
        fresh = generator.get_state()

        def encode() -> Conditions:
            generator.set_state(fresh)  # a second try must draw the same noise
            return self.pipeline.encode(request, image, generator)

        return with_less_memory(encode, Stage.ENCODE, self.step_down)

    def _denoise(self, conditions: Conditions, generator: torch.Generator) -> torch.Tensor:
        """Return the final latents; or, when what is there is to be kept, the clean estimate of the latest step."""
        request, steps = self.spec.request, self.spec.request.num_inference_steps
        estimate: torch.Tensor | None = None
        self._log_memory(0)
        self.progress(Stage.DENOISE, 0)

        def step_seen(latents: torch.Tensor, clean: torch.Tensor) -> None:
            nonlocal estimate
            self.progress(Stage.DENOISE, min(self._step + 1, steps))
            if self._step < steps and self._kept():
                estimate, self._stopped = clean, Stopped(stage=Stage.DENOISE, step=self._step, total=steps)
            self.report(self.watch.sample())
            try:
                write_preview(self.pipeline.preview(clean, conditions, request), self.spec.folder.preview)
                self.report(Preview(number=self._step))
            except (OSError, torch.OutOfMemoryError) as error:
                # A full disk, the page reading the old one just now, or a full card: the run is worth more.
                _log.warning("no preview: %s", error)
            if self._step % _LOG_EVERY_STEPS == 0:
                self._log_memory(self._step)

        doors = Doors(self._cancelled, step_seen, self.step_down, spills=self.pipeline.device.type == "cuda")
        with doors.open(self.pipeline):
            start = self.pipeline.draw_latents(request, generator)
            latents = self.pipeline.denoise(start, conditions, request, lambda: estimate is not None)
        if estimate is not None:  # not what was asked for, so no checkpoint: a retry makes the whole of it
            return estimate
        save_latents(self.spec.folder.latents, request, latents)
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

    def _decode(self, latents: torch.Tensor, conditions: Conditions) -> tuple[int, str]:
        """Write every frame to every file as it comes; return how many there are, and the hash of them all."""
        request, digest, count = self.spec.request, hashlib.sha256(), 0
        metadata = {
            "i2v": __version__,
            "request": request.model_dump(mode="json"),
            "plan": self.plan.to_dict(),
        }
        metadata |= {"stopped": self._stopped.to_json()} if self._stopped else {}
        size = (request.width, request.height)
        with ExitStack() as files:
            writers = [
                files.enter_context(open_writer(self.spec.folder.file(name), request.fps, size, metadata))
                for name in self._files().values()
            ]
            for count, frame in enumerate(self._frames(latents, conditions), start=1):
                digest.update(frame.tobytes())
                if count == 1:
                    poster(frame, self.spec.folder.poster)
                for writer in writers:
                    writer.write(frame)
                self._frame_files.write(count - 1, frame)
                self.progress(Stage.DECODE, count)
            write_last(self.spec.folder.last, frame)
        self.clock.expect(Stage.DECODE, count)
        self.progress(Stage.DECODE, count)  # the files are whole now; their time is decoding's
        return count, digest.hexdigest()

    def _frames(self, latents: torch.Tensor, conditions: Conditions) -> Iterator[np.ndarray]:
        """Yield the frames; one that could not be decoded for want of memory is decoded again, those before it not."""
        self.progress(Stage.DECODE, 0)
        count, source, total = 0, None, self.spec.request.num_frames
        asked_before = self._kept()  # that was about denoising: all frames of what it gave are wanted

        def take() -> np.ndarray | None:
            nonlocal source
            going, source = source or self.pipeline.decode(latents, conditions, self.spec.request, count), None
            frame = next(going, None)
            source = going  # only if nothing went wrong: a generator that raised is at its end
            return frame

        while (frame := with_less_memory(take, Stage.DECODE, self.step_down)) is not None:
            stop_if_cancelled(self._cancelled)
            count += 1
            yield frame
            if _FEWEST_FRAMES <= count < total and self._kept() and not asked_before:
                self._stopped = Stopped(stage=Stage.DECODE, step=count, total=total)
                return
        if count != total:
            raise GenerationError(f"the model gave {count} frames instead of {total}")

    def _files(self) -> dict[str, str]:
        return {kind: video_name(self.spec.job_id, ENDINGS[kind]) for kind in ("mp4", *self.spec.request.formats)}

    def _result(self, num_frames: int, frames_sha256: str) -> RunResult:
        sample, files, folder = self.watch.sample(), self._files(), self.spec.folder
        result = RunResult(
            num_frames=num_frames,
            files=files,
            file_bytes={kind: folder.file(name).stat().st_size for kind, name in files.items()},
            seconds=round(self.clock.elapsed_s, 3),
            stage_seconds={stage: round(s, 3) for stage, s in self.clock.stage_seconds.items()},
            peak_bytes=sample.peak_bytes,
            peak_kind=sample.kind,
            frames_sha256=frames_sha256,
            plan=self._plan_note(),
            forecast=self._forecast(),
            step_downs=tuple(self._step_downs),
            warnings=tuple(self._warnings),
        )
        return result.model_copy(update={"stopped": self._stopped}) if self._stopped else result
