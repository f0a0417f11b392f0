"""Turns an untrusted picture file into clean RGB pixels, or says in a sentence why not; fits, hashes, saves.

What a file is, is decided by its content. Nothing of it survives but its pixels: upright, in sRGB, without
transparency and without metadata. Knows nothing of models or requests.
"""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageFilter

from i2v.errors import ImageError
from i2v.media.part import whole_file
from i2v.media.sniff import SNIFF_BYTES, sniff

__all__ = [
    "DECODER_ERRORS",
    "MAX_FILE_BYTES",
    "MAX_PIXELS",
    "MIN_SIDE_PX",
    "CheckedPicture",
    "Fit",
    "check_picture",
    "crop_box",
    "fit_picture",
    "load_picture",
    "picture_sha256",
    "save_png",
    "upscale_factor",
]

MAX_PIXELS: Final = 64_000_000
MAX_FILE_BYTES: Final = 32 * 1024 * 1024
MIN_SIDE_PX: Final = 16
# What Pillow's parsers raise on hostile bytes; Warning, because a program may have made warnings errors.
DECODER_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Warning,
)

Pixels = npt.NDArray[np.uint8]
Fit = Literal["crop", "fit"]
_ACCEPTED = ("PNG", "JPEG", "WEBP", "GIF")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BAND_ROWS = 256
_BLURRED_SIDE_PX, _BLUR_SHARE, _DARKENED = 128, 0.04, 0.55
_PROFILE_ROUNDING = 2  # levels of 255: a profile that moves no colour further than this is sRGB
# One picture is decoded at a time: several of the largest at once could take all memory, and the warning
# filters that are set meanwhile belong to the whole process.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class CheckedPicture:
    """A stranger's picture, decoded and checked once: upright RGB without metadata. Only `check_picture` makes one.

    `name`: the file's, for display.
    """

    pixels: Image.Image
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.size


def check_picture(path: Path) -> CheckedPicture:
    """Decode and check a picture, so that it can be handed on without being read again. Raises ImageError."""
    return CheckedPicture(load_picture(path), path.name)


def load_picture(path: Path, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Return the first picture as RGB, upright, transparency laid over `background`. Raises ImageError."""
    data = _read(path)
    kind = sniff(data[:SNIFF_BYTES])
    if kind.name not in _ACCEPTED:
        but = "which is not read here" if kind.is_picture else "not a picture"
        raise _refusal(path, f"is {kind.phrase}, {but}", "Use a PNG, JPEG, WebP or GIF picture.")
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _decode(path, data, kind.name, background)


def _refusal(path: Path, what: str, remedy: str) -> ImageError:
    return ImageError(f"{path.name!r} {what}", remedy, field="image")


def _read(path: Path) -> bytes:
    """Return the whole file, which is an ordinary one of acceptable size."""
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise _refusal(path, "is a folder, not a picture", "Choose a file.")
        if not stat.S_ISREG(info.st_mode):
            raise _refusal(path, "is a device or a pipe, not a picture", "Choose a file.")
        with path.open("rb") as file:
            data = b"" if info.st_size > MAX_FILE_BYTES else file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise _refusal(path, "does not exist", "Choose the picture again.") from None
    except PermissionError:
        raise _refusal(path, "may not be read by this user", "Change its permissions.") from None
    except (OSError, ValueError) as error:  # ValueError: a name no file can have
        reason = getattr(error, "strerror", None) or str(error)
        raise _refusal(path, f"cannot be read: {reason}", "Choose another picture.") from error
    size = max(info.st_size, len(data))
    if size > MAX_FILE_BYTES:
        message = f"has {size / (1 << 20):.1f} MB, and {MAX_FILE_BYTES >> 20} MB are the most"
        raise _refusal(path, message, "Save it smaller.")
    if not data:
        raise _refusal(path, "is empty (0 bytes)", "Upload or download it again.")
    return data


def _decode(path: Path, data: bytes, kind: str, background: tuple[int, int, int]) -> Image.Image:
    damaged = _refusal(path, "is damaged or cut short", "Use the original file, or save it again.")
    try:
        opened = Image.open(io.BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError:
        raise _too_many_pixels(path, "too many") from None
    except DECODER_ERRORS as error:
        raise damaged from error
    with opened:
        width, height = opened.size
        if width * height > MAX_PIXELS:
            raise _too_many_pixels(path, f"{width}x{height}")
        if min(width, height) < MIN_SIDE_PX:
            message = f"is {width}x{height} pixels, and each side needs at least {MIN_SIDE_PX}"
            raise _refusal(path, message, "Use a larger picture.")
        try:
            opened.load()
            clean = _flatten(opened, background)
        except DECODER_ERRORS as error:
            raise damaged from error
        turn = _UPRIGHT.get(_orientation(opened))
    del opened  # two pictures of the largest size are the most that is held
    return clean if turn is None else clean.transpose(turn)


def _too_many_pixels(path: Path, pixels: str) -> ImageError:
    limit = f"{MAX_PIXELS // 1_000_000} megapixels"
    return _refusal(path, f"has {pixels} pixels, and {limit} are the most", "Make the picture smaller.")


def _orientation(opened: Image.Image) -> Any:
    try:
        return opened.getexif().get(_ORIENTATION_TAG)
    except DECODER_ERRORS:  # a damaged note does not make the picture unusable
        return None


def _flatten(opened: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return a new RGB picture of the loaded one, without alpha, profile or any other metadata.

    A band of rows at a time, for each step on the way makes another copy.
    """
    clean = Image.new("RGB", opened.size, background)
    profile, to_srgb = opened.info.get("icc_profile"), None
    for band in _bands(opened.size):
        colour, alpha = _split_alpha(opened.crop(band))
        if profile:
            to_srgb = to_srgb or _to_srgb(colour.mode, profile)
            colour = to_srgb(colour)
        clean.paste(colour.convert("RGB"), band, mask=alpha)
    return clean


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield (left, top, right, bottom) of bands that make up a picture of this size."""
    width, height = size
    for top in range(0, height, _BAND_ROWS):
        yield 0, top, width, min(top + _BAND_ROWS, height)


def _split_alpha(opened: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours in one of the modes L, RGB, CMYK (8 bits) and the alpha, if there is one."""
    if opened.mode.startswith("I"):
        return _from_16_bit(opened)
    alpha = None
    if opened.has_transparency_data:
        rgba = opened.convert("RGBA")
        colour, alpha = rgba.convert("RGB"), rgba.getchannel("A")
    elif opened.mode == "CMYK":
        colour = opened
    else:
        colour = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    return colour, alpha


def _from_16_bit(opened: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Scale 0..65535 to 0..255 (Pillow's own conversion would clip at 255)."""
    levels = np.asarray(opened).astype(np.uint32)
    grey = Image.fromarray(((np.minimum(levels, 65535) + 128) // 257).astype(np.uint8))
    clear = opened.info.get("transparency")
    if clear is None:
        return grey, None
    return grey, Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8))


def _to_srgb(mode: str, profile: bytes) -> Callable[[Image.Image], Image.Image]:
    """Return what turns colours of a mode into sRGB as the profile means them: nothing if it is sRGB or unusable."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "RGB":
            levels = np.linspace(0, 255, 9).astype(np.uint8)
            probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(9, 81, 3)
            shown = ImageCms.applyTransform(Image.fromarray(probe), transform)
            if shown is None or np.abs(np.asarray(shown, np.int16) - probe).max() <= _PROFILE_ROUNDING:
                return _unchanged
        ImageCms.applyTransform(Image.new(mode, (1, 1)), transform)  # else it fails on the first band or on none
    except (ImageCms.PyCMSError, *DECODER_ERRORS):
        return _unchanged
    return lambda colour: ImageCms.applyTransform(colour, transform) or colour


def _unchanged(colour: Image.Image) -> Image.Image:
    return colour


def fit_picture(picture: Image.Image, width: int, height: int, how: Fit = "crop") -> Pixels:
    """Return (height, width, 3), never stretched. Same size, same pixels.

    "crop": the centre in the asked aspect. "fit": the whole picture, on a blurred and darkened enlargement of itself.
    """
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    if rgb.size == (width, height):
        return np.array(rgb)
    if how == "fit":
        return np.array(_whole_on_blur(rgb, width, height))
    box = crop_box(rgb.size, width, height)
    return np.array(rgb.resize((width, height), Image.Resampling.LANCZOS, box=box))


def crop_box(picture_size: tuple[int, int], width: int, height: int) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of what "crop" keeps: in the picture's pixels, as fractions of them too."""
    scale = upscale_factor(picture_size, width, height)
    kept_width, kept_height = min(width / scale, picture_size[0]), min(height / scale, picture_size[1])
    left, top = (picture_size[0] - kept_width) / 2, (picture_size[1] - kept_height) / 2
    return left, top, left + kept_width, top + kept_height


def _whole_on_blur(rgb: Image.Image, width: int, height: int) -> Image.Image:
    scale = min(width / rgb.width, height / rgb.height)
    size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
    whole = rgb.resize(size, Image.Resampling.LANCZOS)
    if size == (width, height):
        return whole
    # Blurred while it is small: what a blur leaves fits into few pixels, and those of a megapixel take a second.
    shrink = min(1.0, _BLURRED_SIDE_PX / max(width, height))
    small = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    ground = rgb.resize(small, Image.Resampling.BOX, box=crop_box(rgb.size, *small))
    ground = ground.filter(ImageFilter.GaussianBlur(max(small) * _BLUR_SHARE))
    ground = ground.point([round(level * _DARKENED) for level in range(256)] * 3)
    ground = ground.resize((width, height), Image.Resampling.BICUBIC)
    ground.paste(whole, ((width - size[0]) // 2, (height - size[1]) // 2))
    return ground


def upscale_factor(picture_size: tuple[int, int], width: int, height: int) -> float:
    """How many times larger than in the picture (width, height) things appear; below 1 they shrink."""
    return max(width / picture_size[0], height / picture_size[1])


def picture_sha256(picture: Image.Image) -> str:
    """Hash of size and RGB pixels: the same for the same picture, whatever its file was."""
    digest = hashlib.sha256(f"{picture.width}x{picture.height} RGB\n".encode())
    for band in _bands(picture.size):
        digest.update(picture.crop(band).convert("RGB").tobytes())
    return digest.hexdigest()


def save_png(picture: Image.Image, path: Path) -> None:
    """Write the picture as PNG, whole or not at all. Raises StorageError."""
    with whole_file(path) as part:
        picture.save(part, "PNG")
