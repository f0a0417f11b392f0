"""What happens on the page's events: plain methods from field values to updates. The work is the service's."""

from __future__ import annotations

import logging
from typing import Any

import gradio as gr
from gradio.components import Component

from i2v import devices
from i2v.errors import I2VError, InputError
from i2v.jobs.model import JobState
from i2v.presets import preset_named
from i2v.service import Service, Snapshot
from i2v.ui.card_presets import card_presets, preset_values
from i2v.ui.example_gallery import load_gallery
from i2v.ui.forecast_box import look_ahead
from i2v.ui.form import Form
from i2v.ui.form_values import request_values
from i2v.ui.panel import idle_panel, job_panel, peak_words
from i2v.ui.parts import Parts
from i2v.vocabulary import prompt_note

__all__ = ["Handlers"]

_log = logging.getLogger(__name__)
_BUSY_TICK_S, _IDLE_TICK_S = 0.5, 2.0
_HISTORY = 24
Updates = dict[Component, Any]


class Handlers:
    """The page's events. `seen` is what a tab has already been shown: {"job", "state", "preview"}."""

    def __init__(self, service: Service, form: Form, parts: Parts):
        self._service, self._form, self._parts = service, form, parts

    def _fields(self, values: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self._form.names, values, strict=True))

    def validate(self, *values: Any) -> list[dict[str, Any]]:
        """Check all fields; the message stands at the field it concerns."""
        wrong_field, message = "", ""
        try:
            request, image = request_values(self._fields(values))
            if image is None:
                raise InputError("there is no start picture", "Choose one first.", field="image")
            self._service.check(request, (request["width"], request["height"]))
        except I2VError as error:
            wrong_field = error.field if error.field in self._form.names else "prompt"
            message = str(error)
        return [gr.validate(name != wrong_field, message) for name in self._form.names]

    def start(self, *values: Any) -> str:
        """Queue a job and return its id."""
        try:
            request, image = request_values(self._fields(values))
            return self._service.submit(request, image).id
        except I2VError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def cancel(self, job_id: str) -> None:
        try:
            self._service.cancel(job_id)
        except I2VError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def retry(self, job_id: str) -> None:
        try:
            self._service.retry(job_id)
        except I2VError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def attach(self, job_id: str) -> str:
        """Choose the job a freshly loaded page shows: a running one first, else the one it showed before."""
        self._service.warm_up()
        active = self._service.active_jobs()
        if active:
            return next((job.id for job in active if job.id == job_id), active[0].id)
        return job_id if job_id and self._service.snapshot(job_id) else ""

    def tick(self, job_id: str, seen: dict[str, Any]) -> Updates:
        """Bring the page up to date; only what changed is sent, the panel always."""
        p = self._parts
        snapshot = self._service.snapshot(job_id) if job_id else None
        if snapshot is None:
            changed = seen.get("job") != ""
            return {p.panel: idle_panel(), p.seen: {"job": "", "state": "", "preview": 0}} | (
                self._calm() if changed else {}
            )
        now = {"job": job_id, "state": snapshot.job.state.value, "preview": _preview_number(snapshot)}
        preview_seen = seen.get("preview", 0) if seen.get("job") == job_id else 0
        updates: Updates = {p.panel: job_panel(snapshot, preview_seen), p.seen: now}
        if (seen.get("job"), seen.get("state")) != (now["job"], now["state"]):
            updates |= self._new_state(snapshot)
        return updates

    def _calm(self) -> Updates:
        p = self._parts
        return {p.timer: gr.Timer(_IDLE_TICK_S), p.cancel: gr.Button(interactive=False)} | self.history()

    def _new_state(self, snapshot: Snapshot) -> Updates:
        p, job = self._parts, snapshot.job
        video = snapshot.file("mp4")
        finished = [str(path) for kind in job.result["files"] if (path := snapshot.file(kind))] if job.result else []
        retryable = job.state in (JobState.FAILED, JobState.CANCELLED)
        return {
            p.timer: gr.Timer(_IDLE_TICK_S if snapshot.is_over else _BUSY_TICK_S),
            p.cancel: gr.Button(
                "Cancelling…" if job.state is JobState.CANCELLING else "Cancel",
                interactive=job.state in (JobState.QUEUED, JobState.RUNNING),
            ),
            p.result: gr.Video(value=str(video) if video else None, visible=video is not None),
            p.files: gr.File(value=finished or None, visible=bool(finished)),
            p.details: gr.Markdown(_details(snapshot), visible=snapshot.is_over),
            p.reuse: gr.Button(visible=snapshot.is_over),
            p.retry: gr.Button(visible=retryable),
        } | self.history()

    def history(self) -> Updates:
        """Return the gallery of past jobs and their ids."""
        shown = [s for s in self._service.history(limit=_HISTORY) if s.picture("picture.png")]
        items = [(str(s.picture("poster.jpg") or s.picture("picture.png")), _caption(s)) for s in shown]
        p = self._parts
        return {
            p.history: gr.Gallery(value=items, visible=bool(items)),
            p.history_title: gr.Markdown(visible=bool(items)),
            p.history_ids: [s.job.id for s in shown],
        }

    def open_past(self, ids: list[str], event: gr.SelectData) -> str:
        """Return the id of the job chosen in the gallery."""
        return ids[event.index] if 0 <= event.index < len(ids) else ""

    def reuse(self, job_id: str) -> Updates:
        """Fill the form from the job on show."""
        snapshot = self._service.snapshot(job_id)
        if snapshot is None:
            raise gr.Error("That job is no longer there.")
        return self._form.reuse_updates(snapshot.job.request, snapshot.picture("picture.png"))

    def choose_model(self, model: str) -> Updates:
        return self._form.model_updates(model)

    def take_example(self, model: str, event: gr.SelectData) -> Updates:
        """Fill the form from the example that was clicked in the gallery."""
        gallery, number = load_gallery(), event.index
        if not isinstance(number, int) or not 0 <= number < len(gallery.examples):
            raise gr.Error("That example is no longer there.")
        return self._form.example_updates(gallery, gallery.examples[number], model)

    def note_words(self, model: str, prompt: str) -> dict[str, str]:
        """Return the note below the prompt: what is to `say` of its words, and which prompt that is `about`."""
        return {"about": prompt or "", "say": prompt_note(preset_named(model), prompt or "")}

    def choose_matching(self, match: bool) -> Updates:
        f = self._form.fields
        return {
            f["short_side_px"]: gr.Slider(visible=match),
            f["width"]: gr.Number(visible=not match),
            f["height"]: gr.Number(visible=not match),
        }

    def forecast(self, foreseen: dict[str, Any], *values: Any) -> Updates:
        """Bring the forecast and the presets up to the fields; only what changed is sent.

        The values come as the browser has them, for a model just chosen may have other limits than they.
        """
        p, fields = self._parts, self._fields(values)
        fields["image"] = (fields["image"] or {}).get("path")
        box, presets = look_ahead(self._service, fields), card_presets(fields, _card())
        updates: Updates = {p.foreseen: {"box": box, "presets": presets}}
        if box != foreseen.get("box"):
            updates |= {p.forecast: box} | self._offer(box.get("suggestions", []))
        if presets != foreseen.get("presets"):
            updates[p.card_presets] = gr.Radio(**presets)
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

    def _filled(self, values: dict[str, Any]) -> Updates:
        return {self._form.fields[name]: value for name, value in values.items()} or gr.skip()


def _card() -> devices.Gpu | None:
    return devices.first_visible_gpu(devices.gpus())


def _preview_number(snapshot: Snapshot) -> int:
    return snapshot.live.preview_number if snapshot.live else 0


def _details(snapshot: Snapshot) -> str:
    """Return what made a result, as plain text for Markdown (the prompt is escaped)."""
    request, result = snapshot.job.request, snapshot.job.result or {}
    parts = [
        f"{request['width']} × {request['height']}",
        f"{request['num_frames']} frames at {request['fps']} fps",
        *(["loop"] if request.get("loop") else []),
        f"{request['num_inference_steps']} steps",
        f"seed {request['seed']}",
    ]
    if result:
        kind, foreseen = "VRAM" if result["peak_kind"] == "gpu" else "RAM", result.get("forecast") or {}
        parts += [f"{result['seconds']:.1f} s", f"{kind} {peak_words(result['peak_bytes'], foreseen)}"]
        parts += [words] if (words := result.get("plan", {}).get("words")) else []
    return f"“{_escape(request['prompt'])}”  \n" + " · ".join(parts)


def _escape(text: str) -> str:
    return "".join(f"&#{ord(c)};" if c in "\\`*_{}[]()<>#+-.!|~&$\n" else c for c in text)


def _caption(snapshot: Snapshot) -> str:
    state, prompt = snapshot.job.state, snapshot.job.request["prompt"]
    short = prompt if len(prompt) <= 40 else prompt[:39] + "…"
    return short if state is JobState.DONE else f"{state.value}: {short}"
