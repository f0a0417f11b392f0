"""What the runs of this app add up to since it started, for those who watch over it. Knows no jobs by name."""

from __future__ import annotations

import threading
from collections import Counter

from i2v.jobs.model import JobState
from i2v.jobs.result import RunResult

__all__ = ["RunTotals"]


class RunTotals:
    """Sums over ended runs; one thread adds while others read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: Counter[JobState] = Counter()
        self._stages: dict[str, tuple[int, float]] = {}

    def add(self, state: JobState, result: RunResult | None) -> None:
        """Count a run that ended; the seconds of its stages when it has a result."""
        with self._lock:
            self._ended[state] += 1
            for stage, seconds in (result.stage_seconds if result else {}).items():
                runs, sum_s = self._stages.get(stage, (0, 0.0))
                self._stages[stage] = runs + 1, sum_s + seconds

    def ended(self) -> dict[JobState, int]:
        """Return how many runs ended in each state."""
        with self._lock:
            return dict(self._ended)

    def stages(self) -> dict[str, tuple[int, float]]:
        """Return for each stage how many runs went through it and their seconds together."""
        with self._lock:
            return dict(self._stages)
