"""Forecast against measurement, stage by stage: part of benchmarks/card.py.

A run is made as the engine makes it, of two steps and two frames: more of them take no more memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np

from benchmarks.meters import Meter
from benchmarks.random_model import Architecture, random_pipeline
from i2v.engine.doors import Doors, free_cached_memory, is_out_of_memory
from i2v.errors import I2VError
from i2v.memory.abilities import EXACT
from i2v.memory.forecast.forms import ModelForms
from i2v.memory.forecast.peaks import forecast
from i2v.memory.knobs import FRAME_CHUNKS, PARKED_SKIPS, VAE_BANDS
from i2v.memory.plan import Plan
from i2v.memory.residency import Home
from i2v.models.base import ImageToVideo, cpu_generator
from i2v.presets.model_preset import preset_named
from i2v.request import GenerationRequest, build_request

__all__ = ["CASES", "Case", "forecast_rows", "noise_picture", "request_of"]

MODEL = "i2vgen-xl"
STEPS, DECODED = 2, 2


@dataclass(frozen=True)
class Case:
    """One combination. `way`: a rung's name; `size`: width, height, frames; `frames`, `vae_rows`: values of the knobs.

    `rounded_compute`: what rounded weights are computed in.
    """

    precision: str
    way: str
    size: tuple[int, int, int]
    frames: int | None = None
    vae_rows: int | None = None
    rounded_compute: str = "fp16"

    def plan(self, device: str) -> Plan:
        """Return how it is run."""
        compute = self.precision if self.precision in EXACT else self.rounded_compute
        homes = {"resident": Home.RESIDENT, "streamed": Home.STREAMED, "parked": Home.STREAMED}
        plan = Plan.of(preset_named(MODEL).declared, device, compute, self.precision).named(self.way)
        plan = plan.housed(homes.get(self.way, Home.TURNS))
        plan = plan.turned(FRAME_CHUNKS, self.frames).turned(VAE_BANDS, self.vae_rows)
        return plan.turned(PARKED_SKIPS, 1 if self.way == "parked" else None)


_SMALL, _MEDIUM, _LARGE, _WIDE = (512, 512, 16), (768, 768, 24), (1024, 1024, 32), (1280, 704, 16)
CASES = (  # those of one precision next to each other: they share one model
    Case("fp16", "resident", _SMALL),
    Case("fp16", "turns", _SMALL),
    Case("fp16", "chunks", _SMALL, 4),
    Case("fp16", "streamed", _SMALL, 4),
    Case("fp16", "parked", _SMALL, 2),
    Case("fp16", "turns", _MEDIUM),
    Case("fp16", "chunks", _MEDIUM, 4),
    Case("fp16", "streamed", _MEDIUM, 4),
    Case("fp16", "chunks", _WIDE, 4, 64),
    Case("fp16", "chunks", _LARGE, 4, 64),
    Case("fp16", "streamed", _LARGE, 2, 64),
    Case("fp16", "parked", _LARGE, 1, 16),
    Case("bf16", "resident", _SMALL),
    Case("bf16", "chunks", _MEDIUM, 4),
    Case("fp8", "resident", _SMALL),
    Case("fp8", "turns", _SMALL),
    Case("fp8", "chunks", _MEDIUM, 4),
    Case("fp8", "streamed", _MEDIUM, 4),
)


def request_of(size: tuple[int, int, int], steps: int) -> GenerationRequest:
    """Return a request of I2VGen-XL with guidance; `size` is (width, height, frames)."""
    width, height, frames = size
    values = {"model": "i2vgen-xl", "prompt": "the sea waves roll gently towards the beach", "seed": 0}
    values |= {"width": width, "height": height, "num_frames": frames, "num_inference_steps": steps}
    return build_request(values, (width, height))


def noise_picture(request: GenerationRequest) -> np.ndarray:
    """Return a random picture of the request's size, (H, W, 3) uint8."""
    return np.random.default_rng(0).integers(0, 255, (request.height, request.width, 3), dtype=np.uint8)


def forecast_rows(
    cases: Iterable[Case], architecture: Architecture, forms: ModelForms, meter: Meter
) -> Iterator[dict[str, Any]]:
    """Yield a row for every case: forecast and measured peak of tensors, by stage and of the whole run."""
    for precision, alike in groupby(cases, key=lambda case: case.precision):
        group = list(alike)
        pipeline = random_pipeline(architecture, precision, group[0].plan(meter.device).compute, meter.device)
        for case in group:
            yield _row(case, pipeline, forms, meter)
        del pipeline
        free_cached_memory()


def _row(case: Case, pipeline: ImageToVideo, forms: ModelForms, meter: Meter) -> dict[str, Any]:
    request, plan = request_of(case.size, STEPS), case.plan(meter.device)
    foreseen = forecast(request, plan, forms)
    measured: dict[str, int] = {}
    failure = None
    pipeline.arrange(plan.housed(Home.TURNS))  # everything is in main memory before it is arranged as planned
    free_cached_memory()
    with meter.watching(pipeline.modules().values()):
        began = meter.now_s()
        try:
            meter.restart()
            pipeline.arrange(plan)
            measured["load"] = meter.peak_bytes()
            measured |= _run(pipeline, request, meter)
        except (I2VError, RuntimeError, MemoryError) as error:
            if not isinstance(error, I2VError) and not is_out_of_memory(error):
                raise
            failure = str(error).partition("\n")[0]
        seconds = meter.now_s() - began
    stages = {name: _compared(foreseen.stages[name].tensor_bytes, peak_bytes) for name, peak_bytes in measured.items()}
    overall = _compared(foreseen.counted_bytes, max(measured.values(), default=0))
    return asdict(case) | {
        "words": plan.words(),
        "stages": stages,
        "overall": overall | {"forecast_with_workspace_bytes": foreseen.tensor_bytes},
        "seconds": round(seconds, 2),
        "error": failure,
    }


def _compared(forecast_bytes: int, measured_bytes: int) -> dict[str, Any]:
    ratio = round(measured_bytes / forecast_bytes, 4) if forecast_bytes else None
    return {"forecast_bytes": forecast_bytes, "measured_bytes": measured_bytes, "ratio": ratio}


def _run(pipeline: ImageToVideo, request: GenerationRequest, meter: Meter) -> dict[str, int]:
    """Encode, denoise and decode; return the peak of each."""
    peaks, generator = {}, cpu_generator(request.seed)
    meter.restart()
    conditions = pipeline.encode(request, noise_picture(request), generator)
    peaks["encode"] = meter.peak_bytes()
    meter.restart()
    with Doors(lambda: False, lambda latents, clean: None, lambda stage, why: False).open(pipeline):
        latents = pipeline.denoise(pipeline.draw_latents(request, generator), conditions, request)
    peaks["denoise"] = meter.peak_bytes()
    meter.restart()
    with closing(pipeline.decode(latents, conditions, request)) as frames:  # type: ignore[type-var]
        for _ in islice(frames, DECODED):
            pass
    peaks["decode"] = meter.peak_bytes()
    return peaks
