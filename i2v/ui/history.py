"""The history of the page. static/history.html, history.css and history.js draw it."""

from __future__ import annotations

import gradio as gr

from i2v.service import Service
from i2v.ui.drawn import build_drawn

__all__ = ["build_history"]


def build_history(service: Service) -> gr.HTML:
    """Return the part."""
    return build_drawn("history", {}, elem_id="history")
