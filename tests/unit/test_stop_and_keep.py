"""Runs of the real engine that a person ends early, and what they leave in the job's folder."""

from __future__ import annotations

import gc
import io
import itertools
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2v.engine.checkpoint import load_latents
from i2v.engine.frame_files import FrameFiles
from i2v.engine.run import Engine, RunSpec
from i2v.errors import Cancelled, OutOfMemoryError
from i2v.jobs.events import Loaded, Progress, RunEvent, Unloaded
from i2v.jobs.folder import JobFolder
from i2v.jobs.result import MemorySample, RunResult, Stage, Stopped
from i2v.media.formats import read_request
from i2v.media.video import read_frames
from i2v.memory.forecast.experience import RunRecord
from i2v.models.motion import Pipeline
from tests.unit.test_engine import make_spec

Events = list[RunEvent]


@pytest.fixture
def spec(tmp_path: Path, photo: Path) -> RunSpec:
    return make_spec(tmp_path, photo, formats=("gif",), num_inference_steps=4)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


def stopped_at(engine: Engine, spec: RunSpec, stage: str, step: int) -> tuple[RunResult, Events]:
    """Run, and ask to keep what is there once a stage has come to a step."""
    events: Events = []
    result = engine.run(spec, events.append, lambda: False, lambda: has_reached(events, stage, step))
    return result, events


def has_reached(events: Events, stage: str, step: int) -> bool:
    return any(at.stage == stage and at.step >= step for at in progress_of(events))


def progress_of(events: Events) -> list[Progress]:
    return [event for event in events if isinstance(event, Progress)]


def frames_of(spec: RunSpec, result: RunResult) -> list[np.ndarray]:
    return list(read_frames(spec.folder.path / result.files["mp4"]))


@pytest.mark.parametrize(("stage", "asked", "step"), [("load", 0, 1), ("denoise", 0, 1), ("denoise", 3, 3)])
def test_stopped_while_denoising_gives_all_frames_of_the_latest_finished_step(
    engine: Engine, spec: RunSpec, stage: str, asked: int, step: int
) -> None:
    result, events = stopped_at(engine, spec, stage, asked)
    assert result.stopped == Stopped(stage=Stage.DENOISE, step=step, total=4)
    assert result.num_frames == len(frames_of(spec, result)) == 5
    assert max(at.step for at in progress_of(events) if at.stage == "denoise") == step
    assert progress_of(events)[-1].to_json() | {"elapsed_s": 0, "per_second": 0} == {
        "stage": "decode", "step": 5, "total": 5, "fraction": 1.0, "eta_s": 0.0, "elapsed_s": 0, "per_second": 0,
    }  # fmt: skip
    assert read_request(spec.folder.path / result.files["mp4"])["stopped"] == {
        "stage": "denoise",
        "step": step,
        "total": 4,
    }


def test_what_is_decoded_is_the_clean_estimate_and_no_noise(
    engine: Engine, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[torch.Tensor] = []
    estimates: list[torch.Tensor] = []
    decode, estimate = Pipeline.decode, Pipeline.clean_estimate

    def seen_decode(self: Pipeline, latents: torch.Tensor, *args: Any) -> Any:
        decoded.append(latents)
        return decode(self, latents, *args)

    def seen_estimate(self: Pipeline, *args: Any) -> torch.Tensor:
        estimates.append(estimate(self, *args))
        return estimates[-1]

    monkeypatch.setattr(Pipeline, "decode", seen_decode)
    monkeypatch.setattr(Pipeline, "clean_estimate", seen_estimate)
    stopped_at(engine, spec, "denoise", 2)
    assert len(estimates) == 2
    assert torch.equal(decoded[-1], estimates[-1])
    held = weakref.ref(estimates[-1])
    estimates.clear()
    decoded.clear()
    gc.collect()
    assert held() is None, "nothing holds the tensors of a run that ended early"


@pytest.mark.parametrize(("asked", "frames"), [(1, 2), (3, 3)])
def test_stopped_while_decoding_keeps_the_frames_so_far_and_at_least_two(
    engine: Engine, spec: RunSpec, asked: int, frames: int
) -> None:
    whole = engine.run(spec, lambda _: None, lambda: False)
    every = frames_of(spec, whole)
    result, events = stopped_at(engine, spec, "decode", asked)
    assert result.stopped == Stopped(stage=Stage.DECODE, step=frames, total=5)
    kept = frames_of(spec, result)
    assert result.num_frames == len(kept) == frames
    assert all(np.abs(a.astype(int) - b).mean() < 2 for a, b in zip(kept, every, strict=False))
    with Image.open(spec.folder.path / result.files["gif"]) as gif:
        assert gif.n_frames == frames  # type: ignore[attr-defined]
    last = progress_of(events)[-1]
    assert (last.step, last.total, last.fraction, last.eta_s) == (frames, frames, 1.0, 0.0)


@pytest.mark.parametrize(("stage", "step"), [("denoise", 4), ("decode", 5)])
def test_asked_when_a_stage_was_done_anyway_the_video_is_whole(
    engine: Engine, spec: RunSpec, stage: str, step: int
) -> None:
    result, _ = stopped_at(engine, spec, stage, step)
    assert result.stopped is None
    assert "stopped" not in result.to_json()
    assert len(frames_of(spec, result)) == 5


def test_a_retry_of_a_run_that_was_stopped_denoises_anew(
    engine: Engine, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Pipeline.decode

    def broken(*_: Any) -> Any:
        raise RuntimeError("pretended")

    monkeypatch.setattr(Pipeline, "decode", broken)
    with pytest.raises(RuntimeError, match="pretended"):
        stopped_at(engine, spec, "denoise", 2)
    assert load_latents(spec.folder.latents, spec.request) is None
    assert not spec.folder.latents.exists()
    monkeypatch.setattr(Pipeline, "decode", decode)
    again, events = stopped_at(engine, spec, "never", 0)
    assert again.stopped is None
    assert sum(at.stage == "denoise" for at in progress_of(events)) == 5


def test_a_stopped_run_can_still_be_cancelled(engine: Engine, spec: RunSpec) -> None:
    events: Events = []
    with pytest.raises(Cancelled):
        engine.run(
            spec,
            events.append,
            lambda: has_reached(events, "decode", 2),
            lambda: has_reached(events, "denoise", 2),
        )
    left = {path.name for path in spec.folder.path.iterdir()}
    assert left <= {"picture.png", "preview.webp", "poster.jpg"}


def test_a_stopped_run_says_nothing_about_how_long_whole_ones_take() -> None:
    request = {"model": "motion", "guidance_scale": 1.0, "num_inference_steps": 8}
    plan = {"device": "cpu", "compute": "fp32", "weights": "resident"}
    foreseen = {"counted_bytes": 1, "operations": 1.0, "pixels": 1}
    result = {"plan": plan, "forecast": foreseen, "peak_bytes": 2, "stage_seconds": {"denoise": 1.0}}
    whole = RunResult.model_validate(result)
    stopped = whole.model_copy(update={"stopped": Stopped(stage=Stage.DENOISE, step=1, total=8)})
    assert RunRecord.of(request, whole) is not None
    assert RunRecord.of(request, stopped) is None


# Frames as they come, and the last one


def watched(engine: Engine, spec: RunSpec, look: Callable[[int], None]) -> RunResult:
    def report(event: RunEvent) -> None:
        if isinstance(event, Progress) and event.stage == "decode":
            look(event.step)

    return engine.run(spec, report, lambda: False)


def test_each_frame_is_there_small_while_the_rest_decodes_and_gone_at_the_end(
    engine: Engine, tmp_path: Path, photo: Path
) -> None:
    spec = make_spec(tmp_path, photo, width=512, height=320, num_frames=3, num_inference_steps=1)
    folder, seen = spec.folder.path / "frames", []
    folder.mkdir()
    (folder / "00099.jpg").write_bytes(b"stale")

    def look(step: int) -> None:
        names = sorted(path.name for path in folder.glob("*")) if folder.exists() else []
        assert names == [f"{index:05d}.jpg" for index in range(step)]
        if names:
            with Image.open(folder / names[-1]) as frame:
                frame.load()
                seen.append((frame.format, frame.size))

    watched(engine, spec, look)
    assert seen == [("JPEG", (256, 160))] * 4
    assert not folder.exists()


def test_frames_are_gone_after_a_run_that_was_cancelled(engine: Engine, spec: RunSpec) -> None:
    events: Events = []
    with pytest.raises(Cancelled):
        engine.run(spec, events.append, lambda: has_reached(events, "decode", 2))
    assert not (spec.folder.path / "frames").exists()


def test_a_run_goes_on_when_frames_cannot_be_shown(
    engine: Engine, spec: RunSpec, caplog: pytest.LogCaptureFixture
) -> None:
    (spec.folder.path / "frames").write_text("in the way")
    result = watched(engine, spec, lambda _: None)
    assert len(frames_of(spec, result)) == 5
    assert sum("cannot be shown" in record.getMessage() for record in caplog.records) == 1


def test_a_small_frame_keeps_its_colours(tmp_path: Path) -> None:
    frame = np.full((600, 1000, 3), (200, 60, 20), np.uint8)
    with FrameFiles(JobFolder(tmp_path)) as files:
        files.write(7, frame)
        with Image.open(tmp_path / "frames" / "00007.jpg") as small:
            assert small.size == (333, 200)
            assert np.abs(np.asarray(small, int)[100, 100] - (200, 60, 20)).max() <= 4


def test_the_last_frame_is_kept_without_loss(engine: Engine, tmp_path: Path, photo: Path) -> None:
    spec = make_spec(tmp_path, photo, formats=("png",), num_inference_steps=1)
    result, _ = stopped_at(engine, spec, "decode", 3)
    with zipfile.ZipFile(spec.folder.path / result.files["png"]) as archive:
        wanted = np.asarray(Image.open(io.BytesIO(archive.read("frame_0003.png"))))
    with Image.open(spec.folder.path / "last.png") as last:
        assert np.array_equal(np.asarray(last), wanted)


# Time, and what is loaded


def test_samples_stages_and_step_downs_share_one_axis_of_time(engine: Engine, spec: RunSpec) -> None:
    _, events = stopped_at(engine, spec, "never", 0)
    timeline = [
        event.t_s if isinstance(event, MemorySample) else event.elapsed_s
        for event in events
        if isinstance(event, MemorySample | Progress)
    ]
    assert all(later >= earlier - 0.1 for earlier, later in itertools.pairwise(timeline))
    named = {
        "kind",
        "t_s",
        "allocated_bytes",
        "reserved_bytes",
        "peak_bytes",
        "device_used_bytes",
        "device_total_bytes",
    }
    assert all(set(event.to_json()) == named for event in events if isinstance(event, MemorySample))


def test_loading_and_letting_go_are_told(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    _, events = stopped_at(engine, spec, "never", 0)
    loaded = [event for event in events if isinstance(event, Loaded)]
    assert len(loaded) == 1
    assert (loaded[0].model, loaded[0].device) == (
        "motion",
        engine._pipeline.device.type if engine._pipeline else "",
    )
    assert loaded[0].precision
    assert loaded[0].bytes > 1 << 20
    _, again = stopped_at(engine, spec, "never", 0)
    assert not [event for event in again if isinstance(event, Loaded | Unloaded)]

    def no_memory(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(Pipeline, "decode", no_memory)
    told: Events = []
    with pytest.raises(OutOfMemoryError):
        engine.run(spec, told.append, lambda: False)
    assert told[-1] == Unloaded()
    assert engine._pipeline is None
