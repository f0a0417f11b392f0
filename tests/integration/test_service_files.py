"""What the faces get of a real job through the service: history, other formats, the log, facts of the machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from i2v.jobs.model import JobState
from i2v.service import Service
from i2v.settings import Settings


@pytest.fixture
def service(home: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Service]:
    caplog.set_level(logging.INFO)
    service = Service(Settings.from_environment())
    handler = service.log_file.attach()
    assert handler
    service.start()
    yield service
    service.close()
    logging.getLogger().removeHandler(handler)
    handler.close()


def test_a_real_job_is_in_history_and_its_prompt_is_not_in_the_log(service: Service, photo: Path) -> None:
    asked = {"prompt": "zoom in", "negative_prompt": "quagga", "width": 96, "height": 64, "num_frames": 4, "seed": 5}
    queued = service.submit(asked | {"prompt": "zoom in on the xylophone"}, photo, "quince.jpg")
    job = service.wait(queued.id, lambda _: None).job
    assert job.state is JobState.DONE, job.error

    service.library.set_favourite(job.id, True)
    assert [found.job.id for found in service.history(favourites=True, search="xylophone")] == [job.id]
    assert service.count_jobs(favourites=True) == 1
    gif = service.library.converted(job.id, "gif")
    snapshot = service.snapshot(job.id)
    assert snapshot
    assert snapshot.file("gif") == gif
    asked_again, picture = service.library.settings_of(gif)
    assert asked_again == job.request
    assert picture == snapshot.folder.picture
    service.library.delete(job.id)
    assert service.snapshot(job.id) is None
    assert service.count_jobs() == 0
    assert service.library.disk_use().trash_bytes > gif.stat().st_size

    written = service.log_file.path.read_text(encoding="utf-8")
    assert f"job {job.id} attempt 1 starts" in written, "of this process"
    assert f"[job {job.id[:8]}.1]" in written, "of the worker"
    for private in ("xylophone", "quagga", "quince", "zoom"):
        assert private not in written
    assert service.log_tail(3) == written.splitlines()[-3:]


def test_the_machine_is_told_as_facts_and_as_a_report(service: Service) -> None:
    facts, report = service.machine(), service.doctor()
    assert facts.home == service.settings.home
    assert 0 < facts.ram_available_bytes < facts.ram_total_bytes == report["ram_total_bytes"]
    assert 0 < facts.disk_free_bytes < facts.disk_total_bytes
    assert {"python", "i2v", "torch", "diffusers", "gradio"} <= set(facts.versions)
    assert facts.versions == report["versions"]
    assert report["models_installed"] == ["motion"]
    assert service.fits("motion") in ("fits", "tight", "too_big")
