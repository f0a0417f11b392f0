"""What every video writer promises: frame by frame in, and a whole file or none at the end.

A format subclasses FrameWriter and fills in four steps; this module knows nothing of formats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from i2v.media.metadata import metadata_text
from i2v.media.part import PartFile, storage_error

__all__ = ["FrameWriter", "Pixels"]

Pixels = npt.NDArray[np.uint8]


class FrameWriter(ABC):
    """A context manager that writes frames of `size` (width, height) in pixels, `fps` of them per second.

    The file appears under its name only when the block ends without an exception; otherwise nothing is left
    of it. `metadata` is any JSON object, kept inside the file. Raises StorageError when the disk refuses.
    """

    def __init__(self, path: Path, fps: int, size: tuple[int, int], metadata: Mapping[str, Any]):
        if fps < 1 or min(size) < 1:
            raise ValueError(f"a video of {size[0]}x{size[1]} at {fps} fps cannot be")
        self.path, self.fps, self.size = path, fps, size
        self.metadata_text = metadata_text(metadata, size, fps)
        self.frames_written = 0
        self._file = PartFile(path)

    def __enter__(self) -> Self:
        try:
            with self._refusals():
                self._file.create()
                self._begin(self._file.part)
        except BaseException:
            self._give_up()
            raise
        return self

    def write(self, frame: Pixels) -> None:
        """Add one frame (H, W, 3) uint8."""
        width, height = self.size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"{frame.shape} {frame.dtype} is no frame of a {width}x{height} video")
        with self._refusals():
            self._add(np.ascontiguousarray(frame))
        self.frames_written += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._give_up()
            return
        try:
            if not self.frames_written:
                raise ValueError(f"no frame was written to {self.path}")
            with self._refusals():
                self._finish()
                self._file.put_in_place()
        except BaseException:
            self._give_up()
            raise

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise storage_error(self.path, error) from error

    def _give_up(self) -> None:
        self._abandon()
        self._file.discard()

    @abstractmethod
    def _begin(self, part: Path) -> None:
        """Start writing to the empty file `part`."""

    @abstractmethod
    def _add(self, frame: Pixels) -> None:
        """Write one frame that has been checked."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete and close the part file."""

    @abstractmethod
    def _abandon(self) -> None:
        """Close everything that is open, whatever state it is in; never raise."""
