"""The report for a bug: machine, worker, models, problems and the end of the log as plain text.

Without names of people. In English whatever the page speaks, as those who read it may not speak that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from i2v.machine.devices import Gpu
from i2v.service import ModelState, Service, WorkerState

__all__ = ["bug_report", "without_names"]

_GIB = 1 << 30
_LOG_LINES = 30
_OF_A_PERSON = re.compile(r"(?<![\w~.-])(/home/|/Users/|[A-Za-z]:\\Users\\)[^/\\\s'\":;,)]+")


def without_names(text: str, home: Path | None = None) -> str:
    """Return the text with `home` (by default the person's own) as ~, and no person's name in any other path."""
    home = home or Path.home()
    if home != Path(home.anchor):  # a service account may have none
        text = re.sub(rf"{re.escape(str(home))}(?![\w-])", "~", text)
    return _OF_A_PERSON.sub(r"\1(user)", text)


def bug_report(service: Service) -> str:
    """Return the report: no secrets, no prompts, no user names."""
    facts, doctor = service.machine(), service.doctor()
    problems = [f"{found['problem']} ({found['remedy']})" for found in doctor["problems"]]
    parts = [
        ("Versions", [f"{name} {version}" for name, version in facts.versions.items()]),
        (
            "Machine",
            [
                *([_gpu(gpu) for gpu in facts.gpus] or ["no NVIDIA card"]),
                f"RAM: {_free(facts.ram_available_bytes, facts.ram_total_bytes)}",
                f"disk: {_free(facts.disk_free_bytes, facts.disk_total_bytes)}",
                f"CPUs: {facts.cpu_count}",
                f"home: {facts.home}",
            ],
        ),
        ("Worker", [_worker(service.worker_state())]),
        ("Models", [_model(state) for state in service.models()]),
        ("Problems", problems or ["none"]),
        ("Log", service.log_tail(_LOG_LINES) or ["empty"]),
    ]
    return without_names("\n\n".join(_part(title, lines) for title, lines in parts) + "\n")


def _part(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines)])


def _gpu(gpu: Gpu) -> str:
    return f"{gpu.name}, driver {gpu.driver}, {_free(gpu.free_bytes, gpu.total_bytes)}"


def _free(free_bytes: int, total_bytes: int) -> str:
    return f"{free_bytes / _GIB:.1f} of {total_bytes / _GIB:.1f} GiB free"


def _worker(worker: WorkerState) -> str:
    if worker.pid is None:
        return "not running"
    held = "no model"
    if worker.model:
        size = f"{worker.weights_bytes / _GIB:.2f} GiB"
        held = f"{worker.model} ({worker.precision} on {worker.device}, {size})"
    doing = "runs a job" if worker.running_job else "idle"
    return f"process {worker.pid}, {doing}, {worker.rss_bytes / _GIB:.2f} GiB of RAM, {held}"


def _model(state: ModelState) -> str:
    return f"{state.preset.name}: {'installed' if state.installed else 'not installed'}"
