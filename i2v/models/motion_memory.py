"""The parts of a run of the built-in model whose memory is worth knowing beforehand; see i2vgen_xl_memory.py.

The denoiser works on a grid of fixed size, so the picture's size decides: it is moved at full resolution, in main
memory on every device, and reduced before the encoders see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from i2v.memory.forecast.forms import PeakForm, variables_of
from i2v.memory.forecast.trace import Part, count_operations, fake_module, fake_tensors, find_peak_form
from i2v.models.i2vgen_xl_memory import build_component, component_sizes
from i2v.models.motion_render import BUFFER_BYTES, BUFFER_BYTES_PER_PIXEL

__all__ = ["component_sizes", "find_operations", "find_peaks", "levels_of", "scale_of"]

Architecture = Mapping[str, Mapping[str, Any]]
_PROBES = (
    {"width": 176, "height": 80, "num_frames": 5},
    {"width": 96, "height": 208, "num_frames": 7},
    {"width": 112, "height": 304, "num_frames": 11},
    {"width": 256, "height": 144, "num_frames": 4},
    {"width": 80, "height": 64, "num_frames": 9},
    {"width": 400, "height": 192, "num_frames": 6},
    {"width": 240, "height": 112, "num_frames": 13},
)


def scale_of(architecture: Architecture) -> int:
    """Return the pixels per unit of the formulas: here they are in pixels."""
    return 1


def levels_of(architecture: Architecture) -> int:
    """Return how many sizes the formulas know."""
    return 1


def find_peaks(architecture: Architecture, width: str, share: str = "all") -> dict[str, PeakForm]:
    """Trace every part of a run, or one share of them, in numbers of 2 ("fp16") or 4 bytes ("fp32")."""
    found: dict[str, PeakForm] = {}
    if share != "rest":
        with fake_tensors():
            found |= {part.name: find_peak_form(part) for part in _model_parts(architecture, width)}
    if share != "longest":
        found["encode"] = PeakForm(())  # OpenCV reduces the picture; no tensor is larger than the grid's
        found["decode.whole"] = PeakForm(())
        found["decode.whole.ram"] = PeakForm(({"1": BUFFER_BYTES, "A0": BUFFER_BYTES_PER_PIXEL},))
    return found


def find_operations(architecture: Architecture) -> dict[str, dict[str, float]]:
    """Count the floating-point operations of one call of the denoiser."""
    with fake_tensors():
        (denoiser,) = (part for part in _model_parts(architecture, "fp32") if part.name == "denoise.whole")
        return {"denoise": count_operations(replace(denoiser, probes=_PROBES[:1]))}


def _variables(probe: Mapping[str, int]) -> dict[str, int]:
    return variables_of(**probe, scale=1, levels=1)


def _model_parts(architecture: Architecture, width: str) -> Iterator[Part]:
    dtype = {"fp16": torch.float16, "fp32": torch.float32}[width]
    unet = fake_module(lambda: build_component("unet", architecture["unet"]), dtype)
    text = fake_module(lambda: build_component("text_encoder", architecture["text_encoder"]), dtype)
    renderer = architecture["renderer"]
    embedding = unet.config.cross_attention_dim

    def inputs(probe: Mapping[str, int]) -> dict[str, Any]:
        picture = (1, 4, renderer["num_keyframes"], renderer["grid_size"], renderer["grid_size"])
        size = (1, architecture["unet"]["in_channels"], *picture[2:])
        tokens = architecture["text_encoder"]["max_position_embeddings"]
        return {
            "weights": unet,
            "sample": torch.empty(size, dtype=dtype),
            "timestep": torch.tensor(1),
            "fps": torch.tensor([3.5]),
            "image_latents": torch.empty(picture, dtype=dtype),
            "image_embeddings": torch.empty((1, embedding), dtype=dtype),
            "encoder_hidden_states": torch.empty((1, tokens, embedding), dtype=dtype),
        }

    def tokens(probe: Mapping[str, int]) -> dict[str, Any]:
        count = architecture["text_encoder"]["max_position_embeddings"]
        return {"weights": text, "input": torch.zeros((1, count), dtype=torch.long)}

    def denoise(given: dict[str, Any]) -> Any:
        return unet(**{name: value for name, value in given.items() if name != "weights"})

    yield Part("denoise.whole", _PROBES, _variables, ["1"], inputs, denoise)
    yield Part(
        "encode.text", _PROBES, _variables, ["1"], tokens, lambda given: text(given["input"], output_hidden_states=True)
    )
