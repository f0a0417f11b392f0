"""Measures how a video's content moves: optical flow against the first frame, then the camera move that explains it.

Knows nothing of models or prompts: frames in, numbers out. Content moves opposite to the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2gray
from skimage.registration import optical_flow_ilk
from skimage.transform import resize

__all__ = ["ContentMotion", "matches", "measure_motion", "psnr_db"]

_ANALYSIS_PX = 160  # short side of the frames that the flow is measured on
_STILL = 0.004  # of the short side: less than this is no motion


@dataclass(frozen=True)
class ContentMotion:
    """How far the content moved, each as a mean displacement in units of the picture's short side."""

    right: float
    down: float
    grown: float  # zoom, as the displacement it gives at the picture's mean radius
    turned: float  # clockwise roll, likewise

    def strongest(self) -> tuple[str, float]:
        """Return the name and signed amount of the component that moves the content most."""
        name = max(vars(self), key=lambda n: abs(getattr(self, n)))
        return name, getattr(self, name)


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
    name, amount = motion.strongest()
    if move == "hold":
        return abs(amount) < _STILL
    expected, sign = _EXPECTED[move]
    return name == expected and amount * sign > _STILL


def measure_motion(frames: list[NDArray[np.uint8]]) -> ContentMotion:
    """Fit shift, zoom and roll to the optical flow from the first frame to the last, followed in a few hops."""
    hops = np.linspace(0, len(frames) - 1, min(5, len(frames))).round().astype(int)
    grey = [_reduced(frames[i]) for i in hops]
    total = np.zeros(4)
    for before, after in pairwise(grey):
        total += _camera_parameters(before, after)
    return ContentMotion(*(float(v) for v in total))


def _reduced(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    height, width = frame.shape[:2]
    scale = _ANALYSIS_PX / min(height, width)
    return resize(rgb2gray(frame), (round(height * scale), round(width * scale)), anti_aliasing=True)


def _camera_parameters(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (right, down, grown, turned) that best explain the flow, weighted by texture (flat parts say nothing)."""
    gain = before.mean() / max(after.mean(), 1e-6)  # a change of light is not motion
    flow_y, flow_x = optical_flow_ilk(before, after * gain, radius=9, num_warp=12)
    height, width = before.shape
    y, x = np.mgrid[0:height, 0:width].astype(float)
    short = min(height, width)
    x, y = (x - (width - 1) / 2) / short, (y - (height - 1) / 2) / short
    texture = np.hypot(*np.gradient(before))
    weight = texture / (texture + 0.02)
    margin = short // 10  # what enters the frame is made up
    inside = np.zeros_like(weight)
    inside[margin:-margin, margin:-margin] = 1
    weight = np.sqrt(weight * inside)
    zero, one = np.zeros_like(x), np.ones_like(x)
    # Unknowns: shift x, shift y, log scale, clockwise angle.
    rows_x = np.stack([one, zero, x, -y], axis=-1)
    rows_y = np.stack([zero, one, y, x], axis=-1)
    for _ in range(3):  # reweighted, so that parts with wrong flow lose their say
        a = np.concatenate([(rows_x * weight[..., None]).reshape(-1, 4), (rows_y * weight[..., None]).reshape(-1, 4)])
        b = np.concatenate([(flow_x / short * weight).ravel(), (flow_y / short * weight).ravel()])
        solution = np.linalg.lstsq(a, b, rcond=None)[0]
        error = np.hypot(flow_x / short - rows_x @ solution, flow_y / short - rows_y @ solution)
        weight = weight / (1 + (error / 0.01) ** 2) ** 0.5
    radius = float(np.hypot(x, y).mean())
    return solution * np.array([1, 1, radius, radius])


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two pictures, dB; 99 when they are equal."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255.0**2 / error))
