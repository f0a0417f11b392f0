"""The built-in family: its view of a picture, its training data, its windows, and its shipped weights."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from i2v.builtin.phrases import Instruction, draw_instruction
from i2v.builtin.scenes import CANVAS_PX, Scene, draw_field, draw_scene, hint_of
from i2v.models.base import cpu_generator
from i2v.models.motion import Pipeline
from i2v.models.motion_field import even_motion, look_at, windows
from i2v.models.motion_render import CHANNELS, MotionRenderer
from i2v.models.prompt_length import measure_prompt
from i2v.presets.model_preset import preset_named
from i2v.request import build_request

SIZE = 8


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    from skimage import data, transform

    return (transform.resize(data.chelsea(), (height, width), anti_aliasing=True) * 255).astype(np.uint8)


def scene(seed: int = 0) -> Scene:
    return draw_scene(np.random.default_rng(seed), SIZE)


def field(instruction: Instruction, seed: int = 0, of: Scene | None = None) -> np.ndarray:
    return draw_field(instruction, of or scene(), 8, np.random.default_rng(seed))


# What the denoiser sees


def test_a_photo_is_laid_on_its_canvas_as_training_scenes_are() -> None:
    drawn = scene(3)
    whole = torch.from_numpy(drawn.picture).permute(2, 0, 1)[None]
    sight = look_at(whole, SIZE)
    assert drawn.picture.shape == (CANVAS_PX, CANVAS_PX, 3)
    assert sight.grid.shape == (1, 4, SIZE, SIZE)
    assert torch.allclose(sight.grid[0, :3, 0, 0], whole[0, :, :8, :8].mean((1, 2)) * 2 - 1, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 40), (16, 64), (64, 16)])
def test_places_beyond_the_picture_are_beyond_one(height: int, width: int) -> None:
    place = look_at(torch.rand(1, 3, height, width), SIZE).place[0]
    assert place[0].max() == pytest.approx(64 / width)
    assert place[1].max() == pytest.approx(64 / height)


def test_a_picture_cut_out_of_a_scene_looks_like_the_scene() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        drawn = draw_scene(rng, SIZE)
        across, down = 1 / drawn.place_x.max(), 1 / drawn.place_y.max()
        rows, columns = round(down * CANVAS_PX / 2) * 2, round(across * CANVAS_PX / 2) * 2
        top, left = (CANVAS_PX - rows) // 2, (CANVAS_PX - columns) // 2
        cut = torch.from_numpy(drawn.picture[top : top + rows, left : left + columns]).permute(2, 0, 1)[None]
        whole = torch.from_numpy(drawn.picture).permute(2, 0, 1)[None]
        assert torch.allclose(look_at(cut, SIZE).grid, look_at(whole, SIZE).grid, atol=1e-5)


# Instructions and fields


@pytest.mark.parametrize(
    ("move", "channel", "sign"),
    [("pan_left", 0, -1), ("pan_right", 0, 1), ("tilt_up", 1, -1), ("tilt_down", 1, 1)],
)
def test_moves_look_where_the_camera_turns(move: str, channel: int, sign: int) -> None:
    drawn = field(Instruction((move,)))
    assert (drawn[channel] * sign > 0.1).all()
    assert np.abs(drawn[1 - channel]).max() < 1e-6


def test_zoom_in_looks_inwards_and_roll_turns() -> None:
    zoom = field(Instruction(("zoom_in",)))
    assert (zoom[0, :, :, -1] < -0.1).all()
    assert (zoom[0, :, :, 0] > 0.1).all()
    roll = field(Instruction(("roll_clockwise",)))  # the camera turns clockwise, so the top looks to the right
    assert (roll[0, :, 0] > 0.05).all()
    assert (roll[0, :, -1] < -0.05).all()


def test_the_hint_is_the_field_of_the_mean_scene_but_for_second_order() -> None:
    for move in ("pan_left", "tilt_down", "zoom_out", "roll_counter_clockwise"):
        instruction = Instruction((move,))
        even = even_motion(torch.from_numpy(hint_of(instruction))[None], SIZE)[0, :2].numpy()
        fields = np.mean([field(instruction, seed)[:2].mean(axis=1) for seed in range(40)], axis=0)
        assert np.abs(even - fields).max() < 0.02


def test_nearer_things_move_more_in_a_pan_and_not_in_a_roll() -> None:
    drawn = scene(5)
    near, far = drawn.nearness > 0.7, drawn.nearness < 0.3
    assert near.any()
    assert far.any()
    pan = field(Instruction(("pan_left",)), of=drawn)[2, 0]
    assert pan[near].min() > 0.05
    assert pan[far].max() < -0.05
    assert not field(Instruction(("roll_clockwise",)), of=drawn)[2].any()


def test_effects_keep_to_where_they_belong() -> None:
    for seed in range(30):
        drawn = scene(seed)
        ripple = field(Instruction(("hold",), effects=("ripple",)), seed, drawn)
        assert ripple[5, :, drawn.place_y < 0].max(initial=0) == 0
        inside = drawn.place_y <= 1
        assert not np.delete(ripple, 5, axis=0)[:, :, inside].any()


def test_water_and_plants_are_found_by_what_they_are() -> None:
    seen_water = seen_plants = 0
    for seed in range(60):
        drawn = scene(seed)
        if drawn.plants.max() > 0.9 and drawn.plants.min() < 0.05:
            sway = field(Instruction(("hold",), effects=("sway",)), seed, drawn)[6].mean(axis=0)
            assert np.corrcoef(sway.ravel(), drawn.plants.ravel())[0, 1] > 0.95
            seen_plants += 1
        seen_water += drawn.water.max() > 0.9
    assert seen_water > 5
    assert seen_plants > 5


def test_speed_words_order_the_motion() -> None:
    slow, normal, fast = (
        np.abs(field(Instruction(("pan_left",), speed))[0]).mean() for speed in ("slow", "normal", "fast")
    )
    assert slow < 0.7 * normal
    assert fast > 1.4 * normal


def test_holding_still_is_a_field_of_zeros() -> None:
    assert not field(Instruction(("hold",))).any()


def test_every_drawn_sentence_fits_the_model_or_nearly() -> None:
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


# Windows


@pytest.mark.parametrize("moments", [5, 8, 9, 12, 13, 40])
def test_windows_cover_every_moment_and_overlap_by_half(moments: int) -> None:
    starts = windows(moments, 8)
    covered = {start + i for start in starts for i in range(8)}
    assert set(range(moments)) <= covered
    assert starts[-1] + 8 == max(moments, 8)
    assert all(b - a <= 4 for a, b in pairwise(starts))


# The shipped weights


@pytest.fixture(scope="module")
def shipped() -> Pipeline:
    preset = preset_named("motion")
    assert preset.shipped_folder
    return Pipeline.load(preset.shipped_folder, preset, torch.device("cpu"), torch.float32)


def final_field(pipeline: Pipeline, prompt: str, seed: int = 1, **values: object) -> np.ndarray:
    request = build_request({"prompt": prompt, "seed": seed, "width": 128, "height": 96, **values}, (128, 96))
    generator = cpu_generator(request.seed)
    with torch.inference_mode():
        conditions = pipeline.encode(request, picture(), generator)
        latents = pipeline.denoise(pipeline.draw_latents(request, generator), conditions, request)
        return pipeline.renderer.to_field(latents)[0].numpy()


@pytest.mark.parametrize(
    ("prompt", "channel", "sign"),
    [("pan left", 0, -1), ("pan to the right", 0, 1), ("tilt up", 1, -1), ("look down", 1, 1)],
)
def test_shipped_weights_obey_the_direction(shipped: Pipeline, prompt: str, channel: int, sign: int) -> None:
    found = final_field(shipped, prompt)
    assert found[channel].mean() * sign > 0.08
    assert abs(found[1 - channel].mean()) < 0.03


def test_a_long_clip_moves_like_a_short_one(shipped: Pipeline) -> None:
    short, long = (final_field(shipped, "the camera pans left", num_frames=n) for n in (24, 120))
    assert short.shape[1] == shipped.renderer.config.num_keyframes
    assert long.shape[1] == 33
    assert long[0].mean() == pytest.approx(short[0].mean(), rel=0.25)
    pace = long[0].mean(axis=(1, 2))
    assert np.abs(np.diff(pace)).max() < 0.1 * np.abs(pace).mean()  # no seam between windows


def test_a_field_goes_there_and_back(shipped: Pipeline) -> None:
    drawn = torch.randn(1, len(CHANNELS), 8, SIZE, SIZE)
    assert torch.allclose(shipped.renderer.to_latents(shipped.renderer.to_field(drawn)), drawn, atol=1e-5)
    assert isinstance(shipped.renderer, MotionRenderer)


def test_same_seed_same_field_other_seed_another(shipped: Pipeline) -> None:
    first, again, other = (final_field(shipped, "zoom in", seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_guidance_strengthens_the_motion(shipped: Pipeline) -> None:
    plain = final_field(shipped, "the camera pans left")[0].mean()
    guided = final_field(shipped, "the camera pans left", guidance_scale=2.0)[0].mean()
    assert guided < plain < 0


def test_parameters_in_the_preset_are_counted(shipped: Pipeline) -> None:
    counted = sum(p.numel() for module in shipped.modules().values() for p in module.parameters())
    assert counted == preset_named("motion").parameters
