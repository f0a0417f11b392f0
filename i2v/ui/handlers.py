"""What happens on the page's events about jobs: plain methods from values to updates. The work is the service's."""

from __future__ import annotations

from typing import Any

import gradio as gr

from i2v.errors import I2VError, InputError
from i2v.jobs.model import JobState
from i2v.service import Service, Snapshot
from i2v.ui.form import Form
from i2v.ui.form_values import request_values
from i2v.ui.language import Language, language_of
from i2v.ui.panel import idle_panel, job_panel
from i2v.ui.parts import Parts
from i2v.ui.result import NOTHING_YET, result_box
from i2v.ui.told import told

__all__ = ["Handlers"]

_BUSY_TICK_S, _IDLE_TICK_S = 0.5, 2.0
Updates = dict[Any, Any]


class Handlers:
    """The events about jobs. `seen` is what a tab has already been shown: {"job", "state", "preview"}."""

    def __init__(self, service: Service, form: Form, parts: Parts):
        self._service, self._form, self._parts = service, form, parts

    def _fields(self, values: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self._form.names, values, strict=True))

    def validate(self, request: gr.Request, *values: Any) -> list[dict[str, Any]]:
        """Check all fields; the message stands at the field it concerns."""
        wrong_field, message = "", ""
        try:
            asked, image = request_values(self._fields(values))
            if image is None:
                raise InputError("there is no start picture", "Choose one first.", field="image")
            self._service.check(asked, (asked["width"], asked["height"]))
        except I2VError as error:
            wrong_field = error.field if error.field in self._form.names else "prompt"
            message = language_of(request).error(error)
        return [gr.validate(name != wrong_field, message) for name in self._form.names]

    def start(self, request: gr.Request, *values: Any) -> str:
        """Queue a job and return its id."""
        with told(request):
            asked, image = request_values(self._fields(values))
            return self._service.submit(asked, image).id

    def cancel(self, request: gr.Request, job_id: str) -> None:
        with told(request):
            self._service.cancel(job_id)

    def stop(self, request: gr.Request, job_id: str) -> None:
        """End a run early and keep what it has made."""
        with told(request):
            self._service.stop_and_keep(job_id)

    def remedy(self, request: gr.Request, event: gr.SelectData, job_id: str) -> Updates:
        """Do what a button of an error card offers."""
        with told(request):
            if event.value == "retry":
                self._service.retry(job_id)
        return gr.skip()

    def use_result(self, request: gr.Request, event: gr.SelectData, job_id: str) -> Updates:
        """Do what a button below the result offers."""
        with told(request):
            snapshot = self._shown(job_id)
            if event.value == "reuse":
                return self._form.reuse_updates(
                    snapshot.job.request, snapshot.picture("picture.png"), language_of(request)
                )
        return gr.skip()

    def _shown(self, job_id: str) -> Snapshot:
        snapshot = self._service.snapshot(job_id)
        if snapshot is None:
            raise InputError("that job is no longer there")
        return snapshot

    def open_past(self, event: gr.SelectData) -> Updates:
        """Show the job that was chosen in the history."""
        p = self._parts
        return {p.job: str(event.value), p.tabs: gr.Tabs(selected="create")}

    def attach(self, request: gr.Request, job_id: str) -> str:
        """Choose the job a freshly loaded page shows: that of its link, else a running one, else the one before."""
        self._service.warm_up()
        linked = request.query_params.get("job", "")
        if linked and self._service.snapshot(linked):
            return linked
        active = self._service.active_jobs()
        if active:
            return next((job.id for job in active if job.id == job_id), active[0].id)
        return job_id if job_id and self._service.snapshot(job_id) else ""

    def tick(self, request: gr.Request, job_id: str, seen: dict[str, Any]) -> Updates:
        """Bring the page up to date; only what changed is sent, the panel always."""
        p, language = self._parts, language_of(request)
        snapshot = self._service.snapshot(job_id) if job_id else None
        if snapshot is None:
            nothing = {p.panel: idle_panel(language), p.seen: {"job": "", "state": "", "preview": 0}}
            return nothing | (self._calm() if seen.get("job") != "" else {})
        now = {"job": job_id, "state": snapshot.job.state.value, "preview": _preview_number(snapshot)}
        preview_seen = seen.get("preview", 0) if seen.get("job") == job_id else 0
        updates: Updates = {p.panel: job_panel(self._service, snapshot, preview_seen, language), p.seen: now}
        if (seen.get("job"), seen.get("state")) != (now["job"], now["state"]):
            updates |= self._new_state(snapshot, language)
        return updates

    def _calm(self) -> Updates:
        p = self._parts
        return {
            p.timer: gr.Timer(_IDLE_TICK_S),
            p.cancel: gr.Button(interactive=False),
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


def _preview_number(snapshot: Snapshot) -> int:
    return snapshot.live.preview_number if snapshot.live else 0
