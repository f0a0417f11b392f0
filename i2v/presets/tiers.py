"""Tiers: settings to start from by the memory of the card, read from configs/tiers.yaml and validated; no torch.

Knows what suits a size of card; not which card there is, nor what a job will really need: that is planned for each job.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from i2v.errors import InputError
from i2v.presets.model_preset import CONFIG_FOLDER, Bounds, ModelPreset, load_presets

__all__ = ["Tier", "load_tiers", "tier_for"]

_GIB = 1 << 30
_FILE = CONFIG_FOLDER / "tiers.yaml"
_FROM_YAML = Field(strict=False)  # YAML has lists where the values are tuples


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Tier(_Strict):
    """Settings to start from on cards with at least `from_vram_gib` of memory in all.

    `models`: those it is for, none for all. `chunk_frames`: None for the whole clip at once. `precisions`: in the order
    of preference.
    """

    title: str = Field(min_length=1)
    note: str = ""
    models: Annotated[tuple[str, ...], _FROM_YAML] = ()
    from_vram_gib: float = Field(ge=0, allow_inf_nan=False)
    short_side_px: int
    num_frames: int
    num_inference_steps: int
    chunk_frames: int | None = Field(default=None, ge=1)
    precisions: Annotated[tuple[Literal["fp32", "fp16", "bf16"], ...], Field(strict=False, min_length=1)]

    def is_for(self, model: str) -> bool:
        return not self.models or model in self.models

    def precision_among(self, possible: Collection[str]) -> str:
        """Return the preferred precision of those that a card can do, the last one when it can do none of them."""
        return next((name for name in self.precisions if name in possible), self.precisions[-1])


class _TierFile(_Strict):
    tiers: Annotated[tuple[Tier, ...], Field(strict=False, min_length=1)]


@lru_cache(maxsize=1)
def load_tiers(path: Path = _FILE) -> tuple[Tier, ...]:
    """Return the tiers from the smallest card up. Raises InputError naming the file, the key and the reason."""
    try:
        tiers = _TierFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).tiers
        _check(tiers)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} is not a valid list of tiers: {where}: {first['msg']}") from error
    except (ValueError, yaml.YAMLError) as error:  # ValueError: of _check, or not UTF-8
        raise InputError(f"{path} is not a valid list of tiers: {' '.join(str(error).split())}") from error
    return tiers


def tier_for(vram_bytes: int | None, model: str | None = None) -> Tier | None:
    """Return the highest tier that a card with this memory in all reaches, of those for a model if one is named.

    None without a card (None or 0 bytes), and for a model that has no tiers.
    """
    if not vram_bytes:
        return None
    reached = [
        tier
        for tier in load_tiers()
        if tier.from_vram_gib * _GIB <= vram_bytes and (model is None or tier.is_for(model))
    ]
    return max(reached, key=lambda tier: tier.from_vram_gib, default=None)


def _check(tiers: Sequence[Tier]) -> None:
    """Raise ValueError for what no single value shows: order, and the limits of the models."""
    presets = load_presets()
    for number, tier in enumerate(tiers):
        unknown = set(tier.models) - set(presets)
        if unknown:
            raise ValueError(f"tiers.{number}.models: there is no model {min(unknown)!r}")
        for preset in presets.values():
            if tier.is_for(preset.name):
                _check_limits(f"tiers.{number}", tier, preset)
                _check_order(f"tiers.{number}.from_vram_gib", tier, tiers[:number], preset.name)
        if tier.chunk_frames and tier.chunk_frames > tier.num_frames:
            raise ValueError(f"tiers.{number}.chunk_frames: {tier.chunk_frames} is more than num_frames")


def _check_limits(where: str, tier: Tier, preset: ModelPreset) -> None:
    short_side_px = Bounds(low=preset.side_px.low, high=min(preset.side_px.high, preset.max_pixels**0.5))
    for name, bounds in (
        ("short_side_px", short_side_px),
        ("num_frames", preset.num_frames),
        ("num_inference_steps", preset.num_inference_steps),
    ):
        value, limits = getattr(tier, name), f"{bounds.low:g} and {bounds.high:g}"
        if not bounds.contains(value):
            raise ValueError(f"{where}.{name}: {value} is not between {limits}, the limits of {preset.name}")
    frames, multiple = preset.rules.frames, preset.rules.size_multiple
    if not frames.allows(tier.num_frames):
        raise ValueError(f"{where}.num_frames: {tier.num_frames} is not {frames.words()}, as {preset.name} wants")
    if tier.short_side_px % multiple:
        raise ValueError(f"{where}.short_side_px: {tier.short_side_px} is no multiple of {multiple}")
    for precision in tier.precisions:
        if precision not in preset.precisions:
            raise ValueError(f"{where}.precisions: {preset.name} does not run in {precision}")


def _check_order(where: str, tier: Tier, before: Sequence[Tier], model: str) -> None:
    highest = max((other.from_vram_gib for other in before if other.is_for(model)), default=-1.0)
    if tier.from_vram_gib <= highest:
        raise ValueError(f"{where}: {tier.from_vram_gib:g} is not more than the {highest:g} of an earlier tier")
