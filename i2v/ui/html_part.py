"""Parts of the page that i2v draws itself: static/<name>.html, .css and .js show the value that Python gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

__all__ = ["build_drawn"]

_STATIC = Path(__file__).parent / "static"


def build_drawn(
    name: str, value: Any, elem_id: str, calls: Sequence[Callable[..., Any]] = (), scripts: Sequence[str] = ()
) -> gr.HTML:
    """Return the part's place on the page; its nodes stay when the value changes, so nothing flickers.

    Its script may call the functions in `calls` as server.NAME(data): each takes what the browser sends, which is
    checked like any input from outside, and the gr.Request. Gradio asks for the login before. The files named in
    `scripts` are run after its own script and see what that one names.
    """
    return gr.HTML(
        value=value,
        html_template=(_STATIC / f"{name}.html").read_text(encoding="utf-8"),
        css_template=(_STATIC / f"{name}.css").read_text(encoding="utf-8"),
        js_on_load="\n".join((_STATIC / f"{part}.js").read_text(encoding="utf-8") for part in (name, *scripts)),
        server_functions=list(calls) or None,
        apply_default_css=False,
        elem_id=elem_id,
    )
