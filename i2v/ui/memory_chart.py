"""What the memory chart shows: a run's samples, stages, forecast and step-downs as a plain dictionary. Pure.

Amounts in points are MiB, to keep what a tick sends small. static/panel.js draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from i2v.jobs.result import MemoryKind, MemorySample, Stage
from i2v.machine import devices
from i2v.service import Snapshot
from i2v.ui.language import ENGLISH, Language
from i2v.ui.run_words import peak_words

__all__ = ["job_memory", "machine_memory"]

_MOST_POINTS = 240
_MIB = 1 << 20
_BANDS = {Stage.LOAD: "Load", Stage.ENCODE: "Read", Stage.DENOISE: "Denoise", Stage.DECODE: "Decode"}


def job_memory(snapshot: Snapshot, after_s: float, language: Language) -> dict[str, Any] | None:
    """Return the memory of a run, or None where nothing was measured.

    Of the points only those later than `after_s` are sent, thinned where all are; "whole" says that they are all.
    """
    samples = snapshot.samples
    if not samples:
        return None
    last, foreseen = samples[-1], snapshot.forecast.comparable_bytes if snapshot.forecast else 0
    on_gpu = last.kind is MemoryKind.GPU
    return {
        "label": language.say("VRAM of this run") if on_gpu else language.say("RAM of the worker process"),
        "device_label": language.say("whole card") if on_gpu else language.say("whole machine"),
        "used_bytes": last.allocated_bytes,
        "reserved_bytes": last.reserved_bytes if on_gpu else 0,
        "peak_words": peak_words(last.peak_bytes, foreseen, language),
        "foreseen_bytes": foreseen,
        "device_used_bytes": last.device_used_bytes,
        "device_total_bytes": last.device_total_bytes,
        "whole": after_s < 0,
        "points": [_point(sample) for sample in _kept(samples, after_s)],
        "stages": [[round(begun.t_s, 2), language.say(_BANDS[begun.stage])] for begun in snapshot.stages],
        "marks": [step.t_s for step in snapshot.step_downs],
    }


def machine_memory(language: Language = ENGLISH) -> dict[str, Any]:
    """Return the memory of the card, or of the machine without one, as it is now."""
    card = devices.first_visible_gpu(devices.gpus())
    if card:
        used, total, label = card.used_bytes, card.total_bytes, card.name
    else:
        memory = devices.machine_memory()
        used, total, label = memory.used_bytes, memory.total_bytes, language.say("System RAM (no GPU found)")
    return {
        "label": label,
        "device_label": language.say("in use"),
        "device_used_bytes": used,
        "device_total_bytes": total,
        "whole": False,
        "points": [],
    }


def _kept(samples: Sequence[MemorySample], after_s: float) -> list[MemorySample]:
    new = [sample for sample in samples if sample.t_s > after_s]
    every = max(1, -(-len(new) // _MOST_POINTS))
    return [*new[:-1:every], *new[-1:]]


def _point(sample: MemorySample) -> list[float]:
    amounts = (sample.allocated_bytes, sample.reserved_bytes, sample.device_used_bytes)
    return [round(sample.t_s, 2), *(round(amount / _MIB, 1) for amount in amounts)]
