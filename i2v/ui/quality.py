"""The choice between a fast draft, the model's own defaults, and its best.

What is chosen is read from the fields, not remembered: a setting changed by hand is no such choice any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from i2v.presets.model_preset import preset_named
from i2v.ui.language import Language, label

__all__ = ["build_quality", "quality_choice", "quality_values"]

_NAMES = ("draft", "defaults", "best")


def build_quality(elem_id: str) -> gr.Radio:
    """Return the choice; it follows the fields."""
    choices = [(label("Fast draft"), "draft"), (label("Balanced"), "defaults"), (label("Best"), "best")]
    return gr.Radio(choices, label=label("Quality"), value="defaults", elem_id=elem_id)


def quality_choice(fields: Mapping[str, Any], language: Language) -> dict[str, Any]:
    """Return how the choice should be: its `choices` and the `value` that the fields amount to, if any."""
    words = {"draft": language.say("Fast draft"), "defaults": language.say("Balanced"), "best": language.say("Best")}
    offered = {name: values for name in _NAMES if (values := quality_values(name, fields["model"]))}
    now = next((name for name, values in offered.items() if _is_filled_in(values, fields)), None)
    return {"choices": [[words[name], name] for name in offered], "value": now}


def quality_values(name: str, model: str) -> dict[str, Any]:
    """Return the fields' values of a quality, {} for one that the model has not."""
    quality = getattr(preset_named(model), name) if name in _NAMES else None
    if quality is None:
        return {}
    named = ("short_side_px", "num_frames", "fps", "num_inference_steps")
    return {"match_picture": True} | {field: getattr(quality, field) for field in named}


def _is_filled_in(values: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    return all(fields[name] == value for name, value in values.items())
