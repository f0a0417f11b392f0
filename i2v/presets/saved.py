"""The presets that a person saved: settings under a name, in the database of the jobs.

A name stands for one preset, whatever its model. Knows which fields may be kept; their limits are checked when a job
is made of them. Every method may raise StorageError.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select

from i2v.errors import InputError
from i2v.jobs.database import reading, writing
from i2v.jobs.schema import SAVED_PRESETS
from i2v.presets.model_preset import preset_named

__all__ = ["KEPT_FIELDS", "SavedPreset", "SavedPresets"]

KEPT_FIELDS = frozenset(
    {
        "short_side_px",
        "num_frames",
        "fps",
        "num_inference_steps",
        "guidance_scale",
        "negative_prompt",
        "loop",
        "precision",
        "chunk_frames",
        "vram_gib",
        "ram_gib",
        "formats",
        "image_fit",
    }
)
_MOST = 50
_NAME_LETTERS = 40
_MOST_BYTES = 16_384
_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class SavedPreset:
    """Settings of one model under a name. `values` has fields of KEPT_FIELDS, as plain JSON."""

    name: str
    model: str
    values: dict[str, Any]
    created_at: float


class SavedPresets:
    """The saved presets of one database."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time):
        self._engine, self._clock = engine, clock

    def all(self, model: str) -> list[SavedPreset]:
        """Return a model's presets by name."""
        found = select(SAVED_PRESETS).where(SAVED_PRESETS.c.model == model)
        with reading(self._engine) as connection:
            presets = [SavedPreset(**row._mapping) for row in connection.execute(found)]
        return sorted(presets, key=lambda preset: (preset.name.casefold(), preset.name))

    def save(self, name: str, model: str, values: Mapping[str, Any]) -> SavedPreset:
        """Keep settings under a name; a preset of that name is replaced. Raises InputError."""
        preset = SavedPreset(_checked_name(name), preset_named(model).name, _checked_values(values), self._clock())
        table = SAVED_PRESETS
        with writing(self._engine) as connection:
            connection.execute(delete(table).where(table.c.name == preset.name))
            if int(connection.scalar(select(func.count()).select_from(table)) or 0) >= _MOST:
                raise InputError(f"there are {_MOST} saved presets already", "Delete one of them first.")
            connection.execute(
                insert(table).values(
                    {
                        "name": preset.name,
                        "model": preset.model,
                        "values": preset.values,
                        "created_at": preset.created_at,
                    }
                )
            )
        return preset

    def delete(self, name: str) -> None:
        """Forget a preset, if there is one of that name."""
        with writing(self._engine) as connection:
            connection.execute(delete(SAVED_PRESETS).where(SAVED_PRESETS.c.name == name))


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= _NAME_LETTERS or not name.isprintable():
        raise InputError(
            f"the name of a preset has 1 to {_NAME_LETTERS} letters, not {len(name)}"
            if name.isprintable()
            else "the name of a preset holds characters that cannot be shown",
            "Give it another name.",
            field="name",
        )
    return name


def _checked_values(values: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(values) - KEPT_FIELDS)
    if unknown:
        raise InputError(f"a preset cannot keep {unknown[0]!r}", "Leave it out.", field="values")
    for name, value in values.items():
        parts = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(part, _SCALARS) for part in parts):
            raise InputError(f"the value of {name} cannot be kept in a preset", "Leave it out.", field="values")
    try:
        text = json.dumps(dict(values), allow_nan=False)
    except ValueError:
        raise InputError("a preset cannot hold a number that is not finite", "Change it.", field="values") from None
    if len(text) > _MOST_BYTES:
        raise InputError("this is too much text for a preset", "Shorten the negative prompt.", field="values")
    plain: dict[str, Any] = json.loads(text)
    return plain
