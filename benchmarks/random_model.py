"""I2VGen-XL with random weights, in full size or small: what memory and time need, without a download.

The pipeline is the product's own, as after loading; only its weights and its tokenizer's few words are made up. All of
it lies in main memory at first: `Pipeline.arrange` puts it where a plan wants it. Nothing is kept on the disk.
"""

from __future__ import annotations

import json
import string
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from transformers import CLIPTokenizer

from i2v.memory.forecast.forms import ModelForms
from i2v.memory.forecast.trace import fake_tensors
from i2v.memory.weights.precision import DTYPES, quantise
from i2v.models.binding import build_component
from i2v.models.build_forms import count_parameters, plain_forms
from i2v.models.i2vgen_xl import FAMILY, Pipeline, geometry_of, traced_calls
from i2v.models.mapped_loading import default_dtype
from i2v.models.picture_encoding import PictureEncoding

__all__ = ["SMALL", "Architecture", "random_pipeline", "traced_forms"]

Architecture = Mapping[str, Mapping[str, Any]]

# Every kind of layer once; an autoencoder of three levels, so that there are many latents in a small picture.
SMALL: Architecture = {
    "unet": {
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock3D"],
        "up_block_types": ["CrossAttnUpBlock3D"],
        "block_out_channels": [64],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 128,
        "attention_head_dim": 32,
    },
    "vae": {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [32, 32, 32],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "latent_channels": 4,
    },
    "text_encoder": {"vocab_size": 128, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "max_position_embeddings": 77, "projection_dim": 128}
    | {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
    "image_encoder": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"image_size": 32, "patch_size": 8, "projection_dim": 128},
}

_MARKS = ("<|startoftext|>", "<|endoftext|>")
_DDIM: dict[str, Any] = {  # ali-vilab/i2vgen-xl, scheduler/scheduler_config.json
    "beta_schedule": "squaredcos_cap_v2",
    "rescale_betas_zero_snr": True,
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}
# CLIP's, openai/clip-vit-large-patch14, preprocessor_config.json
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def random_pipeline(architecture: Architecture, precision: str, compute: str, workshop: str = "cpu") -> Pipeline:
    """Make a model as a plan's `precision` and `compute` want it. `workshop`: the device that makes the weights.

    One component after another is made there, so a card has to hold the largest of them only.
    """
    torch.manual_seed(0)
    dtype = DTYPES[compute]
    made = {}
    for name in ("text_encoder", "image_encoder", "vae", "unet"):
        module = _random_component(name, architecture[name], dtype, workshop)
        if name == "unet":
            quantise(module, precision, dtype)
        made[name] = module.to("cpu")
    side = architecture["image_encoder"]["image_size"]
    pipeline = Pipeline(
        _tokenizer(architecture["text_encoder"]["max_position_embeddings"]),
        PictureEncoding(side, _CLIP_MEAN, _CLIP_STD),
        made,
        DDIMScheduler(**_DDIM),
    )
    pipeline.dtype = dtype  # rounded weights have another
    return pipeline


def _random_component(name: str, config: Mapping[str, Any], dtype: torch.dtype, device: str) -> Any:
    with torch.device(device), default_dtype(dtype):  # never in float32, which a small card might not hold
        module = build_component(FAMILY.part(name), config)
    module = module.eval().requires_grad_(False)
    for parameter in module.parameters():
        if not bool(parameter.any()):  # layers that start at zero would hide what is before them
            torch.nn.init.normal_(parameter, std=0.02)
    return module


def _tokenizer(length: int) -> CLIPTokenizer:
    """Return a tokenizer that knows letters and numbers."""
    letters = string.ascii_lowercase + string.digits + ",.-!?'"
    words = (*_MARKS, *letters, *(letter + "</w>" for letter in letters))
    marks = dict(zip(("bos_token", "eos_token"), _MARKS, strict=True))
    marks |= {"unk_token": _MARKS[1], "pad_token": _MARKS[1]}
    config = marks | {"model_max_length": length, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}), encoding="utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def traced_forms(architecture: Architecture) -> ModelForms:
    """Trace a small architecture's memory in float32, in seconds: without bands, and time is not foreseen."""
    with fake_tensors():
        calls = {
            call.name: plain_forms(call, [way for way in call.ways if way != "bands"])  # they take half of the tracing
            for call in traced_calls(architecture, torch.float32)
        }
    components = {part.name: count_parameters(part, architecture) for part in FAMILY.parts}
    return ModelForms("", geometry_of(architecture), components, {"fp32": calls}, {})
