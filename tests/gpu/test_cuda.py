"""What only a CUDA card can show. Skipped, and said so, without one: `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from i2v.engine.doors import Doors
from i2v.engine.run import Engine, RunSpec, load_pipeline
from i2v.jobs.folder import JobFolder
from i2v.jobs.result import RunResult
from i2v.media.image import load_picture, save_png
from i2v.media.video import read_frames
from i2v.memory.knobs import FRAME_CHUNKS, PARKED_SKIPS, VAE_BANDS
from i2v.memory.plan import Plan
from i2v.memory.residency import Home
from i2v.models.base import cpu_generator
from i2v.presets.model_preset import preset_named
from i2v.request import build_request
from tests.small_checkpoint import save_small_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card here")]


def frames_in(folder: Path, photo: Path, precision: str) -> tuple[np.ndarray, RunResult]:
    folder.mkdir()
    picture = load_picture(photo)
    save_png(picture, folder / "picture.png")
    values = {"prompt": "the camera pans left", "seed": 3, "precision": precision, "width": 256, "height": 168}
    request = build_request(values, picture.size)
    result = Engine().run(RunSpec("f" * 16, 1, request, folder, JobFolder(folder)), lambda *_: None, lambda: False)
    return np.stack(list(read_frames(folder / result.files["mp4"]))).astype(float), result


def test_half_precision_on_a_card_gives_the_frames_of_full_precision(tmp_path: Path, photo: Path) -> None:
    full, result = frames_in(tmp_path / "fp32", photo, "fp32")
    half, _ = frames_in(tmp_path / "auto", photo, "auto")
    assert np.abs(full - half).mean() < 3.0
    assert result.peak_kind == "gpu"


def i2vgen_frames(home: Path, plan: Plan) -> np.ndarray:
    """Return all frames of a small random I2VGen-XL under a plan, (F, H, W, 3)."""
    preset = preset_named("i2vgen-xl")
    values = {"model": preset.name, "prompt": "a", "seed": 5, "width": 72, "height": 64, "num_frames": 5}
    request = build_request(values | {"num_inference_steps": 3}, (72, 64))
    image = np.random.default_rng(3).integers(0, 255, (64, 72, 3), dtype=np.uint8)
    generator = cpu_generator(request.seed)
    with torch.inference_mode():
        pipeline, _ = load_pipeline(preset, home, plan)
        pipeline.arrange(plan)
        conditions = pipeline.encode(request, image, generator)
        doors = Doors(lambda: False, lambda latents, clean: None, lambda stage, why: False)
        with doors.open(pipeline):
            latents = pipeline.denoise(pipeline.draw_latents(request, generator), conditions, request)
        return np.stack(list(pipeline.decode(latents, conditions, request))).astype(float)


@pytest.mark.parametrize(("compute", "tolerance"), [("fp32", 0.1), ("fp16", 1.0)])  # mean difference, of 255
def test_i2vgen_xl_gives_the_same_frames_under_every_plan(tmp_path: Path, compute: str, tolerance: float) -> None:
    save_small_checkpoint(tmp_path / "models" / "i2vgen-xl")
    whole = Plan.of(preset_named("i2vgen-xl").declared, "cuda:0", compute)
    streamed = whole.housed(Home.STREAMED).turned(FRAME_CHUNKS, 2)
    plans = {
        "turns": whole.housed(Home.TURNS),
        "chunks": whole.housed(Home.TURNS).turned(FRAME_CHUNKS, 2),
        "streamed": streamed,
        "parked": streamed.turned(PARKED_SKIPS, 1).turned(VAE_BANDS, 32),
    }
    expected = i2vgen_frames(tmp_path, whole)
    apart = {name: np.abs(i2vgen_frames(tmp_path, plan) - expected).mean() for name, plan in plans.items()}
    assert max(apart.values()) < tolerance, apart
