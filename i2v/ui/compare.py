"""The compare of the page. static/compare.html, compare.css and compare.js draw it."""

from __future__ import annotations

import gradio as gr

from i2v.service import Service
from i2v.ui.drawn import build_drawn

__all__ = ["build_compare"]


def build_compare(service: Service) -> gr.HTML:
    """Return the part."""
    return build_drawn("compare", {}, elem_id="compare")
