"""Measures what a person waits for at first: `python -m benchmarks.first_minute [--json]`.

The page: seconds from `python app.py` until it answers. The built-in model's default request on a real photograph
(512 px short side, 24 frames): seconds per stage once the model is loaded, best of three, with its ratio to the
baseline in the same run: encoding as many unmoved frames to the same kind of MP4.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.served import serve
from i2v.engine.run import Engine, RunSpec
from i2v.jobs.folder import JobFolder
from i2v.media.formats import open_writer
from i2v.media.image import fit_picture, load_picture, save_png
from i2v.request import build_request


def seconds_to_page() -> float:
    """Start the app in a fresh home and return the seconds until its page is served."""
    with tempfile.TemporaryDirectory() as home, serve(Path(home)) as app:
        return app.ready_s


def default_request(runs: int = 3) -> dict[str, Any]:
    """Run the default request and return seconds per stage of the fastest run, peak memory and ratios."""
    from skimage import data

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_png(Image.fromarray(data.coffee()), JobFolder(folder).picture)
        picture = load_picture(JobFolder(folder).picture)
        request = build_request({"prompt": "the camera pans left", "seed": 1}, picture.size)
        engine = Engine()
        results = [
            engine.run(RunSpec(f"bench{i}", 1, request, folder, JobFolder(folder)), lambda *_: None, lambda: False)
            for i in range(runs + 1)
        ]
        frame = fit_picture(picture, request.width, request.height)
        baseline = min(_encode_only(folder, frame, request.num_frames, request.fps) for _ in range(runs))
    best = min(results[1:], key=lambda r: r["seconds"])
    return {
        "size": [request.width, request.height, request.num_frames],
        "first_run_with_loading_s": results[0]["seconds"],
        "loaded_s": best["seconds"],
        "stage_seconds": best["stage_seconds"],
        "peak_ram_bytes": best["peak_bytes"],
        "baseline_encode_only_s": round(baseline, 3),
        "ratio_to_encode_only": round(best["seconds"] / baseline, 2),
    }


def _encode_only(folder: Path, frame: Any, num_frames: int, fps: int) -> float:
    began = time.monotonic()
    with open_writer(folder / "still.mp4", fps, (frame.shape[1], frame.shape[0]), {}) as writer:
        for _ in range(num_frames):
            writer.write(frame)
    return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what a person waits for at first.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    figures = {"page_answers_after_s": round(seconds_to_page(), 2)} | default_request()
    print(json.dumps(figures, indent=2) if args.json else "\n".join(f"{k:28} {v}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
