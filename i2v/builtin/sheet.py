"""Draws a contact sheet: a row for each video, its photograph and prompt at the left, frames evenly taken at the right.

Knows frames and words; nothing of models or measures.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from i2v.builtin.follow import Pixels

__all__ = ["Sheet"]

_FRAMES, _ROW_PX, _CELL_PX, _LABEL_PX, _GAP_PX = 6, 112, 168, 190, 4


class Sheet:
    """Collects rows; only small frames are kept."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, list[Image.Image]]] = []

    def add(self, photo: str, prompt: str, frames: Sequence[Pixels]) -> None:
        """Add one video."""
        chosen = np.linspace(0, len(frames) - 1, _FRAMES).round().astype(int)
        small = [Image.fromarray(frames[i]) for i in chosen]
        for picture in small:
            picture.thumbnail((_CELL_PX, _ROW_PX), Image.Resampling.LANCZOS)
        self._rows.append((f"{photo}\n" + "\n".join(textwrap.wrap(f"“{prompt}”", 26)), small))

    def save(self, path: Path) -> None:
        """Write all rows as one PNG."""
        width = _LABEL_PX + _FRAMES * (_CELL_PX + _GAP_PX)
        sheet = Image.new("RGB", (width, max(1, len(self._rows)) * (_ROW_PX + _GAP_PX)), "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
        for number, (label, pictures) in enumerate(self._rows):
            top = number * (_ROW_PX + _GAP_PX)
            draw.multiline_text((6, top + 6), label, fill="black", font=font, spacing=3)
            for column, picture in enumerate(pictures):
                sheet.paste(picture, (_LABEL_PX + column * (_CELL_PX + _GAP_PX), top))
        sheet.save(path, "PNG", optimize=True)
