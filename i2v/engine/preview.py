"""Writes the preview of a run: a few small frames as one animated WebP, replaced at every step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["write_preview"]


def write_preview(frames: np.ndarray, path: Path) -> None:
    """Write frames (n, h, w, 3) uint8 beside the old preview, then put them in its place. Raises OSError."""
    pictures = [Image.fromarray(frame) for frame in frames]
    there_and_back = pictures + pictures[-2:0:-1]
    part = path.with_name(path.name + ".part")
    pictures[0].save(
        part,
        "WEBP",
        save_all=True,
        append_images=there_and_back[1:],
        duration=160,
        loop=0,
        quality=70,
        method=0,
    )
    part.replace(path)
