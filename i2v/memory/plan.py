"""How a request will be run on this machine, decided before anything is loaded, with the reason in words.

Knows devices and precisions. Where weights live and how activations are chunked is decided here too, as soon as there
is more than one way: now the weights stay on the device for the whole run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from i2v.presets import ModelPreset
from i2v.request import GenerationRequest

__all__ = ["DTYPES", "Plan", "make_plan"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Plan:
    """Device, precision and place of the weights, and one sentence why."""

    device: str
    precision: str
    weights: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(request: GenerationRequest, preset: ModelPreset) -> Plan:
    """Choose device and precision for a request."""
    precision: str = request.precision
    if not torch.cuda.is_available():
        precision = "fp32" if precision == "auto" else precision
        why = "no CUDA card was found, and float32 is the fastest exact choice on a CPU"
        return Plan("cpu", precision, "resident", _reason(request, precision, why))
    major, minor = torch.cuda.get_device_capability(0)
    good_at_bf16 = major >= 8 and "bf16" in preset.precisions
    if precision == "auto":
        precision = "bf16" if good_at_bf16 else "fp16"
    suits = "computes bf16 at full speed" if good_at_bf16 else "has no fast bf16"
    why = f"{torch.cuda.get_device_name(0)} (compute capability {major}.{minor}) {suits}"
    return Plan("cuda:0", precision, "resident", _reason(request, precision, why))


def _reason(request: GenerationRequest, precision: str, why: str) -> str:
    asked = request.precision != "auto"
    return f"{precision}, weights resident: " + ("as asked for." if asked else f"{why}.")
