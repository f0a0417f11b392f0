"""What the forecast says before the click: a ladder of plans turned into words and a bar, as a plain dictionary.

static/forecast.html, forecast.css and forecast.js draw it. Knows no jobs; the sums are those of i2v.memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from i2v.errors import I2VError
from i2v.memory.experience import Seconds
from i2v.memory.ladder import Ladder, Rung, Suggestion
from i2v.memory.plan import GIB
from i2v.service import Service
from i2v.ui.form_values import forecast_values
from i2v.ui.language import Language

__all__ = ["MOST_SUGGESTIONS", "WORKING", "forecast_box", "look_ahead", "time_words"]

MOST_SUGGESTIONS = 3
_TIGHT_SHARE = 0.85
_VERDICTS = {"fits": "Fits", "tight": "Fits, but tight", "too_big": "Will not fit"}
WORKING = {"state": "working", "message": "Working out the memory of this model…"}


def look_ahead(service: Service, fields: Mapping[str, Any], language: Language) -> dict[str, Any]:
    """Return the box for the form's values: the forecast, that it is being worked out, or what is wrong with them."""
    assumed = fields["match_picture"] and not fields["image"]
    try:
        values = forecast_values(fields)
        ladder = service.forecast(values, (values["width"], values["height"]))
    except I2VError as error:
        return {"state": "wrong", "verdict": "Cannot run", "message": str(error)}
    if ladder is None:
        return WORKING | {"clip": _clip_words(values, assumed)}
    return forecast_box(ladder, _clip_words(values, assumed))


def forecast_box(ladder: Ladder, clip: str) -> dict[str, Any]:
    """Return the box of a ladder: its chosen rung, or its smallest one and what would fit instead."""
    rung = ladder.chosen or ladder.smallest
    peak, free, where = _matter(ladder, rung)
    state = "too_big" if not ladder.chosen else "tight" if peak > _TIGHT_SHARE * free else "fits"
    amount = f"{peak / GIB:.2f} GiB {'of' if ladder.chosen else 'but only'} {free / GIB:.1f} GiB {where} free"
    most = max(peak, free, 1)
    box = {
        "state": state,
        "verdict": _VERDICTS[state],
        "clip": clip,
        "amount": f"Peak {amount}",
        "fill": round(peak / most, 4),
        "limit": round(free / most, 4),
        "spoken": f"{_VERDICTS[state]}: forecast peak {amount}",
        "notes": [f"{note[:1].upper()}{note[1:]}." for note in ladder.notes],
    }
    if not ladder.chosen:
        return box | _refusal(ladder)
    words = rung.plan.words() + ("" if rung.plan.exact else ", approximate")
    why = rung.plan.reason.removeprefix(f"{rung.plan.words()}: ")
    return box | {
        "time": time_words(rung.forecast.seconds),
        "plan": words,
        "why": why[:1].upper() + why[1:],
        "reason": rung.plan.reason,
    }


def _matter(ladder: Ladder, rung: Rung) -> tuple[int, int, str]:
    """Return peak, free bytes and name of the memory that decides: RAM without a card, or where it is what lacks."""
    foreseen, machine = rung.forecast, ladder.machine
    if machine.kind == "cpu" or foreseen.peak_ram_bytes > machine.ram_free_bytes:
        return foreseen.peak_ram_bytes, machine.ram_free_bytes, "RAM"
    return foreseen.peak_vram_bytes, machine.vram_free_bytes, "VRAM"


def _refusal(ladder: Ladder) -> dict[str, Any]:
    offers = [{"words": f"Use {s.words}", "fields": _changed_fields(ladder, s)} for s in ladder.suggestions()]
    advice = "This would fit:" if offers else "Close other programs, or choose a smaller model."
    return {
        "message": f"The smallest plan, {ladder.smallest.plan.reason} {advice}",
        "suggestions": offers[:MOST_SUGGESTIONS],
    }


def _changed_fields(ladder: Ladder, suggestion: Suggestion) -> dict[str, Any]:
    """Return the form's fields that a suggestion changes; frames alone leave the size to the picture."""
    request = ladder.request
    fields: dict[str, Any] = {}
    if suggestion.num_frames != request.num_frames:
        fields["num_frames"] = suggestion.num_frames
    if (suggestion.width, suggestion.height) != (request.width, request.height):
        fields |= {"match_picture": False, "width": suggestion.width, "height": suggestion.height}
    if suggestion.precision:
        fields["precision"] = suggestion.precision
    return fields


def _clip_words(values: Mapping[str, Any], size_is_assumed: bool) -> str:
    size = f"{values['width']} × {values['height']} px" + (" (no picture yet)" if size_is_assumed else "")
    seconds = values["num_frames"] / max(values["fps"], 1)
    return f"{size} · {values['num_frames']} frames at {values['fps']} fps = {seconds:.1f} s"


def time_words(seconds: Seconds | None) -> str:
    """Say how long it will take: a range, and what it rests on."""
    if seconds is None:
        return "First run here: time not known yet"
    low, high = _clock(seconds.low_s, math.floor), _clock(seconds.high_s, math.ceil)
    if low.split()[1] == high.split()[1]:
        low = low.split()[0]
    span = high if low == high.split()[0] else f"{low} to {high}"
    return f"Takes {span} {'(by earlier runs here)' if seconds.source == 'runs' else '(rough estimate)'}"


def _clock(seconds: float, rounded: Callable[[float], int]) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{rounded(seconds / size)} {unit}"
    return f"{max(1, rounded(seconds))} s"
