"""What stands in the page's fields, turned into a request's values. Knows no jobs and no layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from i2v.errors import InputError
from i2v.media.image import load_picture
from i2v.presets.model_preset import ModelPreset, preset_named
from i2v.request import match_picture
from i2v.ui.form_limits import short_side_extent

__all__ = ["forecast_values", "picture_size", "request_values", "swapped_sides"]

_WHOLE = {
    "short_side_px": "short side",
    "num_frames": "frames",
    "fps": "fps",
    "num_inference_steps": "steps",
    "width": "width",
    "height": "height",
    "chunk_frames": "frames per chunk",
}


def request_values(
    fields: Mapping[str, Any], size_of: Callable[[Path], tuple[int, int]] | None = None
) -> tuple[dict[str, Any], Path | None]:
    """Turn the fields' raw values into a request's values and the picture's path. Raises InputError by field.

    `size_of` returns the picture's size where the video's follows it, by default `picture_size`.
    """
    image = Path(fields["image"]) if fields["image"] else None
    values = {name: fields[name] for name in ("model", "guidance_scale")}
    values |= {name: (fields[name] or "").strip() for name in ("prompt", "negative_prompt")}
    values["image_fit"] = fields["image_fit"] or "crop"
    values["formats"] = tuple(fields["formats"] or ())
    values["loop"] = bool(fields["loop"]) and preset_named(fields["model"]).rules.can_loop  # else its box is hidden
    values["num_frames"], values["fps"] = _whole(fields, "num_frames"), _whole(fields, "fps")
    values["num_inference_steps"] = _whole(fields, "num_inference_steps")
    values["precision"] = fields["precision"] or "auto"
    values["chunk_frames"] = _whole(fields, "chunk_frames") if (fields["chunk_frames"] or "").strip() else None
    values |= {name: _gib(fields[name], name) for name in ("vram_gib", "ram_gib")}
    if not values["prompt"]:
        raise InputError("there is no prompt", "Say what should happen.", field="prompt")
    seed = (fields["seed"] or "").strip()
    if seed:
        if not seed.isdecimal() or len(seed) > 19:
            raise InputError(f"the seed {seed!r} is not a whole number", "Leave it empty for a random one.", "seed")
        values["seed"] = int(seed)
    if not fields["match_picture"]:
        values["width"], values["height"] = _whole(fields, "width"), _whole(fields, "height")
    elif image is not None:
        preset = preset_named(fields["model"])
        short = _short_side(fields, preset)
        values["width"], values["height"] = match_picture(preset, *(size_of or picture_size)(image), short)
    return values, image


def swapped_sides(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields' values with width and height the other way round. Raises InputError."""
    values = forecast_values(fields)
    return {"match_picture": False, "width": values["height"], "height": values["width"]}


def forecast_values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's values before there is a prompt or a picture: a square one is assumed. Raises InputError."""
    values, _ = request_values(dict(fields) | {"prompt": fields["prompt"] or "-"})
    if "width" not in values:
        preset = preset_named(fields["model"])
        values["width"], values["height"] = match_picture(preset, 1, 1, _short_side(fields, preset))
    return values


@lru_cache(maxsize=8)
def picture_size(image: Path) -> tuple[int, int]:
    """Return a picture's size, upright. Uploaded files never change, so they are decoded once. Raises ImageError."""
    return load_picture(image).size


def _gib(text: str | None, name: str) -> float | None:
    try:
        return float(text.replace(",", ".")) if text and text.strip() else None
    except ValueError:
        raise InputError(f"{text!r} is not a number of GiB", "For example: 8", field=name) from None


def _short_side(fields: Mapping[str, Any], preset: ModelPreset) -> int:
    """Return the short side that the size is to have. Raises InputError unless the family's sizes can have it."""
    if not fields["short_side_px"]:
        return preset.defaults.short_side_px
    short, multiple = _whole(fields, "short_side_px"), preset.rules.size_multiple
    if short % multiple and not preset.rules.sizes:
        nearest = short_side_extent(preset)
        legal = min(nearest["maximum"], max(nearest["minimum"], round(short / multiple) * multiple))
        raise InputError(
            f"the short side must be a multiple of {multiple}, not {short}",
            f"The nearest is {legal}.",
            "short_side_px",
            {"short_side_px": legal},
        )
    return short


def _whole(fields: Mapping[str, Any], name: str) -> int:
    try:
        whole = int(fields[name])
    except (TypeError, ValueError, OverflowError):
        whole = None
    if whole is None or (isinstance(fields[name], float) and whole != fields[name]):
        raise InputError(f"{_WHOLE[name]} is not a whole number", "Write one.", field=name)
    return whole
