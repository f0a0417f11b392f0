"""Makes a small random checkpoint of the third family, in the layout that Wan-AI/Wan2.2-I2V-A14B-Diffusers has."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import UniPCMultistepScheduler
from transformers import T5Tokenizer

from i2v.models.binding import build_component
from tests.third_family.folder import FOLDER

__all__ = ["save_tiny_dit"]

_INDEX = {
    "_class_name": "WanImageToVideoPipeline",
    "_diffusers_version": "0.35.0.dev0",
    "boundary_ratio": 0.9,
    "image_encoder": [None, None],
    "image_processor": [None, None],
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def save_tiny_dit(folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of about 0.3 MB and return its folder."""
    from i2v.models.tiny_dit import FAMILY  # type: ignore[import-not-found]

    preset = yaml.safe_load((FOLDER / "tiny-dit.yaml").read_text(encoding="utf-8"))
    architecture: dict[str, Any] = preset["architecture"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in FAMILY.parts:
            module: Any = build_component(part, architecture[part.name]).eval()
            _make_lively(module)
            module.save_pretrained(folder / part.name)
    _tokenizer(architecture["text_encoder"]["vocab_size"]).save_pretrained(folder / "tokenizer")
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    ).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(_INDEX, indent=2), encoding="utf-8")
    return folder


def _make_lively(module: torch.nn.Module) -> None:
    """Fill what is all zeros, so that every layer shows in the result."""
    for parameter in module.parameters():
        if not bool(parameter.detach().any()):
            torch.nn.init.normal_(parameter, std=0.1)


def _tokenizer(size: int) -> T5Tokenizer:
    letters = string.ascii_lowercase + string.digits + ",.-!?'"
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary = marks + [(letter, -3.0) for letter in letters]
    assert len(vocabulary) <= size
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)
