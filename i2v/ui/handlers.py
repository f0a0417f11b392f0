"""What happens on the page's events about jobs: plain methods from values to updates. The work is the service's."""

from __future__ import annotations

import time
from functools import cache
from typing import Any, Literal

import gradio as gr
from pydantic import BaseModel, ConfigDict, ValidationError

from i2v.errors import I2VError, InputError
from i2v.jobs.folder import if_there
from i2v.jobs.model import JobState
from i2v.media.image import check_picture
from i2v.service import Service, Snapshot
from i2v.ui.error_card import refusal_card
from i2v.ui.error_messages import told
from i2v.ui.form import Form
from i2v.ui.form_values import request_values
from i2v.ui.language import Language, language_of
from i2v.ui.panel import Seen, idle_panel, job_panel
from i2v.ui.parts import Parts
from i2v.ui.result import NOTHING_YET, result_box

__all__ = ["NOT_REFUSED", "Handlers"]

NOT_REFUSED: dict[str, Any] = {"field": "", "message": ""}

_BUSY_TICK_S, _IDLE_TICK_S = 0.5, 2.0
Updates = dict[Any, Any]


class _Fields(BaseModel):
    """The form's fields that a suggestion may change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    match_picture: bool | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: int | None = None
    num_inference_steps: int | None = None
    precision: str | None = None


class Wish(BaseModel):
    """What a button of the result asks for.

    "refill": the settings of the job on show with `fields` changed; "fill": only `fields`; "show": nothing but a tick.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    do: Literal["retry", "system", "fill", "refill", "reuse", "extend", "show"]
    fields: _Fields = _Fields()


class Handlers:
    """The events about jobs. `seen` is what a tab has already been shown, a panel.Seen as a dictionary."""

    def __init__(self, service: Service, form: Form, parts: Parts):
        self._service, self._form, self._parts = service, form, parts

    def _fields(self, values: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self._form.names, values, strict=True))

    def start(self, request: gr.Request, *values: Any) -> Updates:
        """Queue a job and show it. What is wrong with a field is said at the field; else a card offers what would do.

        Not by Gradio's validator: its messages go as soon as any other event has the field among its inputs.
        """
        p, language = self._parts, language_of(request)
        checked = cache(check_picture)  # whoever asks for the picture below, it is decoded once
        try:
            asked, image = request_values(self._fields(values), lambda path: checked(path).size)
            if image is None:
                raise InputError(
                    "there is no start picture", "Choose one first, or wait until it is uploaded.", field="image"
                )
            picture = checked(image)
            self._service.check(asked, picture.size)
        except I2VError as error:
            return {p.refusal: self._at_its_field(error, language)}
        try:
            return {p.job: self._service.submit(asked, picture).id, p.refusal: NOT_REFUSED}
        except I2VError as error:
            card = refusal_card(self._service, error, asked, picture.size, language)
            return {p.result: {"job": "", "card": card, "at": time.time()}, p.refusal: NOT_REFUSED}

    def _at_its_field(self, error: I2VError, language: Language) -> dict[str, Any]:
        field = self._form.fields.get(error.field or "")
        return {"field": field.elem_id if field else "", "message": language.error(error), "at": time.time()}

    def cancel(self, request: gr.Request, job_id: str) -> None:
        with told(request):
            self._service.cancel(job_id)

    def stop(self, request: gr.Request, job_id: str) -> None:
        """End a run early and keep what it has made."""
        with told(request):
            self._service.stop_and_keep(job_id)

    def use_result(self, request: gr.Request, event: gr.SelectData, job_id: str) -> Updates:
        """Do what a button below the result, or of an error's card, asks for."""
        with told(request):
            try:
                asked = Wish.model_validate(event.value)
            except ValidationError:
                raise InputError("the page asked for something that i2v does not know") from None
            match asked.do:
                case "retry":
                    self._service.retry(job_id)
                case "system":
                    return {self._parts.tabs: gr.Tabs(selected="system")}
                case "reuse" | "extend" | "refill" | "fill":
                    settings = {} if asked.do == "fill" else self._refilled(job_id, asked.do, language_of(request))
                    changed = asked.fields.model_dump(exclude_none=True)
                    return settings | {self._form.fields[name]: value for name, value in changed.items()}
        nothing: Updates = gr.skip()
        return nothing

    def _refilled(self, job_id: str, wish: str, language: Language) -> Updates:
        """Fill the form from the job on show; to extend its video, with its last frame as the picture."""
        snapshot = self._service.snapshot(job_id)
        if snapshot is None:
            raise InputError("that job is no longer there")
        extend = wish == "extend"
        picture = self._service.library.last_frame(job_id) if extend else if_there(snapshot.folder.picture)
        updates = self._form.reuse_updates(snapshot.job.request, picture, language)
        return updates | ({self._form.fields["seed"]: ""} if extend else {})

    def open_past(self, event: gr.SelectData) -> Updates:
        """Show the job that was chosen in the history."""
        p = self._parts
        return {p.job: str(event.value), p.tabs: gr.Tabs(selected="create")}

    def attach(self, request: gr.Request, job_id: str) -> str:
        """Choose the job a freshly loaded page shows: that of its link, else a running one, else the one before."""
        self._service.warm_up()
        linked = str(request.query_params.get("job", ""))
        if linked and self._service.snapshot(linked):
            return linked
        active = self._service.active_jobs()
        if active:
            return next((job.id for job in active if job.id == job_id), active[0].id)
        return job_id if job_id and self._service.snapshot(job_id) else ""

    def tick(self, request: gr.Request, job_id: str, seen: dict[str, Any] | None) -> Updates:
        """Bring the page up to date; only what changed is sent, the panel always."""
        p, language = self._parts, language_of(request)
        snapshot = self._service.snapshot(job_id) if job_id else None
        before = _seen(seen)
        if snapshot is None:
            nothing = {p.panel: idle_panel(language), p.seen: Seen().model_dump()}
            return nothing | (self._calm(language) if before is None or before.job else {})
        panel, now = job_panel(self._service, snapshot, before or Seen(), language)
        updates: Updates = {p.panel: panel, p.seen: now.model_dump()}
        if before is None or (before.job, before.state) != (now.job, now.state):
            updates |= self._new_state(snapshot, language)
        return updates

    def _calm(self, language: Language) -> Updates:
        p = self._parts
        return {
            p.timer: gr.Timer(_IDLE_TICK_S),
            p.generate: gr.Button(language.say("Generate")),
            p.cancel: gr.Button(language.say("Cancel"), interactive=False),
            p.stop: gr.Button(visible=False),
            p.result: NOTHING_YET,
        }

    def _new_state(self, snapshot: Snapshot, language: Language) -> Updates:
        p, state = self._parts, snapshot.job.state
        can_cancel = state in (JobState.QUEUED, JobState.RUNNING, JobState.STOPPING)
        words = language.say("Cancelling…") if state is JobState.CANCELLING else language.say("Cancel")
        return {
            p.timer: gr.Timer(_IDLE_TICK_S if snapshot.is_over else _BUSY_TICK_S),
            p.generate: gr.Button(language.say("Generate" if snapshot.is_over else "Add to queue")),
            p.cancel: gr.Button(words, interactive=can_cancel),
            p.stop: gr.Button(visible=state is JobState.RUNNING),
            p.result: result_box(self._service, snapshot, language),
        }


def _seen(kept: dict[str, Any] | None) -> Seen | None:
    """Return what a tab has kept; None for a new one, or for what no page of this version has kept."""
    try:
        return Seen.model_validate(kept) if kept else None
    except ValidationError:
        return None
