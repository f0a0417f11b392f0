"""The choice of settings by the size of a card, and which of them is for the card in this machine.

What is chosen is read from the fields, not remembered: a setting changed by hand is no preset any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from i2v.machine import devices
from i2v.memory.abilities import precisions_of
from i2v.presets.tiers import Tier, load_tiers, tier_for
from i2v.ui.language import Language, label

__all__ = ["build_card_presets", "card_presets", "own_card_values", "preset_values"]

_INFO = "Settings to start from, by the memory of the card."


def build_card_presets(elem_id: str) -> gr.Radio:
    """Return the choice, hidden until a model that has presets is chosen."""
    titles = [tier.title for tier in load_tiers()]
    return gr.Radio(titles, label=label("Presets by card"), info=label(_INFO), visible=False, elem_id=elem_id)


def card_presets(fields: Mapping[str, Any], card: devices.Gpu | None, language: Language) -> dict[str, Any]:
    """Return how the choice should be: its `choices`, `value`, `info` and whether it is `visible`."""
    model = fields["model"]
    mine = tier_for(card.total_bytes if card else None, model)
    tiers = [tier for tier in load_tiers() if tier.is_for(model)]
    now = next((tier for tier in tiers if _is_filled_in(tier, fields, card)), None)
    return {
        "choices": [[_title(tier, tier is mine, language), tier.title] for tier in tiers],
        "value": now.title if now else None,
        "info": language.say(now.note if now and now.note else _INFO),
        "visible": bool(tiers),
    }


def _title(tier: Tier, is_mine: bool, language: Language) -> str:
    title = language.say(tier.title)
    return language.say("{preset} · your card", preset=title) if is_mine else title


def own_card_values(model: str, card: devices.Gpu | None) -> dict[str, Any]:
    """Return the fields' values of the preset for the card in this machine, {} where there is none."""
    mine = tier_for(card.total_bytes, model) if card else None
    return _values(mine, card) if mine else {}


def preset_values(title: str, model: str, card: devices.Gpu | None) -> dict[str, Any]:
    """Return the fields' values of a preset, {} for a title that the model has none of."""
    tier = next((tier for tier in load_tiers() if tier.title == title and tier.is_for(model)), None)
    return _values(tier, card) if tier else {}


def _values(tier: Tier, card: devices.Gpu | None) -> dict[str, Any]:
    possible = precisions_of("cuda", card.capability) if card else precisions_of("cpu", None)
    return {
        "match_picture": True,
        "short_side_px": tier.short_side_px,
        "num_frames": tier.num_frames,
        "num_inference_steps": tier.num_inference_steps,
        "chunk_frames": str(tier.chunk_frames or ""),
        "precision": tier.precision_among(possible),
    }


def _is_filled_in(tier: Tier, fields: Mapping[str, Any], card: devices.Gpu | None) -> bool:
    return all(fields[name] == value for name, value in _values(tier, card).items())
