"""Makes frames of a picture and a motion field: the built-in family's place of a VAE decoder. No network here.

A field is float32, (10, K, g, g): ten channels (CHANNELS) at K moments, the middles of K equal parts of the clip, on a
grid of g x g points that span, corner to corner, a square canvas on which the picture is centred, its long side as long
as the canvas. Canvas coordinates run from -1 to 1, x right and y down ("half-sides"). With q the progress along the
camera's path, 0 to 1, and D the clip's duration in seconds:

  dx, dy            rates of looking: at q, the point p shows the picture at p + U(q), U = extent(D) * integral of them
  parallax          share by which a point moves more (near) or less (far) than the camera's even motion: U * (1 + it)
  log_gain, warmth  rates of light: log brightness; log of the red gain less that of the blue one. Means over the grid
  ripple, sway, shimmer   amplitudes of what moves of itself (motion_waves.py), 1 is normal
  flicker, shake    amplitudes of flickering light and of a hand-held camera. Means over the grid

Frames are moved backwards (each pixel looks where it comes from) with one cubic OpenCV remap per frame and layer. Near
things cover far ones where there are layers (motion_layers.py). What enters the frame is the picture mirrored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from numpy.typing import NDArray

from i2v.models.motion_grid import cubic_weights, grid_to_pixels, smoothstep
from i2v.models.motion_layers import Layers, find_layers
from i2v.models.motion_waves import Waves

__all__ = ["BUFFER_BYTES", "BUFFER_BYTES_PER_PIXEL", "CHANNELS", "MotionRenderer", "camera_path", "extent", "progress"]

Array = NDArray[np.float32]
Picture = NDArray[np.uint8]
CHANNELS = (
    "dx", "dy", "parallax", "log_gain", "warmth", "ripple", "sway", "shimmer", "flicker", "shake",
)  # fmt: skip
# Main memory that one pixel takes while frames are made, at most: two maps (8), waves (8), both layers (6), alpha
# (1), both moved (4), the frame (3), the last one that its reader still holds (3), and a band of blending.
BUFFER_BYTES_PER_PIXEL = 34
BUFFER_BYTES = 40 << 20  # and of any clip: the waves and the cut are found on grids of a fixed size
# A denoiser leaves a small residue where nothing was asked for. Between these two it is let in, smoothly: mean motion
# over the clip in half-sides (a calm push-in has 0.03), log gain or warmth, amplitude of an effect.
_MOTION_CORE, _LIGHT_CORE, _EFFECT_CORE = (0.006, 0.014), (0.02, 0.06), (0.12, 0.3)
_COLOUR_KEEPS_UP = 0.8  # of a brightening, in colour
_MOST_STRETCH = 0.2  # by parallax inside one layer, relative to the camera's even motion: 0.8 to 1.2, in any direction
_STRETCH_POINTS = 64  # per side, where it is looked for


def extent(duration_s: float) -> float:
    """Return how far a move goes for a clip of this length: 1 at two seconds, levelling off for long clips."""
    return (1.0 - math.exp(-max(duration_s, 0.0) / 2.0)) / (1.0 - math.exp(-1.0))


def progress(num_frames: int, loop: bool) -> NDArray[np.float64]:
    """Return how far along its path the camera is at each frame, 0..1: there, or there and back in a loop."""
    frames = np.arange(num_frames)
    if loop:
        return (1 - np.cos(math.tau * frames / num_frames)) / 2
    return frames / max(num_frames - 1, 1)


def camera_path(rates: Array, at: NDArray[np.float64]) -> Array:
    """Integrate rates, (C, K, ...), over the path and read the result at progress `at`. Returns (len(at), C, ...)."""
    moments = rates.shape[1]
    done = np.concatenate([np.zeros_like(rates[:, :1]), np.cumsum(rates, axis=1) / moments], axis=1)
    weights = cubic_weights(at * moments, moments + 1)
    return np.moveaxis(np.tensordot(weights, done, axes=(1, 1)), 1, 1).astype(np.float32)


@dataclass(frozen=True)
class _Clip:
    """What is the same in all frames of a clip."""

    looks: Array  # (F, 2, g, g), the camera's even motion at each frame, half-sides
    parallax: Array  # (g, g), as the field has it
    log_gain: Array  # (F,)
    warmth: Array  # (F,)
    rows: Array  # (H, g)
    columns: Array  # (W, g)


class MotionRenderer(ConfigMixin):
    """Turns a field into frames by moving the picture at full resolution."""

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        grid_size: int = 8,
        num_keyframes: int = 8,
        field_scale: tuple[float, ...] = (0.08, 0.08, 0.12, 0.4, 0.12, 0.5, 0.5, 0.5, 0.5, 0.5),
    ):
        """`num_keyframes`: moments that the denoiser sees at a time; `field_scale`: units of the latents."""
        self._scale = torch.tensor(field_scale).view(1, -1, 1, 1, 1)

    def to_latents(self, field: torch.Tensor) -> torch.Tensor:
        """Scale a field (B, 10, K, g, g) to latents of about unit size."""
        return field / self._scale.to(field)

    def to_field(self, latents: torch.Tensor) -> torch.Tensor:
        """Scale latents (B, 10, K, g, g) back to a field."""
        return latents * self._scale.to(latents)

    def render(
        self,
        picture: Picture,
        field: Array,
        num_frames: int,
        fps: float,
        loop: bool = False,
        seed: int = 0,
        first: int = 0,
        layers: bool = True,
    ) -> Iterator[Picture]:
        """Yield frames number `first` to num_frames - 1, each (H, W, 3) uint8; number 0 is the picture itself.

        `picture`: (H, W, 3) uint8; `field`: (10, K, g, g). `seed` draws the phases of what moves of itself. In a loop
        the frame after the last would be the first. `layers`: whether near things may cover far ones.
        """
        height, width = picture.shape[:2]
        clip = _prepare(field, picture.shape[:2], num_frames, fps, loop)
        waves = Waves(field[5:], (height, width), num_frames, fps, loop, seed, _EFFECT_CORE)
        found = find_layers(picture, clip.parallax, clip.rows, clip.columns) if layers and _shows_depth(clip) else None
        mover = _Mover(picture, clip, waves, found)
        if first == 0 and num_frames > 0:
            yield picture.copy()
        for index in range(max(1, first), num_frames):
            yield mover.frame(index)


def _prepare(field: Array, size: tuple[int, int], num_frames: int, fps: float, loop: bool) -> _Clip:
    grid_size, canvas = field.shape[-1], max(size)
    rows, columns = (grid_to_pixels(n, canvas, grid_size) for n in size)
    at = progress(num_frames, loop)
    looks = camera_path(field[:2], at) * extent((num_frames - 1) / fps)
    end = camera_path(field[:2], np.ones(1))[0]
    inside = _inside(size, grid_size)
    looks *= smoothstep(math.sqrt(float((end**2).sum(axis=0)[inside].mean())), *_MOTION_CORE)
    light = camera_path(field[3:5].mean(axis=(2, 3)), at)
    whole = camera_path(field[3:5].mean(axis=(2, 3)), np.ones(1))[0]
    light *= [smoothstep(abs(float(total)), *_LIGHT_CORE) for total in whole]
    return _Clip(looks, field[2].mean(axis=0), light[:, 0], light[:, 1], rows, columns)


def _inside(size: tuple[int, int], grid_size: int) -> NDArray[np.bool_]:
    """Say which grid points lie in the picture, or next to it. Shape (g, g)."""
    axis, cell = np.abs(np.linspace(-1, 1, grid_size)), 1 / (grid_size - 1)
    down, across = (axis <= n / max(size) + cell for n in size)
    return down[:, None] & across[None, :]


def _limited(parallax: Array, clip: _Clip) -> Array:
    """Weaken parallax, evenly, that would stretch the picture by more than _MOST_STRETCH where the path is farthest.

    The even motion has the Jacobian E, parallax adds P; E^-1 (E + P) stretches by 1 - s to 1 + s at most, s being the
    largest singular value of E^-1 P.
    """
    if not len(clip.looks):
        return parallax
    look = clip.looks[int(np.abs(clip.looks).max(axis=(1, 2, 3)).argmax())]
    size = len(clip.rows), len(clip.columns)
    steps = [max(1, n // _STRETCH_POINTS) for n in size]
    rows, columns = (side[::step] for side, step in zip((clip.rows, clip.columns), steps, strict=True))
    if min(len(rows), len(columns)) < 2:
        return parallax
    spacing = [2 * step / max(size) for step in steps]

    def slopes(vectors: Array) -> NDArray[np.float64]:
        """Return the derivatives (h, w, 2, 2) of vectors (2, g, g), component by axis."""
        x, y = (np.stack(np.gradient(rows @ part @ columns.T, *spacing)[::-1], axis=-1) for part in vectors)
        return np.stack([x, y], axis=-2)

    even = np.eye(2) + slopes(look)
    relative = np.linalg.solve(even, slopes(look * parallax))
    return parallax * np.float32(
        min(1.0, _MOST_STRETCH / max(float(np.linalg.norm(relative, 2, (-2, -1)).max()), 1e-6))
    )


def _shows_depth(clip: _Clip) -> bool:
    """Say whether near and far move apart by more than half a percent of the picture."""
    spread = float(clip.parallax.max() - clip.parallax.min())
    return spread * float(np.abs(clip.looks).max()) > 0.01


class _Mover:
    """Makes one frame after another, in buffers that are allocated once."""

    def __init__(self, picture: Picture, clip: _Clip, waves: Waves, layers: Layers | None):
        self._picture, self._clip, self._waves, self._layers = picture, clip, waves, layers
        sheets = [clip.parallax] if layers is None else [layers.far_parallax, layers.near_parallax]
        self._parallax = [_limited(parallax, clip) for parallax in sheets]
        height, width = picture.shape[:2]
        self._map_x, self._map_y = (np.empty((height, width), np.float32) for _ in range(2))
        x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
        # One matrix product per map: the pixel's own place rides along as one more column.
        self._columns_x = np.concatenate([clip.columns.T, x[None]])
        self._columns_y = np.concatenate([clip.columns.T, np.ones((1, width), np.float32)])
        self._ones, self._y = np.ones((height, 1), np.float32), y[:, None]

    def frame(self, index: int) -> Picture:
        """Return frame number `index`, (H, W, 3)."""
        look = self._clip.looks[index]
        waved = self._waves.displacement(index)
        if self._layers is None:
            frame = self._moved(self._picture, look, self._parallax[0], index, waved)
        else:
            frame = self._moved(self._layers.far, look, self._parallax[0], index, waved)
            near = self._moved(self._layers.near, look, self._parallax[1], index, waved)
            # The maps are the near layer's now.
            alpha = cv2.remap(
                self._layers.alpha, self._map_x, self._map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )
            _blend(frame, near, alpha)
        gain = float(self._clip.log_gain[index]) + self._waves.flicker(index)
        return _lit(frame, gain, float(self._clip.warmth[index]))

    def _moved(
        self, picture: Picture, look: Array, parallax: Array, index: int, waved: tuple[Array, Array] | None
    ) -> Picture:
        height, width = picture.shape[:2]
        half_canvas = max(height, width) / 2
        grid = look * (1 + parallax) * half_canvas + self._waves.shake_grid(index, look.shape[-1]) * half_canvas
        rows = self._clip.rows
        np.matmul(np.concatenate([rows @ grid[0], self._ones], axis=1), self._columns_x, out=self._map_x)
        np.matmul(np.concatenate([rows @ grid[1], self._y], axis=1), self._columns_y, out=self._map_y)
        if waved is not None:
            cv2.add(self._map_x, waved[0], dst=self._map_x)
            cv2.add(self._map_y, waved[1], dst=self._map_y)
        return cv2.remap(picture, self._map_x, self._map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def _blend(below: Picture, above: Picture, alpha: NDArray[np.uint8], band: int = 64) -> None:
    """Lay one picture over another in place, a band of rows at a time."""
    for top in range(0, len(alpha), band):
        part = alpha[top : top + band]
        if not part.any():
            continue
        lower, upper = below[top : top + band], above[top : top + band]
        weight = part[..., None].astype(np.int32)
        mixed = lower + ((upper.astype(np.int32) - lower) * weight + 127) // 255
        lower[...] = mixed.astype(np.uint8)


def _lit(frame: Picture, log_gain: float, warmth: float) -> Picture:
    """Apply one gain and one warmth, with a table per colour. Brightening bends instead of clipping."""
    if abs(log_gain) < 1e-4 and abs(warmth) < 1e-4:
        return frame
    if log_gain > 0:
        frame, log_gain = _brightened(frame, log_gain), 0.0
    values = np.arange(256)
    return _through_tables(frame, [values * math.exp(log_gain + share * warmth) for share in (0.5, 0.0, -0.5)])


def _brightened(frame: Picture, log_gain: float) -> Picture:
    """Bend the brightness upwards and let the colours keep up, or they would look washed out."""
    values = np.arange(256)
    bright = 255 * (1 - (1 - values / 255) ** math.exp(log_gain))
    colour = 128 + (values - 128) * math.exp(log_gain * _COLOUR_KEEPS_UP)
    parts = _through_tables(cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb), [bright, colour, colour])
    return cv2.cvtColor(parts, cv2.COLOR_YCrCb2RGB)


def _through_tables(picture: Picture, tables: list[NDArray[np.floating]]) -> Picture:
    rounded = np.clip(np.rint(np.stack(tables, axis=-1)), 0, 255).astype(np.uint8)
    return cv2.LUT(picture, rounded[None])
