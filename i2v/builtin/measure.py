"""Measures a video: how its content moves, and how well the picture keeps.

Knows nothing of models or prompts: frames (H, W, 3) uint8 in, numbers out. Content moves opposite to the camera.
Lengths are in units of the picture's short side, brightness in 1/255. What effects show is measured in signals.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from i2v.builtin.follow import Pixels, Track, follow

__all__ = [
    "STILL",
    "ContentMotion",
    "border_sharpness",
    "colour_drift",
    "detrended",
    "flicker",
    "jerk",
    "loop_gap",
    "matches",
    "matches_all",
    "measure_motion",
    "motion_of",
    "psnr_db",
    "stillness",
]

STILL = 0.004  # of the short side: less than this is no motion
_HOPS = 8  # comparisons that are enough for a camera's way


@dataclass(frozen=True)
class ContentMotion:
    """How far the content moved, each as a mean displacement in units of the picture's short side."""

    right: float
    down: float
    grown: float  # zoom, as the displacement it gives at the picture's mean radius
    turned: float  # clockwise, likewise

    def strongest(self) -> tuple[str, float]:
        """Return the name and signed amount of the component that moves the content most."""
        name = max(vars(self), key=lambda n: abs(getattr(self, n)))
        return name, getattr(self, name)

    def towards(self, move: str) -> float:
        """Return how far the content moved as a camera move shows it; negative when the other way."""
        name, sign = _EXPECTED[move]
        return sign * float(getattr(self, name))


_EXPECTED = {
    "pan_left": ("right", 1),
    "pan_right": ("right", -1),
    "tilt_up": ("down", 1),
    "tilt_down": ("down", -1),
    "zoom_in": ("grown", 1),
    "zoom_out": ("grown", -1),
    "roll_clockwise": ("turned", -1),
    "roll_counter_clockwise": ("turned", 1),
}


def matches(move: str, motion: ContentMotion) -> bool:
    """Say whether the measured motion is what a camera move by this name shows: strongest, and in its direction."""
    if move == "hold":
        return abs(motion.strongest()[1]) < STILL
    return matches_all((move,), motion)


def matches_all(moves: Sequence[str], motion: ContentMotion) -> bool:
    """Say whether all these moves are there: each in its direction and stronger than anything not asked for."""
    asked = {_EXPECTED[move][0] for move in moves}
    others = [abs(amount) for name, amount in vars(motion).items() if name not in asked]
    return all(motion.towards(move) > max(STILL, *others) for move in moves)


def measure_motion(frames: Sequence[Pixels]) -> ContentMotion:
    """Return how the content moved from the first frame to the last, followed in a few hops."""
    hops = np.linspace(0, len(frames) - 1, min(_HOPS + 1, len(frames))).round().astype(int)
    return motion_of(follow([frames[i] for i in hops]))


def motion_of(track: Track) -> ContentMotion:
    """Return how the content moved until a track's last frame."""
    return ContentMotion(*(float(amount) for amount in track.way()[-1]))


def jerk(track: Track) -> float:
    """Return the greatest second difference of the content's way, relative to its mean first difference (the speed).

    An even motion has 0; one that stands still for half of the clip and then starts, 1 to 2. Zero where nothing moves.
    """
    steps = np.diff(track.way(), axis=0)
    speed = float(np.linalg.norm(steps, axis=1).mean())
    if len(steps) < 2 or speed * len(steps) < STILL:
        return 0.0
    return float(np.linalg.norm(np.diff(steps, axis=0), axis=1).max()) / speed


def psnr_db(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio of two pictures, dB; 99 when they are equal."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255.0**2 / error))


def colour_drift(frames: Sequence[Pixels]) -> float:
    """Mean over the channels of |mean of the last frame - mean of the first|, in 1/255."""
    return float(np.abs(_mean_colour(frames[-1]) - _mean_colour(frames[0])).mean())


def flicker(frames: Sequence[Pixels]) -> float:
    """Mean absolute difference of consecutive frames' means, without their trend (a parabola), in 1/255."""
    means = np.array([_mean_colour(frame).mean() for frame in frames])
    return float(np.abs(np.diff(detrended(means[:, None], 2)[:, 0])).mean())


def stillness(frames: Sequence[Pixels]) -> float:
    """Mean absolute difference of consecutive frames' pixels, in 1/255."""
    return float(np.mean([_difference(a, b) for a, b in pairwise(frames)]))


def loop_gap(frames: Sequence[Pixels]) -> float:
    """Difference of the last frame and the first, relative to the median of consecutive frames; about 1 in a loop."""
    usual = float(np.median([_difference(a, b) for a, b in pairwise(frames)]))
    return _difference(frames[-1], frames[0]) / max(usual, 0.05)


def border_sharpness(frames: Sequence[Pixels], track: Track) -> float:
    """Compare the texture of what entered the last frame with that of the picture just inside the same borders.

    Along each side, the slope across that border (a smeared border has none), as a share of the slope that a mirrored
    picture would have there; the least of the sides counts. 1 when nothing entered.
    """
    first, last = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in (frames[0], frames[-1]))
    height, width = first.shape
    short = min(height, width)
    scale, shift = track.poses[-1]
    x, y = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    source = ((x + 1j * y) / short - shift) / scale * short
    at_x = (source.real + (width - 1) / 2).astype(np.float32)
    at_y = (source.imag + (height - 1) / 2).astype(np.float32)
    shares = []
    for dx, dy, outside in ((1, 0, -at_x), (1, 0, at_x - width + 1), (0, 1, -at_y), (0, 1, at_y - height + 1)):
        entered = outside > 0.01 * short
        if entered.mean() < 0.01:
            continue
        slope = np.abs(cv2.Sobel(last, cv2.CV_32F, dx, dy))
        mirrored = cv2.remap(
            np.abs(cv2.Sobel(first, cv2.CV_32F, dx, dy)),
            at_x,
            at_y,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        shares.append((float(slope[entered].mean()) + 1) / (float(mirrored[entered].mean()) + 1))
    return min(shares, default=1.0)


def detrended(values: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Take from each column of (T, n) the polynomial of this degree that fits it best."""
    t = np.linspace(-1, 1, len(values))
    basis = np.linalg.qr(np.vander(t, min(degree + 1, len(values))))[0]
    return values - basis @ (basis.T @ values)


def _mean_colour(frame: Pixels) -> NDArray[np.float64]:
    return np.array(cv2.mean(frame)[:3])


def _difference(a: Pixels, b: Pixels) -> float:
    return float(cv2.absdiff(a, b).mean())
