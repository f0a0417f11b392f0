"""Makes the README's pictures with i2v itself: `python -m docs.make_pictures`. Needs requirements-dev.txt and Chromium.

The photographs are those of the example gallery; i2v/ui/gallery/gallery.yaml names their authors and licences.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Page, sync_playwright

from i2v.media.video import read_frames
from i2v.ui.example_gallery import Example, load_gallery

ROOT = Path(__file__).parents[1]
ON_THE_STRIP = ("china.jpg", "chelsea.jpg", "rocket.jpg")  # what they ask for can be seen in still frames
SEED = 1
CELL, MARGIN, CAPTION_PX = (236, 156), 10, 34
INK, PAPER = "#25343a", "white"


def main() -> None:
    """Start the app in a fresh home, take the pictures of the page, stop it; then make the strip."""
    parser = argparse.ArgumentParser(description="Make the README's pictures.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--only-strip", action="store_true", help="leave the pictures of the page as they are")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        if not args.only_strip:
            app, url = _start(home)
            try:
                _take(url, args.out)
            finally:
                app.send_signal(signal.SIGINT)
                app.wait(30)
        chosen = [example for example in load_gallery().examples if example.file in ON_THE_STRIP]
        rows = [_row(example, _video_of(example, home)) for example in chosen]
        _stacked(rows).save(args.out / "sample-strip.jpg", quality=85)


def _start(home: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)], cwd=ROOT, env=os.environ | {"I2V_HOME": str(home)}
    )
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{url}/healthz", timeout=1)  # noqa: S310 - our own address
            return app, url
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the app did not start")


def _take(url: str, out: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("I2V_TEST_BROWSER") or shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(url)
        page.locator("#generate").wait_for()
        page.wait_for_timeout(8000)
        page.screenshot(path=out / "page-empty.png")
        page.locator("#gallery button").first.click()
        page.locator("#picture img").first.wait_for()
        page.locator("#generate").click()
        _when_at_step(page, 4)
        page.screenshot(path=out / "page-running.png")
        page.locator("#result video").wait_for(timeout=120_000)
        page.wait_for_timeout(2500)
        page.screenshot(path=out / "page-done.png", full_page=True)
        phone = browser.new_page(viewport={"width": 390, "height": 844})
        phone.goto(url)
        phone.locator("#generate").wait_for()
        phone.wait_for_timeout(2500)
        phone.screenshot(path=out / "page-phone.png")
        browser.close()


def _when_at_step(page: Page, step: int) -> None:
    page.wait_for_function(
        "n => Number((document.querySelector('#panel .stage')?.textContent || '').match(/step (\\d+)/)?.[1]) >= n",
        arg=step,
        timeout=120_000,
    )


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
