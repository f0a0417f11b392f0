"""Errors of i2v as messages on the page, in its language. What is no error of i2v is a mistake, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from i2v.errors import I2VError
from i2v.ui.language import language_of

__all__ = ["told"]


@contextmanager
def told(request: gr.Request) -> Iterator[None]:
    """Show an error of i2v as a message on the page."""
    try:
        yield
    except I2VError as error:
        raise gr.Error(language_of(request).error(error), print_exception=False) from error
