"""What a person may expect before anything runs: whether a model fits this machine, and when a queued job begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum

from pydantic import ValidationError

from i2v.errors import GenerationError, I2VError
from i2v.jobs.model import HELD, Job, JobState
from i2v.jobs.store import JobStore
from i2v.memory.ladder import Ladder, Rung
from i2v.presets.model_preset import preset_named
from i2v.request import GenerationRequest, build_request, match_square
from i2v.worker.forecaster import Forecaster

__all__ = ["Expectations", "Fit", "memory_that_decides", "verdict"]

_TIGHT_SHARE = 0.85  # of the free memory; above it a fit is called tight
_FRESH_S = 20.0


class Fit(StrEnum):
    """Whether a model or a request fits this machine."""

    FITS = "fits"
    TIGHT = "tight"
    TOO_BIG = "too_big"
    UNKNOWN = "unknown"  # its memory could not be traced


class Expectations:
    """Puts forecasts and queue together. `live_eta_s` returns what a running job of this process has left, if known."""

    def __init__(self, store: JobStore, forecaster: Forecaster, live_eta_s: Callable[[str], float | None]):
        self._store, self._forecaster, self._live_eta_s = store, forecaster, live_eta_s
        self._likely: dict[str, tuple[float, float | None]] = {}  # by job: when it was worked out, and its seconds

    def fits(self, model: str) -> Fit | None:
        """Say whether the model's defaults fit this machine now; None while its memory is being traced.

        UNKNOWN where it could not be traced. Raises InputError for an unknown model.
        """
        preset = preset_named(model)
        request = build_request({"model": preset.name, "prompt": ""}, match_square(preset))
        try:
            ladder = self._forecaster.ladder(request)
        except GenerationError:
            return Fit.UNKNOWN  # a forecast says why
        return verdict(ladder) if ladder else None

    def wait_s(self, job_id: str) -> float | None:
        """Return the seconds until a queued job begins, 0 if it is next; None if unknown, or it is not queued."""
        job = self._store.get(job_id)
        if job is None or job.state is not JobState.QUEUED:
            return None
        total = 0.0
        for other in self._store.active(job.runner):
            if other.id == job_id:
                return total
            left = self._left_s(other) if other.state in HELD else self._likely_s(other)
            if left is None:
                return None
            total += left
        return None  # it has begun just now

    def _left_s(self, job: Job) -> float | None:
        """Return what a running job has left: by its own report, else by what such a job takes."""
        reported = self._live_eta_s(job.id)
        if reported is None and job.progress:
            reported = job.progress.eta_s
        if reported is not None:
            return max(0.0, reported)
        likely, elapsed = self._likely_s(job), job.progress.elapsed_s if job.progress else 0.0
        return None if likely is None else max(0.0, likely - elapsed)

    def _likely_s(self, job: Job) -> float | None:
        now = time.monotonic()
        known = {other: seen for other, seen in self._likely.items() if now - seen[0] < _FRESH_S}
        if job.id not in known:
            known[job.id] = now, self._foreseen_s(job)
        self._likely = known
        return known[job.id][1]

    def _foreseen_s(self, job: Job) -> float | None:
        try:
            ladder = self._forecaster.ladder(_request_of(job))
        except (I2VError, ValidationError):
            return None  # made by another version, say: it will fail soon, or take its time
        seconds = ladder.chosen.forecast.seconds if ladder and ladder.chosen else None
        return seconds.likely_s if seconds else None


def verdict(ladder: Ladder) -> Fit:
    """Say whether a request fits: tight when little of the memory that decides would be left."""
    if ladder.chosen is None:
        return Fit.TOO_BIG
    peak, free, _ = memory_that_decides(ladder, ladder.chosen)
    return Fit.TIGHT if peak > _TIGHT_SHARE * free else Fit.FITS


def memory_that_decides(ladder: Ladder, rung: Rung) -> tuple[int, int, str]:
    """Return peak, free bytes and name of the memory that matters: RAM without a card, or where it is what lacks."""
    foreseen, machine = rung.forecast, ladder.machine
    if machine.kind == "cpu" or foreseen.peak_ram_bytes > machine.ram_free_bytes:
        return foreseen.peak_ram_bytes, machine.ram_free_bytes, "RAM"
    return foreseen.peak_vram_bytes, machine.vram_free_bytes, "VRAM"


def _request_of(job: Job) -> GenerationRequest:
    values = job.request | {"formats": tuple(job.request.get("formats", ()))}
    return GenerationRequest.model_validate(values)
