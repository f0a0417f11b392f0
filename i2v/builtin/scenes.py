"""Procedural layered scenes and the motion field that an instruction gives them: the built-in model's training data.

Knows nothing of the network. No photograph is used. Coordinates and channels are those of i2v/models/motion_render.py:
a square canvas, [-1, 1] on both axes, y down, on which the picture is centred; rates per clip of two seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from i2v.builtin.phrases import Instruction

__all__ = ["Scene", "draw_field", "draw_scene", "hint_of"]

Array = NDArray[np.float32]
CANVAS_PX = 64
SPEED_FACTORS = {"slow": 0.45, "normal": 1.0, "fast": 1.7}
STRENGTH_FACTORS = {"slow": 0.6, "normal": 1.0, "fast": 1.5}
# Extent of each move over a two-second clip at normal speed: half-sides of the canvas, log scale, radians.
PAN, ZOOM, ROLL, CALM_ZOOM = 0.15, 0.18, 0.14, 0.06
_UNIT_MOVES = {
    "pan_left": ("shift_x", PAN),
    "pan_right": ("shift_x", -PAN),
    "tilt_up": ("shift_y", PAN),
    "tilt_down": ("shift_y", -PAN),
    "zoom_in": ("log_scale", ZOOM),
    "zoom_out": ("log_scale", -ZOOM),
    "roll_clockwise": ("angle", -ROLL),
    "roll_counter_clockwise": ("angle", ROLL),
}
# Log gain and warmth at the clip's end.
LIGHT_TARGETS = {
    "night": (-1.1, -0.22),
    "dawn": (0.4, 0.2),
    "darker": (-0.6, 0.0),
    "brighter": (0.4, 0.0),
    "warmer": (0.0, 0.28),
    "colder": (-0.1, -0.28),
}
PARALLAX = 0.22  # a near layer moves this much more than the middle one, a far layer this much less
ZOOM_PARALLAX = 0.5  # a dolly's share of it; a roll has none
EFFECT_CHANNELS = {"ripple": 5, "sway": 6, "shimmer": 7, "flicker": 8, "shake": 9}


@dataclass(frozen=True)
class Scene:
    """A picture on its canvas, (64, 64, 3) in 0..1, and what its places are, each (g, g) in 0..1 on the grid's points.

    `place_x`, `place_y` are coordinates in half-sides of the picture itself: beyond 1 lies what is mirrored.
    """

    picture: Array
    nearness: Array
    water: Array
    plants: Array
    place_x: Array
    place_y: Array


@dataclass(frozen=True)
class _Path:
    """The camera's pose at the end of the clip."""

    shift_x: float = 0.0  # content moves right, half-sides
    shift_y: float = 0.0  # content moves down, half-sides
    log_scale: float = 0.0  # content grows
    angle: float = 0.0  # content turns clockwise, radians


def _path(instruction: Instruction, vary: NDArray[np.float64]) -> _Path:
    values = dict.fromkeys(("shift_x", "shift_y", "log_scale", "angle"), 0.0)
    shared = 0.85 if len(instruction.moves) > 1 else 1.0
    for move in instruction.moves:
        if move != "hold":
            axis, amount = _UNIT_MOVES[move]
            values[axis] += amount * SPEED_FACTORS[instruction.speed] * shared
    if instruction.calm:
        values["log_scale"] = CALM_ZOOM
    return _Path(**{axis: amount * vary[i] for i, (axis, amount) in enumerate(values.items())})


def _levels(instruction: Instruction) -> tuple[float, float, NDArray[np.float64]]:
    """Return log gain, warmth, and the five effects' levels."""
    gain, warmth = LIGHT_TARGETS[instruction.light] if instruction.light else (0.0, 0.0)
    levels = np.zeros(5)
    for effect in instruction.effects:
        levels[EFFECT_CHANNELS[effect] - 5] = STRENGTH_FACTORS[instruction.strength]
    return gain, warmth, levels


def _parallax_share(path: _Path) -> float:
    """Say how much of the depth shows: all of it when the camera is moved aside, half in a dolly, none in a roll."""
    aside = math.hypot(path.shift_x, path.shift_y) / PAN
    inward = abs(path.log_scale) / ZOOM
    turning = abs(path.angle) / ROLL
    total = aside + inward + turning
    return (aside + ZOOM_PARALLAX * inward) / total if total > 0 else 0.0


def hint_of(instruction: Instruction) -> Array:
    """Return what an instruction stands for, without the variety of seeds and scenes; see HINTS in motion.py."""
    path = _path(instruction, np.ones(4))
    gain, warmth, levels = _levels(instruction)
    # To first order; the field itself is exact.
    dx = (-path.shift_x, math.exp(-path.log_scale) - 1, path.angle)
    dy = (-path.shift_y, -path.angle, math.exp(-path.log_scale) - 1)
    return np.array([*dx, *dy, _parallax_share(path), gain, warmth, *levels], dtype=np.float32)


def draw_field(instruction: Instruction, scene: Scene, num_keyframes: int, rng: np.random.Generator) -> Array:
    """Return the field that the instruction gives this scene, (10, num_keyframes, g, g); see CHANNELS.

    What a seed may change: how far, how evenly and how strongly, each by a tenth or so.
    """
    path = _path(instruction, rng.uniform(0.88, 1.12, 4))
    size = scene.nearness.shape[0]
    field = np.zeros((10, num_keyframes, size, size), dtype=np.float32)
    pace = _pace(num_keyframes, rng, 0.2)
    edges = np.concatenate([[0.0], np.cumsum(pace) / num_keyframes])
    looks = np.stack([_look(path, q, size) for q in edges])  # (K + 1, 2, g, g)
    field[:2] = np.moveaxis(np.diff(looks, axis=0), 0, 1) * num_keyframes
    field[2] = PARALLAX * (2 * scene.nearness - 1) * _parallax_share(path)
    gain, warmth, levels = _levels(instruction)
    vary = rng.uniform(0.92, 1.08, 7)
    steady = _pace(num_keyframes, rng, 0.15)[:, None, None]
    field[3], field[4] = gain * vary[0] * steady, warmth * vary[1] * steady
    places = (*_places(scene), np.ones_like(scene.water), np.ones_like(scene.water))
    for channel, (level, place) in enumerate(zip(levels, places, strict=True)):
        if level:
            gusts = _pace(num_keyframes, rng, 0.25)[:, None, None]
            field[5 + channel] = level * vary[2 + channel] * gusts * place
    return field


def _pace(count: int, rng: np.random.Generator, most: float) -> NDArray[np.float64]:
    """Return a speed over time that wavers around a mean of 1, at the middles of `count` intervals."""
    t = (np.arange(count) + 0.5) / count
    wave = np.cos(math.tau * (rng.uniform(0.3, 1.2) * t + rng.uniform()))
    pace = 1 + rng.uniform(0, most) * wave
    return pace / pace.mean()


def _look(path: _Path, q: float, size: int) -> NDArray[np.float64]:
    """Return where each grid point looks, less itself, when the part q of the path is done. Shape (2, g, g)."""
    axis = np.linspace(-1.0, 1.0, size)
    x, y = axis[None, :], axis[:, None]
    # Inverse of: turn by angle, scale, shift.
    shrink, angle = math.exp(-path.log_scale * q), -path.angle * q
    px, py = x - path.shift_x * q, y - path.shift_y * q
    source_x = shrink * (math.cos(angle) * px - math.sin(angle) * py)
    source_y = shrink * (math.sin(angle) * px + math.cos(angle) * py)
    return np.stack([source_x - x, source_y - y])


def _smoothstep(values: Array, low: float, high: float) -> Array:
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _places(scene: Scene) -> tuple[Array, Array, Array]:
    """Return where ripple, sway and shimmer belong: where there is water or plants, else the lower part."""
    lower = _smoothstep(scene.place_y, 0.05, 0.5)
    water = scene.water if scene.water.max() > 0.3 else lower
    plants = scene.plants if scene.plants.max() > 0.3 else _smoothstep(scene.place_y, -0.3, 0.4)
    hot = _smoothstep(scene.place_y, -0.35, 0.3) * (1 - 0.5 * _smoothstep(scene.place_y, 0.6, 1.0))
    return water * lower, plants, hot


def draw_scene(rng: np.random.Generator, grid_size: int) -> Scene:
    """Draw a layered scene: sky, ground, water, plants and things, cut to an aspect and mirrored to a square."""
    axis = np.linspace(-1.0, 1.0, CANVAS_PX)
    x, y = np.broadcast_arrays(axis[None, :], axis[:, None])
    short = rng.uniform(0.5, 1.0)  # of the picture, in half-sides
    wide = rng.random() < 0.5
    across, down = (1.0, short) if wide else (short, 1.0)
    place_x, place_y = x / across, y / down
    canvas = _Canvas(rng, place_x, place_y)
    canvas.paint_sky()
    if rng.random() < 0.65:
        canvas.paint_ground(rng.choice(("water", "water", "plants", "bare")))
    for near in np.sort(rng.uniform(0.35, 1.0, rng.integers(0, 5))):
        canvas.paint_thing(float(near))
    layers = np.dstack([canvas.picture, canvas.nearness, canvas.water, canvas.plants])
    layers = _letterbox(layers, round(short * CANVAS_PX / 2) * 2, wide)
    points = np.linspace(-1.0, 1.0, grid_size)
    px, py = np.meshgrid(points / across, points / down)
    return Scene(
        picture=np.clip(layers[..., :3], 0, 1).astype(np.float32),
        nearness=_at_grid_points(layers[..., 3], grid_size),
        water=_at_grid_points(layers[..., 4], grid_size),
        plants=_at_grid_points(layers[..., 5], grid_size),
        place_x=px.astype(np.float32),
        place_y=py.astype(np.float32),
    )


class _Canvas:
    """A scene being painted, far things first."""

    def __init__(self, rng: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64]):
        self._rng, self._x, self._y = rng, x, y
        self.picture = np.zeros((CANVAS_PX, CANVAS_PX, 3))
        self.nearness = np.clip(0.15 + 0.25 * (y + 1) / 2, 0, 1)
        self.water = np.zeros((CANVAS_PX, CANVAS_PX))
        self.plants = np.zeros((CANVAS_PX, CANVAS_PX))
        self._sky = rng.uniform(0.2, 1, 3)

    def paint_sky(self) -> None:
        """Fill the canvas with one colour running into another, sometimes with clouds or a wall's texture."""
        mix = ((self._y + 1) / 2)[..., None]
        self.picture = self._sky * (1 - mix) + self._rng.uniform(0, 1, 3) * mix
        texture = _smooth_noise(self._rng, int(self._rng.integers(2, 30)))
        self.picture = self.picture + texture[..., None] * self._rng.uniform(0, 0.12)

    def paint_ground(self, kind: str) -> None:
        """Paint the lower part: nearer towards the viewer."""
        horizon = self._rng.uniform(-0.1, 0.6)
        waves = self._rng.uniform(0, 0.12) * np.sin(self._x * self._rng.uniform(1, 6) + self._rng.uniform(0, 6.3))
        mask = self._y > horizon + (0 if kind == "water" else waves)
        near = 0.35 + 0.6 * np.clip((self._y - horizon) / (1.2 - horizon), 0, 1)
        self._put(mask, kind, near)

    def paint_thing(self, near: float) -> None:
        """Paint a blob, a box or a plant somewhere, most of them in the middle and standing on the ground."""
        rng = self._rng
        cx, cy = rng.normal(0, 0.4), rng.normal(0.2, 0.4)
        rx, ry = rng.uniform(0.1, 0.6), rng.uniform(0.15, 0.8)
        if rng.random() < 0.6:
            mask = ((self._x - cx) / rx) ** 2 + ((self._y - cy) / ry) ** 2 < 1
        else:
            mask = (np.abs(self._x - cx) < rx) & (self._y > cy - ry) & (self._y < cy + ry)
        kind = "plants" if rng.random() < 0.3 else "bare"
        self._put(mask, kind, np.clip(near + 0.1 * self._y, 0, 1))

    def _put(self, mask: NDArray[np.bool_], kind: str, near: NDArray[np.float64]) -> None:
        colour, texture = self._look_of(kind)
        self.picture = np.where(mask[..., None], colour + texture[..., None], self.picture)
        self.nearness = np.where(mask, near, self.nearness)
        self.water = np.where(mask, float(kind == "water"), self.water)
        self.plants = np.where(mask, float(kind == "plants"), self.plants)

    def _look_of(self, kind: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rng = self._rng
        if kind == "water":  # blue, green-blue or grey, or what the sky gives; streaks lie across
            blue = np.array([0.1, 0.3, 0.45]) + rng.uniform(-0.1, 0.15, 3) + np.array([0, 0, rng.uniform(0, 0.3)])
            colour = blue if rng.random() < 0.7 else self._sky * rng.uniform(0.6, 0.95)
            streaks = np.repeat(rng.standard_normal((CANVAS_PX, 1)), CANVAS_PX, axis=1)
            return colour, (streaks + _smooth_noise(rng, 20)) * rng.uniform(0.01, 0.06)
        if kind == "plants":  # green to yellow-brown, fine texture
            green = rng.uniform(0.25, 0.6)
            colour = np.array([green * rng.uniform(0.5, 1.05), green, green * rng.uniform(0.15, 0.6)])
            return colour, rng.standard_normal((CANVAS_PX, CANVAS_PX)) * rng.uniform(0.05, 0.16)
        colour = rng.uniform(0, 1, 3)
        if rng.random() < 0.5:  # many things are of no strong colour
            colour = colour.mean() + (colour - colour.mean()) * 0.3
        return colour, _smooth_noise(rng, int(rng.integers(4, 40))) * rng.uniform(0.02, 0.15)


def _smooth_noise(rng: np.random.Generator, cells: int) -> NDArray[np.float64]:
    """Return (CANVAS_PX, CANVAS_PX) noise with features of about CANVAS_PX / cells pixels, bilinear."""
    coarse = rng.standard_normal((cells + 1, cells + 1))
    at = np.linspace(0, cells, CANVAS_PX)
    low = np.minimum(at.astype(int), cells - 1)
    f = at - low
    rows = coarse[low] * (1 - f)[:, None] + coarse[low + 1] * f[:, None]
    return rows[:, low] * (1 - f)[None, :] + rows[:, low + 1] * f[None, :]


def _letterbox(canvas: NDArray[np.float64], short_px: int, wide: bool) -> NDArray[np.float64]:
    """Cut the middle of the canvas out and mirror it back to a square, as a real picture is laid on its canvas."""
    margin = (CANVAS_PX - short_px) // 2
    pad = ((margin, margin), (0, 0), (0, 0))
    if wide:
        return np.pad(canvas[margin : margin + short_px], pad, mode="symmetric")
    turned = canvas.transpose(1, 0, 2)
    return np.pad(turned[margin : margin + short_px], pad, mode="symmetric").transpose(1, 0, 2)


def _at_grid_points(values: NDArray[np.float64], grid_size: int) -> Array:
    """Average around each grid point with a Gaussian of half a cell, by one matrix on each side."""
    points, pixels = np.linspace(-1, 1, grid_size), np.linspace(-1, 1, CANVAS_PX)
    weights = np.exp(-0.5 * ((points[:, None] - pixels[None, :]) / (1.4 / grid_size)) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    return (weights @ values @ weights.T).astype(np.float32)
