"""How far the sliders of the form go for a model, and in which steps: by its preset's bounds and its family's rules."""

from __future__ import annotations

from typing import TypedDict

from i2v.presets.model_preset import ModelPreset

__all__ = ["Extent", "frames_extent", "short_side_extent"]

# A slider for everything a model can do would be too coarse: what lies beyond is typed as width and height.
_USUAL_FRAMES = 120
_USUAL_SIDES_PX = (256, 1080)


class Extent(TypedDict):
    """Where a slider begins and ends, and its step."""

    minimum: int
    maximum: int
    step: int


def frames_extent(preset: ModelPreset, value: float = 0) -> Extent:
    """Return the extent of the frames: legal counts, as far as usual clips and the preset's own go, and to `value`."""
    low, high, rule = int(preset.num_frames.low), int(preset.num_frames.high), preset.rules.frames
    wanted = max(_USUAL_FRAMES, int(value), *(quality.num_frames for quality in preset.qualities))
    legal = rule.legal(low, min(high, wanted + rule.step - 1)) or rule.legal(low, high)
    return {"minimum": legal[0], "maximum": legal[-1], "step": rule.step}


def short_side_extent(preset: ModelPreset) -> Extent:
    """Return the extent of the short side in pixels: usual sides within the bounds, and those that the preset names.

    For a family of fixed sizes the short side only says which of them is wanted.
    """
    step = 1 if preset.rules.sizes else preset.rules.size_multiple
    usual = [side for side in _USUAL_SIDES_PX if preset.side_px.contains(side)]
    sides = [*usual, *(quality.short_side_px for quality in preset.qualities)]
    return {"minimum": -(-min(sides) // step) * step, "maximum": max(sides) // step * step, "step": step}
