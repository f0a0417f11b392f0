"""What drawn parts ask of the server about a job: checked like any input from outside, and answered, never raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from i2v.errors import I2VError, InputError
from i2v.ui.language import language_of

__all__ = ["AboutJob", "answer"]


class AboutJob(BaseModel):
    """A job that the browser names."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    job: str = Field(pattern=r"^[0-9a-f]{1,64}$")


Asked = TypeVar("Asked", bound=AboutJob)


def answer(
    model: type[Asked], done: Callable[[Asked], dict[str, Any]], data: Any, request: gr.Request
) -> dict[str, Any]:
    """Check what the browser sent and do it; what goes wrong is a sentence under "error"."""
    try:
        return done(model.model_validate(data))
    except ValidationError:
        return {"error": language_of(request).error(InputError("the page asked for something that i2v does not know"))}
    except I2VError as error:
        return {"error": language_of(request).error(error)}
