"""Runs requests one after another: plans each, loads the model if need be, and makes the video.

Knows pipelines, plans and files of one job's folder; nothing of the job store, of processes or of pages. It reports
through one callable and is stopped through another.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from i2v.engine.doors import free_cached_memory, is_out_of_memory, stop_if_cancelled, with_less_memory
from i2v.engine.memory_watch import MemoryWatch
from i2v.engine.one_run import OneRun
from i2v.errors import Cancelled, I2VError, OutOfMemoryError
from i2v.jobs.events import Loaded, Report, Unloaded
from i2v.jobs.folder import JobFolder
from i2v.jobs.result import RunResult, Stage, WeightsNote
from i2v.memory.forecast.experience import Experience
from i2v.memory.ladder import Ladder, Rung, compute_precision
from i2v.memory.machine_now import Machine
from i2v.memory.plan import Masters, Plan
from i2v.memory.weights.parked import weight_bytes
from i2v.memory.weights.precision import DTYPES, WeightReport, check_weights_are, quantise
from i2v.models.base import ImageToVideo
from i2v.models.binding import pipeline_class
from i2v.models.download import model_folder
from i2v.models.files import check_family
from i2v.models.trace_process import forms_of
from i2v.presets.model_preset import ModelPreset, preset_named
from i2v.request import GenerationRequest

__all__ = ["Engine", "RunSpec"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSpec:
    """One run: what to make, of which picture, in which folder. `attempt` goes onto every event."""

    job_id: str
    attempt: int
    request: GenerationRequest
    home: Path
    folder: JobFolder
    experience: Experience = field(default_factory=Experience)


class Engine:
    """Holds at most one loaded model and runs requests with it, one after another."""

    def __init__(self) -> None:
        self._pipeline: ImageToVideo | None = None
        self._loaded: tuple[str, ...] | None = None
        self._weights = WeightsNote()
        self._seconds_before: dict[tuple[str, int, int], dict[Stage, float]] = {}

    def unload(self) -> None:
        """Drop the loaded model and give its memory back."""
        self._pipeline, self._loaded = None, None
        free_cached_memory()

    def run(
        self,
        spec: RunSpec,
        report: Report,
        cancelled: Callable[[], bool],
        kept: Callable[[], bool] = lambda: False,
    ) -> RunResult:
        """Make the video and return what is known of it. Raises I2VError.

        Once `kept()`, the run ends early with a video of what is there: the latest step's estimate of the finished
        latents, or, when frames are being made, those that are done; `stopped` in the result says where.
        """
        failure: I2VError
        try:
            return self._run(spec, report, cancelled, kept)
        except I2VError as error:
            failure = error.with_traceback(None)  # the frames of a failed run would keep its tensors alive
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = OutOfMemoryError("memory ran out", "Choose fewer frames or a smaller size.")
        if not isinstance(failure, Cancelled):
            self.unload()
            report(Unloaded())
        free_cached_memory()
        raise failure

    def _run(self, spec: RunSpec, report: Report, cancelled: Callable[[], bool], kept: Callable[[], bool]) -> RunResult:
        preset = preset_named(spec.request.model)
        check_family(model_folder(preset, spec.home), preset.declared)  # before its configurations are made sense of
        ladder = plan_ladder(spec, preset, lambda: stop_if_cancelled(cancelled))
        rung = ladder.chosen or _smallest(ladder)
        run = OneRun(spec, rung, report, cancelled, self._last_speed(spec.request), kept)
        run.report_plan()
        with (
            MemoryWatch(torch.device(rung.plan.device), run.see_memory, run.clock.began_s) as watch,
            torch.inference_mode(),
        ):
            run.watch = watch
            with_less_memory(lambda: self._load(run, preset), Stage.LOAD, run.step_down)
            weights = {"weights": self._weights, "weights_bytes": self._weights.total_bytes}
            result = run.make().model_copy(update=weights)
        self._seconds_before[_speed_key(spec.request)] = run.clock.seconds_each()
        return result

    def _last_speed(self, request: GenerationRequest) -> dict[Stage, float]:
        return self._seconds_before.get(_speed_key(request), {})

    def _load(self, run: OneRun, preset: ModelPreset) -> None:
        """Load the model unless it is there already, and arrange it as planned."""
        run.progress(Stage.LOAD, 0)
        plan = run.plan
        key = (preset.name, plan.device, plan.precision, plan.compute)
        if self._pipeline is None or self._loaded != key:
            self.unload()
            run.report(Unloaded())
            self._pipeline, self._weights = load_pipeline(preset, run.spec.home, plan)
            self._loaded = key
            run.report(
                Loaded(
                    model=preset.name,
                    device=plan.device,
                    precision=plan.precision,
                    bytes=self._weights.total_bytes,
                )
            )
        self._pipeline.arrange(plan)
        run.pipeline = self._pipeline
        run.progress(Stage.LOAD, 1)


def load_pipeline(preset: ModelPreset, home: Path, plan: Plan) -> tuple[ImageToVideo, WeightsNote]:
    """Load a model as a plan wants it; return it with what its weights turned out to be.

    Into main memory, where it is rounded component by component: a card gets what is left of it when the pipeline is
    arranged, and never the unrounded weights. The files are mapped for that, and for a card, and where masters are to
    be on disk: so main memory does not hold the unrounded weights either.
    """
    folder, dtype = model_folder(preset, home), DTYPES[plan.compute]
    rounds = any(part.precision != plan.compute for part in plan.parts.values())
    mapped = rounds or plan.device != "cpu" or plan.masters is Masters.DISK
    family = pipeline_class(preset.family)
    pipeline = family.load(folder, preset, torch.device("cpu"), dtype, keep_mapped=mapped)
    for name, module in pipeline.modules().items():
        precision = plan.parts[name].precision
        if precision != plan.compute:
            quantise(module, precision, dtype)
    reports = [check_weights_are(denoiser, plan.precision, dtype) for denoiser in pipeline.denoisers.values()]
    found = WeightReport.together(reports)
    total = sum(weight_bytes(module) for module in pipeline.modules().values())
    _log.info("%s is loaded, %.2f GiB in all; %s", preset.name, total / 2**30, found.sentence())
    told = {"total_bytes": total, "sentence": found.sentence()}
    return pipeline, WeightsNote.model_validate(found.to_dict() | told)


def plan_ladder(spec: RunSpec, preset: ModelPreset, check: Callable[[], None]) -> Ladder:
    """Return the rungs for a request on this machine, as it is now; `check` stops the tracing that it may take."""
    machine = Machine.detect((os.getpid(),)).limited(spec.request.vram_gib, spec.request.ram_gib)
    if machine.kind == "cuda" and torch.cuda.is_available():
        share = min(1.0, (spec.request.vram_gib or 1e9) * 2**30 / torch.cuda.mem_get_info(0)[1])
        torch.cuda.set_per_process_memory_fraction(share, 0)
    forms = forms_of(preset, spec.home, compute_precision(spec.request, preset, machine), check)
    return Ladder(spec.request, preset, forms, machine, spec.experience)


def _smallest(ladder: Ladder) -> Rung:
    """Return the smallest rung for a request of which none fits: what is free may change, and nothing is lost."""
    rung = ladder.smallest
    _log.warning("no plan fits; the smallest is tried: %s", rung.plan.reason)
    return rung


def _speed_key(request: GenerationRequest) -> tuple[str, int, int]:
    return request.model, request.width, request.height
