"""The gallery of examples: photographs of free licence, each with a prompt that works; one click fills the form.

gallery/gallery.yaml says what is in it and whose it is; static/gallery.html, gallery.css and gallery.js draw it. Knows
nothing of Gradio.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from i2v.errors import InputError
from i2v.presets.model_preset import first_problem

__all__ = ["GALLERY_FOLDER", "Example", "Gallery", "load_gallery", "shown_examples"]

GALLERY_FOLDER = Path(__file__).parent / "gallery"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Example(_Strict):
    """One photograph and what to ask for. `num_frames`: None for the model's default.

    `source` and `licence_text` are web addresses; "" where a photograph is free of any licence.
    """

    file: str
    title: str
    prompt: str
    loop: bool = False
    num_frames: int | None = None
    author: str
    licence: str
    licence_text: str = ""
    source: str


class Gallery(_Strict):
    """The examples, and the name of the model whose videos they show."""

    model: str
    examples: tuple[Example, ...]

    def path(self, example: Example) -> Path:
        """Return where an example's picture is."""
        return GALLERY_FOLDER / example.file

    def card(self, example: Example) -> Path:
        """Return where the small picture on an example's card is."""
        return (GALLERY_FOLDER / "cards" / example.file).with_suffix(".webp")


@lru_cache(maxsize=1)
def load_gallery() -> Gallery:
    """Return the gallery. Raises InputError naming the file and what is wrong in it."""
    path = GALLERY_FOLDER / "gallery.yaml"
    try:
        return Gallery.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not a valid gallery: {first_problem(error)}") from error


def shown_examples() -> list[dict[str, Any]]:
    """Return what static/gallery.js draws of each example."""
    return [_shown(load_gallery(), example) for example in load_gallery().examples]


def _shown(gallery: Gallery, example: Example) -> dict[str, Any]:
    address = f"gradio_api/file={quote(gallery.card(example).as_posix())}"  # relative: the page may be behind a proxy
    return {
        "picture": address,
        "prompt": example.prompt,
        "loop": example.loop,
        "frames": example.num_frames,
        "title": example.title,
        "source": example.source,
        "author": example.author,
        "licence": example.licence,
        "licence_text": example.licence_text,
    }
