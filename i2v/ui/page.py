"""The page: what stands where, and which event calls which handler."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from i2v.service import Service
from i2v.ui.card_presets import build_card_presets
from i2v.ui.client_api import add_client_api
from i2v.ui.compare import build_compare
from i2v.ui.example_gallery import GALLERY_FOLDER, shown_examples
from i2v.ui.forecast_box import MOST_SUGGESTIONS, WORKING
from i2v.ui.form import Form
from i2v.ui.form_handlers import FormHandlers
from i2v.ui.framing import NO_PICTURE
from i2v.ui.handlers import NOT_REFUSED, Handlers
from i2v.ui.history import build_history
from i2v.ui.html_part import build_drawn
from i2v.ui.language import label
from i2v.ui.models_part import wire_models
from i2v.ui.own_presets import build_own_presets
from i2v.ui.panel import build_panel
from i2v.ui.parts import Parts
from i2v.ui.quality import build_quality
from i2v.ui.result import build_result
from i2v.ui.system import build_system

__all__ = ["build_page"]

_NOT_FORESEEN = ("prompt", "negative_prompt", "seed", "loop", "formats")  # they do not change what a run takes
_TELLING: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # their errors come as messages
_QUIET = _TELLING | {"queue": False}  # at once; Gradio does not show an error of theirs


def build_page(service: Service) -> gr.Blocks:
    """Lay out the page on a service."""
    page: gr.Blocks
    with gr.Blocks(title="i2v", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        with gr.Row(elem_id="masthead"):
            gr.Markdown("# i2v", elem_id="title")
            gr.Markdown(label("One picture and a sentence become a video, on the machine you own."), elem_id="tagline")
        form = Form(service)
        with gr.Tabs(elem_id="tabs", selected="create") as tabs:
            with gr.Tab(label("Create"), id="create"):
                made = _create(service, form)
            with gr.Tab(label("History"), id="history"):
                made |= {"history": build_history(service), "compare": build_compare(service)}
            with gr.Tab(label("System"), id="system"):
                made["models"], made["system"] = build_system(service)
        parts = _with_memory(made | {"tabs": tabs})
        _wire_jobs(page, form, Handlers(service, form, parts), parts)
        _wire_form(page, service, form, FormHandlers(service, form, parts), parts)
        add_client_api(service)
    return page


def _create(service: Service, form: Form) -> dict[str, Any]:
    with gr.Row(elem_id="main"):
        with gr.Column(elem_id="ask"):
            form.picture()
            framing = build_drawn("framing", NO_PICTURE, elem_id="framing")
            form.fit()
            form.prompt()
            note = build_drawn("note", {"about": "", "say": ""}, elem_id="prompt-note")
            form.prompts_to_try()
            made = {"framing": framing, "prompt_note": note} | _settings(form) | _action()
        with gr.Column(elem_id="answer"):
            return made | _answer(service)


def _settings(form: Form) -> dict[str, Any]:
    with gr.Column(elem_id="settings"):
        form.model()
        made: dict[str, Any] = {"quality": build_quality(elem_id="quality")}
        made["card_presets"] = build_card_presets(elem_id="card-presets")
        form.size_and_length()
        form.more()
        form.advanced()
        made["own_presets"] = build_own_presets()
        made["load_settings"] = gr.UploadButton(
            label("Load the settings of an i2v video"),
            file_types=[".mp4", ".gif", ".webp", ".zip"],
            size="sm",
            elem_id="load-settings",
        )
    return made


def _action() -> dict[str, Any]:
    """Lay out what is seen before the click and the click itself; it stays in view while the settings are scrolled."""
    with gr.Column(elem_id="action"):
        forecast = build_drawn("forecast", WORKING, elem_id="forecast")
        refusal = build_drawn("refusal", NOT_REFUSED, elem_id="refusal")
        with gr.Row(elem_id="suggestions"):
            suggestions = tuple(
                gr.Button(visible=False, size="sm", elem_id=f"suggestion-{number}")
                for number in range(MOST_SUGGESTIONS)
            )
        with gr.Row(elem_id="go"):
            generate = gr.Button(label("Generate"), variant="primary", elem_id="generate", scale=2)
            stop = gr.Button(label("Stop and keep"), elem_id="stop", visible=False, scale=1, min_width=140)
            cancel = gr.Button(label("Cancel"), elem_id="cancel", interactive=False, scale=1, min_width=100)
    made: dict[str, Any] = {"forecast": forecast, "refusal": refusal, "suggestions": suggestions}
    return made | {"generate": generate, "stop": stop, "cancel": cancel}


def _answer(service: Service) -> dict[str, Any]:
    panel, result = build_panel(service), build_result(service)
    gr.set_static_paths([GALLERY_FOLDER])  # served in place: copies in Gradio's cache are deleted after a day
    gallery = build_drawn("gallery", shown_examples(), elem_id="gallery")
    return {"gallery": gallery, "panel": panel, "result": result}


def _with_memory(made: dict[str, Any]) -> Parts:
    """Add what a tab remembers and what wakes it up.

    It remembers in hidden JSON and not in gr.State: for that Gradio would keep a connection open in every tab, and a
    browser has six for one address, so that the seventh tab would never load.
    """
    return Parts(
        job=gr.BrowserState("", storage_key="i2v_job", secret="i2v"),  # a job id is no secret of its browser
        seen=gr.JSON({}, visible=False),
        timer=gr.Timer(2.0),
        foreseen=gr.JSON({}, visible=False),
        forecast_timer=gr.Timer(3.0),  # other programs take memory and give it back
        **made,
    )


def _wire_jobs(page: gr.Blocks, form: Form, handlers: Handlers, parts: Parts) -> None:
    fields, shown = form.components, parts.shown

    def then_tick(event: gr.events.Dependency) -> None:
        event.then(handlers.tick, [parts.job, parts.seen], shown, **_QUIET)

    answers = [parts.job, parts.result, parts.refusal]
    then_tick(parts.generate.click(handlers.start, fields, answers, **_QUIET))
    then_tick(parts.cancel.click(handlers.cancel, parts.job, None, **_TELLING))
    then_tick(parts.stop.click(handlers.stop, parts.job, None, **_TELLING))
    then_tick(parts.result.select(handlers.use_result, parts.job, [parts.tabs, *form.filled], **_TELLING))
    then_tick(parts.history.select(handlers.open_past, None, [parts.job, parts.tabs], **_QUIET))
    parts.timer.tick(handlers.tick, [parts.job, parts.seen], shown, **_QUIET)
    then_tick(page.load(handlers.attach, parts.job, parts.job, **_QUIET))


def _wire_form(page: gr.Blocks, service: Service, form: Form, handlers: FormHandlers, parts: Parts) -> None:
    model = form.fields["model"]
    parts.gallery.select(handlers.take_example, model, form.filled, **_TELLING)
    model.input(handlers.choose_model, model, form.filled, **_QUIET)
    form.fields["match_picture"].change(
        handlers.choose_matching, form.fields["match_picture"], form.components, **_QUIET
    )
    changes = [field.change for field in form.fields.values()]
    gr.on(changes, js="() => { document.dispatchEvent(new Event('i2v:changed')); }", **_QUIET)
    asked = [model, form.fields["prompt"]]
    noted = _QUIET | {"trigger_mode": "always_last"}
    gr.on([field.change for field in asked], handlers.note_words, asked, parts.prompt_note, **noted)
    form.swap.click(handlers.swap_sides, form.components, form.components, **_TELLING)
    parts.quality.input(handlers.choose_quality, [parts.quality, model], form.components, **_QUIET)
    parts.load_settings.upload(handlers.load_settings, parts.load_settings, form.filled, **_TELLING)
    parts.own_presets.wire(page, service, form, _TELLING)
    wire_models(page, service, form, parts, handlers.choose_model, _TELLING)
    _wire_forecast(page, form, handlers, parts)


def _wire_forecast(page: gr.Blocks, form: Form, handlers: FormHandlers, parts: Parts) -> None:
    changes = [field.change for name, field in form.fields.items() if name not in _NOT_FORESEEN]
    causes = [*changes, parts.forecast_timer.tick, page.load]
    raw = _QUIET | {"trigger_mode": "always_last", "preprocess": False}
    gr.on(
        causes, handlers.forecast, [parts.foreseen, *form.components], [*parts.ahead, form.fields["image_fit"]], **raw
    )
    for number, button in enumerate(parts.suggestions):
        button.click(partial(handlers.take_suggestion, number), parts.foreseen, form.components, **_QUIET)
    chosen = [parts.card_presets, form.fields["model"]]
    parts.card_presets.input(handlers.choose_card_preset, chosen, form.components, **_QUIET)
