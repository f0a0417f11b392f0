"""Reads notes from the database, where other versions of i2v may have written them. The one tolerant reader.

A key that is not known is ignored, one that is missing has its default, and a value of another kind counts as missing.
Of a list, only those elements are left out that lack what they must have.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from pydantic import ValidationError

from i2v.jobs.result import Note

__all__ = ["read_stored"]

N = TypeVar("N", bound=Note)
Place = tuple[str | int, ...]
_ROUNDS = 5  # a value taken out may be one that its object must have, which then goes too


def read_stored(kind: type[N], values: object) -> N | None:
    """Return the note that these JSON values describe; None when they do not amount to one."""
    if not isinstance(values, dict):
        return None
    for _ in range(_ROUNDS):
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            places = _places(error)
        if () in places:
            return None
        values = copy.deepcopy(values)
        for place in sorted(places, reverse=True):  # what is inside first, and lists from their end
            _take_out(values, place)
    return None


def _places(error: ValidationError) -> set[Place]:
    """Return where what is to be taken out is: the wrong value itself, or the object that lacks one."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return {_place(fault["type"], fault["loc"]) for fault in faults}


def _place(fault: str, where: Place) -> Place:
    return where[:-1] if fault == "missing" or where[-1:] == ("[key]",) else where


def _take_out(values: Any, place: Place) -> None:
    *way, last = place
    for step in way:
        values = values[step]
    if isinstance(values, dict):
        values.pop(last, None)
    else:
        del values[last]
