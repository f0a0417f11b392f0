"""Puts decoded frames where a page can show them: small ones while the rest decodes, and the last one whole.

Knows frames and one job's folder. Small ones that cannot be written are logged once: the run is worth more.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from i2v.jobs.folder import JobFolder
from i2v.media.part import whole_file

__all__ = ["FrameFiles", "write_last"]

_log = logging.getLogger(__name__)
_LONGEST_PX = 480
_QUALITY = 80


class FrameFiles:
    """Context manager that owns the folder of a job's small frames: empty when the run begins, gone when it ends."""

    def __init__(self, folder: JobFolder):
        self._folder, self._works = folder, True

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder.frames, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder.frames, ignore_errors=True)

    def write(self, index: int, frame: np.ndarray) -> None:
        """Write frame number `index` (H, W, 3) uint8 as a small JPEG, which appears whole."""
        if not self._works:
            return
        data = cv2.imencode(".jpg", _bgr(_reduced(frame)), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
        path = self._folder.frame(index)
        part = path.with_suffix(".part")
        try:
            path.parent.mkdir(exist_ok=True)
            part.write_bytes(data.tobytes())
            part.replace(path)
        except OSError as problem:
            self._works = False
            _log.warning("frames cannot be shown as they come: %s", problem)


def write_last(path: Path, frame: np.ndarray) -> None:
    """Write the frame that ended the video, as a PNG. Raises StorageError."""
    with whole_file(path) as part:
        part.write_bytes(cv2.imencode(".png", _bgr(frame))[1].tobytes())  # a fifth of the time that Pillow takes


def _reduced(frame: np.ndarray) -> np.ndarray:
    """Return the frame at a whole fraction of its size: any other takes twenty times as long."""
    height, width = frame.shape[:2]
    times = -(-max(height, width) // _LONGEST_PX)
    if times == 1:
        return frame
    size = (max(1, width // times), max(1, height // times))
    return cv2.resize(frame[: size[1] * times, : size[0] * times], size, interpolation=cv2.INTER_AREA)


def _bgr(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
