"""The System tab: the models, and below them the machine, what the worker holds, versions and the log.

static/system.html, system.css and system.js draw the machine; the functions of `build_machine` are what they ask of the
server. What is sent are facts in bytes and counts, and sentences in the language of the browser.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from i2v.presets.model_preset import load_presets
from i2v.service import Service
from i2v.ui.html_part import build_drawn
from i2v.ui.language import Language
from i2v.ui.models_part import build_models, sentence
from i2v.ui.report import bug_report, without_names
from i2v.ui.script_calls import Asked, checked_call

__all__ = ["MachinePart", "build_machine", "build_system"]

_LOG_LINES = 80


def build_system(service: Service) -> tuple[gr.HTML, gr.HTML]:
    """Lay out the tab and return its parts: the models, and the machine."""
    with gr.Column():
        return build_models(service), build_machine(service)


def build_machine(service: Service) -> gr.HTML:
    """Return the part."""
    part = MachinePart(service)
    calls = (
        checked_call("machine", Asked, part.machine),
        checked_call("unload_model", Asked, part.unload),
        checked_call("log", Asked, part.log),
        checked_call("report", Asked, part.report),
    )
    return build_drawn("system", {}, elem_id="system", calls=calls)


class MachinePart:
    """What the script may ask for."""

    def __init__(self, service: Service):
        self._service = service

    def machine(self, _: Asked, language: Language) -> dict[str, Any]:
        """Return the machine and the worker as they are now."""
        facts, doctor = self._service.machine(), self._service.doctor()
        return {
            "gpus": [
                {
                    "name": gpu.name,
                    "driver": gpu.driver,
                    "used_bytes": gpu.total_bytes - gpu.free_bytes,
                    "total_bytes": gpu.total_bytes,
                }
                for gpu in facts.gpus
            ],
            "ram": _memory(facts.ram_available_bytes, facts.ram_total_bytes),
            "disk": _memory(facts.disk_free_bytes, facts.disk_total_bytes),
            "cpu_count": facts.cpu_count,
            "home": without_names(str(facts.home)),
            "versions": list(facts.versions.items()),
            "problems": [
                {name: sentence(language.retell(text)) for name, text in problem.items()}
                for problem in doctor["problems"]
            ],
            "worker": self._worker(language),
        }

    def _worker(self, language: Language) -> dict[str, Any]:
        worker = self._service.worker_state()
        preset = load_presets().get(worker.model or "")
        return {
            "pid": worker.pid,
            "rss_bytes": worker.rss_bytes,
            "is_running": worker.running_job is not None,
            "model": language.retell(preset.title) if preset else worker.model,
            "weights_bytes": worker.weights_bytes,
            "precision": worker.precision,
            "device": worker.device,
        }

    def unload(self, asked: Asked, language: Language) -> dict[str, Any]:
        """Have the worker give its memory back, and return the machine after it."""
        self._service.unload()
        return self.machine(asked, language)

    def log(self, _: Asked, language: Language) -> dict[str, Any]:
        """Return the end of the log."""
        return {"lines": self._service.log_tail(_LOG_LINES)}

    def report(self, _: Asked, language: Language) -> dict[str, Any]:
        """Return all of this as text for a bug report."""
        return {"text": bug_report(self._service)}


def _memory(free_bytes: int, total_bytes: int) -> dict[str, int]:
    return {"used_bytes": total_bytes - free_bytes, "total_bytes": total_bytes}
