"""Every form a video is written in, picked by the file's ending: MP4, GIF, animated WebP, zip of PNG frames.

GIF and WebP are put together here from single pictures that Pillow encodes, so memory holds one frame however
long the video is (Pillow's own animations hold all of them).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from PIL import Image

from i2v.errors import InputError
from i2v.media.metadata import REQUEST_MEMBER, exif_chunk, gif_comment, read_metadata
from i2v.media.part import whole_file
from i2v.media.video import VideoWriter
from i2v.media.writer import FrameWriter, Pixels

__all__ = ["ENDINGS", "GifWriter", "PngZipWriter", "WebpWriter", "open_writer", "poster", "read_request"]

ENDINGS = {"mp4": ".mp4", "gif": ".gif", "webp": ".webp", "png": ".zip"}  # by the kind that a request names
_POSTER_SIDE_PX = 320
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # a fixed one: the same frames give the same file


class _FileWriter(FrameWriter):
    """A writer that fills the part file itself, and counts time in whole ticks without drifting."""

    _output: IO[bytes] | None = None

    def _open(self, part: Path) -> IO[bytes]:
        self._output = part.open("wb")
        return self._output

    @property
    def _out(self) -> IO[bytes]:
        assert self._output is not None  # noqa: S101 - begun
        return self._output

    def _finish(self) -> None:
        self._out.close()

    def _abandon(self) -> None:
        if self._output is not None:
            with suppress(OSError):
                self._output.close()

    def _frame_ticks(self, ticks_per_s: int) -> int:
        """How long the next frame is shown, so that the sum is never off by more than half a tick."""
        begin, end = self.frames_written, self.frames_written + 1
        return round(end * ticks_per_s / self.fps) - round(begin * ticks_per_s / self.fps)


class GifWriter(_FileWriter):
    """Writes a GIF that loops: 256 colours chosen anew for each frame, dithered.

    Time is in 1/100 s. Browsers do not show frames shorter than 2/100 s: above 50 fps it plays too slowly.
    """

    def _begin(self, part: Path) -> None:
        width, height = self.size
        screen = width.to_bytes(2, "little") + height.to_bytes(2, "little") + b"\x70\x00\x00"
        loop_forever = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
        self._open(part).write(b"GIF89a" + screen + loop_forever + gif_comment(self.metadata_text))

    def _add(self, frame: Pixels) -> None:
        picture = Image.fromarray(frame)
        # Of Pillow's methods the octree is a hundred times as fast, and dithered it loses least.
        palette = picture.quantize(256, Image.Quantize.FASTOCTREE)
        colours, image = _gif_image(picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
        timing = b"\x21\xf9\x04\x04" + self._frame_ticks(100).to_bytes(2, "little") + b"\x00\x00"
        has_colours = (len(colours) // 3).bit_length() - 2 | 0x80
        self._out.write(timing + image[:9] + bytes([has_colours]) + colours + image[10:])

    def _finish(self) -> None:
        self._out.write(b"\x3b")
        super()._finish()


def _gif_image(picture: Image.Image) -> tuple[bytes, bytes]:
    """Return a palette picture's colour table, and its image block: 10 bytes of descriptor, then the data."""
    buffer = io.BytesIO()
    picture.save(buffer, "GIF", optimize=False, interlace=False)
    data = buffer.getvalue()
    start = 13 + (3 << ((data[10] & 7) + 1))
    colours, offset = data[13:start], start
    while data[offset] == 0x21:  # skip extensions: a label, then blocks up to an empty one
        offset += 2
        while data[offset]:
            offset += 1 + data[offset]
        offset += 1
    return colours, data[offset:-1]


class WebpWriter(_FileWriter):
    """Writes an animated WebP that loops, each frame whole at quality 90. Time is in 1/1000 s."""

    def _begin(self, part: Path) -> None:
        has_exif_and_animation = b"\x0a\x00\x00\x00"
        canvas = b"".join((side - 1).to_bytes(3, "little") for side in self.size)
        white, loop_forever = b"\xff\xff\xff\xff", b"\x00\x00"
        self._open(part).write(b"RIFF\x00\x00\x00\x00WEBP")
        self._chunk(b"VP8X", has_exif_and_animation + canvas)
        self._chunk(b"ANIM", white + loop_forever)

    def _add(self, frame: Pixels) -> None:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "WEBP", quality=90, method=4)
        still = buffer.getvalue()[12:]  # after RIFF, size, WEBP
        place = bytes(6) + b"".join((side - 1).to_bytes(3, "little") for side in self.size)
        covers_the_last = b"\x02"
        self._chunk(b"ANMF", place + self._frame_ticks(1000).to_bytes(3, "little") + covers_the_last + still)

    def _finish(self) -> None:
        self._chunk(b"EXIF", exif_chunk(self.metadata_text))
        size = self._out.tell() - 8
        self._out.seek(4)
        self._out.write(size.to_bytes(4, "little"))
        super()._finish()

    def _chunk(self, name: bytes, payload: bytes) -> None:
        self._out.write(name + len(payload).to_bytes(4, "little") + payload + bytes(len(payload) % 2))


class PngZipWriter(FrameWriter):
    """Writes a zip of lossless frames, frame_0001.png and so on, and request.json."""

    _archive: zipfile.ZipFile | None = None

    def _begin(self, part: Path) -> None:
        self._archive = zipfile.ZipFile(part, "w", zipfile.ZIP_STORED)
        self._member(REQUEST_MEMBER, self.metadata_text.encode("ascii"))

    def _add(self, frame: Pixels) -> None:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG")
        self._member(f"frame_{self.frames_written + 1:04d}.png", buffer.getvalue())

    def _member(self, name: str, data: bytes) -> None:
        assert self._archive is not None  # noqa: S101 - begun
        self._archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), data)

    def _finish(self) -> None:
        assert self._archive is not None  # noqa: S101 - begun
        self._archive.close()

    def _abandon(self) -> None:
        if self._archive is not None:
            with suppress(OSError, ValueError):
                self._archive.close()


_WRITERS: dict[str, type[FrameWriter]] = {
    ".mp4": VideoWriter,
    ".gif": GifWriter,
    ".webp": WebpWriter,
    ".zip": PngZipWriter,
}


def open_writer(path: Path, fps: int, size: tuple[int, int], metadata: Mapping[str, Any]) -> FrameWriter:
    """Return the writer, a context manager, for the path's ending. Raises InputError for any other ending."""
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        endings = ", ".join(_WRITERS)
        raise InputError(f"{path.name!r} ends in none of {endings}", "Give it one of these endings.")
    return writer(path, fps, size, metadata)


def read_request(path: Path) -> dict[str, Any]:
    """Return the file's metadata, sure to hold a "request" object. Raises InputError."""
    metadata = read_metadata(path)
    if not isinstance(metadata.get("request"), dict):
        raise InputError(f"{path.name!r} does not say how it was made", "Choose a video that i2v made.")
    return metadata


def poster(frame: Pixels, path: Path) -> None:
    """Write a small JPEG of the frame, its long side at most 320 px. Raises StorageError."""
    picture = Image.fromarray(frame)
    picture.thumbnail((_POSTER_SIDE_PX, _POSTER_SIDE_PX), Image.Resampling.LANCZOS)
    with whole_file(path) as part:
        picture.save(part, "JPEG", quality=85)
