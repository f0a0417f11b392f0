"""What only a CUDA card can show. Skipped, and said so, without one: `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from i2v.engine.run import Engine, RunSpec
from i2v.jobs.folder import JobFolder
from i2v.jobs.result import RunResult
from i2v.media.image import load_picture, save_png
from i2v.media.video import read_frames
from i2v.request import build_request

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
