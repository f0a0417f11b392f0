"""Functions that a drawn part's script may call: what the browser sends is checked; an error comes as a sentence."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr
from pydantic import BaseModel, ConfigDict, ValidationError

from i2v.errors import I2VError, InputError
from i2v.ui.language import Language, language_of

__all__ = ["JOB_ID", "Asked", "checked_call"]

_log = logging.getLogger(__name__)
Answer = dict[str, Any]
JOB_ID = r"^[0-9A-Za-z_-]{1,64}$"
A = TypeVar("A", bound="Asked")


class Asked(BaseModel):
    """What a script may send: its fields, and no other."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def checked_call(name: str, asked: type[A], answer: Callable[[A, Language], Answer]) -> Callable[..., Answer]:
    """Return a function for `build_drawn`, called server.NAME(data) in the script.

    It answers what `answer` makes of the checked data and the browser's language, or {"error": sentence}.
    """

    def call(data: Any, request: gr.Request) -> Answer:
        language = language_of(request)
        try:
            return answer(asked.model_validate(data), language)
        except ValidationError as error:
            _log.warning("%s was asked for what it cannot be: %d wrong fields", name, error.error_count())
            return {"error": language.error(InputError("the page asked for something that i2v does not know"))}
        except I2VError as error:
            return {"error": language.error(error)}

    call.__name__ = name
    return call
