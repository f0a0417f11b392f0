"""The system of the page. static/system.html, system.css and system.js draw it."""

from __future__ import annotations

import gradio as gr

from i2v.service import Service
from i2v.ui.drawn import build_drawn

__all__ = ["build_system"]


def build_system(service: Service) -> gr.HTML:
    """Return the part."""
    return build_drawn("system", {}, elem_id="system")
