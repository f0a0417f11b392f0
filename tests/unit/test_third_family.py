"""The family that lives only in the tests: its frames are diffusers' own, and i2v knows it only while it is told to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline
from diffusers.pipelines.wan import pipeline_wan_i2v
from PIL import Image

from i2v.engine.run import load_pipeline
from i2v.errors import InputError
from i2v.memory.forecast.forms import ModelForms
from i2v.memory.forecast.tables import find_forms, shipped_forms, table_key
from i2v.memory.plan import Plan
from i2v.models.base import cpu_generator
from i2v.models.binding import pipeline_class
from i2v.models.model_folders import models_from
from i2v.presets.model_preset import added_folders, declared_family, load_presets, preset_named
from i2v.request import build_request
from tests.third_family.checkpoint import save_tiny_dit
from tests.third_family.folder import FOLDER

SIZE = (48, 64)


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    with models_from(FOLDER):
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_dit(tmp_path_factory.mktemp("checkpoint"))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_frames_are_those_of_diffusers_own_pipeline(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, guidance: float
) -> None:
    wishes = {"prompt": "a boat", "negative_prompt": "blurry", "guidance_scale": guidance, "num_frames": 9}
    asked = build_request({"model": "tiny-dit", "num_inference_steps": 4, "seed": 7} | wishes, SIZE)
    asked = asked.model_copy(update={"width": SIZE[0], "height": SIZE[1]})
    ours = pipeline_class("tiny_dit").load(checkpoint, preset_named("tiny-dit"), torch.device("cpu"), torch.float32)
    image = np.random.default_rng(1).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    with torch.inference_mode():
        conditions = ours.encode(asked, image, cpu_generator(7))
        start = ours.draw_latents(asked, cpu_generator(7))
        latents = ours.denoise(start, conditions, asked)
        frames = np.stack(list(ours.decode(latents, conditions, asked)))

    monkeypatch.setattr(pipeline_wan_i2v, "prompt_clean", lambda text: text)  # it wants ftfy
    modules: dict[str, Any] = ours.modules()
    theirs = WanImageToVideoPipeline(
        tokenizer=ours.tokenizer, scheduler=UniPCMultistepScheduler.from_pretrained(checkpoint / "scheduler"),
        boundary_ratio=0.9, **modules,
    )  # fmt: skip
    theirs.set_progress_bar_config(disable=True)
    settings = wishes | {"image": Image.fromarray(image), "width": SIZE[0], "height": SIZE[1], "num_inference_steps": 4}
    settings |= {"guidance_scale_2": 0.75 * guidance, "latents": start, "max_sequence_length": 16}
    wanted = theirs(**settings, output_type="latent").frames
    assert float((latents - wanted).abs().max() / wanted.abs().max()) <= 1e-5
    pictures = theirs(**settings, output_type="np").frames[0]
    assert np.abs(frames / 255 - pictures).max() < 0.5 / 255 + 1e-4


def test_every_expert_is_rounded(checkpoint: Path, tmp_path: Path) -> None:
    preset = preset_named("tiny-dit")
    folder = tmp_path / "models" / "tiny-dit"
    folder.parent.mkdir()
    folder.symlink_to(checkpoint)
    plan = Plan.of(preset.declared, "cpu", "fp32", "fp8")
    pipeline, weights = load_pipeline(preset, tmp_path, plan)
    for expert in pipeline.denoisers.values():
        assert expert.blocks[0].ffn.net[2].weight.dtype == torch.float8_e4m3fn
    assert weights.quantised_share > 0.5
    experts = [weight_bytes_of(expert) for expert in pipeline.denoisers.values()]
    assert weights.total_bytes >= sum(experts)
    assert sum(weights.bytes_by_dtype.values()) == sum(experts)


def weight_bytes_of(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def test_the_table_is_that_of_this_code_and_these_versions(checkpoint: Path, tmp_path: Path) -> None:
    """When this fails: python -m i2v.models.build_forms tiny-dit --ship --models tests/third_family."""
    preset = preset_named("tiny-dit")
    forms = shipped_forms(preset)
    assert isinstance(forms, ModelForms)
    assert forms.key == table_key(preset, preset.architecture)
    assert find_forms(preset, checkpoint, tmp_path, "fp32") == forms
    assert sum(component.parameters for component in forms.components.values()) == preset.parameters


def test_a_folder_of_models_is_known_only_within(tmp_path: Path) -> None:
    family = (FOLDER / "tiny_dit.py").read_text(encoding="utf-8").replace("tiny_dit", "tinier_dit")
    (tmp_path / "tinier_dit.py").write_text(family, encoding="utf-8")
    preset = (FOLDER / "tiny-dit.yaml").read_text(encoding="utf-8").replace("tiny-dit", "tinier")
    (tmp_path / "tinier.yaml").write_text(preset.replace("tiny_dit", "tinier_dit"), encoding="utf-8")
    before = set(load_presets())
    with models_from(tmp_path):
        assert set(load_presets()) == before | {"tinier"}
        assert preset_named("tinier").declared.name == "tinier_dit"
        assert tmp_path in added_folders()
    assert set(load_presets()) == before
    assert "i2v.models.tinier_dit" not in sys.modules
    with pytest.raises(InputError, match="no model family"):
        declared_family("tinier_dit")
