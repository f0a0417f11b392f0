"""Procedural layered scenes and the motion a known camera gives them: the only training data of the built-in model.

Knows nothing of the network or of words beyond an `Instruction`. No photograph is used.

Coordinates: the picture is centred on a square canvas, [-1, 1] on both axes, y down. A field tells, for each output
point p, where to look in the source picture: source = p + (dx, dy), in canvas half-sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from i2v.builtin.phrases import Instruction

__all__ = ["Motion", "camera_field", "draw_motion", "draw_scene"]

CANVAS_PX = 64
SPEED_FACTORS = {"slow": 0.45, "normal": 1.0, "fast": 1.7}
# Extent of each move over a two-second clip at normal speed: half-sides of the canvas, log scale, radians.
PAN, ZOOM, ROLL, CALM_ZOOM = 0.15, 0.18, 0.14, 0.06
LIGHT_TARGETS = {
    "darker": (-1.0, -0.1),
    "brighter": (0.35, 0.0),
    "warmer": (0.0, 0.25),
    "colder": (-0.1, -0.25),
}
PARALLAX = 0.25  # a near layer moves this much more than the middle one, a far layer this much less


@dataclass(frozen=True)
class Motion:
    """The camera's pose at the end of the clip, and how it gets there."""

    shift_x: float = 0.0  # content moves right, half-sides
    shift_y: float = 0.0  # content moves down, half-sides
    log_scale: float = 0.0  # content grows
    angle: float = 0.0  # content turns clockwise, radians
    log_gain: float = 0.0
    warmth: float = 0.0
    ease: float = 0.0  # 0 constant speed .. 1 smoothstep


def clip_extent(duration_s: float) -> float:
    """Return how far a move goes for a clip of this length: 1 at two seconds, levelling off for long clips."""
    return (1.0 - math.exp(-duration_s / 2.0)) / (1.0 - math.exp(-1.0))


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


def draw_motion(instruction: Instruction, duration_s: float, rng: np.random.Generator) -> Motion:
    """Turn an instruction into a camera path, with the small variety that different seeds should show."""
    values = dict.fromkeys(("shift_x", "shift_y", "log_scale", "angle"), 0.0)
    extent = SPEED_FACTORS[instruction.speed] * clip_extent(duration_s)
    shared = 0.8 if len(instruction.moves) > 1 else 1.0
    for move in instruction.moves:
        if move != "hold":
            axis, amount = _UNIT_MOVES[move]
            values[axis] += amount * extent * shared * rng.uniform(0.88, 1.12)
    if instruction.calm:
        values["log_scale"] = CALM_ZOOM * clip_extent(duration_s) * rng.uniform(0.9, 1.1)
    gain, warmth = LIGHT_TARGETS[instruction.light] if instruction.light else (0.0, 0.0)
    return Motion(**values, log_gain=gain, warmth=warmth, ease=rng.uniform(0.0, 0.6))


def camera_field(motion: Motion, nearness: np.ndarray, num_keyframes: int) -> np.ndarray:
    """Return the field of a camera path over a scene.

    `nearness` is (g, g) in 0..1 on grid points that span the canvas corner to corner. The result is
    (4, num_keyframes, g, g): dx, dy (half-sides), log gain, warmth; keyframe 0 is all zero.
    """
    size = nearness.shape[0]
    axis = np.linspace(-1.0, 1.0, size)
    x, y = axis[None, :], axis[:, None]
    t = np.linspace(0.0, 1.0, num_keyframes)
    t = (1.0 - motion.ease) * t + motion.ease * t * t * (3.0 - 2.0 * t)
    t = t[:, None, None]
    depth = 1.0 + PARALLAX * (2.0 * nearness - 1.0)
    # Inverse of: turn by angle, scale, shift. The shift carries the parallax, half of it the scale.
    shrink = np.exp(-motion.log_scale * t * (0.5 + 0.5 * depth))
    angle = -motion.angle * t
    px, py = x - motion.shift_x * t * depth, y - motion.shift_y * t * depth
    source_x = shrink * (np.cos(angle) * px - np.sin(angle) * py)
    source_y = shrink * (np.sin(angle) * px + np.cos(angle) * py)
    ones = np.ones_like(source_x)
    return np.stack([source_x - x, source_y - y, motion.log_gain * t * ones, motion.warmth * t * ones]).astype(
        np.float32
    )


def _smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Return (CANVAS_PX, CANVAS_PX) noise with features of about CANVAS_PX / cells pixels, bilinear."""
    coarse = rng.standard_normal((cells + 1, cells + 1))
    at = np.linspace(0, cells, CANVAS_PX)
    low = np.minimum(at.astype(int), cells - 1)
    f = at - low
    rows = coarse[low] * (1 - f)[:, None] + coarse[low + 1] * f[:, None]
    return rows[:, low] * (1 - f)[None, :] + rows[:, low + 1] * f[None, :]


def _layer_mask(kind: str, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if kind == "ground":
        horizon = rng.uniform(-0.4, 0.8)
        waves = rng.uniform(0.0, 0.25) * np.sin(x * rng.uniform(1, 6) + rng.uniform(0, 6.3))
        return y + 0 * x > horizon + waves
    cx, cy = rng.uniform(-0.8, 0.8), rng.uniform(-0.5, 0.9)
    rx, ry = rng.uniform(0.1, 0.6), rng.uniform(0.15, 0.8)
    if kind == "blob":
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1.0
    return (np.abs(x - cx) < rx) & (y > cy - ry) & (y < cy + ry)


def _letterbox(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut the canvas to a random aspect and mirror it back to a square, as a real picture is laid on its canvas."""
    short = int(CANVAS_PX * rng.uniform(0.5, 1.0)) // 2 * 2
    margin = (CANVAS_PX - short) // 2
    pad = ((margin, margin), (0, 0), (0, 0))
    if rng.random() < 0.5:
        return np.pad(canvas[margin : margin + short], pad, mode="symmetric")
    turned = canvas.transpose(1, 0, 2)
    return np.pad(turned[margin : margin + short], pad, mode="symmetric").transpose(1, 0, 2)


def draw_scene(rng: np.random.Generator, grid_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a layered scene.

    Returns the picture on its square canvas, (64, 64, 3) float32 in 0..1, and its nearness on the grid's points,
    (grid_size, grid_size) in 0..1, smoothed so that the field does not tear.
    """
    axis = np.linspace(-1.0, 1.0, CANVAS_PX)
    x, y = axis[None, :], axis[:, None]
    top, bottom = rng.uniform(0, 1, 3), rng.uniform(0, 1, 3)
    mix = ((y + 1.0) / 2.0)[..., None]
    picture = np.broadcast_to(top * (1 - mix) + bottom * mix, (CANVAS_PX, CANVAS_PX, 3)).copy()
    nearness = np.full((CANVAS_PX, CANVAS_PX), 0.1) + 0.2 * (y + 1.0) / 2.0
    for near in np.sort(rng.uniform(0.2, 1.0, rng.integers(1, 6))):
        mask = _layer_mask(rng.choice(("ground", "blob", "blob", "box")), rng, x, y)
        texture = _smooth_noise(rng, int(rng.integers(4, 40)))[..., None] * rng.uniform(0.02, 0.15) * (0.4 + near)
        picture = np.where(mask[..., None], rng.uniform(0, 1, 3) + texture, picture)
        nearness = np.where(mask, np.minimum(1.0, near + 0.15 * y), nearness)
    picture = _letterbox(np.concatenate([picture, nearness[..., None]], axis=-1), rng)
    picture, nearness = np.clip(picture[..., :3], 0, 1), picture[..., 3]
    return picture.astype(np.float32), _at_grid_points(nearness, grid_size)


def _at_grid_points(nearness: np.ndarray, grid_size: int) -> np.ndarray:
    """Average around each grid point with a Gaussian of half a cell, by one matrix on each side."""
    points, pixels = np.linspace(-1, 1, grid_size), np.linspace(-1, 1, CANVAS_PX)
    weights = np.exp(-0.5 * ((points[:, None] - pixels[None, :]) / (1.4 / grid_size)) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ nearness @ weights.T
