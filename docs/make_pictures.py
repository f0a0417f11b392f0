"""Makes the README's pictures with i2v itself: `python -m docs.make_pictures`. Needs requirements-dev.txt and Chromium.

The photograph is scikit-image's `coffee` by Rachel Michetti, in the public domain (CC0).
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
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from i2v.media.video import read_frames

ROOT = Path(__file__).parents[1]
PROMPT = "the camera pans left"


def main() -> None:
    """Start the app in a fresh home, generate, take the pictures, stop it."""
    parser = argparse.ArgumentParser(description="Make the README's pictures.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "coffee.jpg"
        from skimage import data

        Image.fromarray(data.coffee()).save(photo, quality=95)
        app, url = _start(Path(folder) / "home")
        try:
            _take(url, photo, args.out)
            _strip(next((Path(folder) / "home" / "jobs").glob("*/i2v-*.mp4")), args.out / "sample-strip.jpg")
        finally:
            app.send_signal(signal.SIGINT)
            app.wait(30)


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


def _take(url: str, photo: Path, out: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("I2V_TEST_BROWSER") or shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(url)
        page.locator("#generate").wait_for()
        page.wait_for_timeout(5000)
        page.screenshot(path=out / "page-empty.png")
        page.set_input_files("#picture input[type=file]", photo)
        page.locator("#picture img").first.wait_for()
        page.fill("#prompt textarea", PROMPT)
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
        phone.screenshot(path=out / "page-phone.png", full_page=True)
        browser.close()


def _when_at_step(page: Page, step: int) -> None:
    page.wait_for_function(
        "n => Number((document.querySelector('#panel .stage')?.textContent || '').match(/step (\\d+)/)?.[1]) >= n",
        arg=step,
        timeout=120_000,
    )


def _strip(video: Path, path: Path) -> None:
    """Write eight evenly spaced frames as two rows of four."""
    frames = list(read_frames(video))
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, 8).round().astype(int)]
    small = [np.asarray(Image.fromarray(f).resize((320, round(320 * f.shape[0] / f.shape[1])))) for f in chosen]
    rows = [np.concatenate(small[i : i + 4], axis=1) for i in (0, 4)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path, quality=85)


if __name__ == "__main__":
    main()
