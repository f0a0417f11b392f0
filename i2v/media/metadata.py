"""The settings that made a video, as JSON text inside the video's own file, in each of the four formats.

    MP4    the comment tag (moov/udta/meta/ilst/©cmt)      GIF    a comment extension before the first frame
    WebP   the EXIF chunk's ImageDescription               zip    the member request.json

The text is ASCII JSON: the caller's object plus the key "video" (width, height, fps). Reading takes neither
ffmpeg nor decoding a picture, so a stranger's file can be inspected safely.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from PIL import Image

from i2v.errors import InputError
from i2v.media.sniff import SNIFF_BYTES, sniff

__all__ = ["REQUEST_MEMBER", "exif_chunk", "gif_comment", "metadata_text", "read_metadata", "read_size"]

REQUEST_MEMBER = "request.json"
_VIDEO_KEY = "video"
_CHOOSE = "Choose a file that i2v made."
_DESCRIPTION_TAG = 0x010E
_DAMAGED = (
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
)
_MAX_TEXT_BYTES = 4 << 20  # a request has at most some tens of kilobytes
_MAX_INDEX_BYTES = 64 << 20  # the MP4 index of a video of hours
_MAX_PARTS = 100_000  # boxes, chunks or extensions looked at, far more than a video of ours has
_ZIP_END_BYTES = 22 + 0xFFFF  # the record at its end, with the longest comment
_MAX_ZIP_INDEX_BYTES = 4 << 20  # that of 60,000 frames


def metadata_text(metadata: Mapping[str, Any], size: tuple[int, int], fps: int) -> str:
    """Return the text to keep in the file: one line of ASCII, whatever the prompt holds."""
    if _VIDEO_KEY in metadata:
        raise ValueError(f"the key {_VIDEO_KEY!r} is taken")
    video = {"width": size[0], "height": size[1], "fps": fps}
    return json.dumps({**metadata, _VIDEO_KEY: video}, ensure_ascii=True)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata that a writer put into the file, whatever its name. Raises InputError."""
    metadata = _read_document(path)
    if metadata is None:
        raise InputError(f"{path.name!r} does not hold the settings of an i2v video", _CHOOSE)
    del metadata[_VIDEO_KEY]
    return metadata


def read_size(path: Path) -> tuple[int, int] | None:
    """Return an MP4's true (width, height), or None when i2v did not make it. Raises InputError."""
    document = _read_document(path, only="MP4")
    return (document[_VIDEO_KEY]["width"], document[_VIDEO_KEY]["height"]) if document else None


def _read_document(path: Path, only: str | None = None) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(SNIFF_BYTES))
            read = _READERS.get(kind.name)
            if read is None or only not in (None, kind.name):
                wanted = "MP4 video" if only else "MP4, GIF, WebP or zip that i2v writes"
                raise InputError(f"{path.name!r} is {kind.phrase}, not an {wanted}", _CHOOSE)
            file.seek(0)
            text = _text_or_none(read, file)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no file {str(path)!r}", "Check its name and folder.") from None
    except IsADirectoryError:
        raise InputError(f"{str(path)!r} is a folder, not a file", "Name the file in it.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{str(path)!r} cannot be read: {reason}", "Check its permissions.") from error
    return _checked(text)


def _text_or_none(read: Callable[[IO[bytes]], bytes | None], file: IO[bytes]) -> bytes | None:
    """Let the reader look for the text; a damaged file holds none."""
    try:
        return read(file)
    except _DAMAGED:
        return None


def _checked(text: bytes | None) -> dict[str, Any] | None:
    try:
        document = json.loads(text or b"null")
    except (ValueError, RecursionError):
        return None
    video = document.get(_VIDEO_KEY) if isinstance(document, dict) else None
    if not isinstance(video, dict):
        return None
    numbers = [video.get(key) for key in ("width", "height", "fps")]
    return dict(document) if all(type(number) is int and number > 0 for number in numbers) else None


# MP4


def _read_mp4(file: IO[bytes]) -> bytes | None:
    moov = _top_level_box(file, b"moov")
    udta = _box(moov, b"udta")
    meta = _box(udta, b"meta")[4:]  # after its version and flags
    data = _box(_box(_box(meta, b"ilst"), b"\xa9cmt"), b"data")
    return data[8:] or None  # after type and locale


def _top_level_box(file: IO[bytes], wanted: bytes) -> bytes:
    for _ in range(_MAX_PARTS):
        if len(header := file.read(8)) < 8:
            break
        size, name, taken = int.from_bytes(header[:4], "big"), header[4:], 8
        if size == 1:
            size, taken = int.from_bytes(file.read(8), "big"), 16
        if name == wanted:
            return file.read(min(size - taken, _MAX_INDEX_BYTES)) if size > taken else b""
        if size < taken:  # 0 means up to the end of the file
            break
        file.seek(size - taken, 1)
    return b""


def _box(parent: bytes, wanted: bytes) -> bytes:
    offset = 0
    for _ in range(_MAX_PARTS):
        if offset + 8 > len(parent):
            break
        size = int.from_bytes(parent[offset : offset + 4], "big")
        if parent[offset + 4 : offset + 8] == wanted:
            return parent[offset + 8 : offset + size]
        offset += max(size, 8)
    return b""


# GIF


def gif_comment(text: str) -> bytes:
    """Return the comment extension that holds the text, in blocks of at most 255 bytes."""
    data = text.encode("ascii")
    blocks = (data[i : i + 255] for i in range(0, len(data), 255))
    return b"\x21\xfe" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\x00"


def _read_gif(file: IO[bytes]) -> bytes | None:
    flags = file.read(13)[10]
    if flags & 0x80:
        file.seek(3 << ((flags & 7) + 1), 1)
    for _ in range(_MAX_PARTS):
        if file.read(1) != b"\x21":
            break
        label = file.read(1)
        data = b"".join(_gif_blocks(file))
        if label == b"\xfe":
            return data
    return None


def _gif_blocks(file: IO[bytes]) -> Iterator[bytes]:
    taken = 0
    while taken < _MAX_TEXT_BYTES and (length := file.read(1)[0]):
        taken += length
        yield file.read(length)


# WebP


def exif_chunk(text: str) -> bytes:
    """Return the EXIF payload whose ImageDescription is the text."""
    exif = Image.Exif()
    exif[_DESCRIPTION_TAG] = text
    return exif.tobytes().removeprefix(b"Exif\x00\x00")


def _read_webp(file: IO[bytes]) -> bytes | None:
    file.seek(12)
    for _ in range(_MAX_PARTS):
        if len(header := file.read(8)) < 8:
            break
        name, size = header[:4], int.from_bytes(header[4:], "little")
        if name == b"EXIF":
            exif = Image.Exif()
            exif.load(b"Exif\x00\x00" + file.read(min(size, _MAX_TEXT_BYTES)))
            text = exif.get(_DESCRIPTION_TAG)
            return text.encode("latin-1") if isinstance(text, str) else None
        file.seek(size + size % 2, 1)
    return None


# zip


def _read_zip(file: IO[bytes]) -> bytes | None:
    if not _has_small_index(file):
        return None
    with zipfile.ZipFile(file) as archive, archive.open(REQUEST_MEMBER) as member:
        return member.read(_MAX_TEXT_BYTES)


def _has_small_index(file: IO[bytes]) -> bool:
    """Say whether a zip's index can be read into memory, whichever of the records at its end is taken for the true."""
    file.seek(max(0, file.seek(0, 2) - _ZIP_END_BYTES))
    tail = file.read(_ZIP_END_BYTES)
    ends = [found.start() for found in re.finditer(rb"(?=PK\x05\x06)", tail)]
    sizes = [int.from_bytes(tail[end + 12 : end + 16], "little") for end in ends]
    is_64_bit = any(tail[max(0, end - 20) : end].startswith(b"PK\x06\x07") for end in ends)
    return bool(sizes) and max(sizes) <= _MAX_ZIP_INDEX_BYTES and not is_64_bit


_READERS: dict[str, Callable[[IO[bytes]], bytes | None]] = {
    "MP4": _read_mp4,
    "GIF": _read_gif,
    "WEBP": _read_webp,
    "ZIP": _read_zip,
}
