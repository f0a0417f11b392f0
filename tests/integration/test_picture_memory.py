"""A large photograph costs the worker no more memory than a small one, and is never held more than twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2v.media.image import fit_picture, load_picture
from i2v.service import Service
from i2v.settings import Settings

MIB = 1 << 20
SMALL, LARGE = (400, 600), (3000, 4500)
VALUES = {"prompt": "zoom in", "width": 128, "height": 192, "num_frames": 4, "num_inference_steps": 2, "seed": 1}
# Linux's own high-water mark: getrusage's is inherited from whoever started the process.
PEAK = """
import re
from pathlib import Path
def peak_bytes():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
"""
RUN = (
    PEAK
    + """
import sys
from i2v.engine.run import Engine, RunSpec
from i2v.jobs.folder import JobFolder
from i2v.request import GenerationRequest
folder = Path(sys.argv[1])
request = GenerationRequest.model_validate_json(sys.argv[2])
Engine().run(RunSpec(folder.name, 1, request, folder.parents[1], JobFolder(folder)), lambda *_: None, lambda: False)
print(peak_bytes())
"""
)
CHECK = (
    PEAK
    + """
import sys
from i2v.media.image import check_picture, fit_picture, picture_sha256
before = peak_bytes()
picture = check_picture(Path(sys.argv[1])).pixels
picture_sha256(picture), fit_picture(picture, 128, 192)
print(peak_bytes() - before)
"""
)
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")


def photo_of(size: tuple[int, int], path: Path) -> Path:
    """Write a JPEG that has to be turned upright."""
    grain = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(grain).resize(size, Image.Resampling.BICUBIC).save(path, exif=exif, quality=90)
    return path


def measured(code: str, *arguments: str) -> int:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    return int(done.stdout.split()[-1])


def test_the_worker_needs_no_more_memory_for_a_larger_photograph(home: Path, tmp_path: Path) -> None:
    service, peaks = Service(Settings(home, "WARNING")), []
    try:
        for size in (SMALL, LARGE):
            job = service.submit(VALUES, photo_of(size, tmp_path / "photo.jpg"))
            folder = service.settings.job_folder(job.id)
            asked = (folder / "picture.png", folder / "fitted.png")
            whole, fitted = (np.asarray(load_picture(path)) for path in asked)
            assert np.array_equal(fitted, fit_picture(Image.fromarray(whole), 128, 192))
            peaks.append(measured(RUN, str(folder), json.dumps(job.request)))
            assert not (folder / "fitted.png").exists()
    finally:
        service.close()
    assert peaks[1] - peaks[0] < 20 * MIB  # one copy of the large one is 51


def test_a_photograph_is_never_held_more_than_twice(tmp_path: Path) -> None:
    one = 4 * LARGE[0] * LARGE[1]  # Pillow keeps four bytes per pixel
    taken = measured(CHECK, str(photo_of(LARGE, tmp_path / "photo.jpg")))
    assert one < taken < 2.7 * one  # turned upright: the old and the new one
