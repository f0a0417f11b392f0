"""Gathers what finished jobs say about the next one, for the page's forecasts and for the worker's plans. No torch."""

from __future__ import annotations

import logging
from pathlib import Path

from i2v.errors import StorageError
from i2v.jobs.model import JobState
from i2v.jobs.store import JobStore
from i2v.machine import devices
from i2v.memory.forecast.experience import Experience
from i2v.memory.forecast.speed import known_rates

__all__ = ["past_experience"]

_log = logging.getLogger(__name__)
_JOBS = 40


def past_experience(store: JobStore, home: Path) -> Experience:
    """Read the newest finished jobs; a store that cannot be read now has nothing to say."""
    card = devices.first_visible_gpu(devices.gpus())
    rates = known_rates(home, card.name if card else None)
    try:
        jobs = store.list(limit=_JOBS)
    except StorageError as error:
        _log.warning("past runs cannot be read: %s", error)
        return Experience(rates=rates)
    done = ((job.request, job.result) for job in jobs if job.state is JobState.DONE and job.result)
    return Experience.from_results(done, rates)
