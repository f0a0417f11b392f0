"""Jobs through the real worker process and a real database file."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from i2v.errors import ImageError, InputError, ModelFilesError
from i2v.jobs.model import JobState
from i2v.media.formats import read_request
from i2v.media.video import read_frames
from i2v.service import Service, Snapshot, WorkerState
from i2v.settings import Settings

SMALL = {"prompt": "the camera pans left", "width": 96, "height": 64, "num_frames": 6, "seed": 5}
LONG = SMALL | {"num_inference_steps": 100, "num_frames": 60}


@contextmanager
def opened() -> Iterator[Service]:
    service = Service(Settings.from_environment())
    service.start()
    yield service
    service.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for all tests that can share a worker, for each worker loads the libraries anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("I2V_HOME", str(tmp_path_factory.mktemp("worker") / "home"))
        with opened() as service:
            yield service


@pytest.fixture
def own_service(home: Path) -> Iterator[Service]:
    with opened() as service:
        yield service


def wait_until(condition: Callable[[], Any], timeout_s: float = 90.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def finished(service: Service, job_id: str) -> Snapshot:
    return service.wait(job_id, lambda _: None)


def worker_pid(service: Service) -> int:
    return int(wait_until(lambda: service._dispatcher._executor.pid))  # type: ignore[attr-defined]


def denoising(service: Service, job_id: str) -> bool:
    snapshot = service.snapshot(job_id)
    assert snapshot
    return snapshot.progress is not None and snapshot.progress.stage == "denoise" and snapshot.progress.step >= 1


def test_a_job_becomes_a_video_that_says_what_it_is(service: Service, photo: Path) -> None:
    stages: list[str] = []
    job = service.submit(SMALL | {"formats": ("gif", "webp", "png"), "num_inference_steps": 40}, photo)
    done = service.wait(job.id, lambda s: stages.append(s.progress.stage if s.progress else ""))
    assert done.job.state is JobState.DONE, done.job.error
    result = done.job.result
    assert result
    assert result.peak_bytes
    assert set(result.files) == {"mp4", "gif", "webp", "png"}
    for kind in result.files:
        path = done.file(kind)
        assert path
        assert read_request(path)["request"] == job.request
    mp4 = done.file()
    assert mp4
    assert [frame.shape for frame in read_frames(mp4)] == [(64, 96, 3)] * 6
    assert result.peak_bytes > 50 << 20
    assert done.samples
    assert "denoise" in stages
    assert done.folder.poster.is_file()
    assert not list(done.folder.path.glob("*.part"))
    assert not done.folder.latents.exists()


def test_the_same_seed_gives_the_same_frames_in_another_process(service: Service, photo: Path) -> None:
    first = finished(service, service.submit(SMALL, photo).id)
    os.kill(worker_pid(service), signal.SIGKILL)
    wait_until(lambda: service._dispatcher._executor.pid is None)  # type: ignore[attr-defined]
    again = finished(service, service.submit(SMALL, photo).id)
    other = finished(service, service.submit(SMALL | {"seed": 6}, photo).id)
    hashes = [s.job.result.frames_sha256 for s in (first, again, other) if s.job.result]
    assert hashes[0] == hashes[1] != hashes[2]


def test_cancel_takes_effect_within_a_step_and_the_worker_goes_on(service: Service, photo: Path) -> None:
    job = service.submit(LONG, photo)
    wait_until(lambda: denoising(service, job.id))
    pid = worker_pid(service)
    service.cancel(job.id)
    done = finished(service, job.id)
    assert done.job.state is JobState.CANCELLED
    assert done.progress
    assert done.progress.step < 90
    assert not list(done.folder.path.glob("*.mp4*"))
    assert finished(service, service.submit(SMALL, photo).id).job.state is JobState.DONE
    assert worker_pid(service) == pid


def test_stop_and_keep_while_denoising_gives_a_whole_video_at_once(service: Service, photo: Path) -> None:
    job = service.submit(LONG | {"num_frames": 12}, photo)
    wait_until(lambda: denoising(service, job.id))
    assert service.stop_and_keep(job.id).state is JobState.STOPPING
    done = finished(service, job.id)
    assert done.job.state is JobState.DONE, done.job.error
    result = done.job.result
    assert result
    assert result.stopped
    assert result.seconds
    assert result.stopped.stage == "denoise"
    assert 1 <= result.stopped.step < 90
    assert result.stopped.total == 100
    mp4 = done.file()
    assert mp4
    assert [frame.shape for frame in read_frames(mp4)] == [(64, 96, 3)] * 12
    assert done.folder.last.is_file()
    assert (done.frames_ready, done.folder.frames.exists()) == (0, False)
    stages = [stage.stage for stage in result.stages]
    assert stages == ["load", "encode", "denoise", "decode"]
    starts = [stage.t_s for stage in result.stages]
    assert starts == sorted(starts)
    assert result.samples[-1].t_s <= result.seconds + 0.1
    long = service.submit(SMALL | {"width": 768, "height": 512, "num_frames": 60, "num_inference_steps": 60}, photo)
    wait_until(lambda: denoising(service, long.id))
    service.stop_and_keep(long.id)
    assert service.cancel(long.id).state is JobState.CANCELLING, "a person may still change their mind"
    cancelled = finished(service, long.id)
    assert cancelled.job.state is JobState.CANCELLED
    assert not cancelled.folder.frames.exists()


def test_stop_and_keep_while_decoding_ends_the_video_and_another_process_may_ask(service: Service, photo: Path) -> None:
    job = service.submit(SMALL | {"width": 768, "height": 512, "num_frames": 80, "num_inference_steps": 1}, photo)
    ready = wait_until(lambda: (s := service.snapshot(job.id)) and s.frames_ready >= 3 and s)
    assert len(list(ready.folder.frames.glob("*.jpg"))) >= ready.frames_ready
    other = Service(service.settings, runner="cli:0")  # never started: it only asks
    assert other.stop_and_keep(job.id).state is JobState.STOPPING
    other.close()
    done = finished(service, job.id)
    assert done.job.state is JobState.DONE, done.job.error
    result, mp4 = done.job.result, done.file()
    assert result
    assert mp4
    assert result.stopped
    assert result.num_frames
    assert result.stopped.stage == "decode"
    assert 3 <= result.stopped.step == result.num_frames < 80
    assert sum(1 for _ in read_frames(mp4)) == result.num_frames
    assert mp4.read_bytes()[:4096].find(b"moov") > 0, "the index is first, so it can be played and sought at once"


def test_the_worker_says_what_it_holds_and_lets_go_of_it(own_service: Service, photo: Path) -> None:
    assert own_service.worker_state() == WorkerState()
    own_service.unload()  # of no worker: nothing to do
    job = own_service.submit(LONG, photo)
    wait_until(lambda: denoising(own_service, job.id))
    running = own_service.worker_state()
    assert (running.running_job, running.model, running.pid) == (job.id, "motion", worker_pid(own_service))
    assert running.device
    assert running.precision
    assert running.rss_bytes > running.weights_bytes > 1 << 20
    with pytest.raises(InputError, match=r"A job is running\. Cancel it or wait\."):
        own_service.unload()
    own_service.cancel(job.id)
    finished(own_service, job.id)
    wait_until(lambda: own_service.worker_state().running_job is None)
    assert own_service.worker_state().model == "motion"
    for _ in range(2):
        own_service.unload()
        state = own_service.worker_state()
        assert (state.model, state.weights_bytes, state.pid) == (None, 0, running.pid)
    again = finished(own_service, own_service.submit(SMALL, photo).id)
    assert again.job.state is JobState.DONE
    assert own_service.worker_state().model == "motion"
    os.kill(worker_pid(own_service), signal.SIGKILL)
    wait_until(lambda: own_service.worker_state().pid is None)
    assert own_service.worker_state() == WorkerState()
    own_service.unload()


def test_a_waiting_job_is_cancelled_at_once(service: Service, photo: Path) -> None:
    first, second = service.submit(LONG, photo), service.submit(SMALL, photo)
    waiting = service.snapshot(second.id)
    assert waiting
    assert service.cancel(second.id).state is JobState.CANCELLED
    service.cancel(first.id)
    assert finished(service, first.id).job.state is JobState.CANCELLED


def test_a_killed_worker_is_reported_and_the_next_job_runs(service: Service, photo: Path) -> None:
    job = service.submit(LONG, photo)
    wait_until(lambda: denoising(service, job.id))
    os.kill(worker_pid(service), signal.SIGKILL)
    failed = finished(service, job.id)
    assert failed.job.state is JobState.FAILED
    assert failed.job.error
    assert failed.job.error.kind == "WorkerDiedError"
    assert "-9" in failed.job.error.message
    assert finished(service, service.submit(SMALL, photo).id).job.state is JobState.DONE


def test_a_worker_killed_in_decode_is_retried_from_its_latents(service: Service, photo: Path) -> None:
    job = service.submit(SMALL | {"width": 768, "height": 512, "num_frames": 60}, photo)
    latents = service.settings.job_folder(job.id) / "latents.safetensors"
    wait_until(latents.exists)
    os.kill(worker_pid(service), signal.SIGKILL)
    assert finished(service, job.id).job.state is JobState.FAILED
    assert service.retry(job.id).id == job.id
    stages: list[str] = []
    service.wait(job.id, lambda s: stages.append(s.progress.stage if s.progress else "") if s.live else None)
    done = service.snapshot(job.id)
    assert done
    assert done.job.state is JobState.DONE, done.job.error
    assert done.job.attempt == 2
    assert done.job.result
    assert "denoise" not in done.job.result.stage_seconds


def test_the_worker_leaves_when_the_app_is_killed(home: Path, photo: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    app = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "i2v",
            "generate",
            str(photo),
            "-p",
            "pan left",
            "--steps",
            "100",
            "--frames",
            "100",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.DEVNULL,
    )
    worker = wait_until(lambda: psutil.Process(app.pid).children())[0]
    app.kill()
    app.wait()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, timeout_s=20)
    service = Service(Settings.from_environment())
    service.start()
    jobs = service.history()
    service.close()
    assert len(jobs) == 1
    assert jobs[0].is_over


def test_bad_requests_leave_nothing_behind(own_service: Service, photo: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    with pytest.raises(ImageError):
        own_service.submit(SMALL, text)
    with pytest.raises(ImageError):
        own_service.submit(SMALL, tmp_path / "missing.png")
    with pytest.raises(InputError, match="would be cut"):
        own_service.submit(SMALL | {"prompt": "pan left " * 60}, photo)
    with pytest.raises(ModelFilesError, match="--download i2vgen-xl"):
        own_service.submit(SMALL | {"model": "i2vgen-xl"}, photo)
    assert own_service.history() == []
    assert list(own_service.settings.jobs.iterdir()) == []


@pytest.mark.slow
def test_history_is_newest_first_and_survives_a_restart(own_service: Service, photo: Path) -> None:
    ids = [own_service.submit(SMALL | {"prompt": p}, photo).id for p in ("zoom in", "tilt up")]
    assert [finished(own_service, job_id).job.state for job_id in ids] == [JobState.DONE] * 2
    assert [s.job.id for s in own_service.history()] == ids[::-1]
    reopened = Service(own_service.settings)
    assert [s.job.id for s in reopened.history()] == ids[::-1]
    reopened.close()


def test_a_worker_without_torch_says_so_and_the_page_goes_on(
    own_service: Service, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    job = own_service.submit(SMALL, photo)
    done = finished(own_service, job.id)
    assert done.job.state is JobState.FAILED
    assert done.job.error
    assert "torch is not installed" in done.job.error.message
    assert "start_app.sh" in done.job.error.remedy
    again = own_service.submit(SMALL, photo)  # the worker lives on and answers the next one too
    assert finished(own_service, again.id).job.state is JobState.FAILED


def test_a_job_keeps_its_forecast_and_its_measured_peak(service: Service, photo: Path) -> None:
    job = service.submit(SMALL, photo)
    done = finished(service, job.id)
    assert done.job.state is JobState.DONE, done.job.error
    result = done.job.result
    assert result
    assert result.peak_bytes
    assert result.forecast
    assert result.forecast.peak_ram_bytes > 0
    assert result.step_downs == ()

    def learnt() -> bool:
        ladder = service.forecast(SMALL, (96, 64), wait=True)
        seconds = ladder.chosen.forecast.seconds if ladder and ladder.chosen else None
        return seconds is not None and seconds.source == "runs"

    wait_until(learnt, timeout_s=15)
