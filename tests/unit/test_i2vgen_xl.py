"""What the I2VGen-XL family promises, held against diffusers' own pipeline on a small random checkpoint."""

from __future__ import annotations

import json
import shutil
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.deprecated.i2vgen_xl import pipeline_i2vgen_xl as upstream_module
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor

from i2v.errors import ModelFilesError
from i2v.models import i2vgen_xl
from i2v.models.base import cpu_generator, draw_noise
from i2v.models.files import check_folder
from i2v.models.i2vgen_xl import Pipeline
from i2v.models.loading import load_scheduler
from i2v.presets.model_preset import preset_named
from i2v.request import GenerationRequest, build_request
from tests.small_checkpoint import save_small_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> Pipeline:
    return load(checkpoint)


@pytest.fixture(scope="module")
def upstream(checkpoint: Path, pipeline: Pipeline) -> Any:
    """Return diffusers' pipeline with the same modules, and with the attribute it misses under transformers 5."""
    object.__setattr__(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    theirs = upstream_module.I2VGenXLPipeline(
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        image_encoder=pipeline.image_encoder,
        feature_extractor=CLIPImageProcessor.from_pretrained(checkpoint / "feature_extractor"),
        unet=pipeline.denoiser,
        scheduler=DDIMScheduler.from_pretrained(checkpoint / "scheduler"),
    )
    theirs.set_progress_bar_config(disable=True)
    return theirs


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Pipeline:
    return Pipeline.load(folder, preset_named("i2vgen-xl"), CPU, dtype)


def request(width: int = 64, height: int = 64, **values: Any) -> GenerationRequest:
    wanted = {"prompt": "a boat, 2 birds", "num_frames": 4, "num_inference_steps": 3, "seed": 7} | values
    return build_request({"model": "i2vgen-xl", "width": width, "height": height} | wanted, (width, height))


def picture(width: int = 64, height: int = 64) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def run(pipeline: Pipeline, asked: GenerationRequest) -> torch.Tensor:
    """Return the final latents."""
    generator = cpu_generator(asked.seed)
    with torch.inference_mode():
        conditions = pipeline.encode(asked, picture(asked.width, asked.height), generator)
        return pipeline.denoise(pipeline.draw_latents(asked, generator), conditions, asked)


def frames(pipeline: Pipeline, asked: GenerationRequest, latents: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return np.stack(list(pipeline.decode(latents, None, asked)))


@pytest.mark.parametrize("guidance", [1.0, 9.0])
@pytest.mark.parametrize("size", [(96, 64), (64, 104)])
def test_frames_are_those_of_diffusers_own_pipeline(
    pipeline: Pipeline, upstream: Any, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], guidance: float
) -> None:
    asked = request(*size, guidance_scale=guidance, negative_prompt="blurry")
    ours = run(pipeline, asked)

    generator = cpu_generator(asked.seed)
    of_picture = draw_noise((1, 4, size[1] // 8, size[0] // 8), generator, CPU)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self: self.mean + self.std * of_picture)
    settings = {
        "prompt": asked.prompt,
        "negative_prompt": asked.negative_prompt,
        "image": Image.fromarray(picture(*size)),
        "width": size[0],
        "height": size[1],
        "target_fps": asked.fps,
        "num_frames": asked.num_frames,
        "num_inference_steps": asked.num_inference_steps,
        "guidance_scale": guidance,
        "latents": draw_noise((1, 4, asked.num_frames, size[1] // 8, size[0] // 8), generator, CPU),
    }
    theirs = upstream(**settings, output_type="latent").frames
    assert (ours - theirs).abs().max() < 1e-4
    decoded = upstream.video_processor.postprocess_video(upstream.decode_latents(theirs, 1), output_type="np")[0]
    assert np.abs(frames(pipeline, asked, ours) / 255 - decoded).max() < 0.5 / 255 + 1e-4


@pytest.mark.parametrize("size", [(64, 64), (56, 40), (104, 64), (64, 200)])
def test_picture_embedding_is_that_of_diffusers_own_pipeline(
    pipeline: Pipeline, upstream: Any, size: tuple[int, int]
) -> None:
    image = picture(*size)
    square = upstream_module._center_crop_wide(Image.fromarray(image), (size[0], size[0]))
    small = upstream_module._resize_bilinear(square, (32, 32))
    upstream._guidance_scale = 1.0
    with torch.inference_mode():
        theirs = upstream._encode_image(small, CPU, 1)
        ours = pipeline._embed_picture(image)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_seed_alone_gives_the_same_video_again(pipeline: Pipeline) -> None:
    torch.manual_seed(1)
    first = run(pipeline, request(seed=5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(run(pipeline, request(seed=5)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(run(pipeline, request(seed=6)), first, atol=1e-2)


@pytest.mark.parametrize("change", [{"prompt": "night"}, {"fps": 8}, {"negative_prompt": "noise"}])
def test_every_wish_shows_in_the_video(pipeline: Pipeline, change: dict[str, Any]) -> None:
    assert not torch.allclose(run(pipeline, request(**change)), run(pipeline, request()), atol=1e-4)


def test_frames_depend_on_each_other_through_time(pipeline: Pipeline) -> None:
    asked, generator = request(num_inference_steps=1), cpu_generator(1)
    with torch.inference_mode():
        conditions = pipeline.encode(asked, picture(), generator)
        start = pipeline.draw_latents(asked, generator)
        other = start.clone()
        other[:, :, 3] += 1
        before, after = (pipeline.denoise(x, conditions, asked) for x in (start, other))
    assert not torch.allclose(before[:, :, 0], after[:, :, 0], atol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")  # numpy 2, theirs
@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize(
    "name",
    ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"],
)
def test_last_clean_estimate_is_the_result_with_every_scheduler(
    pipeline: Pipeline, checkpoint: Path, tmp_path: Path, name: str, prediction: str
) -> None:
    here = with_scheduler(pipeline, tmp_path, checkpoint, _class_name=name, prediction_type=prediction)
    assert type(here.scheduler).__name__ == name
    estimates, step = [], here.scheduler.step

    def watched(prediction: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> Any:
        estimates.append(here.clean_estimate(prediction, timestep, latents))
        output = step(prediction, timestep, latents)
        exact = getattr(output, "pred_original_sample", estimates[-1])  # DDIM and Euler tell their own
        torch.testing.assert_close(estimates[-1], exact, atol=1e-4, rtol=1e-4)
        return output

    here.scheduler.step = watched
    result = run(here, request(num_inference_steps=4))
    assert len(estimates) == 4
    torch.testing.assert_close(estimates[-1], result, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
def test_euler_scheduler_gives_the_video_that_ddim_gives(pipeline: Pipeline, checkpoint: Path, tmp_path: Path) -> None:
    euler = with_scheduler(pipeline, tmp_path, checkpoint, _class_name="EulerDiscreteScheduler")
    torch.testing.assert_close(run(euler, request()), run(pipeline, request()), atol=1e-4, rtol=1e-4)


def with_scheduler(pipeline: Pipeline, folder: Path, checkpoint: Path, **changes: str) -> Pipeline:
    """Return the same pipeline with a scheduler loaded from a changed configuration."""
    config = json.loads((checkpoint / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | changes))
    other = copy(pipeline)
    other.scheduler = load_scheduler(folder, "scheduler", i2vgen_xl._SCHEDULERS)
    return other


def test_scheduler_that_is_not_allowed_gives_way_to_ddim(pipeline: Pipeline, checkpoint: Path, tmp_path: Path) -> None:
    other = with_scheduler(pipeline, tmp_path, checkpoint, _class_name="EulerAncestralDiscreteScheduler")
    assert type(other.scheduler) is DDIMScheduler


def test_latents_stay_float32_in_half_precision(checkpoint: Path) -> None:
    half = load(checkpoint, torch.bfloat16)
    asked = request()
    latents = run(half, asked)
    assert latents.dtype == torch.float32
    assert frames(half, asked, latents).std() > 1
    assert {p.dtype for module in half.modules().values() for p in module.parameters()} == {torch.bfloat16}


def test_full_precision_files_are_loaded_too(tmp_path: Path, pipeline: Pipeline) -> None:
    full = load(save_small_checkpoint(tmp_path / "model", variant=None))
    for name, module in full.modules().items():
        half = pipeline.modules()[name].state_dict()
        for key, tensor in module.state_dict().items():
            torch.testing.assert_close(tensor, half[key], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("num_frames", "shown"), [(2, 2), (6, 6), (16, 6)])
def test_preview_is_a_few_small_frames(pipeline: Pipeline, num_frames: int, shown: int) -> None:
    latents = torch.randn(1, 4, num_frames, 8, 16, generator=cpu_generator(0))
    small = pipeline.preview(latents, None, request(128, 64))
    assert small.shape == (shown, 80, 160, 3)
    assert small.dtype == np.uint8
    assert small.std() > 1


def _remove_part(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def _remove_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    path = folder / "image_encoder" / "model.fp16.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _pickle_weights(folder: Path) -> None:
    path = folder / "text_encoder" / "model.fp16.safetensors"
    torch.save(load_file(path), folder / "text_encoder" / "pytorch_model.bin")
    path.unlink()


def _lose_shard(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    path.rename(folder / "unet" / "one.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))


def _remove_picture_encoding(folder: Path) -> None:
    (folder / "feature_extractor" / "preprocessor_config.json").unlink()


DAMAGE = {
    "has no part 'vae'": _remove_part,
    "unet has no weight file": _remove_weights,
    "model.fp16.safetensors is cut short": _cut_weights,
    "pickled weights (pytorch_model.bin), which can run code": _pickle_weights,
    "two.safetensors is missing": _lose_shard,
    "preprocessor_config.json": _remove_picture_encoding,
}


@pytest.mark.parametrize("sentence", DAMAGE)
def test_damaged_folder_is_refused_in_one_sentence(checkpoint: Path, tmp_path: Path, sentence: str) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    check_folder(folder)
    DAMAGE[sentence](folder)
    for refuse in (check_folder, load):
        with pytest.raises(ModelFilesError) as caught:
            refuse(folder)
        assert sentence in str(caught.value)


def test_weights_that_lack_a_tensor_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    for part, tensor in (("unet", "conv_in.weight"), ("text_encoder", "text_model.final_layer_norm.bias")):
        path = next((folder / part).glob("*.safetensors"))
        tensors = load_file(path)
        save_file({key: value for key, value in tensors.items() if key != tensor}, path, {"format": "pt"})
        with pytest.raises(ModelFilesError, match="lack 1 tensors"):
            load(folder)
        save_file(tensors, path, {"format": "pt"})
