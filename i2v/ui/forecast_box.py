"""What the forecast says before the click: a ladder of plans turned into words and a bar, as a plain dictionary.

static/forecast.html, forecast.css and forecast.js draw it. Knows no jobs; the sums are those of i2v.memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from i2v.errors import I2VError, InputError
from i2v.memory.forecast.experience import Seconds
from i2v.memory.ladder import Ladder
from i2v.memory.machine_now import GIB
from i2v.memory.suggestions import Suggestion
from i2v.service import Service
from i2v.service.expectations import Fit, memory_that_decides, verdict
from i2v.ui.form_values import forecast_values
from i2v.ui.language import ENGLISH, Language

__all__ = [
    "MOST_SUGGESTIONS",
    "WORKING",
    "changed_fields",
    "forecast_box",
    "look_ahead",
    "nearest_offers",
    "time_words",
]

MOST_SUGGESTIONS = 3
_UNITS = ((3600, "{n} h"), (60, "{n} min"), (1, "{n} s"))
_TOO_MUCH = "Peak {peak} GiB but only {free} GiB {where} free"
_VERDICTS = {Fit.FITS: "Fits", Fit.TIGHT: "Fits, but tight", Fit.TOO_BIG: "Will not fit"}
_NEAREST_WORDS = {
    "num_frames": "{n} frames",
    "num_inference_steps": "{n} steps",
    "fps": "{n} fps",
    "short_side_px": "{n} px",
}
WORKING = {"state": "working", "message": "Working out the memory of this model…"}


def look_ahead(service: Service, fields: Mapping[str, Any], language: Language) -> dict[str, Any]:
    """Return the box for the form's values: the forecast, that it is being worked out, or what is wrong with them."""
    try:
        values = forecast_values(fields)
        ladder = service.forecast(values, (values["width"], values["height"]))
    except I2VError as error:
        said = {"state": "wrong", "verdict": language.say("Cannot run"), "message": language.error(error)}
        return said | {"suggestions": nearest_offers(error, language)}
    missing = _missing(service, values["model"], language)
    clip = _clip_words(values, fields["match_picture"] and not fields["image"], language)
    if ladder is None:
        return WORKING | {"clip": clip, "message": language.say(WORKING["message"])} | missing
    return forecast_box(ladder, clip, language, _limits_to_lift(service, values, ladder)) | missing


def nearest_offers(error: I2VError, language: Language) -> list[dict[str, Any]]:
    """Return the words of a button and the form's fields that it fills in, where an error names legal values."""
    if not isinstance(error, InputError) or not error.nearest:
        return []
    nearest = error.nearest
    said = [language.say(text, n=nearest[name]) for name, text in _NEAREST_WORDS.items() if name in nearest]
    if "width" in nearest:
        said.append(f"{nearest['width']} × {nearest['height']}")
    fields = nearest | ({"match_picture": False} if "width" in nearest else {})
    return [{"words": language.say("Use {settings}", settings=", ".join(said)), "fields": fields}]


def _limits_to_lift(service: Service, values: Mapping[str, Any], ladder: Ladder) -> list[str]:
    """Return the limits of memory that a person set, if the settings would fit without them."""
    limits = [name for name in ("vram_gib", "ram_gib") if values[name] is not None]
    if ladder.chosen or not limits:
        return []
    unlimited = service.forecast(dict(values) | dict.fromkeys(limits), (values["width"], values["height"]))
    return limits if unlimited and unlimited.chosen else []


def _missing(service: Service, model: str, language: Language) -> dict[str, str]:
    """Say that a model has to be downloaded first, {} for one that is here."""
    state = next(state for state in service.models() if state.preset.name == model)
    if state.installed:
        return {}
    return {"missing": language.say("{model} is not downloaded yet.", model=state.preset.title)}


def forecast_box(ladder: Ladder, clip: str, language: Language = ENGLISH, limits: Sequence[str] = ()) -> dict[str, Any]:
    """Return the box of a ladder: its chosen rung, or its smallest one and what would fit instead.

    `limits`: the fields of the limits that a person set and without which it would fit.
    """
    rung = ladder.chosen or ladder.smallest
    peak, free, where = memory_that_decides(ladder, rung)
    state = verdict(ladder)
    text = "Peak {peak} GiB of {free} GiB {where} free" if ladder.chosen else _TOO_MUCH
    amount = language.say(text, peak=f"{peak / GIB:.2f}", free=f"{free / GIB:.1f}", where=where)
    said, most = language.say(_VERDICTS[state]), max(peak, free, 1)
    box = {
        "state": state.value,
        "verdict": said,
        "clip": clip,
        "amount": amount,
        "fill": round(peak / most, 4),
        "limit": round(free / most, 4),
        "spoken": f"{said}: {amount}",
        "notes": [language.retell(f"{note[:1].upper()}{note[1:]}.") for note in _single_notes(ladder)],
    }
    if not ladder.chosen:
        return box | _refusal(ladder, language, limits)
    plan, approximate = rung.plan, "" if rung.plan.exact else language.say(", approximate")
    why = plan.reason.removeprefix(f"{plan.words()}: ")
    return box | {
        "time": time_words(rung.forecast.seconds, language),
        "plan": language.say("Plan: {plan}", plan=language.retell_list(plan.words()) + approximate),
        "why": language.retell(why[:1].upper() + why[1:]),
    }


def _single_notes(ladder: Ladder) -> list[str]:
    """Return the notes, those of the machine one by one."""
    return [part for note in ladder.notes for part in note.split("; ")]


def _refusal(ladder: Ladder, language: Language, limits: Sequence[str]) -> dict[str, Any]:
    lifted = [{"words": language.say("Use all that is free"), "fields": dict.fromkeys(limits, "")}]
    offers: list[dict[str, Any]] = lifted if limits else []
    offers += [
        {
            "words": language.say("Use {settings}", settings=language.retell(suggestion.words)),
            "fields": changed_fields(ladder, suggestion),
        }
        for suggestion in ladder.suggestions()
    ]
    smallest = language.retell(f"The smallest plan, {ladder.smallest.plan.reason}")
    advice = "This would fit:" if offers else "Close other programs, or choose a smaller model."
    return {"message": f"{smallest} {language.say(advice)}", "suggestions": offers[:MOST_SUGGESTIONS]}


def changed_fields(ladder: Ladder, suggestion: Suggestion) -> dict[str, Any]:
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


def _clip_words(values: Mapping[str, Any], size_is_assumed: bool, language: Language) -> str:
    text = "{size} px · {frames} frames at {fps} fps = {seconds} s"
    if size_is_assumed:
        text = "{size} px (no picture yet) · {frames} frames at {fps} fps = {seconds} s"
    return language.say(
        text,
        size=f"{values['width']} × {values['height']}",
        frames=values["num_frames"],
        fps=values["fps"],
        seconds=f"{values['num_frames'] / max(values['fps'], 1):.1f}",
    )


def time_words(seconds: Seconds | None, language: Language = ENGLISH) -> str:
    """Say how long it will take: a range, and what it rests on."""
    if seconds is None:
        return language.say("First run here: time not known yet")
    size, unit = _unit(seconds.high_s)
    low, high = max(1, math.floor(seconds.low_s / size)), max(1, math.ceil(seconds.high_s / size))
    span = str(high) if low == high else language.say("{low} to {high}", low=low, high=high)
    if seconds.low_s < size and size > 1:  # "1 s to 3 min" rather than "0 to 3 min"
        small, small_unit = _unit(seconds.low_s)
        low_words = language.say(small_unit, n=max(1, math.floor(seconds.low_s / small)))
        words = language.say("{low} to {high}", low=low_words, high=language.say(unit, n=high))
    else:
        words = language.say(unit, n=span)
    known = "Takes {time} (by earlier runs here)"
    return language.say(known if seconds.source == "runs" else "Takes {time} (rough estimate)", time=words)


def _unit(seconds: float) -> tuple[int, str]:
    """Return the unit to say a time in: its seconds, and how a number of it is said."""
    return next(((size, text) for size, text in _UNITS if seconds >= 1.5 * size), _UNITS[-1])
