"""Measures the main memory of the process that writes a video, by its size: `python -m benchmarks.encoder_memory`.

The forecast's constants for it (i2v/memory/forecast/peaks.py) come from here: the line that lies above every row.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from i2v.media.formats import open_writer
from i2v.memory.forecast.peaks import ENCODER_BYTES, ENCODER_BYTES_PER_PIXEL

SIZES = ((64, 64), (512, 512), (768, 512), (1280, 720), (1024, 1024), (1920, 1080), (3840, 2160))
_FRAMES = 48  # more than the encoder looks ahead


def peak_bytes(width: int, height: int) -> int:
    """Return the most that the encoder's process held while a video of noise that moves was written."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            children = psutil.Process().children(recursive=True)
            peak = max(peak, sum(_rss(child) for child in children))

    watching = threading.Thread(target=watch)
    watching.start()
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        with open_writer(Path(folder) / "video.mp4", 12, (width, height), {}) as writer:
            for number in range(_FRAMES):
                writer.write(np.roll(noise, 3 * number, axis=1))
                time.sleep(0)
        done.set()
        watching.join()
    return peak


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it ended just now
        return 0


def main() -> None:
    """Print a row for every size, with what the forecast counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    rows = [
        {
            "width": width,
            "height": height,
            "measured_bytes": peak_bytes(width, height),
            "forecast_bytes": ENCODER_BYTES + ENCODER_BYTES_PER_PIXEL * width * height,
        }
        for width, height in SIZES
    ]
    if args.json:
        print(json.dumps({"cpu_count": psutil.cpu_count(), "rows": rows}, indent=2))
        return
    for row in rows:
        measured, foreseen = row["measured_bytes"] >> 20, row["forecast_bytes"] >> 20
        print(f"{row['width']}x{row['height']}: {measured} MiB measured, {foreseen} MiB foreseen")


if __name__ == "__main__":
    main()
