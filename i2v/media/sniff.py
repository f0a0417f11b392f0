"""Says what a file is by its first bytes; its name and ending are never asked."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

__all__ = ["SNIFF_BYTES", "Kind", "sniff"]

SNIFF_BYTES = 1024


@dataclass(frozen=True)
class Kind:
    """What a file is: `name` as Pillow or the field calls it, `phrase` with its article, for a sentence."""

    name: str
    phrase: str
    is_picture: bool = False


_UNKNOWN = Kind("unknown", "a file of unknown kind")
_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"\x89PNG\r\n\x1a\n", Kind("PNG", "a PNG picture", True)),
    (b"\xff\xd8\xff", Kind("JPEG", "a JPEG picture", True)),
    (b"GIF87a", Kind("GIF", "a GIF picture", True)),
    (b"GIF89a", Kind("GIF", "a GIF picture", True)),
    (b"II*\x00", Kind("TIFF", "a TIFF or camera raw picture", True)),
    (b"MM\x00*", Kind("TIFF", "a TIFF or camera raw picture", True)),
    (b"II+\x00", Kind("TIFF", "a TIFF picture", True)),
    (b"MM\x00+", Kind("TIFF", "a TIFF picture", True)),
    (b"8BPS", Kind("PSD", "a Photoshop file (PSD)", True)),
    (b"gimp xcf", Kind("XCF", "a GIMP file (XCF)", True)),
    (b"\xff\x0a", Kind("JXL", "a JPEG XL picture", True)),
    (b"\x00\x00\x00\x0cJXL ", Kind("JXL", "a JPEG XL picture", True)),
    (b"\x00\x00\x00\x0cjP  ", Kind("JP2", "a JPEG 2000 picture", True)),
    (b"\x76\x2f\x31\x01", Kind("EXR", "an OpenEXR picture", True)),
    (b"#?RADIANCE", Kind("HDR", "a Radiance HDR picture", True)),
    (b"qoif", Kind("QOI", "a QOI picture", True)),
    (b"\x00\x00\x01\x00", Kind("ICO", "an icon (ICO)", True)),
    (b"%PDF-", Kind("PDF", "a PDF")),
    (b"%!PS", Kind("EPS", "a PostScript drawing")),
    (b"PK\x03\x04", Kind("ZIP", "a zip archive or an office document")),
    (b"\x1f\x8b", Kind("GZIP", "a gzip archive")),
    (b"7z\xbc\xaf\x27\x1c", Kind("7Z", "a 7z archive")),
    (b"Rar!", Kind("RAR", "a RAR archive")),
    (b"\x1aE\xdf\xa3", Kind("MKV", "a video (Matroska or WebM)")),
    (b"ID3", Kind("MP3", "a sound file")),
    (b"\x7fELF", Kind("ELF", "a program")),
    (b"MZ", Kind("EXE", "a program")),
)
_BRANDS = {
    b"heic": Kind("HEIC", "a HEIC photo", True),
    b"heix": Kind("HEIC", "a HEIC photo", True),
    b"hevc": Kind("HEIC", "a HEIC photo", True),
    b"mif1": Kind("HEIC", "a HEIF photo", True),
    b"msf1": Kind("HEIC", "a HEIF photo", True),
    b"avif": Kind("AVIF", "an AVIF picture", True),
    b"avis": Kind("AVIF", "an AVIF picture", True),
}
_RIFF = {
    b"WEBP": Kind("WEBP", "a WebP picture", True),
    b"AVI ": Kind("AVI", "a video (AVI)"),
    b"WAVE": Kind("WAV", "a sound file"),
}


def sniff(head: bytes) -> Kind:
    """Return the kind of the file that begins with `head` (SNIFF_BYTES are enough)."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], Kind("MP4", "a video (MP4 or MOV)"))
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], _UNKNOWN)
    if head[:2] == b"BM" and head[6:10] == bytes(4):  # two letters alone would also fit a text
        return Kind("BMP", "a BMP picture", True)
    return _sniff_text(head)


def _sniff_text(head: bytes) -> Kind:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text:
        return Kind("SVG", "an SVG drawing")
    if text.startswith((b"<!doctype html", b"<html")):
        return Kind("HTML", "a web page")
    return Kind("TEXT", "a text file") if text and _is_utf8(text) else _UNKNOWN


def _is_utf8(text: bytes) -> bool:
    try:  # a letter may be cut at the end
        return "\x00" not in codecs.getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return False
