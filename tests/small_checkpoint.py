"""Makes a small random I2VGen-XL checkpoint in the layout the real one has on the hub.

The layout is that of ali-vilab/i2vgen-xl: fp16 variant files, text encoder tensors under `text_model.`, the
tokenizer as vocab.json and merges.txt, class names in model_index.json. The weights are random, also where a
fresh layer would start at zero, so that every layer shows in the result.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, I2VGenXLUNet
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

__all__ = ["SIDE_PX", "save_small_checkpoint"]

SIDE_PX = 32  # of the vision encoder's input
_WIDTH = 8  # of embeddings and of every level
_MARKS = ("<|startoftext|>", "<|endoftext|>")
_DDIM = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "clip_sample": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "prediction_type": "v_prediction",
}


def save_small_checkpoint(folder: Path, variant: str | None = "fp16", seed: int = 0) -> Path:
    """Write a checkpoint of about 0.3 MB and return its folder. Without a variant the weights are float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules = {
            "text_encoder": _text_encoder(),
            "image_encoder": _image_encoder(),
            "vae": _vae(),
            "unet": _unet(),
        }
        for module in modules.values():
            _fill_zeros(module)
    for name, module in modules.items():
        _save_module(folder / name, module, variant)
    _save_tokenizer(folder / "tokenizer")
    _write(folder / "scheduler" / "scheduler_config.json", _DDIM)
    _write(folder / "feature_extractor" / "preprocessor_config.json", _feature_extractor())
    _write(folder / "model_index.json", _model_index())
    return folder


def _unet() -> I2VGenXLUNet:
    return I2VGenXLUNet(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(_WIDTH, _WIDTH),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(_WIDTH,) * 4,
        norm_num_groups=2,
        latent_channels=4,
        scaling_factor=0.18125,  # what the real one's config says
    )


def _text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=_WIDTH,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=_WIDTH,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModel(config)


def _image_encoder() -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=_WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=_WIDTH,
        image_size=SIDE_PX,
        patch_size=8,
    )
    return CLIPVisionModelWithProjection(config)


def _fill_zeros(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        if not bool(parameter.detach().any()):
            torch.nn.init.normal_(parameter, std=0.1)


def _save_module(folder: Path, module: torch.nn.Module, variant: str | None) -> None:
    ours = isinstance(module, CLIPTextModel | CLIPVisionModelWithProjection)
    prefix = "text_model." if isinstance(module, CLIPTextModel) else ""
    dtype = torch.float16 if variant == "fp16" else torch.float32
    tensors = {prefix + name: tensor.to(dtype).contiguous() for name, tensor in module.state_dict().items()}
    folder.mkdir(parents=True)
    stem = "model" if ours else "diffusion_pytorch_model"
    save_file(tensors, folder / f"{stem}.{variant + '.' if variant else ''}safetensors", {"format": "pt"})
    config = module.config.to_dict() if ours else dict(module.config) | {"_class_name": type(module).__name__}
    _write(folder / "config.json", {key: value for key, value in config.items() if key != "dtype"})


def _vocabulary() -> dict[str, int]:
    letters = string.ascii_lowercase + string.digits + ",.-!?'"
    return {token: i for i, token in enumerate((*_MARKS, *letters, *(letter + "</w>" for letter in letters)))}


def _save_tokenizer(folder: Path) -> None:
    marks = dict(zip(("bos_token", "eos_token"), _MARKS, strict=True))
    marks |= {"unk_token": _MARKS[1], "pad_token": _MARKS[1]}
    more = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    _write(folder / "tokenizer_config.json", marks | more)
    _write(folder / "special_tokens_map.json", marks)
    _write(folder / "vocab.json", _vocabulary())
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


def _feature_extractor() -> dict[str, Any]:
    return {
        "crop_size": {"height": SIDE_PX, "width": SIDE_PX},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": SIDE_PX},
    }


def _model_index() -> dict[str, Any]:
    return {
        "_class_name": "I2VGenXLPipeline",
        "_diffusers_version": "0.26.1",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "I2VGenXLUNet"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")
