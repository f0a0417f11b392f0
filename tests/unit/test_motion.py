"""The built-in family: its renderer's geometry, its view of a picture, and its shipped weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from i2v.builtin.measure import measure_motion
from i2v.builtin.phrases import MOVES, Instruction, draw_instruction
from i2v.builtin.scenes import CANVAS_PX, Motion, camera_field, clip_extent, draw_motion, draw_scene
from i2v.models.base import cpu_generator
from i2v.models.motion import MotionRenderer, Pipeline, picture_to_grid
from i2v.models.prompt_length import measure_prompt
from i2v.presets import preset_named
from i2v.request import build_request

FLAT = np.full((8, 8), 0.5)


def picture(height: int = 96, width: int = 128) -> torch.Tensor:
    from skimage import data, transform

    small = transform.resize(data.chelsea(), (height, width), anti_aliasing=True)
    return torch.from_numpy(small).permute(2, 0, 1).float()


def render(motion: Motion, num_frames: int = 8, image: torch.Tensor | None = None) -> list[np.ndarray]:
    field = torch.from_numpy(camera_field(motion, FLAT, 12))
    frames = MotionRenderer().render(picture() if image is None else image, field, num_frames)
    return [(frame * 255).round().byte().permute(1, 2, 0).numpy() for frame in frames]


def test_the_first_frame_is_the_picture_itself() -> None:
    image = picture()
    assert np.array_equal(render(Motion(shift_x=0.3))[0], (image * 255).round().byte().permute(1, 2, 0).numpy())


def test_a_field_of_zeros_changes_nothing() -> None:
    frames = render(Motion())
    assert max(np.abs(frame.astype(int) - frames[0]).max() for frame in frames) <= 1


def test_a_whole_pixel_shift_moves_the_content_exactly() -> None:
    image = picture(64, 128)
    field = torch.zeros(4, 12, 8, 8)
    field[0, -1] = -2 * 8 / 128  # eight pixels of a 128 pixel wide canvas, to the right
    last = list(MotionRenderer().render(image, field, 12))[-1]
    assert torch.allclose(last[:, :, 8:], image[:, :, :-8], atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(97, 61), (64, 64), (40, 200), (200, 40)])
def test_any_size_and_aspect_is_rendered(height: int, width: int) -> None:
    frames = render(Motion(shift_x=0.1, angle=0.1, log_scale=-0.2), 5, picture(height, width))
    assert [frame.shape for frame in frames] == [(height, width, 3)] * 5


@pytest.mark.parametrize(
    ("motion", "name", "sign"),
    [
        (Motion(shift_x=0.15), "right", 1),
        (Motion(shift_y=-0.15), "down", -1),
        (Motion(log_scale=0.2), "grown", 1),
        (Motion(log_scale=-0.2), "grown", -1),
        (Motion(angle=0.12), "turned", 1),
        (Motion(angle=-0.12), "turned", -1),
    ],
)
def test_renderer_and_measure_agree_on_every_direction(motion: Motion, name: str, sign: int) -> None:
    strongest, amount = measure_motion(render(motion, 9, picture(192, 256))).strongest()
    assert strongest == name
    assert amount * sign > 0.02


def test_light_changes_brightness_and_colour() -> None:
    dark, warm = render(Motion(log_gain=-0.7))[-1], render(Motion(warmth=0.4))[-1]
    first = render(Motion())[0]
    assert dark.mean() < 0.6 * first.mean()
    assert warm[..., 0].mean() - warm[..., 2].mean() > first[..., 0].mean() - first[..., 2].mean() + 5


def test_what_enters_the_frame_is_filled_from_the_picture() -> None:
    last = render(Motion(shift_x=0.4))[-1]
    edge, whole = last[:, :8].astype(float), picture().numpy() * 255
    assert edge.mean() > 20
    assert abs(edge.mean() - whole.mean()) < 60


def test_a_photo_is_laid_on_its_canvas_as_training_scenes_are() -> None:
    scene, _ = draw_scene(np.random.default_rng(3), 8)
    whole = torch.from_numpy(scene).permute(2, 0, 1).unsqueeze(0)
    grid = picture_to_grid(whole, 8)
    assert scene.shape == (CANVAS_PX, CANVAS_PX, 3)
    assert grid.shape == (1, 4, 8, 8)
    assert torch.allclose(grid[0, :3, 0, 0], whole[0, :, :8, :8].mean((1, 2)) * 2 - 1, atol=1e-5)


def test_long_clips_move_farther_than_short_ones() -> None:
    assert clip_extent(2) == pytest.approx(1.0)
    assert clip_extent(1) < clip_extent(2) < clip_extent(8) < 2


def test_speed_words_order_the_motion() -> None:
    def shift(speed: str) -> float:
        return draw_motion(Instruction(("pan_left",), speed), 2.0, np.random.default_rng(0)).shift_x

    assert shift("slow") < shift("normal") < shift("fast")


def test_every_drawn_sentence_fits_the_model_or_nearly() -> None:
    import random

    preset, rng = preset_named("motion"), random.Random(5)
    assert preset.shipped_folder
    folder = preset.shipped_folder / "tokenizer"
    lengths = [measure_prompt(folder, draw_instruction(rng)[1], preset.prompt_tokens) for _ in range(400)]
    assert sum(not length.cut for length in lengths) > 390


def test_prompt_length_names_exactly_what_is_cut() -> None:
    preset = preset_named("motion")
    assert preset.shipped_folder
    folder = preset.shipped_folder / "tokenizer"
    long = measure_prompt(folder, "left " * 60 + "END", preset.prompt_tokens)
    assert long.tokens > long.limit == preset.prompt_tokens
    assert long.cut == "left " * 14 + "END"
    assert measure_prompt(folder, "the camera pans left", preset.prompt_tokens).cut == ""


@pytest.fixture(scope="module")
def shipped() -> Pipeline:
    preset = preset_named("motion")
    assert preset.shipped_folder
    return Pipeline.load(preset.shipped_folder, preset, torch.device("cpu"), torch.float32)


def final_field(pipeline: Pipeline, prompt: str, seed: int = 1, **values: object) -> torch.Tensor:
    request = build_request({"prompt": prompt, "seed": seed, "width": 128, "height": 96, **values}, (128, 96))
    image = (picture() * 255).byte().permute(1, 2, 0).numpy()
    generator = cpu_generator(request.seed)
    with torch.inference_mode():
        conditions = pipeline.encode(request, image, generator)
        return pipeline.denoise(pipeline.draw_latents(request, generator), conditions, request)


@pytest.mark.parametrize("move", ["pan_left", "pan_right", "tilt_up", "tilt_down"])
def test_shipped_weights_obey_the_direction(shipped: Pipeline, move: str) -> None:
    field = shipped.renderer.to_field(final_field(shipped, MOVES[move][0]))[0]
    channel, sign = {"pan_left": (0, -1), "pan_right": (0, 1), "tilt_up": (1, -1), "tilt_down": (1, 1)}[move]
    assert float(field[channel, -1].mean()) * sign > 0.05
    assert abs(float(field[1 - channel, -1].mean())) < 0.03


def test_same_seed_same_field_other_seed_another(shipped: Pipeline) -> None:
    first, again, other = (final_field(shipped, "zoom in", seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_guidance_strengthens_the_motion(shipped: Pipeline) -> None:
    plain = final_field(shipped, "the camera pans left")[0, 0, -1].mean()
    guided = final_field(shipped, "the camera pans left", guidance_scale=2.0)[0, 0, -1].mean()
    assert guided < plain < 0


def test_parameters_in_the_preset_are_counted(shipped: Pipeline) -> None:
    counted = sum(p.numel() for module in shipped.modules().values() for p in module.parameters())
    assert counted == preset_named("motion").parameters
