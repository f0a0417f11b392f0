"""The calls that several families have in common, to be traced: text and vision encoders, and a KL autoencoder.

Says what to run and which dimensions count; memory/forecast/trace.py runs it on fake tensors. No weights are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from i2v.family import Architecture, Family, Geometry
from i2v.memory.exact.kl import decode_in_bands, encode_in_bands
from i2v.memory.forecast.calls import TracedCall
from i2v.memory.forecast.forms import PeakForm
from i2v.memory.forecast.trace import Part, fake_module
from i2v.models.binding import build_component

__all__ = ["fake_part", "kl_calls", "text_encoder_call", "variables_by", "vision_encoder_call"]

Probe = Mapping[str, int]
# The bands of every level are a whole number of rows, and the picture has several of them even at the deepest level.
_KL_PROBES = tuple(
    {"width": width, "height": height, "num_frames": 2, "chunk_frames": 1, "vae_rows": rows}
    for width, height, rows in (
        (136, 176, 4), (104, 232, 4), (168, 280, 8), (200, 216, 4),
        (88, 408, 12), (152, 296, 8), (64, 200, 4), (232, 424, 12),
    )
)  # fmt: skip


def fake_part(family: Family, name: str, architecture: Architecture, dtype: torch.dtype) -> Any:
    """Build one component of full size without its weights; call it within `fake_tensors`."""
    return fake_module(partial(build_component, family.part(name), architecture[name]), dtype)


def variables_by(geometry: Geometry) -> Callable[[Probe], dict[str, int]]:
    """Return the function that gives a probe's variables. A probe has width, height, num_frames and knobs by name."""

    def variables(probe: Probe) -> dict[str, int]:
        knobs = {name: value for name, value in probe.items() if name not in ("width", "height", "num_frames")}
        return geometry.variables(probe["width"], probe["height"], probe["num_frames"], knobs)

    return variables


def text_encoder_call(
    family: Family, architecture: Architecture, geometry: Geometry, probes: Sequence[Probe], dtype: torch.dtype
) -> TracedCall:
    """Return the call of a CLIP text encoder, which always reads as many tokens as it can."""
    text = fake_part(family, "text_encoder", architecture, dtype)

    def tokens(probe: Probe) -> dict[str, Any]:
        count = architecture["text_encoder"]["max_position_embeddings"]
        return {"weights": text, "input": torch.zeros((1, count), dtype=torch.long)}

    def run(given: dict[str, Any]) -> Any:
        return text(given["input"], output_hidden_states=True)

    part = Part("text.whole", probes, variables_by(geometry), ["1"], tokens, run)
    return TracedCall("text", "encode", "text_encoder", {"whole": part})


def vision_encoder_call(
    family: Family, architecture: Architecture, geometry: Geometry, probes: Sequence[Probe], dtype: torch.dtype
) -> TracedCall:
    """Return the call of a CLIP vision encoder, whose picture is always of one size."""
    image = fake_part(family, "image_encoder", architecture, dtype)
    side = architecture["image_encoder"]["image_size"]

    def picture(probe: Probe) -> dict[str, Any]:
        return {"weights": image, "input": torch.empty((1, 3, side, side), dtype=dtype)}

    part = Part("vision.whole", probes, variables_by(geometry), ["1"], picture, lambda given: image(given["input"]))
    return TracedCall("vision", "encode", "image_encoder", {"whole": part})


def kl_calls(
    family: Family,
    architecture: Architecture,
    geometry: Geometry,
    dtype: torch.dtype,
    held: PeakForm,
    even: Sequence[Probe],
) -> list[TracedCall]:
    """Return encoding one picture and decoding one frame by a KL autoencoder.

    `held`: what waits beside decoding. `even`: sizes that halve evenly at every level, for counting operations.
    """
    vae, variables = fake_part(family, "vae", architecture, dtype), variables_by(geometry)
    scale = geometry.scale

    def latent(probe: Probe) -> dict[str, Any]:
        size = (1, vae.config.latent_channels, probe["height"] // scale, probe["width"] // scale)
        return {"weights": vae, "input": torch.empty(size, dtype=dtype), "rows": probe.get("vae_rows")}

    def picture(probe: Probe) -> dict[str, Any]:
        size = (1, 3, probe["height"], probe["width"])
        return {"weights": vae, "input": torch.empty(size, dtype=dtype), "rows": probe.get("vae_rows")}

    def part(name: str, products: list[str], prepare: Callable[[Probe], Any], run: Callable[[Any], Any]) -> Part:
        return Part(name, _KL_PROBES[: len(products) + 1], variables, products, prepare, run)  # one to check by

    decode = {
        "whole": part("decode.whole", ["1", "A0"], latent, lambda given: vae.decode(given["input"]).sample),
        "bands": part(
            "decode.bands",
            ["1", "A0", "w", "r*w"],
            latent,
            lambda given: decode_in_bands(vae, given["input"], given["rows"]),
        ),
    }
    encode = {
        "whole": part(
            "vae_encode.whole", ["1", "A0", "h", "w"], picture, lambda given: vae.encode(given["input"]).latent_dist
        ),
        "bands": part(
            "vae_encode.bands",
            ["1", "A0", "h", "w", "r", "r*w"],
            picture,
            lambda given: encode_in_bands(vae, given["input"], given["rows"]),
        ),
    }
    counted = Part("decode", even, variables, ["A0", "A0*A0"], latent, decode["whole"].run)
    bands = frozenset({"bands"})  # at odd widths they may not divide evenly
    return [
        TracedCall("vae_encode", "encode", "vae", encode, optional=bands),
        TracedCall("decode", "decode", "vae", decode, optional=bands, held=held, counted=counted, per="frame"),
    ]
