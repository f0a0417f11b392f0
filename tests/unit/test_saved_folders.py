"""Folders that today's transformers and diffusers save are whole, and what lacks a file is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from i2v.errors import ModelFilesError
from i2v.models.files import check_folder
from i2v.models.i2vgen_xl import Pipeline
from i2v.models.prompt_length import measure_prompt
from i2v.presets.model_preset import preset_named
from tests.small_checkpoint import save_small_checkpoint

WORDS = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}


def clip_tokenizer() -> Any:
    return transformers.CLIPTokenizer(vocab=WORDS, merges=[])


def clip_processor() -> Any:
    return transformers.CLIPProcessor(transformers.CLIPImageProcessorPil(), clip_tokenizer())


WITHOUT_WEIGHTS: list[tuple[Callable[[], Any], str]] = [
    (clip_tokenizer, "tokenizer_config.json"),
    (lambda: transformers.T5Tokenizer(), "tokenizer_config.json"),
    (lambda: transformers.Qwen2Tokenizer(), "tokenizer_config.json"),
    (lambda: transformers.ByT5Tokenizer(), "tokenizer_config.json"),
    (lambda: transformers.CLIPImageProcessorPil(), "preprocessor_config.json"),
    (lambda: transformers.SiglipImageProcessorPil(), "preprocessor_config.json"),
    (lambda: transformers.Wav2Vec2FeatureExtractor(), "preprocessor_config.json"),
    (clip_processor, "processor_config.json"),
    (lambda: diffusers.UniPCMultistepScheduler(), "scheduler_config.json"),
    (lambda: diffusers.FlowMatchEulerDiscreteScheduler(), "scheduler_config.json"),
    (lambda: diffusers.ClassifierFreeGuidance(), "guider_config.json"),
]


def folder_of(tmp_path: Path, class_name: str, files: dict[str, str] | None = None) -> Path:
    """Write a model folder of one component, `files` by name."""
    (tmp_path / "part").mkdir(exist_ok=True)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "X", "part": ["library", class_name]}))
    for name, text in (files or {}).items():
        (tmp_path / "part" / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(("make", "file"), WITHOUT_WEIGHTS, ids=[str(i) for i in range(len(WITHOUT_WEIGHTS))])
def test_what_save_pretrained_writes_without_weights_is_whole(
    tmp_path: Path, make: Callable[[], Any], file: str
) -> None:
    saved = make()
    saved.save_pretrained(tmp_path / "part")
    check_folder(folder_of(tmp_path, type(saved).__name__))
    (tmp_path / "part" / file).unlink()
    if file != "processor_config.json":  # a tokenizer's files are left there
        with pytest.raises(ModelFilesError, match=rf"part has no {file}"):
            check_folder(tmp_path)


@pytest.mark.parametrize(
    ("class_name", "file"),
    [  # what needs torchvision, or older or later versions, write
        ("SiglipImageProcessorFast", "preprocessor_config.json"),
        ("Qwen2VLVideoProcessor", "video_preprocessor_config.json"),
        ("Qwen2_5_VLProcessor", "preprocessor_config.json"),
        ("AutoProcessor", "processor_config.json"),
        ("SomethingOfTomorrow", "preprocessor_config.json"),
        ("CLIPTokenizerFast", "tokenizer_config.json"),
    ],
)
def test_a_part_is_known_by_its_file_and_not_by_the_end_of_its_name(tmp_path: Path, class_name: str, file: str) -> None:
    check_folder(folder_of(tmp_path, class_name, {file: "{}", "tokenizer.json": "{}"}))


@pytest.mark.parametrize(
    ("class_name", "files", "words"),
    [
        ("CLIPVisionModel", ("config.json", "preprocessor_config.json"), "has no weight file"),
        ("CLIPVisionModel", ("config.json", "tokenizer_config.json", "pytorch_model.bin"), "holds pickled weights"),
        ("CLIPVisionModel", (), "has no config.json"),
        ("UNetOfTomorrow", ("config.json",), "has no weight file"),
        ("Qwen2Tokenizer", ("tokenizer_config.json", "merges.txt"), "has no vocabulary"),
        ("CLIPImageProcessorPil", (), "has no preprocessor_config.json"),
        ("Qwen2VLVideoProcessor", ("config.json",), "has no weight file"),
    ],
)
def test_a_part_that_lacks_something_is_refused(
    tmp_path: Path, class_name: str, files: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ModelFilesError, match=words):
        check_folder(folder_of(tmp_path, class_name, dict.fromkeys(files, "{}")))


def test_a_pipeline_that_was_saved_today_is_whole_and_loads(tmp_path: Path) -> None:
    old = save_small_checkpoint(tmp_path / "old", variant=None)
    diffusers.I2VGenXLPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(old / "vae"),
        text_encoder=transformers.CLIPTextModel.from_pretrained(old / "text_encoder"),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(old / "tokenizer"),
        image_encoder=transformers.CLIPVisionModelWithProjection.from_pretrained(old / "image_encoder"),
        feature_extractor=transformers.CLIPImageProcessorPil.from_pretrained(old / "feature_extractor"),
        unet=diffusers.I2VGenXLUNet.from_pretrained(old / "unet"),
        scheduler=diffusers.DDIMScheduler.from_pretrained(old / "scheduler"),
    ).save_pretrained(tmp_path / "new")
    shutil.rmtree(old)
    check_folder(tmp_path / "new")
    assert measure_prompt(tmp_path / "new" / "tokenizer", "a cat", 77).tokens > 0
    loaded = Pipeline.load(tmp_path / "new", preset_named("i2vgen-xl"), torch.device("cpu"), torch.float32)
    assert loaded.denoiser.dtype is torch.float32
