"""Makes the README's strip of frames with i2v itself: `python -m docs.make_pictures`. page_pictures.py takes the page.

The photographs are those of the example gallery; i2v/ui/gallery/gallery.yaml names their authors and licences.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from i2v.media.video import read_frames
from i2v.ui.example_gallery import Example, load_gallery

ROOT = Path(__file__).parents[1]
ON_THE_STRIP = ("china.jpg", "chelsea.jpg", "rocket.jpg")  # what they ask for can be seen in still frames
SEED = 1
CELL, MARGIN, CAPTION_PX = (236, 156), 10, 34
INK, PAPER = "#25343a", "white"


def main() -> None:
    """Make the strip."""
    parser = argparse.ArgumentParser(description="Make the README's strip of frames.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        chosen = [example for example in load_gallery().examples if example.file in ON_THE_STRIP]
        rows = [_row(example, _video_of(example, home)) for example in chosen]
        _stacked(rows).save(args.out / "sample-strip.jpg", quality=85)


def _video_of(example: Example, home: Path) -> list[np.ndarray]:
    """Make the video of an example as a person would on the command line, and return its frames."""
    photo, video = load_gallery().path(example), home.parent / "out.mp4"
    asked = ["-p", example.prompt, "-o", str(video), "--seed", str(SEED), "--loop" if example.loop else "--no-loop"]
    asked += ["--frames", str(example.num_frames)] if example.num_frames else []
    subprocess.run(
        [sys.executable, "-m", "i2v", "generate", str(photo), *asked],
        cwd=ROOT,
        env=os.environ | {"I2V_HOME": str(home)},
        check=True,
    )
    return list(read_frames(video))


def _row(example: Example, frames: list[np.ndarray]) -> Image.Image:
    """Lay out the photograph, the prompt, and four later moments of the video."""
    with Image.open(load_gallery().path(example)) as photo:
        pictures = [photo.convert("RGB")]
    pictures += [Image.fromarray(frames[i]) for i in np.linspace(0, len(frames) - 1, 5).round().astype(int)[1:]]
    row = Image.new("RGB", (len(pictures) * (CELL[0] + MARGIN) + 2 * MARGIN, CELL[1] + CAPTION_PX + MARGIN), PAPER)
    words = ImageDraw.Draw(row)
    words.text((0, 8), "photograph", INK, ImageFont.load_default(15))
    left = CELL[0] + 3 * MARGIN  # the photograph stands a little apart from what was made of it
    words.text((left, 6), f"“{example.prompt}”", INK, ImageFont.load_default(18))
    for number, picture in enumerate(pictures):
        x = 0 if number == 0 else left + (number - 1) * (CELL[0] + MARGIN)
        row.paste(picture.resize(CELL, Image.Resampling.LANCZOS), (x, CAPTION_PX))
    return row


def _stacked(rows: list[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), PAPER)
    for number, row in enumerate(rows):
        whole.paste(row, (0, number * row.height))
    return whole


if __name__ == "__main__":
    main()
