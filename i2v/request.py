"""What a person asks for, with every limit checked: the one value that travels from any face to the engine.

Knows the limits of a model through its preset; nothing of torch, files or jobs.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from i2v.errors import InputError
from i2v.presets.model_preset import ModelPreset, default_model, load_presets, preset_named

__all__ = [
    "MAX_SEED",
    "GenerationRequest",
    "build_request",
    "check_ram",
    "check_vram",
    "match_picture",
    "match_square",
    "nearest_size",
    "parse_size",
]

MAX_SEED = 2**63 - 1
ImageFit = Literal["crop", "fit"]
Format = Literal["gif", "webp", "png"]
Precision = Literal["auto", "fp32", "fp16", "bf16", "fp8", "int8", "nf4"]


class GenerationRequest(BaseModel):
    """One video, completely described except for the picture itself, which is named by its hash.

    `width` and `height` in pixels; `formats` are written besides the MP4. In a `loop` the end flows into the beginning.
    A picture of another aspect is cut (`image_fit` "crop") or seen whole, on a blurred copy of itself ("fit").
    The same request, picture and i2v version give the same frames. `chunk_frames`, `vram_gib` and `ram_gib` say
    how it is to be run, None as i2v sees fit: frames worked on at a time, how much of the card and of main memory may
    be used.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str
    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    loop: bool = False
    image_fit: ImageFit = "crop"
    precision: Precision = "auto"
    formats: tuple[Format, ...] = ()
    image_sha256: str = ""
    chunk_frames: int | None = None
    vram_gib: float | None = None
    ram_gib: float | None = None


def match_picture(preset: ModelPreset, width: int, height: int, short_side_px: int | None = None) -> tuple[int, int]:
    """Return (width, height) that follow a picture's aspect, as the model allows them."""
    scale = (short_side_px or preset.defaults.short_side_px) / min(width, height)
    if preset.rules.sizes:
        return _nearest_fixed(preset.rules.sizes, width * scale, height * scale)
    longest = min(preset.side_px.high / max(width, height), math.sqrt(preset.max_pixels / (width * height)))
    scale = min(scale, longest)
    sides = _nearest_side(preset, width * scale), _nearest_side(preset, height * scale)
    if sides[0] * sides[1] > preset.max_pixels:  # both were rounded up
        sides = _nearest_side(preset, width * scale, math.floor), _nearest_side(preset, height * scale, math.floor)
    return sides


def match_square(preset: ModelPreset) -> tuple[int, int]:
    """Return the (width, height) of a square picture at the model's own short side."""
    return match_picture(preset, 1, 1)


def _nearest_fixed(sizes: Sequence[tuple[int, int]], width: float, height: float) -> tuple[int, int]:
    """Return the nearest size; a difference of the aspect weighs four times as much as one of the area."""

    def distance(size: tuple[int, int]) -> float:
        across, down = math.log(size[0]) - math.log(width), math.log(size[1]) - math.log(height)
        return 4 * abs(across - down) + abs(across + down)

    return min(sizes, key=distance)


def _nearest_side(preset: ModelPreset, side: float, rounded: Callable[[float], int] = round) -> int:
    multiple = preset.rules.size_multiple
    low = math.ceil(preset.side_px.low / multiple) * multiple
    high = math.floor(preset.side_px.high / multiple) * multiple
    return min(high, max(low, rounded(min(side, high) / multiple) * multiple))


def check_vram(vram_gib: float) -> None:
    """Raise InputError unless this can be the size of a card in GiB."""
    if not math.isfinite(vram_gib) or vram_gib <= 0 or vram_gib > 1024:
        raise InputError(
            f"the VRAM must be a number of GiB above 0 and at most 1024, not {vram_gib:g}", "For example: 8", "vram_gib"
        )


def check_ram(ram_gib: float) -> None:
    """Raise InputError unless this can be the main memory of a machine in GiB."""
    if not math.isfinite(ram_gib) or ram_gib <= 0 or ram_gib > 16384:
        raise InputError(
            f"the RAM must be a number of GiB above 0 and at most 16384, not {ram_gib:g}", "For example: 16", "ram_gib"
        )


def parse_size(text: str) -> tuple[int, int]:
    """Read "WxH". Raises InputError."""
    width, _, height = text.lower().replace("×", "x").partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise InputError(f"the size {text!r} is not of the form WxH", "Write for example 512x512.", "size") from None


def build_request(values: Mapping[str, Any], image_size: tuple[int, int]) -> GenerationRequest:
    """Fill in what was left out (None or missing) from the model's preset, then check everything.

    `image_size` is the picture's (width, height), which the video's size follows unless one is given. Raises
    InputError with the field's name and one sentence.
    """
    preset = preset_named(str(values.get("model") or default_model()))
    filled: dict[str, Any] = preset.defaults.model_dump(exclude={"short_side_px"})
    filled |= {key: value for key, value in values.items() if value is not None}
    filled["model"] = preset.name
    filled.setdefault("seed", secrets.randbelow(2**32))
    filled["formats"] = tuple(filled.get("formats", ()))
    if "width" not in filled and "height" not in filled:
        filled["width"], filled["height"] = match_picture(preset, *image_size)
    try:
        request = GenerationRequest.model_validate(filled)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "request"
        raise InputError(f"{name} is not valid: {first['msg']}", field=name) from None
    _check_limits(request, preset)
    return request


def _check_limits(request: GenerationRequest, preset: ModelPreset) -> None:
    _check_size(request, preset)
    for name, what in (("num_frames", "frames"), ("fps", "fps"), ("num_inference_steps", "steps")):
        bounds, value = getattr(preset, name), getattr(request, name)
        if not bounds.contains(value):
            nearest = int(min(max(value, bounds.low), bounds.high))
            nearest = _nearest_frames(preset, nearest) if name == "num_frames" else nearest
            raise InputError(
                f"{what} must be between {bounds.low:g} and {bounds.high:g} for {preset.name}, not {value}",
                f"The nearest is {nearest}.",
                name,
                {name: nearest},
            )
    _check_frames(request, preset)
    bounds, guidance = preset.guidance_scale, request.guidance_scale
    if not math.isfinite(guidance) or not bounds.contains(guidance):
        raise InputError(
            f"guidance must be a number between {bounds.low:g} and {bounds.high:g}, not {guidance}",
            field="guidance_scale",
        )
    if not 0 <= request.seed <= MAX_SEED:
        raise InputError(f"the seed must be between 0 and {MAX_SEED}, not {request.seed}", field="seed")
    if request.loop and not preset.rules.can_loop:
        able = ", ".join(name for name, other in load_presets().items() if other.rules.can_loop)
        raise InputError(
            f"{preset.name} cannot make its end flow into its beginning", f"Models that can loop: {able}.", field="loop"
        )
    if request.chunk_frames is not None and request.chunk_frames < 1:
        raise InputError(
            f"a chunk must have at least 1 frame, not {request.chunk_frames}", "For example: 4", "chunk_frames"
        )
    if request.vram_gib is not None:
        check_vram(request.vram_gib)
    if request.ram_gib is not None:
        check_ram(request.ram_gib)
    if request.precision != "auto" and request.precision not in preset.precisions:
        raise InputError(
            f"{preset.name} does not run in {request.precision}",
            f"Use one of: auto, {', '.join(preset.precisions)}.",
            field="precision",
        )


def _check_frames(request: GenerationRequest, preset: ModelPreset) -> None:
    rule = preset.rules.frames
    if not rule.allows(request.num_frames):
        nearest = _nearest_frames(preset, request.num_frames)
        raise InputError(
            f"the number of frames must be {rule.words()} for {preset.name}, not {request.num_frames}",
            f"The nearest is {nearest}.",
            "num_frames",
            {"num_frames": nearest},
        )


def _nearest_frames(preset: ModelPreset, count: int) -> int:
    return preset.rules.frames.nearest(count, int(preset.num_frames.low), int(preset.num_frames.high))


def nearest_size(preset: ModelPreset, width: int, height: int) -> dict[str, int]:
    """Return the legal "width" and "height" nearest to these, or a smaller one of that shape for too many pixels."""
    sizes, sides = preset.rules.sizes, (_nearest_side(preset, width), _nearest_side(preset, height))
    if sizes:
        sides = _nearest_fixed(sizes, max(width, 1), max(height, 1))
    elif sides[0] * sides[1] > preset.max_pixels:
        sides = match_picture(preset, *sides, min(sides))
    return {"width": sides[0], "height": sides[1]}


def _check_size(request: GenerationRequest, preset: ModelPreset) -> None:
    legal = nearest_size(preset, request.width, request.height)
    for name in ("width", "height"):
        side = getattr(request, name)
        if not preset.side_px.contains(side):
            low, high = preset.side_px.low, preset.side_px.high
            raise InputError(
                f"{name} must be between {low:g} and {high:g} pixels, not {side}",
                f"The nearest is {legal[name]}.",
                name,
                legal,
            )
        if side % preset.rules.size_multiple:
            raise InputError(
                f"{name} must be a multiple of {preset.rules.size_multiple}, not {side}",
                f"The nearest is {legal[name]}.",
                name,
                legal,
            )
    sizes = preset.rules.sizes
    if sizes and (request.width, request.height) not in sizes:
        raise InputError(
            f"{preset.name} makes videos of fixed sizes, not of {request.width}x{request.height}",
            f"The nearest is {legal['width']}x{legal['height']}.",
            "width",
            legal,
        )
    if request.width * request.height > preset.max_pixels:
        raise InputError(
            f"{request.width}x{request.height} is more than the {preset.max_pixels:,} pixels {preset.name} allows",
            "Choose a smaller size.",
            "width",
            legal,
        )
