"""The page: what stands where, and which event calls which handler."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from i2v.service import Service
from i2v.ui.card_presets import build_card_presets
from i2v.ui.client_api import add_client_api
from i2v.ui.drawn import build_drawn
from i2v.ui.example_gallery import GALLERY_FOLDER, shown_examples
from i2v.ui.forecast_box import MOST_SUGGESTIONS, WORKING
from i2v.ui.form import Form
from i2v.ui.handlers import Handlers
from i2v.ui.panel import idle_panel
from i2v.ui.parts import Parts

__all__ = ["build_page"]

_NOT_FORESEEN = ("prompt", "negative_prompt", "seed", "loop", "formats")  # they do not change what a run takes
_TITLE = "# i2v\nOne picture and a sentence become a video, on the machine you own."


def build_page(service: Service) -> gr.Blocks:
    """Lay out the page on a service."""
    page: gr.Blocks
    with gr.Blocks(title="i2v", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(_TITLE, elem_id="masthead")
        form = Form(service)
        with gr.Row(elem_id="main"):
            with gr.Column(elem_id="ask"):
                form.picture_and_prompt()
                made = {"prompt_note": build_drawn("note", {"about": "", "say": ""}, elem_id="prompt-note")}
                form.prompts_to_try()
                made |= _settings(form) | _action()
            with gr.Column(elem_id="answer"):
                made |= _results()
        parts = _with_history(made)
        _wire(page, form, Handlers(service, form, parts), parts)
        add_client_api(service)
    return page


def _settings(form: Form) -> dict[str, Any]:
    with gr.Column(elem_id="settings"):
        form.model()
        presets = build_card_presets(elem_id="card-presets")
        form.size_and_length()
        form.more()
        form.advanced()
    return {"card_presets": presets}


def _action() -> dict[str, Any]:
    """Lay out what is seen before the click and the click itself; it stays in view while the settings are scrolled."""
    with gr.Column(elem_id="action"):
        forecast = build_drawn("forecast", WORKING, elem_id="forecast")
        with gr.Row(elem_id="suggestions"):
            suggestions = tuple(
                gr.Button(visible=False, size="sm", elem_id=f"suggestion-{number}")
                for number in range(MOST_SUGGESTIONS)
            )
        with gr.Row(elem_id="go"):
            generate = gr.Button("Generate", variant="primary", elem_id="generate", scale=3)
            cancel = gr.Button("Cancel", elem_id="cancel", interactive=False, scale=1, min_width=100)
    return {"forecast": forecast, "suggestions": suggestions, "generate": generate, "cancel": cancel}


def _results() -> dict[str, Any]:
    panel = build_drawn("panel", idle_panel(), elem_id="panel")
    result = gr.Video(
        label="Result",
        autoplay=True,
        loop=True,
        interactive=False,
        visible=False,
        elem_id="result",
        height=420,
    )
    details = gr.Markdown(visible=False, elem_id="details")
    with gr.Row(elem_id="again"):
        reuse = gr.Button("Reuse settings", visible=False, elem_id="reuse")
        retry = gr.Button("Try again", visible=False, elem_id="retry")
    files = gr.File(label="Download", visible=False, elem_id="files", file_count="multiple", interactive=False)
    gr.set_static_paths([GALLERY_FOLDER])  # served in place: copies in Gradio's cache are deleted after a day
    gallery = build_drawn("gallery", shown_examples(), elem_id="gallery")
    return {
        "gallery": gallery,
        "panel": panel,
        "result": result,
        "details": details,
        "reuse": reuse,
        "retry": retry,
        "files": files,
    }


def _with_history(made: dict[str, Any]) -> Parts:
    title = gr.Markdown("## History", elem_id="history-title", visible=False)
    history = gr.Gallery(
        label="History",
        columns=6,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        show_label=False,
        visible=False,
        elem_id="history",
        interactive=False,
    )
    return Parts(
        job=gr.BrowserState("", storage_key="i2v_job", secret="i2v"),  # a job id is no secret of its browser
        seen=gr.State({}),
        timer=gr.Timer(2.0),
        foreseen=gr.State({}),
        forecast_timer=gr.Timer(3.0),  # other programs take memory and give it back
        history=history,
        history_title=title,
        history_ids=gr.State([]),
        **made,
    )


def _wire(page: gr.Blocks, form: Form, handlers: Handlers, parts: Parts) -> None:
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    fields, shown = form.components, parts.shown

    def then_tick(event: gr.events.Dependency) -> None:
        event.then(handlers.tick, [parts.job, parts.seen], shown, **quiet)

    then_tick(
        parts.generate.click(handlers.start, fields, parts.job, validator=handlers.validate, api_visibility="private")
    )
    then_tick(parts.cancel.click(handlers.cancel, parts.job, None, **quiet))
    then_tick(parts.retry.click(handlers.retry, parts.job, None, **quiet))
    then_tick(parts.history.select(handlers.open_past, parts.history_ids, parts.job, **quiet))
    parts.reuse.click(handlers.reuse, parts.job, form.filled, **quiet)
    parts.gallery.select(handlers.take_example, form.fields["model"], form.filled, **quiet)
    parts.timer.tick(handlers.tick, [parts.job, parts.seen], shown, **quiet)

    form.fields["model"].input(handlers.choose_model, form.fields["model"], form.filled, **quiet)
    form.fields["match_picture"].change(handlers.choose_matching, form.fields["match_picture"], fields, **quiet)
    _wire_forecast(page, form, handlers, parts, quiet)
    asked = [form.fields["model"], form.fields["prompt"]]
    noted = quiet | {"trigger_mode": "always_last"}
    gr.on([field.change for field in asked], handlers.note_words, asked, parts.prompt_note, **noted)
    then_tick(page.load(handlers.attach, parts.job, parts.job, **quiet))


def _wire_forecast(page: gr.Blocks, form: Form, handlers: Handlers, parts: Parts, quiet: dict[str, Any]) -> None:
    changes = [field.change for name, field in form.fields.items() if name not in _NOT_FORESEEN]
    causes = [*changes, parts.forecast_timer.tick, page.load]
    raw = quiet | {"trigger_mode": "always_last", "preprocess": False}
    gr.on(causes, handlers.forecast, [parts.foreseen, *form.components], parts.ahead, **raw)
    for number, button in enumerate(parts.suggestions):
        button.click(partial(handlers.take_suggestion, number), parts.foreseen, form.components, **quiet)
    chosen = [parts.card_presets, form.fields["model"]]
    parts.card_presets.input(handlers.choose_card_preset, chosen, form.components, **quiet)
