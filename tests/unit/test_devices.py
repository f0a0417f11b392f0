"""What the machine has, with a pretended NVIDIA driver where the test machine has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from i2v import devices
from i2v.jobs.model import Job, JobState
from i2v.service import Snapshot
from i2v.ui.panel import idle_panel, job_panel

GIB = 1 << 30


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(Exception):
        pass

    driver = SimpleNamespace(
        NVMLError=Refused,
        nvmlSystemGetDriverVersion=lambda: "570.1",
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=12 * GIB, used=3 * GIB),
        nvmlDeviceGetName=lambda _: "NVIDIA GeForce RTX 3060",
    )
    monkeypatch.setattr(devices, "_nvml", lambda: driver)


@pytest.mark.usefixtures("card")
def test_a_card_is_read_through_the_driver_and_shown_as_vram() -> None:
    (gpu,) = devices.gpus()
    assert (gpu.name, gpu.free_bytes) == ("NVIDIA GeForce RTX 3060", 9 * GIB)
    memory = idle_panel()["memory"]
    assert memory["label"] == "NVIDIA GeForce RTX 3060"
    assert memory["device_used_bytes"] == 3 * GIB


def test_without_a_card_the_panel_shows_ram_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_nvml", lambda: None)
    assert devices.gpus() == []
    memory = idle_panel()["memory"]
    assert "RAM" in memory["label"]
    assert 0 < memory["device_used_bytes"] < memory["device_total_bytes"]


def test_a_recycled_pid_is_not_taken_for_the_old_process() -> None:
    started = devices.process_started()
    import os

    assert devices.process_exists(os.getpid(), started)
    assert not devices.process_exists(os.getpid(), started - 100)
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child_started = devices.process_started(child.pid)
    child.wait()
    assert not devices.process_exists(child.pid, child_started)


def test_free_disk_is_asked_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    assert devices.free_disk_bytes(tmp_path / "a" / "b") == pytest.approx(devices.free_disk_bytes(tmp_path), rel=0.05)


def test_a_jobs_samples_become_a_chart_of_bounded_size(tmp_path: Path) -> None:
    sample = {"kind": "gpu", "allocated_bytes": 5, "peak_bytes": 9, "device_used_bytes": 1, "device_total_bytes": 2}
    samples = [sample | {"t_s": i / 2, "reserved_bytes": 6} for i in range(5000)]
    result = {"samples": samples, "files": {}}
    job = Job(
        id="x", state=JobState.DONE, attempt=1, request={"prompt": "p"}, image_name="i", runner="web",
        runner_pid=None, runner_started=None, progress={}, error=None, result=result, favourite=False,
        created_at=0.0, started_at=0.0, finished_at=1.0,
    )  # fmt: skip
    panel = job_panel(Snapshot(job, None, None, tmp_path), 0)
    assert panel["memory"]["label"] == "VRAM of this run"
    assert 2 < len(panel["memory"]["points"]) <= 241
    assert panel["memory"]["points"][-1][0] == 4999 / 2
