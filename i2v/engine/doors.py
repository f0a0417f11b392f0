"""Stands at a pipeline's doors: the denoiser's call and the scheduler's step. (Encode and decode are calls of run.py.)

Nothing of the pipeline is rewritten: for the time of a run its denoiser is reached through a door and its scheduler's
step is watched; both are put back after it. Running out of memory is dealt with here, where it happens.
"""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from i2v.errors import Cancelled, NotFiniteError, OutOfMemoryError
from i2v.jobs.result import Stage
from i2v.models.base import ImageToVideo

__all__ = ["Doors", "SpillWatch", "free_cached_memory", "is_out_of_memory", "stop_if_cancelled", "with_less_memory"]

T = TypeVar("T")
_SPILL_FACTOR, _SPILL_AFTER = 4.0, 4


@dataclass(frozen=True)
class Doors:
    """What is asked and told at the doors.

    `step_down(stage, why)` puts the next smaller plan to work and says whether there was one; `step_seen` gets the
    latents and the clean estimate after every step. `spills`: whether a slow step means that memory spilled.
    """

    cancelled: Callable[[], bool]
    step_seen: Callable[[torch.Tensor, torch.Tensor], None]
    step_down: Callable[[Stage, str], bool]
    spills: bool = False

    @contextmanager
    def open(self, pipeline: ImageToVideo) -> Iterator[None]:
        """Stand at a pipeline's doors. Raises Cancelled, OutOfMemoryError, NotFiniteError."""
        door, scheduler = pipeline.door, pipeline.scheduler
        pipeline.door = self._denoise
        scheduler.step = self._watched_step(pipeline, scheduler.step)
        try:
            yield
        finally:
            pipeline.door = door
            del scheduler.step  # the class's own comes back

    def _denoise(self, call: Callable[[], T]) -> T:
        """Make a call of a denoiser, and make it again with a smaller plan when memory runs out."""

        def watched() -> T:
            stop_if_cancelled(self.cancelled)
            return call()

        return with_less_memory(watched, Stage.DENOISE, self.step_down)

    def _watched_step(self, pipeline: ImageToVideo, step: Callable[..., Any]) -> Callable[..., Any]:
        spill = SpillWatch()

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
            if self.spills and spill.step_was_slow():
                self.step_down(Stage.DENOISE, "a step took four times the usual, so memory spilled over to system RAM")
            self.step_seen(output.prev_sample, clean)
            stop_if_cancelled(self.cancelled)
            return output

        return watched


def with_less_memory(call: Callable[[], T], stage: Stage, step_down: Callable[[Stage, str], bool]) -> T:
    """Return what `call` gives, stepping down and calling again whenever memory runs out. Raises OutOfMemoryError.

    It may run out while stepping down too, when weights are brought anew: then the next smaller plan is tried.
    """
    ran_out = False
    while True:
        try:
            if ran_out and not step_down(stage, "memory ran out"):
                break
            return call()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside `except`, where the exception no longer pins the tensors of the frames it went through.
        free_cached_memory()
        ran_out = True
    raise OutOfMemoryError(
        f"memory ran out during {stage}, with the smallest plan already",
        "Choose fewer frames or a smaller size, or close other programs.",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the card's or the machine's memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # torch has a class of its own for cards only; of main memory it tells by the name of its allocator.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def stop_if_cancelled(cancelled: Callable[[], bool]) -> None:
    """Raise Cancelled when the person asked for it."""
    if cancelled():
        raise Cancelled("the job was cancelled")


def free_cached_memory() -> None:
    """Give what torch holds unused back to the device. Call it outside `except`: an exception pins tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class SpillWatch:
    """Tells a step that took several times the median of those before it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._last = clock, clock()
        self._seconds: list[float] = []

    def step_was_slow(self) -> bool:
        """Note the end of a step, and say whether it was slow; then what is usual is learnt anew."""
        now = self._clock()
        took, self._last = now - self._last, now
        enough = len(self._seconds) >= _SPILL_AFTER
        if enough and took > _SPILL_FACTOR * statistics.median(self._seconds):
            self._seconds.clear()
            return True
        self._seconds.append(took)
        return False
