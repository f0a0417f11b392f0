"""What moves of itself in a picture: ripples, swaying plants, hot air, a hand-held camera, flickering light.

Each is a sum of a few travelling waves, w(p, t) = sum of a sin(2 pi (k p - f t) + phase), less its value at t = 0, so
that the first frame is the picture itself. The field says where and how strongly (see motion_render.py). In a loop
every frequency is rounded to whole periods.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from i2v.models.motion_grid import grid_to_pixels, smoothstep

__all__ = ["Waves"]

Array = NDArray[np.float32]
_COARSE_PX = 480  # side of a square with as many points as waves are computed on; the shortest has five or more
_TOE = (0.05, 0.2)  # amplitudes below the first have no effect, so that calm places stay calm


@dataclass(frozen=True)
class _Kind:
    """How one effect's waves are drawn; lengths as shares of the picture's short side.

    `wavelength`, `hertz`: ranges; `heading`: the direction the waves run in, degrees from right towards down, and how
    far it varies; `shift`: how far a point moves along x and y at amplitude 1.
    """

    count: int
    wavelength: tuple[float, float]
    hertz: tuple[float, float]
    heading: tuple[float, float]
    shift: tuple[float, float]


_KINDS = (
    _Kind(3, (0.045, 0.095), (0.8, 1.6), (90, 25), (0.0020, 0.0065)),  # ripple: towards the viewer, up and down
    _Kind(3, (0.35, 0.9), (0.5, 0.9), (0, 30), (0.0120, 0.0020)),  # sway: aside, like a gust running through
    _Kind(4, (0.022, 0.045), (2.5, 4.0), (-90, 35), (0.0022, 0.0030)),  # shimmer: fine, rising
)
_SHAKE_SHIFT, _SHAKE_ROLL = 0.010, 0.004  # of the short side; radians
_FLICKER = 0.12  # log gain


class Waves:
    """All that moves of itself in one clip. `amplitudes`: the field's last five channels, (5, K, g, g)."""

    def __init__(
        self,
        amplitudes: Array,
        size: tuple[int, int],
        num_frames: int,
        fps: float,
        loop: bool,
        seed: int,
        core: tuple[float, float],
    ):
        self._size, self._fps, self._short = size, fps, min(size)
        self._canvas = max(size)
        self._period_s = num_frames / fps if loop else None
        rng = np.random.default_rng(seed)
        scale = min(1.0, _COARSE_PX / math.sqrt(size[0] * size[1]))
        coarse = (max(2, round(size[0] * scale)), max(2, round(size[1] * scale)))
        self._levels = self._over_time(amplitudes, num_frames, loop)
        present = [smoothstep(float(channel.max()), *core) for channel in amplitudes]
        self._fields = [
            _WaveField(kind, channel, share, coarse, size, self._hertz_of, rng)
            for kind, channel, share in zip(_KINDS, self._levels, present, strict=False)
        ]
        self._flicker = _Sines(3, (1.5, 4.0), self._hertz_of, rng)
        self._shake = [_Sines(3, (0.4, 2.2), self._hertz_of, rng) for _ in range(3)]
        even = self._levels[3:].mean(axis=(2, 3))
        self._flicker_level, self._shake_level = even[0] * present[3], even[1] * present[4]

    def _hertz_of(self, hertz: float) -> float:
        """Round to whole periods in a loop."""
        return hertz if self._period_s is None else max(1, round(hertz * self._period_s)) / self._period_s

    def _over_time(self, amplitudes: Array, num_frames: int, loop: bool) -> Array:
        """Return amplitudes at every frame, (5, F, g, g), never below nothing; in a loop their mean."""
        moments = amplitudes.shape[1]
        if loop:
            return np.repeat(amplitudes.mean(axis=1, keepdims=True), num_frames, axis=1).clip(min=0)
        at = np.arange(num_frames) / max(num_frames - 1, 1) * moments - 0.5
        low = np.clip(np.floor(at).astype(int), 0, max(moments - 2, 0))
        high = np.minimum(low + 1, moments - 1)
        t = np.clip(at - low, 0, 1).astype(np.float32)[None, :, None, None]
        return (amplitudes[:, low] * (1 - t) + amplitudes[:, high] * t).clip(min=0)

    def displacement(self, index: int) -> tuple[Array, Array] | None:
        """Return where the waves make each pixel look in frame `index`, less itself, in pixels; None for nowhere."""
        active = [field for field in self._fields if field.active]
        if not active:
            return None
        moved = [field.displacement(index, index / self._fps) for field in active]
        height, width = self._size
        x, y = (sum(part[axis] for part in moved) * np.float32(self._short) for axis in range(2))
        return (
            cv2.resize(np.asarray(x, np.float32), (width, height), interpolation=cv2.INTER_LINEAR),
            cv2.resize(np.asarray(y, np.float32), (width, height), interpolation=cv2.INTER_LINEAR),
        )

    def flicker(self, index: int) -> float:
        """Return the change of log gain in frame `index`."""
        level = float(self._flicker_level[index])
        return min(level * _FLICKER * self._flicker.at(index / self._fps), 0.15) if level else 0.0

    def shake_grid(self, index: int, grid_size: int) -> Array:
        """Return the hand's motion on the canvas's grid, (2, g, g), half-sides."""
        level = float(self._shake_level[index])
        if not level:
            return np.zeros((2, 1, 1), np.float32)
        x, y, roll = (level * wave.at(index / self._fps) for wave in self._shake)
        axis = np.linspace(-1, 1, grid_size, dtype=np.float32)
        shift, turn = _SHAKE_SHIFT * 2 * self._short / self._canvas, _SHAKE_ROLL
        return np.stack(
            [
                np.broadcast_to(shift * x + turn * roll * axis[:, None], (grid_size, grid_size)),
                np.broadcast_to(shift * y - turn * roll * axis[None, :], (grid_size, grid_size)),
            ]
        ).astype(np.float32)


class _Sines:
    """A wavering number: three sines of different frequencies, starting at 0."""

    def __init__(
        self, count: int, hertz: tuple[float, float], rounded: Callable[[float], float], rng: np.random.Generator
    ):
        bands = np.linspace(*hertz, count + 1)
        drawn = [float(rng.uniform(low, high)) for low, high in pairwise(bands)]
        self._hertz = np.array([rounded(value) for value in drawn])
        self._phases = rng.uniform(0, math.tau, count)
        self._weights = 1 / np.arange(1, count + 1) ** 0.5

    def at(self, t_s: float) -> float:
        waves = np.sin(math.tau * self._hertz * t_s + self._phases) - np.sin(self._phases)
        return float((self._weights * waves).sum() / self._weights.sum())


class _WaveField:
    """One effect: where it is, and its waves on the coarse grid."""

    def __init__(
        self,
        kind: _Kind,
        levels: Array,
        share: float,
        coarse: tuple[int, int],
        size: tuple[int, int],
        rounded: Callable[[float], float],
        rng: np.random.Generator,
    ):
        # Drawn even when the effect is not there: another effect's phases must not depend on it.
        heading = np.deg2rad(rng.normal(kind.heading[0], kind.heading[1], kind.count))
        cycles = 1 / rng.uniform(*kind.wavelength, kind.count)
        self._hertz = [rounded(float(value)) for value in rng.uniform(*kind.hertz, kind.count)]
        phases = rng.uniform(0, math.tau, kind.count)
        self._weights = rng.uniform(0.6, 1.0, kind.count)
        self._weights /= self._weights.sum()
        self._kind, self._share, self._levels = kind, share, levels
        self.active = share > 0
        if not self.active:
            return
        short = min(size)
        y, x = (((np.arange(n) + 0.5) / n - 0.5) * full / short for n, full in zip(coarse, size, strict=True))
        angles = [
            math.tau * cycles[i] * (math.cos(heading[i]) * x[None, :] + math.sin(heading[i]) * y[:, None]) + phases[i]
            for i in range(kind.count)
        ]
        self._sine = np.stack([np.sin(angle) for angle in angles]).astype(np.float32)
        self._cosine = np.stack([np.cos(angle) for angle in angles]).astype(np.float32)
        self._rows, self._columns = (grid_to_pixels(n, max(coarse), levels.shape[-1]) for n in coarse)

    def displacement(self, index: int, t_s: float) -> Array:
        """Return (2, h, w) on the coarse grid, in short sides."""
        wave = np.zeros(self._sine.shape[1:], np.float32)
        for i, hertz in enumerate(self._hertz):
            turn = math.tau * hertz * t_s
            # sin(a - turn) - sin(a)
            wave += np.float32(self._weights[i] * (math.cos(turn) - 1)) * self._sine[i]
            wave -= np.float32(self._weights[i] * math.sin(turn)) * self._cosine[i]
        amplitude = self._rows @ self._levels[index] @ self._columns.T
        t = np.clip((amplitude - _TOE[0]) / (_TOE[1] - _TOE[0]), 0, 1)
        wave *= amplitude * t * t * (3 - 2 * t) * np.float32(self._share)
        return np.stack([wave * np.float32(self._kind.shift[0]), wave * np.float32(self._kind.shift[1])])
