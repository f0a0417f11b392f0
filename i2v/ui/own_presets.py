"""A person's own presets: the settings on the page, kept under a name in i2v's database, so on every device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from i2v.service import Service
from i2v.ui.error_messages import told
from i2v.ui.form import Form
from i2v.ui.language import label

__all__ = ["OwnPresets", "build_own_presets"]

_KEPT = (
    "short_side_px",
    "num_frames",
    "fps",
    "num_inference_steps",
    "guidance_scale",
    "negative_prompt",
    "loop",
    "precision",
    "chunk_frames",
    "vram_gib",
    "ram_gib",
    "formats",
    "image_fit",
)
Updates = dict[Any, Any]


@dataclass(frozen=True)
class OwnPresets:
    """The widgets: which preset, what a new one is called, and the buttons."""

    chosen: gr.Dropdown
    remove: gr.Button
    name: gr.Textbox
    save: gr.Button

    def wire(self, page: gr.Blocks, service: Service, form: Form, telling: Mapping[str, Any]) -> None:
        """Let the widgets work on a form."""
        handlers = _Handlers(service, form, self)
        model = form.fields["model"]
        chosen = [self.chosen, model]
        self.save.click(handlers.save, [self.name, *form.components], [self.chosen, self.name], **telling)
        self.name.submit(handlers.save, [self.name, *form.components], [self.chosen, self.name], **telling)
        self.chosen.input(handlers.choose, chosen, form.components, **telling)
        self.remove.click(handlers.remove, chosen, self.chosen, **telling)
        gr.on([page.load, model.change], handlers.of_model, model, self.chosen, **telling)


def build_own_presets() -> OwnPresets:
    """Lay the widgets out, folded away."""
    with gr.Accordion(label("My presets"), open=False, elem_id="own-presets"):
        with gr.Row(elem_classes="i2v-joined"):
            chosen = gr.Dropdown([], label=label("Use a preset of mine"), elem_id="own-preset", scale=3, min_width=160)
            remove = gr.Button(label("Delete"), elem_id="own-preset-delete", scale=1, min_width=80)
        with gr.Row(elem_classes="i2v-joined"):
            name = gr.Textbox(
                label=label("Save these settings as"), max_lines=1, elem_id="own-preset-name", scale=3, min_width=160
            )
            save = gr.Button(label("Save"), elem_id="own-preset-save", scale=1, min_width=80)
    return OwnPresets(chosen, remove, name, save)


class _Handlers:
    def __init__(self, service: Service, form: Form, widgets: OwnPresets):
        self._service, self._form, self._widgets = service, form, widgets

    def of_model(self, model: str) -> Any:
        """Return the presets of a model, none of them chosen."""
        return gr.Dropdown(self._names(model), value=None)

    def _names(self, model: str) -> list[str]:
        return [preset.name for preset in self._service.presets.all(model)]

    def save(self, request: gr.Request, name: str, *values: Any) -> Updates:
        """Keep what is on the page under a name; one of the same name is replaced."""
        fields = dict(zip(self._form.names, values, strict=True))
        model = fields["model"]
        with told(request):
            saved = self._service.presets.save(name or "", model, {kept: fields[kept] for kept in _KEPT})
        return {
            self._widgets.chosen: gr.Dropdown(self._names(model), value=saved.name),
            self._widgets.name: "",
        }

    def choose(self, name: str | None, model: str) -> Any:
        """Fill the form from a preset."""
        values = next((preset.values for preset in self._service.presets.all(model) if preset.name == name), None)
        if values is None:
            return gr.skip()
        values = {"match_picture": True, "ram_gib": ""} | values  # one saved before there was such a limit has none
        return {self._form.fields[name]: value for name, value in values.items()}

    def remove(self, request: gr.Request, name: str | None, model: str) -> Any:
        """Forget the chosen preset; the form stays as it is."""
        with told(request):
            if name:
                self._service.presets.delete(name)
        return gr.Dropdown(self._names(model), value=None)
