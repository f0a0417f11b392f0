"""The models of the page: which are here, what they may be used for, whether they fit; downloads that can be paused.

static/models.html, models.css and models.js draw it; the functions of `build_models` are what they ask of the server.
What is sent of a model is a card: a plain dictionary of facts, in the language of the browser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import gradio as gr
from pydantic import Field, ValidationError

from i2v.errors import InputError
from i2v.presets.model_preset import preset_named
from i2v.service import ModelState, Service
from i2v.service.models_on_disk import DownloadState
from i2v.ui.error_messages import told
from i2v.ui.form import Form, model_choices
from i2v.ui.html_part import build_drawn
from i2v.ui.language import Language, language_of
from i2v.ui.parts import Parts
from i2v.ui.script_calls import Asked, checked_call

__all__ = ["ModelsPart", "build_models", "model_card", "sentence", "wire_models"]

_MANY_PARAMETERS = 500_000_000  # from here on a CPU takes an hour and more
_HUB_PAGE = "https://huggingface.co/{repo}"


class _ModelAsked(Asked):
    """A model that the browser names."""

    name: str = Field(min_length=1, max_length=100)


class _Picked(Asked):
    """What the event `select` carries: a model to use, or only that one came or went."""

    do: Literal["use", "refresh"]
    model: str = Field("", max_length=100)


def build_models(service: Service) -> gr.HTML:
    """Return the part; choosing a model on it is the event `select`, with the model's name as its value."""
    part = ModelsPart(service)
    calls = (
        checked_call("models", Asked, part.models),
        checked_call("fetch_model", _ModelAsked, part.download),
        checked_call("pause_model", _ModelAsked, part.pause),
        checked_call("delete_model", _ModelAsked, part.remove),
    )
    return build_drawn("models", {}, elem_id="models", calls=calls)


class ModelsPart:
    """What the script may ask for. Each answers with all cards, so that the page is right at once."""

    def __init__(self, service: Service):
        self._service = service

    def models(self, _: Asked, language: Language) -> dict[str, Any]:
        """Return the card of every model."""
        on_disk, has_card = self._service.models_on_disk, bool(self._service.machine().gpus)
        downloads = on_disk.downloads()
        return {"models": [self._card(state, downloads, has_card, language) for state in on_disk.models()]}

    def _card(
        self, state: ModelState, downloads: Mapping[str, DownloadState], has_card: bool, language: Language
    ) -> dict[str, Any]:
        preset = state.preset
        fits = self._service.fits(preset.name) or "tracing"
        card = model_card(state, fits, downloads.get(preset.name), language)
        return card | {"is_slow": not has_card and preset.parameters >= _MANY_PARAMETERS}

    def download(self, asked: _ModelAsked, language: Language) -> dict[str, Any]:
        """Begin a download, or go on with it."""
        self._service.models_on_disk.start_download(asked.name)
        return self.models(asked, language)

    def pause(self, asked: _ModelAsked, language: Language) -> dict[str, Any]:
        self._service.models_on_disk.pause_download(asked.name)
        return self.models(asked, language)

    def remove(self, asked: _ModelAsked, language: Language) -> dict[str, Any]:
        """Delete a downloaded model, or what has come of it."""
        self._service.models_on_disk.delete(asked.name)
        return self.models(asked, language)


def sentence(text: str) -> str:
    """Return a text that begins with a capital, where its language has them."""
    return text[:1].upper() + text[1:]


def model_card(state: ModelState, fits: str, download: DownloadState | None, language: Language) -> dict[str, Any]:
    """Return what is shown of a model. `fits`: "fits", "tight", "too_big", "unknown" or "tracing"."""
    preset = state.preset
    return {
        "name": preset.name,
        "title": language.retell(preset.title),
        "summary": language.retell(preset.summary),
        "licence": sentence(language.retell(preset.licence)),
        "licence_note": language.retell(preset.licence_note),
        "ships": preset.hub is None,
        "installed": state.installed,
        "disk_bytes": state.disk_bytes,
        "download_bytes": preset.hub.download_bytes if preset.hub else 0,
        "hub_page": _HUB_PAGE.format(repo=preset.hub.repo) if preset.hub else "",
        "fits": fits,
        "download": _download(download, language) if download else None,
    }


def _download(download: DownloadState, language: Language) -> dict[str, Any]:
    return {
        "state": download.state.value,
        "done_bytes": download.done_bytes,
        "total_bytes": download.total_bytes,
        "bytes_per_s": download.bytes_per_s,
        "eta_s": download.eta_s,
        "error": language.error(download.error.to_error()) if download.error else "",
    }


def wire_models(
    page: gr.Blocks,
    service: Service,
    form: Form,
    parts: Parts,
    choose: Callable[[gr.Request, str], dict[Any, Any]],
    telling: Mapping[str, Any],
) -> None:
    """Have the form's menu say which models are here, and take the one that is picked in the part.

    `choose` returns what choosing a model changes in the form.
    """
    menu = form.fields["model"]

    def choices(request: gr.Request) -> list[tuple[str, str]]:
        language = language_of(request)
        return [(language.retell(shown), name) for shown, name in model_choices(service)]

    def picked(request: gr.Request, event: gr.SelectData) -> dict[Any, Any]:
        with told(request):
            asked = _picked(event.value)
            if asked.do == "refresh":
                return {menu: gr.Dropdown(choices=choices(request))}
            preset = preset_named(asked.model)
        shown = gr.Dropdown(value=preset.name, choices=choices(request), info=language_of(request).say(preset.summary))
        return choose(request, preset.name) | {menu: shown, parts.tabs: gr.Tabs(selected="create")}

    def bring_up_to_date(request: gr.Request) -> gr.Dropdown:
        return gr.Dropdown(choices=choices(request))

    # "multiple": that the list is out of date is told by itself, and a click just then must not be lost
    parts.models.select(picked, None, [*form.filled, parts.tabs], trigger_mode="multiple", **telling)
    page.load(bring_up_to_date, None, menu, **telling)


def _picked(value: Any) -> _Picked:
    try:
        return _Picked.model_validate(value)
    except ValidationError:
        raise InputError("the page asked for something that i2v does not know") from None
