"""What this machine's finished runs say of the next one: how far forecasts were off, and how fast it is. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from i2v.jobs.result import RunResult, Stage
from i2v.memory.plan import Plan
from i2v.request import GenerationRequest

__all__ = ["Experience", "RunRecord", "Seconds"]

_RECENT = 20
# A denoiser reaches about half the rate of a plain matrix product. A call launches thousands of operations, which
# takes this long however small they are: 0.1 s measured with the built-in model on two cores.
_EFFICIENCY, _CALL_S = 0.5, 0.1
# Moving a picture by a field and turning a frame into a file's bytes: 2.3e-7 s per pixel measured on two cores.
_PIXEL_S = 2.3e-7
# Importing the libraries, and reading weights from a disk: 3 s measured, and a gigabyte a second.
_LOAD_S, _LOAD_RATE = 3.0, 1e9


@dataclass(frozen=True)
class Seconds:
    """A time with its honest range. `source`: "runs" of this model here, or "estimate" from operations and a rate."""

    likely_s: float
    low_s: float
    high_s: float
    source: str


@dataclass(frozen=True)
class RunRecord:
    """One finished run: its forecast and what it really took."""

    model: str
    device: str
    compute: str
    weights: str
    excess_bytes: int
    operations: float
    calls: int
    pixels: int
    load_s: float
    encode_s: float
    denoise_s: float
    decode_s: float

    @classmethod
    def of(cls, request: dict[str, Any], result: RunResult) -> RunRecord | None:
        """Read a job's result; None if made without a forecast, stepped down on its way, or stopped by a person."""
        foreseen, plan, stages = result.forecast, result.plan, result.stage_seconds
        if not foreseen or not plan or result.step_downs or result.stopped or Stage.DENOISE not in stages:
            return None
        if foreseen.counted_bytes is None or not foreseen.operations or not foreseen.pixels or not result.peak_bytes:
            return None  # an older version did not write all of it
        passes = 2 if request["guidance_scale"] > 1 else 1
        return cls(
            model=request["model"],
            device=plan.device,
            compute=plan.compute,
            weights=plan.weights,
            excess_bytes=result.peak_bytes - foreseen.counted_bytes,
            operations=foreseen.operations,
            calls=passes * request["num_inference_steps"],
            pixels=foreseen.pixels,
            load_s=stages.get(Stage.LOAD, 0.0),
            encode_s=stages.get(Stage.ENCODE, 0.0),
            denoise_s=stages[Stage.DENOISE],
            decode_s=stages.get(Stage.DECODE, 0.0),
        )


@dataclass(frozen=True)
class Experience:
    """Records, newest first, and the measured rate of matrix products in operations per second, if known."""

    records: tuple[RunRecord, ...] = ()
    rates: dict[str, float] = field(default_factory=dict)  # by "cpu fp32", "cuda:0 fp16", ...

    @classmethod
    def from_results(cls, jobs: Iterable[tuple[dict[str, Any], RunResult]], rates: dict[str, float]) -> Experience:
        """Gather from (request, result) of finished jobs, newest first."""
        records = (RunRecord.of(request, result) for request, result in jobs)
        return cls(tuple(record for record in records if record is not None), rates)

    def excess_bytes(self, model: str, plan: Plan) -> int:
        """Return the median excess of measured over forecast bytes in past runs of this kind."""
        alike = [
            record.excess_bytes
            for record in self.records
            if (record.model, record.device, record.weights) == (model, plan.device, str(plan.home))
        ]
        return int(statistics.median(alike[:_RECENT])) if alike else 0

    def seconds(
        self, request: GenerationRequest, plan: Plan, operations: float, decoding: float, pixels: int, weights: int
    ) -> Seconds | None:
        """Return how long the run will take, loading included; None when nothing is known of this device's speed."""
        alike = [
            record
            for record in self.records
            if (record.model, record.device, record.compute) == (request.model, plan.device, plan.compute)
        ][:_RECENT]
        calls = (2 if request.guidance_scale > 1 else 1) * request.num_inference_steps
        if alike:
            return _from_runs(alike, calls, operations, pixels)
        rate = self.rates.get(f"{plan.device} {plan.compute}")
        if not rate:
            return None
        likely = (operations + decoding) / (rate * _EFFICIENCY) + calls * _CALL_S + pixels * _PIXEL_S
        likely += _LOAD_S + weights / _LOAD_RATE
        return Seconds(likely, likely / 2, likely * 3, "estimate")


def _from_runs(alike: list[RunRecord], calls: int, operations: float, pixels: int) -> Seconds:
    """Scale past runs to this one: a call by its operations, above a fixed cost; frames by their pixels."""
    median = statistics.median
    guesses = []
    for record in alike:
        per_call = record.denoise_s / record.calls
        growth = (operations / calls) / (record.operations / record.calls) if record.operations else 1.0
        fixed = min(per_call, _CALL_S)
        denoise = calls * (fixed + (per_call - fixed) * growth)
        guesses.append(record.encode_s + denoise + record.decode_s * pixels / record.pixels)
    loading = median(record.load_s for record in alike)
    likely = median(guesses) + loading
    spread = 0.25 if len(guesses) == 1 else min(0.5, max(0.1, (max(guesses) - min(guesses)) / (2 * likely)))
    return Seconds(likely, likely * (1 - spread), likely * (1 + spread), "runs")
