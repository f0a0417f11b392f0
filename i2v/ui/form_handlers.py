"""What happens on the page's events that are about the form: what it says of a request before there is a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from i2v.errors import InputError
from i2v.machine import devices
from i2v.presets.model_preset import preset_named
from i2v.presets.vocabulary import prompt_note
from i2v.service import Service
from i2v.ui.card_presets import card_presets, own_card_values, preset_values
from i2v.ui.error_messages import told
from i2v.ui.example_gallery import load_gallery
from i2v.ui.forecast_box import look_ahead
from i2v.ui.form import Form
from i2v.ui.form_values import swapped_sides
from i2v.ui.framing import frame_picture
from i2v.ui.language import language_of
from i2v.ui.parts import Parts
from i2v.ui.quality import quality_choice, quality_values

__all__ = ["FormHandlers"]

Updates = dict[Any, Any]


class FormHandlers:
    """The events about the form. `foreseen` is what a tab has already been shown of the forecast."""

    def __init__(self, service: Service, form: Form, parts: Parts):
        self._service, self._form, self._parts = service, form, parts

    def choose_model(self, request: gr.Request, model: str) -> Updates:
        """Take another model's limits, and the settings that are for this machine's card, or the model's own."""
        return self._form.model_updates(model, language_of(request), own_card_values(model, _card()))

    def take_example(self, request: gr.Request, event: gr.SelectData, model: str) -> Updates:
        """Fill the form from the example that was clicked in the gallery."""
        gallery, number = load_gallery(), event.index
        with told(request):
            if not isinstance(number, int) or not 0 <= number < len(gallery.examples):
                raise InputError("that example is no longer there")
        return self._form.example_updates(gallery, gallery.examples[number], model)

    def note_words(self, request: gr.Request, model: str, prompt: str) -> dict[str, str]:
        """Return the note below the prompt: what is to `say` of its words, and which prompt that is `about`."""
        said = prompt_note(preset_named(model), prompt or "")
        return {"about": prompt or "", "say": language_of(request).retell(said)}

    def choose_matching(self, match: bool) -> Updates:
        f = self._form.fields
        return {
            f["short_side_px"]: gr.Slider(visible=match),
            f["width"]: gr.Number(visible=not match),
            f["height"]: gr.Number(visible=not match),
        }

    def forecast(self, request: gr.Request, foreseen: dict[str, Any], *values: Any) -> Updates:
        """Bring the forecast and the presets up to the fields; only what changed is sent.

        The values come as the browser has them, for a model just chosen may have other limits than they.
        """
        p, fields = self._parts, dict(zip(self._form.names, values, strict=True))
        fields["image"] = (fields["image"] or {}).get("path")
        language = language_of(request)
        now = {
            "box": look_ahead(self._service, fields, language),
            "presets": card_presets(fields, _card(), language),
            "quality": quality_choice(fields, language),
            "framing": frame_picture(fields, language),
        }
        changed = {name: value for name, value in now.items() if value != foreseen.get(name)}
        return ({p.foreseen: now} if changed else {}) | self._shown(changed) or gr.skip()

    def _shown(self, changed: dict[str, Any]) -> Updates:
        p, updates = self._parts, Updates()
        if box := changed.get("box"):
            updates |= {p.forecast: box} | self._offer(box.get("suggestions", []))
        if presets := changed.get("presets"):
            updates[p.card_presets] = gr.Radio(**presets)
        if quality := changed.get("quality"):
            updates[p.quality] = gr.Radio(**quality)
        if framing := changed.get("framing"):
            updates[p.framing] = framing
            updates[self._form.fields["image_fit"]] = gr.Radio(visible=framing.get("differs", False))
        return updates

    def _offer(self, suggestions: list[dict[str, Any]]) -> Updates:
        updates: Updates = {button: gr.Button(visible=False) for button in self._parts.suggestions}
        for button, suggestion in zip(self._parts.suggestions, suggestions, strict=False):
            updates[button] = gr.Button(suggestion["words"], visible=True)
        return updates

    def take_suggestion(self, number: int, foreseen: dict[str, Any]) -> Updates:
        """Fill in the settings that the button was offered for."""
        offered = foreseen.get("box", {}).get("suggestions", [])
        return self._filled(offered[number]["fields"] if number < len(offered) else {})

    def choose_card_preset(self, title: str, model: str) -> Updates:
        return self._filled(preset_values(title, model, _card()))

    def choose_quality(self, name: str, model: str) -> Updates:
        return self._filled(quality_values(name, model))

    def swap_sides(self, request: gr.Request, *values: Any) -> Updates:
        """Give the video the other orientation; its size no longer follows the picture then."""
        with told(request):
            swapped = swapped_sides(dict(zip(self._form.names, values, strict=True)))
        return self._filled(swapped)

    def load_settings(self, request: gr.Request, path: str | None) -> Any:
        """Fill the form from a video that i2v made."""
        if path is None:
            return gr.skip()
        with told(request):
            asked, picture = self._service.library.settings_of(Path(path))
            return self._form.reuse_updates(asked, picture, language_of(request))

    def _filled(self, values: dict[str, Any]) -> Updates:
        return {self._form.fields[name]: value for name, value in values.items()} or gr.skip()


def _card() -> devices.Gpu | None:
    return devices.first_visible_gpu(devices.gpus())
