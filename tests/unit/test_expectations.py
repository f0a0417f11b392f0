"""Whether a model fits, in a word, and how long a queued job waits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from i2v.errors import InputError
from i2v.jobs.model import Job
from i2v.jobs.store import JobStore
from i2v.memory.machine_now import GIB
from i2v.request import GenerationRequest, build_request
from i2v.service.expectations import Expectations
from tests.integration.past_jobs import progress_at


class Foresees:
    """A forecaster that takes as many seconds as a request has frames, or knows nothing."""

    def __init__(self, peak_gib: float = 1.0, free_gib: float = 4.0, on_card: bool = False):
        self.peak, self.free, self.on_card = int(peak_gib * GIB), int(free_gib * GIB), on_card
        self.knows_nothing = False
        self.asked: list[GenerationRequest] = []

    def ladder(self, request: GenerationRequest) -> Any:
        self.asked.append(request)
        if self.knows_nothing:
            return None
        ram = 0 if self.on_card else self.peak
        foreseen = SimpleNamespace(
            peak_ram_bytes=ram, peak_vram_bytes=self.peak, seconds=SimpleNamespace(likely_s=float(request.num_frames))
        )
        kind = "cuda" if self.on_card else "cpu"
        machine = SimpleNamespace(kind=kind, ram_free_bytes=self.free, vram_free_bytes=self.free)
        chosen = SimpleNamespace(forecast=foreseen) if self.peak <= self.free else None
        return SimpleNamespace(chosen=chosen, machine=machine)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs.sqlite3")
    yield store
    store.close()


def queue(store: JobStore, frames: int, runner: str = "web") -> Job:
    values = {"prompt": "x", "num_frames": frames, "formats": ("gif",)}
    return store.submit(build_request(values, (64, 64)).model_dump(mode="json"), "a.png", runner)


@pytest.mark.parametrize("on_card", [True, False])
@pytest.mark.parametrize(
    ("peak_gib", "word"), [(1.0, "fits"), (3.3, "fits"), (3.5, "tight"), (4.0, "tight"), (4.1, "too_big")]
)
def test_a_model_fits_in_a_word(store: JobStore, peak_gib: float, word: str, on_card: bool) -> None:
    foresees = Foresees(peak_gib, on_card=on_card)
    assert Expectations(store, foresees, lambda _: None).fits("motion") == word  # type: ignore[arg-type]
    assert foresees.asked[0].model == "motion"


def test_a_model_that_is_still_traced_is_nothing_yet(store: JobStore) -> None:
    foresees = Foresees()
    foresees.knows_nothing = True
    expectations = Expectations(store, foresees, lambda _: None)  # type: ignore[arg-type]
    assert expectations.fits("i2vgen-xl") is None
    with pytest.raises(InputError):
        expectations.fits("no-such-model")


def test_a_job_waits_for_what_runs_and_for_those_before_it(store: JobStore) -> None:
    eta: dict[str, float] = {}
    foresees = Foresees()
    expectations = Expectations(store, foresees, eta.get)  # type: ignore[arg-type]
    running, second, third, fourth = (queue(store, frames) for frames in (10, 20, 30, 40))
    elsewhere = queue(store, 50, "cli:5")
    assert expectations.wait_s(running.id) == 0
    assert store.claim("web", os.getpid(), 1.0)
    assert expectations.wait_s(running.id) is None
    assert expectations.wait_s(second.id) == 10, "nothing is reported yet: what such a job takes"
    store.record_progress(running.id, 1, progress_at(eta_s=None))
    assert expectations.wait_s(second.id) == 6
    store.record_progress(running.id, 1, progress_at(eta_s=5.0))
    assert expectations.wait_s(second.id) == 5
    eta[running.id] = 3.0
    assert expectations.wait_s(second.id) == 3, "the live figure is newer than the stored"
    assert [expectations.wait_s(job.id) for job in (third, fourth, elsewhere)] == [23, 53, 0]
    store.request_cancel(third.id)
    assert expectations.wait_s(fourth.id) == 23
    asked = len(foresees.asked)
    assert expectations.wait_s(fourth.id) == 23
    assert len(foresees.asked) == asked, "asked twice a second, it is not worked out each time"


def test_an_unknown_part_makes_the_whole_unknown(store: JobStore) -> None:
    foresees = Foresees()
    foresees.knows_nothing = True
    expectations = Expectations(store, foresees, lambda _: None)  # type: ignore[arg-type]
    first, second = queue(store, 10), queue(store, 10)
    old = store.submit({"model": "motion", "from": "another version"}, "a.png", "web")
    last = queue(store, 10)
    assert expectations.wait_s(first.id) == 0
    assert expectations.wait_s(second.id) is None
    assert expectations.wait_s(last.id) is None
    assert expectations.wait_s("unknown") is None
    store.request_cancel(first.id)
    store.request_cancel(second.id)
    assert expectations.wait_s(old.id) == 0
    assert expectations.wait_s(last.id) is None
