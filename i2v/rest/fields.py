"""The texts of a form or a query, turned into a request's values. Knows types; limits are the service's business."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from i2v.errors import InputError
from i2v.request import GenerationRequest

__all__ = ["FIELD_WORDS", "field_schemas", "request_values"]

FIELD_WORDS = {
    "model": "name of a model; default: the built-in one",
    "prompt": "what should happen",
    "negative_prompt": "what should not happen",
    "width": "pixels; with height, or both left out: they follow the picture",
    "height": "pixels",
    "num_frames": "frames of the clip",
    "fps": "frames per second",
    "num_inference_steps": "denoising steps",
    "guidance_scale": "how strictly the prompt is followed",
    "seed": "0 to 2^63-1; default: random",
    "loop": "true: the end flows into the beginning, where the model can",
    "image_fit": "a picture of another shape: crop (cut to fill), or fit (seen whole, on a blurred copy of itself)",
    "precision": "auto, or one of the model's precisions",
    "formats": "besides the MP4: gif, webp, png (a zip of frames); several with commas or repeated",
    "chunk_frames": "frames worked on at a time; default: what fits",
    "vram_gib": "use at most this much of the card",
    "ram_gib": "use at most this much of main memory",
}
_TEXTS = ("prompt", "negative_prompt")
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter[Any](GenerationRequest.model_fields[name].annotation or str) for name in FIELD_WORDS
}
_SHOWN_NAME = 40


def request_values(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the values of a request; a blank field counts as left out. Raises InputError naming the field."""
    gathered: dict[str, list[str]] = {}
    for name, text in pairs:
        if name not in _ADAPTERS:
            known = ", ".join(_ADAPTERS)
            raise InputError(f"there is no field {name[:_SHOWN_NAME]!r}", f"Known fields: {known}.", name[:_SHOWN_NAME])
        if text.strip() or name in _TEXTS:
            gathered.setdefault(name, []).append(text.strip())
    return {name: _value(name, texts) for name, texts in gathered.items()}


def _value(name: str, texts: list[str]) -> Any:
    adapter = _ADAPTERS[name]
    if name != "formats" and len(texts) > 1:
        raise InputError(f"{name} is given {len(texts)} times", "Give it once.", name)
    try:
        if name == "formats":
            return adapter.validate_python(tuple(part.strip() for text in texts for part in text.split(",")))
        return adapter.validate_strings(texts[0])
    except ValidationError as error:
        raise InputError(f"{name} is not valid: {error.errors()[0]['msg']}", field=name) from None


def field_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each field, with its words, for the documentation."""
    properties = GenerationRequest.model_json_schema()["properties"]
    return {name: properties[name] | {"description": words} for name, words in FIELD_WORDS.items()}
