"""The renderer of the motion field: geometry, effects, layers, loops, memory. Fields here are made by hand."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data

from i2v.models.motion_grid import grid_to_pixels
from i2v.models.motion_layers import find_layers
from i2v.models.motion_render import (
    BUFFER_BYTES,
    BUFFER_BYTES_PER_PIXEL,
    CHANNELS,
    MotionRenderer,
    _Mover,
    _prepare,
    camera_path,
    extent,
    progress,
)
from i2v.models.motion_waves import Waves

SIZE, FPS = 8, 12.0


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    """A picture with detail of every size, smooth enough to be moved without loss."""
    rng = np.random.default_rng(1)
    found = np.full((height, width, 3), 110.0)
    for cells in (3, 8, 20):
        noise = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        found += 28 * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return found.clip(0, 255).astype(np.uint8)


def blank(moments: int = 8) -> np.ndarray:
    return np.zeros((len(CHANNELS), moments, SIZE, SIZE), np.float32)


def with_channel(name: str, values: Any) -> np.ndarray:
    field = blank()
    field[CHANNELS.index(name)] = values
    return field


def frames(field: np.ndarray, count: int = 9, image: np.ndarray | None = None, **options: Any) -> list[np.ndarray]:
    # Two seconds, so that rates are distances.
    fps = options.pop("fps", (count - 1) / 2)
    return list(MotionRenderer().render(picture() if image is None else image, field, count, fps, **options))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


# Geometry


def test_the_first_frame_is_the_picture_bit_for_bit() -> None:
    field = with_channel("dx", 0.3)
    field[3:] = 1.0
    assert np.array_equal(frames(field)[0], picture())


def test_a_field_of_zeros_changes_nothing() -> None:
    assert all(np.array_equal(frame, picture()) for frame in frames(blank()))


def test_the_grid_is_carried_to_pixels_exactly_where_it_is_linear() -> None:
    weights = grid_to_pixels(37, 64, SIZE)
    centres = ((np.arange(37) + 0.5) * 2 / 37 - 1) * 37 / 64
    assert np.allclose(weights @ np.linspace(-1, 1, SIZE), centres, atol=1e-6)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-6)


def test_a_shift_by_whole_pixels_moves_the_content_exactly() -> None:
    last = frames(with_channel("dx", -2 * 8 / 128))[-1]  # eight pixels of a canvas of 128
    assert difference(last[:, 8:], picture()[:, :-8]) < 0.6
    last = frames(with_channel("dy", -2 * 8 / 128))[-1]
    assert difference(last[8:], picture()[:-8]) < 0.6


def test_a_zoom_by_two_shows_the_middle_twice_as_large() -> None:
    axis = np.linspace(-1, 1, SIZE)
    field = with_channel("dx", -0.5 * axis[None, :])
    field[1] = -0.5 * axis[:, None]
    image = picture(128, 128)
    expected = cv2.resize(image[32:96, 32:96], (128, 128), interpolation=cv2.INTER_CUBIC)
    assert difference(frames(field, image=image)[-1][8:-8, 8:-8], expected[8:-8, 8:-8]) < 1.5


@pytest.mark.parametrize(("height", "width"), [(97, 61), (64, 64), (64, 256), (256, 64), (33, 48)])
def test_any_size_and_aspect_is_rendered(height: int, width: int) -> None:
    field = blank()
    field[:3], field[5:] = 0.2, 1.0
    made = frames(field, 4, picture(height, width))
    assert [frame.shape for frame in made] == [(height, width, 3)] * 4
    assert all(frame.dtype == np.uint8 for frame in made)


def test_what_enters_the_frame_is_as_sharp_as_the_picture_and_not_black() -> None:
    last = frames(with_channel("dx", -0.3))[-1]
    entered = last[:, :19]

    def detail(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image.astype(float), axis=0)).mean())

    assert detail(entered) > 0.7 * detail(picture())
    assert difference(entered, picture()[:, :19][:, ::-1]) < 2  # mirrored at the border


def test_time_goes_evenly_and_the_path_is_finished_at_the_last_frame() -> None:
    rates = np.full((2, 8, SIZE, SIZE), 0.2, np.float32)
    path = camera_path(rates, progress(13, loop=False))
    assert np.allclose(path[:, 0, 0, 0], 0.2 * np.arange(13) / 12, atol=1e-6)


def test_motion_is_smooth_even_where_the_pace_changes_abruptly() -> None:
    rates = np.zeros((1, 8, 1, 1), np.float32)
    rates[:, 4:] = 1
    path = camera_path(rates, progress(241, loop=False))[:, 0, 0, 0]
    assert path[-1] == pytest.approx(0.5, abs=1e-4)
    speed = np.diff(path) * 240
    assert np.abs(np.diff(speed)).max() < 0.1  # of a step of 1: no jerk within a moment of thirty frames


def test_long_clips_move_farther_than_short_ones() -> None:
    assert extent(2) == pytest.approx(1.0)
    assert extent(1) < extent(2) < extent(8) < 2
    assert extent(0) == 0


def test_a_denoisers_residue_is_still_and_a_calm_move_is_not_touched() -> None:
    field = blank()
    field[:2], field[3:5], field[5:] = 0.003, 0.01, 0.1
    assert all(np.array_equal(frame, picture()) for frame in frames(field))
    axis = np.linspace(-1, 1, SIZE)
    calm = with_channel("dx", -0.06 * axis[None, :])
    calm[1] = -0.06 * axis[:, None]
    image = picture(128, 128)
    expected = cv2.resize(image[4:-4, 4:-4], (128, 128), interpolation=cv2.INTER_CUBIC)
    assert difference(frames(calm, image=image)[-1][8:-8, 8:-8], expected[8:-8, 8:-8]) < 2


# What moves of itself


LOWER = (np.arange(SIZE) > SIZE / 2)[:, None] * np.ones(SIZE, np.float32)


@pytest.mark.parametrize("effect", ["ripple", "sway", "shimmer"])
def test_an_effect_is_seen_where_it_belongs_and_nowhere_else(effect: str) -> None:
    image = picture(256, 256)
    made = frames(with_channel(effect, LOWER), 13, image, fps=FPS)
    upper = max(difference(frame[:112], image[:112]) for frame in made)
    lower = max(difference(frame[160:], image[160:]) for frame in made)
    assert upper == 0
    assert lower > 0.3


def test_ripples_move_up_and_down_and_plants_aside() -> None:
    def directions(index: int) -> tuple[float, float]:
        amplitudes = np.zeros((5, 8, SIZE, SIZE), np.float32)
        amplitudes[index] = 1
        moved = Waves(amplitudes, (256, 256), 24, FPS, False, 3, (0.1, 0.2)).displacement(7)
        assert moved is not None
        return float(np.abs(moved[0]).mean()), float(np.abs(moved[1]).mean())

    ripple, sway = directions(0), directions(1)
    assert ripple[1] > 2 * ripple[0]
    assert sway[0] > 2 * sway[1]
    assert 0.2 < ripple[1] < 4  # pixels of 256
    assert 0.5 < sway[0] < 6


def test_a_hand_held_camera_wavers_as_a_whole() -> None:
    image = picture(128, 128)
    made = frames(with_channel("shake", 1.0), 24, image, fps=FPS)
    shifts = []
    for frame in made:
        grey = [cv2.cvtColor(part, cv2.COLOR_RGB2GRAY).astype(np.float32) for part in (image, frame)]
        shifts.append(cv2.phaseCorrelate(*grey)[0])
    turns = np.diff(np.sign(np.diff(np.array(shifts), axis=0)), axis=0) != 0
    assert turns.sum(axis=0).min() >= 2  # it comes and goes
    assert np.abs(shifts).max() < 5


def test_flickering_light_wavers_and_never_glares() -> None:
    image = picture()
    means = np.array([frame.mean() / image.mean() for frame in frames(with_channel("flicker", 1.5), 48, fps=FPS)])
    assert (np.diff(np.sign(np.diff(means))) != 0).sum() > 5
    assert 0.6 < means.min() < 0.95
    assert means.max() < 1.2


def test_night_darkens_and_dawn_brightens_without_clipping() -> None:
    night, dawn = frames(with_channel("log_gain", -1.0))[-1], frames(with_channel("log_gain", 0.4))[-1]
    assert night.mean() < 0.45 * picture().mean()
    assert dawn.mean() > 1.15 * picture().mean()
    assert (dawn == 255).mean() <= (picture() >= 254).mean() + 0.01


def test_warm_light_is_redder_and_less_blue() -> None:
    warm = frames(with_channel("warmth", 0.3))[-1].astype(float).mean(axis=(0, 1))
    before = picture().astype(float).mean(axis=(0, 1))
    assert warm[0] > before[0] + 3
    assert warm[2] < before[2] - 3


def test_effects_do_not_change_one_anothers_phases() -> None:
    both = blank()
    both[CHANNELS.index("ripple")] = both[CHANNELS.index("flicker")] = 1
    dark = frames(both, 6, seed=4)[-1].mean() / frames(with_channel("ripple", 1.0), 6, seed=4)[-1].mean()
    alone = frames(with_channel("flicker", 1.0), 6, seed=4)[-1].mean() / picture().mean()
    assert dark == pytest.approx(alone, abs=0.01)


# Near and far


def layered(size: int = 256) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A disc before a background: the background, the disc's colours, its mask."""
    rng = np.random.default_rng(2)
    noise = [cv2.resize(rng.standard_normal((24, 24, 3)).astype(np.float32), (size, size)) for _ in range(2)]
    behind = (noise[0] * 14 + [70, 110, 170]).clip(0, 255).astype(np.uint8)
    before = (noise[1] * 14 + [210, 90, 60]).clip(0, 255).astype(np.uint8)
    y, x = np.mgrid[:size, :size]
    disc = ((x - size / 2) ** 2 + (y - size / 2) ** 2 < (size * 0.24) ** 2).astype(np.uint8)
    return behind, before, disc


def near_disc() -> np.ndarray:
    axis = np.linspace(-1, 1, SIZE)
    inside = np.exp(-(((axis[None, :] ** 2 + axis[:, None] ** 2) / 0.55**2) ** 2))
    return (0.44 * inside - 0.22).astype(np.float32)


def test_near_things_cover_far_ones_and_what_they_uncover_is_filled() -> None:
    behind, before, disc = layered()
    image = np.where(disc[..., None] > 0, before, behind)
    field = with_channel("dx", -0.2)
    field[CHANNELS.index("parallax")] = near_disc()
    with_layers, without = frames(field, 9, image)[-1], frames(field, 9, image, layers=False)[-1]

    shift = 0.2 * 128  # pixels, of the even motion
    to_disc, to_rest = (np.float32([[1, 0, shift * (1 + n)], [0, 1, 0]]) for n in (0.22, -0.22))
    size = (256, 256)
    mask = cv2.warpAffine(disc.astype(np.float32), to_disc, size)[..., None]
    truth = cv2.warpAffine(before, to_disc, size) * mask
    truth = truth + cv2.warpAffine(behind, to_rest, size, borderMode=cv2.BORDER_REFLECT) * (1 - mask)

    def psnr(made: np.ndarray) -> float:
        part = np.s_[40:216, 48:240]
        return float(10 * np.log10(255**2 / ((made[part].astype(float) - truth[part]) ** 2).mean()))

    assert psnr(with_layers) > psnr(without) + 2
    assert psnr(with_layers) > 24

    red = with_layers[128, :, 0].astype(int) - with_layers[128, :, 2] > 60
    assert red.sum() == pytest.approx(disc[128].sum(), rel=0.03)  # neither stretched nor torn
    assert np.abs(np.diff(red.astype(int))).sum() == 2


def test_a_cut_that_follows_no_edge_is_not_used() -> None:
    rows = grid_to_pixels(128, 128, SIZE)
    smooth = cv2.GaussianBlur(picture(128, 128), (0, 0), 12)
    assert find_layers(smooth, near_disc(), rows, rows) is None


def test_a_flat_depth_has_no_layers() -> None:
    behind, before, disc = layered()
    rows = grid_to_pixels(256, 256, SIZE)
    image = np.where(disc[..., None] > 0, before, behind)
    assert find_layers(image, np.zeros((SIZE, SIZE), np.float32), rows, rows) is None
    assert find_layers(image, near_disc(), rows, rows) is not None


def test_layers_at_rest_are_the_picture_again() -> None:
    behind, before, disc = layered()
    soft = cv2.GaussianBlur(disc.astype(np.float32), (0, 0), 0.8)[
        ..., None
    ]  # an edge of mixed colours, as a lens makes
    image = np.rint(before * soft + behind * (1 - soft)).astype(np.uint8)
    rows = grid_to_pixels(256, 256, SIZE)
    layers = find_layers(image, near_disc(), rows, rows)
    assert layers is not None
    share = layers.alpha[..., None] / 255
    again = layers.near * share + layers.far * (1 - share)
    assert np.abs(again - image).max() <= 1.5  # so nothing jumps when it begins to move
    assert not np.array_equal(layers.far, image)


@pytest.mark.parametrize("photo", ["astronaut", "camera", "coffee", "rocket", "chelsea"])
def test_photographs_whose_cut_would_tear_something_apart_stay_whole(photo: str) -> None:
    image = getattr(skimage.data, photo)()
    image = np.dstack([image] * 3) if image.ndim == 2 else image
    axis = np.linspace(-1, 1, SIZE)
    for width, lift in ((0.55, 0.6), (0.75, 1.0)):  # a head cut off, a saucer split: all met with while this was made
        middle = np.exp(-((axis[None, :] / width) ** 2 + ((axis[:, None] - 0.2) / 0.75) ** 2))
        nearness = 0.55 * middle + 0.45 * np.clip((axis[:, None] + lift) / (1 + lift), 0, 1)
        parallax = (0.4 * np.clip(nearness, 0, 1) - 0.2).astype(np.float32)
        rows, columns = (grid_to_pixels(n, max(image.shape), SIZE) for n in image.shape[:2])
        assert find_layers(image, parallax, rows, columns) is None


def stretch(map_x: np.ndarray, map_y: np.ndarray) -> np.ndarray:
    """Return the derivatives (H, W, 2, 2) of where pixels look."""
    x, y = (np.stack(np.gradient(part.astype(float))[::-1], axis=-1) for part in (map_x, map_y))
    return np.stack([x, y], axis=-2)


@pytest.mark.parametrize("seconds", [2, 10])
@pytest.mark.parametrize("move", ["pan", "zoom"])
def test_parallax_stretches_nothing_by_more_than_a_quarter(seconds: int, move: str) -> None:
    axis = np.linspace(-1, 1, SIZE)
    for seed in range(8):
        field = with_channel("dx", -0.2 if move == "pan" else -0.3 * axis[None, :])
        field[1] = 0 if move == "pan" else -0.3 * axis[:, None]
        maps = []
        for rough in (0, np.random.default_rng(seed).uniform(-0.25, 0.25, (SIZE, SIZE))):
            field[CHANNELS.index("parallax")] = rough
            mover = _Mover(picture(), *_parts(field, picture(), seconds * 6 + 1, 6.0), None)
            mover.frame(seconds * 6)
            maps.append(stretch(mover._map_x, mover._map_y))
        found = np.linalg.svd(np.linalg.solve(maps[0], maps[1]), compute_uv=False)[2:-2, 2:-2]
        assert found.min() > 0.78
        assert found.max() < 1.25


def _parts(field: np.ndarray, image: np.ndarray, count: int, fps: float) -> tuple[Any, Any]:
    size = image.shape[:2]
    return _prepare(field, size, count, fps, False), Waves(field[5:], size, count, fps, False, 3, (0.12, 0.3))


def test_no_pixel_is_jerked() -> None:
    axis = np.linspace(-1, 1, SIZE)
    field = with_channel("dx", -0.15)
    field[:2] *= (1 + 0.3 * np.cos(np.arange(8)))[:, None, None]  # an uneven pace
    field[2] = 0.2 * axis[:, None]
    image, count, fps = picture(), 49, 24.0

    def jerk(field: np.ndarray) -> float:
        mover = _Mover(image, *_parts(field, image, count, fps), None)
        path = []
        for index in range(count):
            mover.frame(index)
            path.append(np.stack([mover._map_x, mover._map_y]))
        return float(np.abs(np.diff(path, n=2, axis=0)).max() / 96)  # of the short side, per frame and frame

    assert jerk(field) < 0.0005
    field[CHANNELS.index("ripple")] = field[CHANNELS.index("sway")] = field[CHANNELS.index("shake")] = 1
    # a (2 pi f / fps)^2 for each of the three: 0.7 % at 1.6 Hz, 1.2 % at 0.9 Hz, 1 % at 2.2 Hz and a little roll
    assert jerk(field) < 0.0005 + 0.007 * 0.175 + 0.0125 * 0.056 + 0.013 * 0.332


# Loops, resuming, memory


def test_a_loop_ends_where_it_begins() -> None:
    field = blank()
    field[0], field[5:7], field[9] = -0.15, 0.8, 1.0
    made = frames(field, 24, fps=FPS, loop=True)
    steps = [difference(a, b) for a, b in pairwise(made)]
    assert difference(made[-1], made[0]) <= 1.05 * max(steps)
    assert difference(made[12], made[0]) > 3 * float(np.median(steps))
    once = frames(field, 24, fps=FPS)
    assert difference(once[-1], once[0]) > 3 * difference(made[-1], made[0])


def test_a_resumed_decode_gives_the_same_frames() -> None:
    field = blank()
    field[0], field[5:] = -0.1, 0.7
    whole = frames(field, 8, seed=5)
    rest = frames(field, 8, seed=5, first=3)
    assert len(rest) == 5
    assert all(np.array_equal(a, b) for a, b in zip(whole[3:], rest, strict=True))
    other = frames(field, 8, seed=6)
    assert not np.array_equal(whole[-1], other[-1])


def test_memory_does_not_grow_with_the_number_of_frames_and_is_as_stated() -> None:
    behind, before, disc = layered(512)
    image = np.where(disc[..., None] > 0, before, behind)
    field = with_channel("dx", -0.2)
    field[CHANNELS.index("parallax")] = near_disc()
    field[3], field[5:7] = -0.5, 1.0

    def peak(count: int) -> int:
        tracemalloc.start()
        for frame in MotionRenderer().render(image, field, count, FPS):
            assert frame.shape == image.shape
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(4), peak(16)
    assert many < 1.05 * few
    assert few < BUFFER_BYTES + BUFFER_BYTES_PER_PIXEL * 512 * 512
