"""A card made smaller: does what the ladder chooses finish there? Part of benchmarks/card.py.

For each cap and setting the ladder chooses for a card of that size, and a run of one step and one frame is made by
that plan, stepping down as the engine does when memory runs out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.card_forecast import noise_picture, request_of
from benchmarks.meters import Meter
from i2v.engine.doors import Doors, free_cached_memory, is_out_of_memory, with_less_memory
from i2v.engine.one_run import OneRun
from i2v.engine.run import RunSpec
from i2v.errors import I2VError
from i2v.jobs.folder import JobFolder
from i2v.machine import devices
from i2v.memory.forecast.forms import ModelForms
from i2v.memory.ladder import Ladder
from i2v.memory.machine_now import Machine
from i2v.memory.residency import Home
from i2v.models.base import Conditions, ImageToVideo, cpu_generator
from i2v.presets.model_preset import preset_named
from i2v.request import GenerationRequest

__all__ = ["Cap", "capped_rows"]


@dataclass(frozen=True)
class Cap:
    """A size of card: what the ladder is told it has, and what tensors may take of it beside the driver's share."""

    total_bytes: int
    tensor_bytes: int

    def machine(self, capability: tuple[int, int]) -> Machine:
        """Return a machine with that card, all of it free, and with this machine's main memory."""
        memory = devices.machine_memory()
        free_ram = memory.available_bytes + devices.process_memory_bytes(psutil.Process().pid)  # this will be reused
        name, total = f"a card of {self.total_bytes / (1 << 30):.3g} GiB", self.total_bytes
        return Machine("cuda:0", name, capability, total, total, memory.total_bytes, free_ram)


def capped_rows(
    caps: Sequence[Cap],
    settings: Sequence[tuple[int, int, int]],
    pipeline: ImageToVideo,
    precision: str,
    forms: ModelForms,
    meter: Meter,
    capability: tuple[int, int],
) -> Iterator[dict[str, Any]]:
    """Yield a row for every cap and setting: what was chosen, how it ended, its peak and the seconds of its step."""
    for cap in caps:
        for size in settings:
            request = request_of(size, 1).model_copy(update={"precision": precision})
            ladder = Ladder(request, preset_named(request.model), forms, cap.machine(capability))
            yield _row(cap, ladder, pipeline, meter)


def _row(cap: Cap, ladder: Ladder, pipeline: ImageToVideo, meter: Meter) -> dict[str, Any]:
    request, rung = ladder.request, ladder.chosen or ladder.smallest  # as the engine does
    plan = replace(rung.plan, device=meter.device)
    nowhere = Path()
    spec = RunSpec("0" * 16, 1, request, nowhere, JobFolder(nowhere))
    run = OneRun(spec, replace(rung, plan=plan), lambda *_: None, lambda: False, {})
    steps_down: list[str] = []

    def step_down(stage: str, why: str) -> bool:
        stepped = run.step_down(stage, why)
        if stepped:
            steps_down.append(f"{stage}: {run.plan.words()}")
        return stepped

    pipeline.arrange(plan.housed(Home.TURNS))  # everything is in main memory at first, as after loading
    free_cached_memory()
    seconds, failure = None, None
    with meter.watching(pipeline.modules().values()), meter.limited(cap.tensor_bytes):
        meter.restart()
        try:
            with_less_memory(lambda: pipeline.arrange(run.plan), "load", step_down)
            run.pipeline = pipeline
            seconds = _run(pipeline, request, step_down, meter)
        except (I2VError, RuntimeError, MemoryError) as error:
            if not isinstance(error, I2VError) and not is_out_of_memory(error):
                raise
            failure = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        peak_bytes = meter.peak_bytes()
    return {
        "card_bytes": cap.total_bytes,
        "tensor_limit_bytes": cap.tensor_bytes,
        "width": request.width,
        "height": request.height,
        "num_frames": request.num_frames,
        "fits": rung.fits,
        "plan": plan.name,
        "words": plan.words(),
        "finished": failure is None,
        "plan_at_end": run.plan.name,
        "words_at_end": run.plan.words(),
        "steps_down": steps_down,
        "forecast_bytes": rung.forecast.counted_bytes,
        "peak_bytes": peak_bytes,
        "seconds_per_step": None if seconds is None else round(seconds, 3),
        "error": failure,
    }


def _run(pipeline: ImageToVideo, request: GenerationRequest, step_down: Any, meter: Meter) -> float:
    """Encode, denoise and decode one frame; return the seconds of a step, start-up and second tries included."""
    generator = cpu_generator(request.seed)
    fresh, picture = generator.get_state(), noise_picture(request)

    def encode() -> Conditions:
        generator.set_state(fresh)
        return pipeline.encode(request, picture, generator)

    conditions = with_less_memory(encode, "encode", step_down)
    latents = pipeline.draw_latents(request, generator)
    began = meter.now_s()
    with Doors(lambda: False, lambda latents, clean: None, step_down).open(pipeline):
        latents = pipeline.denoise(latents, conditions, request)
    seconds = (meter.now_s() - began) / request.num_inference_steps
    with_less_memory(lambda: _first_frame(pipeline, latents, conditions, request), "decode", step_down)
    return seconds


def _first_frame(
    pipeline: ImageToVideo, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest
) -> Any:
    with closing(pipeline.decode(latents, conditions, request)) as frames:  # type: ignore[type-var]
        return next(frames)
