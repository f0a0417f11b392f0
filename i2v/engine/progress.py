"""Where a run stands and how long it will still take. Knows stages and clocks, nothing of tensors."""

from __future__ import annotations

import time
from collections.abc import Callable

from i2v.jobs.events import Progress
from i2v.jobs.result import Stage

__all__ = ["ProgressClock"]


class ProgressClock:
    """Turns "stage, step" into progress with an ETA.

    The time per step and per frame is measured in this run; before the first of each, what the last run of the same
    kind took is used (`seconds_before`), and a frame is taken for a quarter of a step when nothing is known.
    """

    def __init__(
        self,
        steps: int,
        frames: int,
        seconds_before: dict[Stage, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock, self._began = clock, clock()
        self._counts = {Stage.LOAD: 1, Stage.ENCODE: 1, Stage.DENOISE: steps, Stage.DECODE: frames}
        self._each_s: dict[Stage, float] = dict(seconds_before or {})
        self._stage, self._stage_began, self._stage_first = Stage.LOAD, self._began, 0
        self._fraction = 0.0
        self.stage_seconds: dict[Stage, float] = {}

    @property
    def began_s(self) -> float:
        """When the run began, on the clock it was given."""
        return self._began

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._began

    def at(self, stage: Stage, step: int) -> Progress:
        """Report that `step` of the stage's steps are done."""
        now = self._clock()
        if stage != self._stage:
            self._stage, self._stage_began, self._stage_first = stage, now, step
        done = step - self._stage_first
        self.stage_seconds[stage] = now - self._stage_began
        if done > 0:
            self._each_s[stage] = (now - self._stage_began) / done
        left = self._left_s(stage, step)
        each = self._each_s.get(stage)
        elapsed = now - self._began
        total = self._counts[stage]
        fraction = 0.0 if left is None else elapsed / max(elapsed + left, 1e-9)
        self._fraction = max(self._fraction, min(1.0, fraction))  # a slower guess must not take progress back
        rate = 1 / each if done > 0 and each else None
        return Progress(
            stage=stage,
            step=step,
            total=total,
            fraction=self._fraction,
            elapsed_s=elapsed,
            eta_s=left,
            per_second=rate,
        )

    def expect(self, stage: Stage, steps: int) -> None:
        """A stage has another number of steps than was foreseen."""
        self._counts[stage] = steps

    def seconds_each(self) -> dict[Stage, float]:
        """Seconds per step of each stage, for the next run of the same kind."""
        return dict(self._each_s)

    def _left_s(self, stage: Stage, step: int) -> float | None:
        order = list(Stage)
        each = dict(self._each_s)
        if Stage.DENOISE in each:
            each.setdefault(Stage.DECODE, each[Stage.DENOISE] / 4)
        later = order[order.index(stage) + 1 :]
        needed = [stage, *later]
        if any(s not in each for s in needed if s in (Stage.DENOISE, Stage.DECODE)):
            return None
        here = (self._counts[stage] - step) * each.get(stage, 0.0)
        return here + sum(self._counts[s] * each.get(s, 0.0) for s in later)
