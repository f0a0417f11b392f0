"""What the page says of an error: what happened, what i2v did already, what to do, and buttons that do it.

Pure, but for a look into the job's folder. static/result.html, result.css and result.js draw it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from i2v.errors import I2VError, InputError, ModelFilesError, NotFiniteError, OutOfMemoryError, StorageError
from i2v.jobs.folder import if_there
from i2v.jobs.result import ErrorNote
from i2v.memory.ladder import Ladder
from i2v.memory.suggestions import Suggestion
from i2v.service import Service, Snapshot
from i2v.ui.forecast_box import changed_fields, nearest_offers
from i2v.ui.language import Language
from i2v.ui.run_words import step_down_sentence

__all__ = ["error_card", "refusal_card"]

_MOST_OFFERS = 2
Action = dict[str, Any]


def error_card(service: Service, snapshot: Snapshot, language: Language) -> dict[str, Any]:
    """Return the card of a failed job."""
    stored = snapshot.job.error or ErrorNote()
    error = stored.to_error()
    did = [step_down_sentence(step, language) for step in stored.step_downs]
    if if_there(snapshot.folder.latents):
        did.append(language.say("The finished latents were kept, so Try again starts at making the frames."))
    return _card(error, language) | {"did": did, "actions": _actions(service, error, snapshot.job.request, language)}


def refusal_card(
    service: Service, error: I2VError, values: Mapping[str, Any], size: tuple[int, int], language: Language
) -> dict[str, Any]:
    """Return the card of a job that was not begun, `values` being what was asked for."""
    card, offers = _card(error, language), _offers(service, values, size, "fill", language)
    if offers:  # as buttons: the remedy names flags of the command line
        card["todo"] = language.say("This would fit:")
    return card | {"did": [], "actions": offers}


def _card(error: I2VError, language: Language) -> dict[str, Any]:
    return {
        "kind": type(error).__name__,
        "what": language.error(I2VError(error.message)),
        "todo": language.retell(error.remedy),
    }


def _actions(service: Service, error: I2VError, request: Mapping[str, Any], language: Language) -> list[Action]:
    """Return the buttons: the words of each and what a click asks for."""
    again = {"words": language.say("Try again"), "value": {"do": "retry"}}
    match error:
        case ModelFilesError():
            return [{"words": language.say("Open System"), "value": {"do": "system"}}, again]
        case NotFiniteError():
            words = language.say("Use {settings}", settings=language.say("precision fp32"))
            return [{"words": words, "value": {"do": "refill", "fields": {"precision": "fp32"}}}, again]
        case OutOfMemoryError():
            size = (request.get("width", 0), request.get("height", 0))
            return [again, *_offers(service, request, size, "refill", language)]
        case StorageError():
            return [again]
        case InputError():  # the same again would be refused again
            legal = nearest_offers(error, language)
            return [{"words": o["words"], "value": {"do": "refill", "fields": o["fields"]}} for o in legal]
    return [again]


def _offers(
    service: Service, values: Mapping[str, Any], size: tuple[int, int], wish: str, language: Language
) -> list[Action]:
    """Return buttons for settings near the ones asked for that the forecast says would fit."""
    try:
        ladder = service.forecast(values, size)
    except I2VError:
        return []  # settings of another version or machine; there is nothing to offer
    if ladder is None:
        return []
    return [
        {
            "words": language.say("Use {settings}", settings=language.retell(suggestion.words)),
            "value": {"do": wish, "fields": changed_fields(ladder, suggestion)},
        }
        for suggestion in _worth_it(ladder)[:_MOST_OFFERS]
    ]


def _worth_it(ladder: Ladder) -> list[Suggestion]:
    """Return suggestions; where the forecast had it fit, only those that take a good deal less."""
    enough = ladder.request.num_frames if not ladder.chosen else int(0.75 * ladder.request.num_frames)
    size = (ladder.request.width, ladder.request.height)
    return [s for s in ladder.suggestions() if s.num_frames <= enough or (s.width, s.height) != size]
