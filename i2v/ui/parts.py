"""The parts of the page that show things, by name, so that handlers and layout agree on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from i2v.ui.own_presets import OwnPresets

__all__ = ["Parts"]


@dataclass(frozen=True)
class Parts:
    """Everything that an event may change besides the form's fields."""

    tabs: gr.Tabs
    job: gr.BrowserState  # the id of the job on show; kept by the browser over a reload
    seen: gr.JSON
    timer: gr.Timer
    panel: gr.HTML
    result: gr.HTML
    generate: gr.Button
    stop: gr.Button
    cancel: gr.Button
    history: gr.HTML
    compare: gr.HTML
    models: gr.HTML
    system: gr.HTML
    forecast: gr.HTML
    refusal: gr.HTML
    foreseen: gr.JSON  # what this tab has already been shown of the forecast
    forecast_timer: gr.Timer
    suggestions: tuple[gr.Button, ...]  # hidden until nothing fits
    card_presets: gr.Radio
    quality: gr.Radio
    own_presets: OwnPresets
    load_settings: gr.UploadButton
    prompt_note: gr.HTML
    framing: gr.HTML
    gallery: gr.HTML

    @property
    def shown(self) -> list[Any]:
        """What a tick may change."""
        return [self.seen, self.timer, self.panel, self.result, self.generate, self.stop, self.cancel]

    @property
    def ahead(self) -> list[Any]:
        """What a forecast may change."""
        return [self.foreseen, self.forecast, *self.suggestions, self.card_presets, self.quality, self.framing]
