"""Pictures from strangers: what is read is read right, and what is refused is refused in one sentence."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from i2v.errors import ImageError, StorageError
from i2v.media import image as image_module
from i2v.media.image import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    MIN_SIDE_PX,
    crop_box,
    fit_picture,
    load_picture,
    picture_sha256,
    save_png,
    upscale_factor,
)


def upright_pixels() -> np.ndarray:
    """48x32 in blocks of 8x8, no two alike, so that JPEG keeps them and no turn goes unseen."""
    blocks = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], *more: tuple[bytes, bytes]) -> bytes:
    """A PNG made by hand: its size, bit depth and colour type, its rows, and chunks before the data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\x00" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*pair) for pair in more) + body + chunk(b"IEND", b"")


def saved(picture: Image.Image, path: Path, kind: str, **options: Any) -> Path:
    picture.save(path, kind, **options)
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        load_picture(path)
    assert caught.value.field == "image"
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Read right

STORED = {  # how the upright pixels lie in the file, by the meaning EXIF gives to each orientation
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[:, ::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[::-1].swapaxes(0, 1),
}


OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_comes_out_upright(tmp_path: Path, orientation: int, kind: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright_pixels())))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = OPTIONS.get(kind, {})
    picture = load_picture(saved(stored, tmp_path / "photo", kind, exif=exif, **options))
    assert picture.size == (48, 32)
    assert np.abs(np.asarray(picture, int) - upright_pixels()).max() <= 4
    assert not picture.getexif()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(upright_pixels()), tmp_path / "a.png", "PNG", exif=exif)
    assert np.array_equal(np.asarray(load_picture(path)), upright_pixels())


def test_damaged_exif_does_not_make_a_picture_unusable(tmp_path: Path) -> None:
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + bytes(range(64))
    path = saved(Image.fromarray(upright_pixels()), tmp_path / "a.png", "PNG", exif=exif)
    assert np.array_equal(np.asarray(load_picture(path)), upright_pixels())


def half_clear(mode: str) -> Image.Image:
    """Black, opaque on the left half and clear on the right."""
    picture = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
    picture.paste((90, 90, 90, 0), (16, 0, 32, 32))
    if mode == "P":
        palette = Image.new("P", (32, 32), 0)
        palette.putpalette([0, 0, 0, 90, 90, 90])
        palette.paste(1, (16, 0, 32, 32))
        palette.info["transparency"] = 1
        return palette
    return picture.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGBA", "WEBP")]
)
def test_transparency_is_laid_over_the_colour(tmp_path: Path, mode: str, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    path = saved(half_clear(mode), tmp_path / "a", kind, **options)
    on_white, on_green = load_picture(path), load_picture(path, (10, 200, 30))
    assert on_white.getpixel((4, 4)) == on_green.getpixel((4, 4)) == (0, 0, 0)
    assert on_white.getpixel((28, 28)) == (255, 255, 255)
    assert on_green.getpixel((28, 28)) == (10, 200, 30)


def test_half_transparency_is_mixed(tmp_path: Path) -> None:
    path = saved(Image.new("RGBA", (16, 16), (0, 0, 0, 128)), tmp_path / "a.png", "PNG")
    assert load_picture(path).getpixel((0, 0)) == (127, 127, 127)


def test_one_clear_colour_is_laid_over_the_background(tmp_path: Path) -> None:
    rows = [bytes([1, 2, 3] * 8 + [9, 9, 9] * 8)] * 16
    path = written(tmp_path / "a.png", png(16, 16, 8, 2, rows, (b"tRNS", struct.pack(">HHH", 9, 9, 9))))
    picture = load_picture(path, (0, 0, 200))
    assert (picture.getpixel((0, 0)), picture.getpixel((15, 0))) == ((1, 2, 3), (0, 0, 200))


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    path = saved(Image.fromarray(levels), tmp_path / "a.png", "PNG")
    with Image.open(path) as stored:
        assert stored.mode == "I;16"
    pixels = np.asarray(load_picture(path))
    assert np.array_equal(pixels[..., 0], np.round(levels / 257).astype(np.uint8))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_16_bit_grey_with_a_clear_level(tmp_path: Path) -> None:
    rows = [struct.pack(">16H", *([40000] * 8 + [7] * 8))] * 16
    path = written(tmp_path / "a.png", png(16, 16, 16, 0, rows, (b"tRNS", struct.pack(">H", 7))))
    picture = load_picture(path, (1, 2, 3))
    assert (picture.getpixel((0, 0)), picture.getpixel((15, 0))) == ((156, 156, 156), (1, 2, 3))


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_and_alpha_are_scaled(tmp_path: Path, colour: int, channels: int) -> None:
    sample = struct.pack(
        f">{channels}H", *([0x8000] * channels if channels == 3 else [0x8000] * (channels - 1) + [0xFFFF])
    )
    path = written(tmp_path / "a.png", png(16, 16, 16, colour, [sample * 16] * 16))
    assert load_picture(path).getpixel((5, 5)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palette_pictures_become_rgb(tmp_path: Path, mode: str) -> None:
    white = Image.new("L", (16, 16), 255).convert(mode)
    picture = load_picture(saved(white, tmp_path / "a.png", "PNG"))
    assert (picture.mode, picture.getpixel((3, 3))) == ("RGB", (255, 255, 255))


def test_cmyk_is_not_shown_inverted(tmp_path: Path) -> None:
    red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    red_level, green, blue = load_picture(saved(red, tmp_path / "a.jpg", "JPEG", quality=100)).getpixel((8, 8))  # type: ignore[misc]
    assert red_level > 250
    assert green < 5
    assert blue < 5


def srgb_profile(swapped: bool = False) -> bytes:
    """An sRGB profile, or one that calls red what sRGB calls green."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if swapped:
        tags = {
            bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(struct.unpack(">I", data[128:132])[0])
        }
        red, green = tags[b"rXYZ"], tags[b"gXYZ"]
        data[red + 4 : red + 12], data[green + 4 : green + 12] = (
            data[green + 4 : green + 12],
            data[red + 4 : red + 12],
        )
    return bytes(data)


def test_a_colour_profile_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 16), (255, 0, 0))
    path = saved(picture, tmp_path / "a.png", "PNG", icc_profile=srgb_profile(swapped=True))
    red, green, blue = load_picture(path).getpixel((0, 0))  # type: ignore[misc]
    assert red < 10
    assert green > 245
    assert blue < 10


PROFILES = {
    "srgb": srgb_profile(),
    "nearly srgb": srgb_profile().replace(b"\0\0\x6f\xa0", b"\0\0\x6f\x94"),
    "no profile": b"not a profile",
    "cut short": srgb_profile()[:200],
}


def test_the_nearly_srgb_profile_is_another_one() -> None:
    assert PROFILES["nearly srgb"] != PROFILES["srgb"]


@pytest.mark.parametrize("profile", PROFILES)
def test_an_srgb_or_damaged_profile_changes_no_pixel(tmp_path: Path, profile: str) -> None:
    path = saved(Image.fromarray(upright_pixels()), tmp_path / "a.png", "PNG", icc_profile=PROFILES[profile])
    assert np.array_equal(np.asarray(load_picture(path)), upright_pixels())


def test_nothing_but_pixels_survives(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x8825] = "at home", {1: "N", 2: (52.0, 30.0, 0.0)}
    picture = Image.fromarray(upright_pixels())
    options = {"exif": exif, "icc_profile": srgb_profile(), "comment": b"secret", "dpi": (300, 300)}
    clean = load_picture(saved(picture, tmp_path / "a.jpg", "JPEG", **options))
    assert clean.info == {}
    save_png(clean, tmp_path / "clean.png")
    chunks = (tmp_path / "clean.png").read_bytes()
    assert not any(name in chunks for name in (b"eXIf", b"iCCP", b"tEXt", b"secret", b"pHYs"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    path = tmp_path / "a"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=100)
    red, green, blue = load_picture(path).getpixel((9, 9))  # type: ignore[misc]
    assert red > 250
    assert green < 5
    assert blue < 5


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = saved(Image.fromarray(upright_pixels()), tmp_path / "photo.pdf", "PNG")
    assert np.array_equal(np.asarray(load_picture(path)), upright_pixels())


# Refused


def test_missing_file_folder_and_pipe_are_refused(tmp_path: Path) -> None:
    assert "'gone.png' does not exist" in refusal(tmp_path / "gone.png")
    assert "is a folder" in refusal(tmp_path)
    assert "does not exist" in refusal(written(tmp_path / "a", b"x") / "b.png")
    assert "cannot be read" in refusal(Path("\0.png"))
    assert "cannot be read" in refusal(tmp_path / ("x" * 300))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        assert "is a device or a pipe" in refusal(tmp_path / "pipe.png")


def test_a_file_without_read_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.new("RGB", (32, 32)), tmp_path / "a.png", "PNG")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything

        def refuse(*args: object, **options: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
    assert "may not be read" in refusal(path)


HEADS = {
    "a PDF, not a picture": b"%PDF-1.7\n%\xe2\xe3",
    "a zip archive or an office document, not a picture": b"PK\x03\x04" + bytes(40),
    "a video (MP4 or MOV), not a picture": b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00",
    "a web page, not a picture": b"\n<!DOCTYPE html><html>",
    "a text file, not a picture": "Motiv: grüne Wiese\n".encode(),
    "a PostScript drawing, not a picture": b"%!PS-Adobe-3.0 EPSF-3.0",
    "a program, not a picture": b"\x7fELF\x02\x01\x01" + bytes(30),
    "an SVG drawing, not a picture": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a Photoshop file (PSD), which is not read here": b"8BPS\x00\x01" + bytes(20),
    "a HEIC photo, which is not read here": b"\x00\x00\x00\x18ftypheic" + bytes(12),
    "an AVIF picture, which is not read here": b"\x00\x00\x00\x1cftypavif" + bytes(12),
    "a JPEG XL picture, which is not read here": b"\xff\x0a" + bytes(12),
    "a file of unknown kind, not a picture": bytes(range(200, 256)) * 3,
}


@pytest.mark.parametrize("sentence", HEADS)
def test_what_is_no_picture_is_named_whatever_its_ending(tmp_path: Path, sentence: str) -> None:
    path = written(tmp_path / "holiday.jpg", HEADS[sentence])
    assert f"'holiday.jpg' is {sentence}. Use a PNG, JPEG, WebP or GIF picture." == refusal(path)


@pytest.mark.parametrize(
    ("kind", "phrase"), [("TIFF", "a TIFF"), ("BMP", "a BMP"), ("ICO", "an icon"), ("PPM", "unknown")]
)
def test_real_pictures_of_other_kinds_are_refused(tmp_path: Path, kind: str, phrase: str) -> None:
    assert phrase in refusal(saved(Image.new("RGB", (32, 32)), tmp_path / "a.png", kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_file_cut_short_is_refused(tmp_path: Path, photo: Path, kind: str, kept: float) -> None:
    with Image.open(photo) as opened:
        data = saved(opened, tmp_path / "whole", kind).read_bytes()
    assert "damaged or cut short" in refusal(written(tmp_path / "cut.png", data[: int(len(data) * kept)]))


def test_an_animation_cut_after_its_first_frame_is_read(tmp_path: Path, photo: Path) -> None:
    with Image.open(photo) as opened:
        frames = [opened.rotate(angle) for angle in range(0, 40, 10)]
    frames[0].save(tmp_path / "a.gif", "GIF", save_all=True, append_images=frames[1:])
    data = (tmp_path / "a.gif").read_bytes()
    assert load_picture(written(tmp_path / "cut.gif", data[: len(data) // 2])).size == frames[0].size


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path, side: int) -> None:
    """There is no pixel in these files: had one been asked for, they would be called damaged."""
    path = written(tmp_path / "bomb.png", png(side, side, 8, 2, []))
    sentence = refusal(path)
    assert "64 megapixels are the most" in sentence
    assert f"{side}x{side}" in sentence or side * side > 2 * 89_478_485  # beyond that Pillow does not tell


def test_a_small_file_of_one_colour_with_81_megapixels_is_refused(tmp_path: Path) -> None:
    path = saved(Image.new("1", (9_000, 9_000)), tmp_path / "bomb.png", "PNG")
    assert path.stat().st_size < 100_000
    assert "'bomb.png' has 9000x9000 pixels" in refusal(path)


def test_exactly_the_most_pixels_are_read(tmp_path: Path) -> None:
    path = saved(Image.new("1", (MAX_PIXELS // 8_000, 8_000)), tmp_path / "large.png", "PNG")
    assert load_picture(path).size == (8_000, 8_000)


def test_a_file_over_32_mb_is_refused_and_one_of_32_mb_is_not(tmp_path: Path) -> None:
    path = saved(Image.fromarray(upright_pixels()), tmp_path / "a.png", "PNG")
    with path.open("rb+") as file:
        file.truncate(MAX_FILE_BYTES)
    assert load_picture(path).size == (48, 32)
    with path.open("rb+") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert "32 MB are the most" in refusal(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert "is empty (0 bytes)" in refusal(written(tmp_path / "a.png", b""))


def test_a_side_under_16_pixels_is_refused(tmp_path: Path) -> None:
    assert "400x15 pixels" in refusal(saved(Image.new("RGB", (400, 15)), tmp_path / "a.png", "PNG"))
    assert load_picture(saved(Image.new("RGB", (MIN_SIDE_PX, 16)), tmp_path / "b.png", "PNG")).size == (
        16,
        16,
    )


def test_hostile_bytes_raise_nothing_but_the_sentence(tmp_path: Path, photo: Path) -> None:
    rng = np.random.default_rng(7)
    path, outcomes = tmp_path / "mutant", {"read": 0, "refused": 0}
    with Image.open(photo) as opened:
        small = opened.resize((64, 48))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a" * 40
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        buffer = io.BytesIO()
        small.save(buffer, kind, exif=exif, icc_profile=srgb_profile())
        for _ in range(75):
            data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
            places = rng.integers(0, min(len(data), rng.choice([64, 1000, 10**6])), rng.integers(1, 12))
            data[places] = rng.integers(0, 256, len(places))
            path.write_bytes(data.tobytes())
            try:
                load_picture(path)
                outcomes["read"] += 1
            except ImageError:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 20, outcomes


def test_loading_leaves_the_warning_filters_alone(tmp_path: Path) -> None:
    before = list(warnings.filters)
    refusal(written(tmp_path / "bomb.png", png(12_000, 12_000, 8, 2, [])))
    assert warnings.filters == before
    assert not image_module._one_at_a_time.locked()


# Fit, hash, save


def test_the_same_size_keeps_every_pixel() -> None:
    pixels = upright_pixels()
    assert np.array_equal(fit_picture(Image.fromarray(pixels), 48, 32), pixels)


@pytest.mark.parametrize(("size", "asked"), [((900, 300), (64, 64)), ((300, 900), (64, 64)), ((333, 500), (96, 48))])
def test_the_centre_is_cropped_and_never_stretched(size: tuple[int, int], asked: tuple[int, int]) -> None:
    """A disc in the middle stays a disc in the middle."""
    width, height = size
    radius = min(size) * 0.2
    y, x = np.mgrid[:height, :width]
    disc = ((x - (width - 1) / 2) ** 2 + (y - (height - 1) / 2) ** 2 < radius**2) * np.uint8(255)
    fitted = fit_picture(Image.fromarray(disc).convert("RGB"), *asked)
    assert fitted.shape == (asked[1], asked[0], 3)
    assert fitted.dtype == np.uint8
    rows, columns = (np.nonzero(fitted[..., 0].max(axis=axis) > 127)[0] for axis in (1, 0))
    expected = 2 * radius * upscale_factor(size, *asked)
    for found, side in ((rows, asked[1]), (columns, asked[0])):
        assert abs(len(found) - expected) <= 1.5
        assert abs((found[0] + found[-1]) / 2 - (side - 1) / 2) <= 1


def test_extreme_aspects_fit() -> None:
    assert fit_picture(Image.new("RGB", (16, 3000), (7, 8, 9)), 640, 64)[0, 0].tolist() == [7, 8, 9]


def test_the_box_that_is_kept_is_the_centre_in_the_asked_aspect() -> None:
    assert crop_box((900, 300), 64, 64) == (300, 0, 600, 300)
    assert crop_box((300, 900), 600, 600) == (0, 300, 300, 600)
    assert crop_box((480, 320), 48, 32) == (0, 0, 480, 320)


@pytest.mark.parametrize(("size", "asked"), [((90, 30), (64, 64)), ((30, 90), (64, 64)), ((33, 50), (960, 96))])
def test_fitted_in_the_whole_picture_is_seen_on_a_dark_blur_of_itself(
    size: tuple[int, int], asked: tuple[int, int]
) -> None:
    """Its frame is white, so the white that is found is all of it, and nothing of the ground is as bright."""
    picture = Image.new("RGB", size, (255, 255, 255))
    picture.paste((250, 40, 40), (2, 2, size[0] - 2, size[1] - 2))
    fitted = fit_picture(picture, *asked, "fit")
    assert (fitted.shape, fitted.dtype) == ((asked[1], asked[0], 3), np.uint8)
    scale = min(asked[0] / size[0], asked[1] / size[1])
    rows, columns = (np.nonzero(fitted[..., 1].max(axis=axis) > 170)[0] for axis in (1, 0))
    for found, side, whole in ((columns, asked[0], size[0]), (rows, asked[1], size[1])):
        assert abs(found[-1] - found[0] + 1 - whole * scale) <= 2
        assert abs((found[0] + found[-1]) / 2 - (side - 1) / 2) <= 1.5
    outside = np.ones(fitted.shape[:2], bool)
    outside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = False
    red, green, _ = fitted[outside].mean(axis=0)
    assert 3 * green < 2 * red < 2 * 150, "it is the picture's own colour, darkened"


def test_both_ways_are_the_same_where_the_aspect_is() -> None:
    picture = Image.fromarray(upright_pixels())
    for size in ((48, 32), (96, 64), (24, 16)):
        assert np.array_equal(fit_picture(picture, *size, "fit"), fit_picture(picture, *size, "crop"))


def test_the_upscale_factor_is_the_side_that_grows_most() -> None:
    assert upscale_factor((256, 256), 512, 256) == 2.0
    assert upscale_factor((1024, 1024), 512, 512) == 0.5


def test_the_hash_names_the_pixels_and_not_the_file(tmp_path: Path) -> None:
    picture = Image.fromarray(upright_pixels())
    as_png = saved(picture, tmp_path / "a.png", "PNG", dpi=(72, 72))
    as_webp = saved(picture, tmp_path / "b.webp", "WEBP", lossless=True)
    assert picture_sha256(load_picture(as_png)) == picture_sha256(load_picture(as_webp)) == picture_sha256(picture)
    other = upright_pixels()
    other[0, 0, 0] ^= 1
    reshaped = Image.fromarray(upright_pixels().reshape(16, 96, 3))
    assert len({picture_sha256(p) for p in (picture, Image.fromarray(other), reshaped)}) == 3


def test_a_saved_picture_is_whole_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    written(tmp_path / "picture.png.part", b"left behind by a killed process")
    save_png(Image.fromarray(upright_pixels()), path)
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]
    assert np.array_equal(np.asarray(load_picture(path)), upright_pixels())


def test_a_folder_that_is_gone_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written: No such file or directory"):
        save_png(Image.new("RGB", (16, 16)), tmp_path / "gone" / "picture.png")


def test_a_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    class Refuses(Image.Image):
        def save(self, *args: object, **options: object) -> None:
            raise OSError(28, "No space left on device")

    path = written(tmp_path / "picture.png", b"old")
    with pytest.raises(StorageError, match="the disk is full"):
        save_png(Refuses(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]
    assert path.read_bytes() == b"old"
