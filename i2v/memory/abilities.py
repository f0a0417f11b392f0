"""Which precisions a device can do, by its kind and compute capability. No torch.

A precision is what the denoiser's weights are stored in. The exact ones are also what everything is computed in; the
approximate ones round the weights further and are computed in an exact one.
"""

from __future__ import annotations

from i2v.errors import InputError

__all__ = ["APPROXIMATE", "EXACT", "precisions_of", "refuse_unless_possible"]

EXACT = ("fp32", "fp16", "bf16")
APPROXIMATE = ("fp8", "int8", "nf4")

_CPU = ("fp32", "bf16", "fp16", "fp8", "int8")  # fp16 is slow there: most CPUs convert to float32 and back
_ANY_CARD = ("fp32", "fp16", "fp8")  # fp8 is storage only: conversion is software, no fp8 hardware is needed
_SINCE = {
    "bf16": (8, 0),  # in hardware since Ampere
    "int8": (8, 0),  # its fast way is computed in bf16: precision.py
    "nf4": (6, 0),  # bitsandbytes' oldest kernels (its README, "SM60+ minimum")
}


def precisions_of(device_type: str, capability: tuple[int, int] | None) -> tuple[str, ...]:
    """Return the precisions of a device: "cpu" or "cuda", and a card's compute capability, None when unknown."""
    if device_type == "cpu":
        return _CPU
    if device_type != "cuda":
        return ("fp32",)
    return _ANY_CARD + tuple(name for name, since in _SINCE.items() if capability and capability >= since)


def refuse_unless_possible(
    precision: str, device_type: str, capability: tuple[int, int] | None, device_name: str
) -> None:
    """Raise InputError, naming what is possible, when a device cannot do a precision."""
    possible = precisions_of(device_type, capability)
    if precision not in possible:
        raise InputError(
            f"{device_name} cannot do {precision}", f"Use one of: {', '.join(possible)}.", field="precision"
        )
