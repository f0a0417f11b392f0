"""The parts of an I2VGen-XL run whose memory is worth knowing beforehand, built from an architecture alone.

Says what to run and which dimensions count; trace.py runs it on fake tensors. No weights are needed.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from diffusers import AutoencoderKL, I2VGenXLUNet
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from i2v.memory.exact.kl import decode_in_bands, encode_in_bands
from i2v.memory.exact.unet import ExactForward, layers_in_order
from i2v.memory.forecast.forms import Component, PeakForm, variables_of
from i2v.memory.forecast.trace import Part, count_operations, fake_module, fake_tensors, find_peak_form

__all__ = ["build_component", "component_sizes", "find_operations", "find_peaks", "levels_of", "scale_of"]

Architecture = Mapping[str, Mapping[str, Any]]
# Unlike one another in every dimension, small, with at least two pieces of everything. Their latents are odd at every
# level, so that no level's pixels are a multiple of another's; two that differ in everything tell the products apart.
_PROBES = (
    {"width": 264, "height": 136, "num_frames": 7, "frames": 2, "rows": 16},
    {"width": 392, "height": 264, "num_frames": 11, "frames": 3, "rows": 24},
)
# The bands of every level are a whole number of rows, and the picture has several of them even at the deepest level.
_VAE_PROBES = tuple(
    {"width": width, "height": height, "num_frames": 2, "frames": 1, "rows": rows}
    for width, height, rows in (
        (136, 176, 4), (104, 232, 4), (168, 280, 8), (200, 216, 4),
        (88, 408, 12), (152, 296, 8), (64, 200, 4), (232, 424, 12),
    )
)  # fmt: skip
_LONGEST = ("denoise.pieces", "denoise.parked")
_log = logging.getLogger(__name__)
_COMPONENTS = ("text_encoder", "image_encoder", "unet", "vae")
_EVEN = ((4, 3, 5), (3, 5, 9), (6, 4, 3), (5, 7, 2), (8, 8, 16))


def build_component(name: str, config: Mapping[str, Any]) -> torch.nn.Module:
    """Build one component with fresh weights on the current default device."""
    match name:
        case "unet":
            return I2VGenXLUNet(**_accepted(I2VGenXLUNet, config))
        case "vae":
            return AutoencoderKL(**_accepted(AutoencoderKL, config))
        case "text_encoder":
            return CLIPTextModel(CLIPTextConfig(**_accepted(CLIPTextConfig, config)))
        case _:
            return CLIPVisionModelWithProjection(CLIPVisionConfig(**_accepted(CLIPVisionConfig, config)))


def _accepted(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    known = inspect.signature(cls).parameters
    return {key: value for key, value in config.items() if key in known}


def scale_of(architecture: Architecture) -> int:
    """Return the pixels per latent, along one side."""
    return 2 ** (len(architecture["vae"]["block_out_channels"]) - 1)


def levels_of(architecture: Architecture) -> int:
    """Return how many sizes the denoiser works at."""
    return len(architecture["unet"]["block_out_channels"])


def component_sizes(architecture: Architecture) -> dict[str, Component]:
    """Count the parameters of every component, and how many streaming has on the device at once."""
    sizes = {}
    for name, config in architecture.items():
        if name not in _COMPONENTS:
            continue
        with torch.device("meta"):
            module = build_component(name, config)
        if isinstance(module, I2VGenXLUNet):
            layers = [_count(layer) for layer in layers_in_order(module)]
            # An upsampler is held together with the resnet after it, while the layer after that is fetched.
            most = max(sum(layers[at : at + 3]) for at in range(len(layers)))
        else:
            most = _largest_leaf(module)
        linear = sum(_count(leaf) for leaf in module.modules() if isinstance(leaf, torch.nn.Linear))
        sizes[name] = Component(_count(module), most, _largest_leaf(module), linear, _castable(module))
    return sizes


def _largest_leaf(module: torch.nn.Module) -> int:
    return max(sum(p.numel() for p in leaf.parameters(recurse=False)) for leaf in module.modules())


def _castable(module: torch.nn.Module) -> int:
    """Count what layerwise casting stores smaller: linear layers and convolutions."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
    return sum(_count(leaf) for leaf in module.modules() if isinstance(leaf, kinds))


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def find_peaks(architecture: Architecture, width: str, share: str = "all") -> dict[str, PeakForm]:
    """Trace every part of a run, or one share of them, in numbers of 2 ("fp16") or 4 bytes ("fp32")."""
    found = _held(architecture, width) if share != "longest" else {}
    with fake_tensors():
        for part in _parts(architecture, width, share):
            try:
                found[part.name] = find_peak_form(part)
            except ValueError as error:
                if not part.name.endswith(".bands"):
                    raise
                _log.warning("%s; it is taken for whole frames", error)  # other widths may not divide evenly
    return found


def _held(architecture: Architecture, width: str) -> dict[str, PeakForm]:
    """Return what is held beside the activations: clips of latents, and the skip connections when they are parked."""
    number = {"fp16": 2, "fp32": 4}[width]
    unet = architecture["unet"]
    skips = Counter({"F*A0": unet["block_out_channels"][0]})
    for level, channels in enumerate(unet["block_out_channels"]):
        skips[f"F*A{level}"] += channels * unet["layers_per_block"]
        if level + 1 < len(unet["block_out_channels"]):
            skips[f"F*A{level + 1}"] += channels
    channels = architecture["vae"]["latent_channels"]
    # While denoising: float32 latents and the first half of guidance, and in the model's numbers its input and the
    # image latents. While decoding: float32 latents.
    held = {"denoise.held": 2 * 4 + 2 * number, "decode.held": 4}
    forms = {name: PeakForm(({"F*A0": channels * size},)) for name, size in held.items()}
    return forms | {"denoise.skips": PeakForm(({name: number * count for name, count in skips.items()},))}


def find_operations(architecture: Architecture) -> dict[str, dict[str, float]]:
    """Count the floating-point operations of one call of the denoiser and of one decoded frame."""
    # Sizes that halve evenly at every level, so that each level's pixels are a fixed share of the first one's.
    even = [{"width": 64 * w, "height": 64 * h, "num_frames": f, "frames": 1, "rows": 8} for w, h, f in _EVEN]
    products = {"denoise.whole": ["F", "F*A0", "F*A0*A0", "F*F*A0"], "decode.whole": ["A0", "A0*A0"]}
    with fake_tensors():
        kinds = (_denoiser_parts(architecture, torch.float16), _vae_parts(architecture, torch.float16))
        parts = {part.name: part for part in chain(*kinds)}
        return {
            name.partition(".")[0]: count_operations(replace(parts[name], probes=even, products=terms))
            for name, terms in products.items()
        }


def _parts(architecture: Architecture, width: str, share: str) -> Iterator[Part]:
    """Yield the parts to trace; iterate within `fake_tensors`."""
    dtype = {"fp16": torch.float16, "fp32": torch.float32}[width]
    for part in _denoiser_parts(architecture, dtype):
        if share == "all" or (part.name in _LONGEST) == (share == "longest"):
            yield part
    if share != "longest":
        yield from _vae_parts(architecture, dtype)
        yield from _encoder_parts(architecture, dtype)


def _variables_for(architecture: Architecture) -> Callable[[Mapping[str, int]], dict[str, int]]:
    return partial(_variables, scale=scale_of(architecture), levels=levels_of(architecture))


def _variables(probe: Mapping[str, int], scale: int, levels: int) -> dict[str, int]:
    return variables_of(**probe, scale=scale, levels=levels)


def _denoiser_parts(architecture: Architecture, dtype: torch.dtype) -> Iterator[Part]:
    scale, levels, variables = scale_of(architecture), levels_of(architecture), _variables_for(architecture)
    unet = fake_module(lambda: build_component("unet", architecture["unet"]), dtype)
    forward = ExactForward(unet)
    channels, width = unet.config.in_channels, unet.config.cross_attention_dim

    def inputs(probe: Mapping[str, int]) -> dict[str, Any]:
        size = (1, channels, probe["num_frames"], probe["height"] // scale, probe["width"] // scale)
        return {
            "weights": unet,
            "frames": probe["frames"],
            "sample": torch.empty(size, dtype=dtype),
            "timestep": torch.tensor(1),
            "fps": torch.tensor([16]),
            "image_latents": torch.empty(size, dtype=dtype),
            "image_embeddings": torch.empty((1, 1, width), dtype=dtype),
            "encoder_hidden_states": torch.empty((1, 77, width), dtype=dtype),
        }

    def run(inputs: dict[str, Any], way: str) -> Any:
        forward.frames, forward.parks_skips = None if way == "whole" else inputs["frames"], way == "parked"
        return unet(**{name: value for name, value in inputs.items() if name not in ("weights", "frames")})

    places = [f"F*{kind}{level}" for level in range(levels) for kind in "AP"]
    products = ["1", "F", "c", "A0", *places, *(f"c*A{level}" for level in range(levels))]
    for way in ("whole", "pieces", "parked"):
        yield Part(f"denoise.{way}", _PROBES, variables, products, inputs, partial(run, way=way))


def _vae_parts(architecture: Architecture, dtype: torch.dtype) -> Iterator[Part]:
    scale, variables = scale_of(architecture), _variables_for(architecture)
    vae = fake_module(lambda: build_component("vae", architecture["vae"]), dtype)

    def latent(probe: Mapping[str, int]) -> dict[str, Any]:
        size = (1, vae.config.latent_channels, probe["height"] // scale, probe["width"] // scale)
        return {"weights": vae, "input": torch.empty(size, dtype=dtype), "rows": probe["rows"]}

    def picture(probe: Mapping[str, int]) -> dict[str, Any]:
        size = (1, 3, probe["height"], probe["width"])
        return {"weights": vae, "input": torch.empty(size, dtype=dtype), "rows": probe["rows"]}

    ways = {
        "decode.whole": (["1", "A0"], latent, lambda given: vae.decode(given["input"]).sample),
        "decode.bands": (
            ["1", "A0", "w", "r*w"],
            latent,
            lambda given: decode_in_bands(vae, given["input"], given["rows"]),
        ),
        "vae_encode.whole": (["1", "A0", "h", "w"], picture, lambda given: vae.encode(given["input"]).latent_dist),
        "vae_encode.bands": (
            ["1", "A0", "h", "w", "r", "r*w"],
            picture,
            lambda given: encode_in_bands(vae, given["input"], given["rows"]),
        ),
    }
    for name, (products, prepare, run) in ways.items():
        yield Part(name, _VAE_PROBES[: len(products) + 1], variables, products, prepare, run)  # one to check by


def _encoder_parts(architecture: Architecture, dtype: torch.dtype) -> Iterator[Part]:
    variables = _variables_for(architecture)
    text = fake_module(lambda: build_component("text_encoder", architecture["text_encoder"]), dtype)
    image = fake_module(lambda: build_component("image_encoder", architecture["image_encoder"]), dtype)
    side = architecture["image_encoder"]["image_size"]

    def tokens(probe: Mapping[str, int]) -> dict[str, Any]:
        count = architecture["text_encoder"]["max_position_embeddings"]
        return {"weights": text, "input": torch.zeros((1, count), dtype=torch.long)}

    def picture(probe: Mapping[str, int]) -> dict[str, Any]:
        return {"weights": image, "input": torch.empty((1, 3, side, side), dtype=dtype)}

    one = _PROBES
    yield Part("encode.text", one, variables, ["1"], tokens, lambda g: text(g["input"], output_hidden_states=True))
    yield Part("encode.image", one, variables, ["1"], picture, lambda g: image(g["input"]))
