"""Progress and ETA on a clock of our own."""

from __future__ import annotations

import pytest

from i2v.engine.progress import ProgressClock
from i2v.jobs.result import Stage


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_eta_counts_the_decoding_that_is_still_to_come() -> None:
    clock = Clock()
    progress = ProgressClock(steps=10, frames=8, clock=clock)
    progress.at(Stage.DENOISE, 0)
    clock.now_s += 4.0
    report = progress.at(Stage.DENOISE, 2)  # two seconds a step, so half a second a frame is assumed
    assert report.eta_s == pytest.approx(8 * 2.0 + 8 * 0.5)
    assert report.per_second == pytest.approx(0.5)


def test_measured_speed_replaces_the_assumed_one() -> None:
    clock = Clock()
    progress = ProgressClock(steps=1, frames=8, seconds_before={Stage.DECODE: 9.0}, clock=clock)
    progress.at(Stage.DECODE, 0)
    clock.now_s += 1.0
    assert progress.at(Stage.DECODE, 4).eta_s == pytest.approx(1.0)


def test_eta_is_unknown_before_the_first_step() -> None:
    progress = ProgressClock(steps=10, frames=8, clock=Clock())
    assert progress.at(Stage.LOAD, 0).eta_s is None
    assert progress.at(Stage.DENOISE, 0).eta_s is None


def test_last_runs_speed_gives_an_eta_at_once() -> None:
    progress = ProgressClock(10, 8, {Stage.DENOISE: 2.0, Stage.DECODE: 0.5}, Clock())
    assert progress.at(Stage.DENOISE, 0).eta_s == pytest.approx(24.0)


def test_progress_reaches_one_exactly_at_the_end() -> None:
    clock = Clock()
    progress = ProgressClock(steps=2, frames=2, clock=clock)
    fractions = []
    for stage, step in [
        (Stage.DENOISE, 0),
        (Stage.DENOISE, 1),
        (Stage.DENOISE, 2),
        (Stage.DECODE, 0),
        (Stage.DECODE, 2),
    ]:
        clock.now_s += 1.0
        fractions.append(progress.at(stage, step).fraction)
    assert fractions[-1] == 1.0
    assert all(0.0 <= fraction <= 1.0 for fraction in fractions)
