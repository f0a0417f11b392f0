"""Stands at a pipeline's doors: the denoiser's forward and the scheduler's step. (Decode is a loop in run.py.)

Nothing of the pipeline is rewritten: its instance's calls are wrapped for the time of a run and put back after it.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from i2v.errors import Cancelled, NotFiniteError, OutOfMemoryError
from i2v.models.base import ImageToVideo

__all__ = ["StepSeen", "free_cached_memory", "open_doors", "stop_if_cancelled"]

StepSeen = Callable[[torch.Tensor, torch.Tensor], None]


def stop_if_cancelled(cancelled: Callable[[], bool]) -> None:
    """Raise Cancelled when the person asked for it."""
    if cancelled():
        raise Cancelled("the job was cancelled")


def free_cached_memory() -> None:
    """Give what torch holds unused back to the device. Call it outside `except`: an exception pins tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def open_doors(pipeline: ImageToVideo, cancelled: Callable[[], bool], step_seen: StepSeen) -> Iterator[None]:
    """Watch a pipeline's denoising.

    Before each call of the denoiser the cancellation is looked at; after each scheduler step the latents are checked
    and `step_seen(latents, clean_estimate)` is called. Raises Cancelled, OutOfMemoryError, NotFiniteError.
    """
    denoiser, scheduler = pipeline.denoiser, pipeline.scheduler
    denoiser.forward = _guarded_forward(denoiser.forward, cancelled)
    scheduler.step = _watched_step(pipeline, scheduler.step, cancelled, step_seen)
    try:
        yield
    finally:
        del denoiser.forward, scheduler.step  # the class's own come back


def _guarded_forward(forward: Callable[..., Any], cancelled: Callable[[], bool]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        stop_if_cancelled(cancelled)
        try:
            return forward(*args, **kwargs)
        except torch.OutOfMemoryError:
            pass
        free_cached_memory()
        raise OutOfMemoryError(
            "the graphics card ran out of memory while denoising", "Choose fewer frames or a smaller size."
        )

    return guarded


def _watched_step(
    pipeline: ImageToVideo, step: Callable[..., Any], cancelled: Callable[[], bool], step_seen: StepSeen
) -> Callable[..., Any]:
    @functools.wraps(step)
    def watched(
        prediction: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        clean = pipeline.clean_estimate(prediction, timestep, latents)
        output = step(prediction, timestep, latents, *args, **kwargs)
        if not bool(torch.isfinite(output.prev_sample).all()):
            raise NotFiniteError(
                "the numbers overflowed while denoising, so the video would be black or noise",
                "Try precision fp32 or bf16, or a lower guidance.",
            )
        step_seen(output.prev_sample, clean)
        stop_if_cancelled(cancelled)
        return output

    return watched
