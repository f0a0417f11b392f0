"""The engine and its doors: the real engine with the shipped model, and faults put in where they happen."""

from __future__ import annotations

import gc
import hashlib
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2v import __version__
from i2v.builtin.measure import psnr_db
from i2v.engine import checkpoint
from i2v.engine.checkpoint import load_latents, save_latents
from i2v.engine.run import Engine, RunSpec
from i2v.errors import Cancelled, ModelFilesError, NotFiniteError, OutOfMemoryError
from i2v.jobs.events import Planned, Preview, Progress, RunEvent
from i2v.jobs.folder import JobFolder
from i2v.jobs.result import MemorySample, RunResult
from i2v.media.image import fit_picture, load_picture, save_png
from i2v.media.video import read_frames
from i2v.models.motion import Pipeline
from i2v.request import GenerationRequest, build_request


@pytest.fixture
def spec(tmp_path: Path, photo: Path) -> RunSpec:
    return make_spec(tmp_path, photo)


def make_spec(folder: Path, photo: Path, **values: Any) -> RunSpec:
    picture = load_picture(photo)
    save_png(picture, folder / "picture.png")
    request = build_request(
        {"prompt": "pan left", "seed": 3, "width": 96, "height": 64, "num_frames": 5, "num_inference_steps": 8}
        | values,
        picture.size,
    )
    return RunSpec("0123456789abcdef", 1, request, folder, JobFolder(folder))


def run(
    engine: Engine, spec: RunSpec, cancelled: Callable[[], bool] = lambda: False
) -> tuple[RunResult, list[RunEvent]]:
    events: list[RunEvent] = []
    result = engine.run(spec, events.append, cancelled)
    return result, events


def test_a_run_reports_plan_stages_memory_and_a_preview_at_every_step(spec: RunSpec) -> None:
    _, events = run(Engine(), spec)
    assert isinstance(events[0], Planned)
    progress = [event for event in events if isinstance(event, Progress)]
    stages = list(dict.fromkeys(p.stage for p in progress))
    assert stages == ["load", "encode", "denoise", "decode"]
    assert [p.fraction for p in progress if p.stage == "denoise"] == sorted(
        p.fraction for p in progress if p.stage == "denoise"
    )
    assert [event.number for event in events if isinstance(event, Preview)] == list(range(1, 9))
    assert sum(isinstance(event, MemorySample) for event in events) >= 8
    assert progress[-1].fraction == 1.0
    with Image.open(spec.folder.path / "preview.webp") as preview:
        assert preview.n_frames > 1  # type: ignore[attr-defined]


def test_memory_is_logged_every_ten_steps(tmp_path: Path, photo: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(Engine(), make_spec(tmp_path, photo, num_inference_steps=20))
    lines = [r.getMessage() for r in caplog.records if "allocated" in r.getMessage()]
    assert [line.split(":")[0] for line in lines] == ["step 0", "step 10", "step 20"]
    assert all("reserved" in line and "peak" in line for line in lines)


def test_a_loaded_model_is_used_again(spec: RunSpec) -> None:
    engine = Engine()
    run(engine, spec)
    first = engine._pipeline
    run(engine, spec)
    assert engine._pipeline is first


@pytest.mark.parametrize("step", [1, 4, 8])
def test_cancel_takes_effect_within_one_step(spec: RunSpec, step: int) -> None:
    seen: list[Progress] = []

    def report(event: RunEvent) -> None:
        if isinstance(event, Progress) and event.stage == "denoise":
            seen.append(event)

    with pytest.raises(Cancelled):
        Engine().run(spec, report, lambda: bool(seen) and seen[-1].step >= step)
    assert seen[-1].step == step
    assert not list(spec.folder.path.glob("*.mp4*"))


def test_cancel_during_decode_leaves_no_half_file(spec: RunSpec) -> None:
    seen: list[int] = []

    def report(event: RunEvent) -> None:
        if isinstance(event, Progress) and event.stage == "decode":
            seen.append(event.step)

    with pytest.raises(Cancelled):
        Engine().run(spec, report, lambda: bool(seen) and seen[-1] >= 2)
    assert not [p for p in spec.folder.path.iterdir() if p.suffix in (".mp4", ".part")]


def test_numbers_that_overflow_end_the_run_with_a_remedy(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "_predict", lambda self, latents, *_: latents * torch.nan)
    with pytest.raises(NotFiniteError, match="fp32"):
        run(Engine(), spec)
    assert not list(spec.folder.path.glob("*.mp4*"))


def test_out_of_memory_is_said_and_frees_the_model(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, calls = Engine(), 0
    run(engine, spec)
    assert engine._pipeline
    held = weakref.ref(engine._pipeline.denoiser)
    original = type(engine._pipeline.denoiser).forward

    def forward(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise torch.OutOfMemoryError("pretended")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(engine._pipeline.denoiser), "forward", forward)
    with pytest.raises(OutOfMemoryError, match="fewer frames"):
        run(engine, spec)
    gc.collect()
    assert held() is None
    assert calls == 3
    run(engine, spec)  # and the next run works


def test_latents_are_kept_when_decoding_fails(spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Pipeline.decode

    def broken(*_: Any) -> Any:
        raise torch.OutOfMemoryError("pretended")

    monkeypatch.setattr(Pipeline, "decode", broken)
    with pytest.raises(OutOfMemoryError):
        run(Engine(), spec)
    assert spec.folder.latents.is_file()
    monkeypatch.setattr(Pipeline, "decode", original)
    _, events = run(Engine(), spec)
    assert any(isinstance(event, Progress) for event in events)
    assert not [event for event in events if isinstance(event, Progress) and event.stage == "denoise"]
    assert not spec.folder.latents.exists()


def test_a_checkpoint_of_another_request_or_a_torn_one_is_ignored(tmp_path: Path, spec: RunSpec) -> None:
    path, latents = tmp_path / "latents.safetensors", torch.randn(1, 4, 8, 8, 8)
    save_latents(path, spec.request, latents)
    again = load_latents(path, spec.request)
    assert again is not None
    assert torch.equal(again, latents)
    other: GenerationRequest = spec.request.model_copy(update={"seed": 4})
    assert load_latents(path, other) is None
    path.write_bytes(path.read_bytes()[:100])
    assert load_latents(path, spec.request) is None


def test_a_checkpoint_counts_for_the_way_the_picture_was_fitted_and_older_ones_for_the_usual(
    tmp_path: Path, spec: RunSpec
) -> None:
    path, latents = tmp_path / "latents.safetensors", torch.randn(1, 4, 8, 8, 8)
    save_latents(path, spec.request, latents)
    assert load_latents(path, spec.request.model_copy(update={"image_fit": "fit"})) is None
    before = spec.request.model_dump_json(
        exclude={"chunk_frames", "vram_gib", "image_fit", "ram_gib"}
    )  # as there were no such fields
    assert checkpoint._key(spec.request) == hashlib.sha256(f"{__version__}\n{before}".encode()).hexdigest()


def test_the_picture_is_fitted_as_asked(tmp_path: Path, photo: Path) -> None:
    spec = make_spec(tmp_path, photo, image_fit="fit", width=64, height=192, num_frames=2, num_inference_steps=1)
    result, _ = run(Engine(), spec)
    first = next(iter(read_frames(spec.folder.path / result.files["mp4"])))
    assert psnr_db(np.asarray(first), fit_picture(load_picture(spec.folder.picture), 64, 192, "fit")) > 32
    assert psnr_db(np.asarray(first), fit_picture(load_picture(spec.folder.picture), 64, 192)) < 20


def test_the_video_begins_with_the_picture(spec: RunSpec) -> None:
    result, _ = run(Engine(), spec)
    first = next(iter(read_frames(spec.folder.path / result.files["mp4"])))
    picture = fit_picture(load_picture(spec.folder.picture), spec.request.width, spec.request.height)
    assert psnr_db(np.asarray(first), picture) > 32


def test_a_missing_model_is_said_in_one_sentence(tmp_path: Path, photo: Path) -> None:
    spec = make_spec(tmp_path, photo, model="i2vgen-xl", width=64, height=64)
    with pytest.raises(ModelFilesError, match=r"^[^\n]+$"):
        run(Engine(), spec)
