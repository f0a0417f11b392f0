"""Measures what effects show in a video: each by a signal of its own, high where the effect is and low where not.

Knows nothing of models or prompts: frames (H, W, 3) uint8 in, numbers out. Displacements are in units of the picture's
short side, light in logarithms.

What the camera does is taken away first: its pose in every frame, and of what is left (parallax) all that goes along
with the camera's way. The rest oscillates, or is noise. Coarse oscillations show in the flow itself. Fine ones do not,
its patches are too large: they are read from what still changes at each pixel once the flow is undone, by least squares
in small windows (Lucas and Kanade, 1981).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from i2v.builtin.follow import Floats, Pixels, Plane, Track, follow, reduced
from i2v.builtin.measure import detrended

__all__ = ["PARALLAX", "THRESHOLDS", "Signals", "measure_signals", "parallax_of", "shown", "signals_of"]

_FINE_PX = 256  # short side of the frames that fine motion is read from
_WINDOW_PX = 7  # of its windows
_STRIDE = 2
_NOISE = 4.0  # mean squared slope in 1/255 per pixel that coding and rounding alone may show
_QUICK_HZ = 2.1  # ripples, plants and hands move slower than this, hot air and flames faster
_LEAST_PAN = 0.02  # of the short side: parallax is a share of no less than this
_FAR = 0.01  # of the short side: a camera that goes less far has no way that parallax could go along with
_TREND = 3  # degree of the polynomial that a camera's even way and a fade of light are taken for
# From here on an effect counts as visible. In brackets, what hand-made fields of normal strength gave on photographs,
# alone or with a camera move, and the most that anything else gave (holds give 0.1e-4 at most).
THRESHOLDS = {
    "ripple": 2e-4,  # (3.7e-4 to 11e-4; 1.3e-4)
    "sway": 3e-4,  # (4e-4 to 22e-4; 2.5e-4)
    "shimmer": 2.5e-4,  # (3.9e-4 to 7e-4; 1.9e-4)
    "shake": 15e-4,  # (34e-4 to 60e-4; 6.5e-4)
    "flicker": 0.012,  # (0.026 to 0.052; 0.0043)
    "night": 0.4,  # (1.0 to 1.1; 0.12, a flicker's end)
    "dawn": 0.04,  # (0.07 to 0.23; 0.0035)
}
PARALLAX = 0.05  # (0.13 to 0.18 in pans; 0.01)


@dataclass(frozen=True)
class Signals:
    """What effects show in a video; each is about 0 in one that holds still.

    `ripple`: fine slow oscillation upright, less that aside; in the lower half. `sway`: coarse slow oscillation aside,
    less that upright. `shimmer`: fine quick oscillation, less the slow one. `shake`: how far the whole picture departs
    from an even way. All four are root mean squares in short sides. `flicker`: root mean square of log brightness
    around its trend. `night`: log brightness lost until the end. `dawn`: geometric mean of the log brightness and the
    warmth (log of red over blue) won until the end. `upper_share`: the fine slow oscillation of the upper half, as a
    share of that of the lower half.
    """

    ripple: float
    sway: float
    shimmer: float
    shake: float
    flicker: float
    night: float
    dawn: float
    upper_share: float


def measure_signals(frames: Sequence[Pixels], fps: float) -> Signals:
    """Follow all frames and return what effects show in them."""
    return signals_of(frames, follow(frames), fps)


def shown(effect: str, signals: Signals) -> bool:
    """Say whether an effect is visible."""
    return float(getattr(signals, effect)) > THRESHOLDS[effect]


def signals_of(frames: Sequence[Pixels], track: Track, fps: float) -> Signals:
    """Return what effects show in frames that were followed already."""
    # Cubed: flat parts, a sky washed out by the dawn, are most of many pictures and their flow is made up.
    coarse, trust = _split(oscillation(track), fps)[0], track.trust.min(axis=0) ** 3
    fine, sure = _fine_motion(frames, track)
    slow, quick = _split(fine, fps)
    lower, upper = slice(len(sure) // 2, None), slice(0, len(sure) // 2)
    upright, aside = _rms(slow.imag, sure, lower), _rms(slow.real, sure, lower)
    both = _rms(slow, sure, lower)
    way = detrended(track.way(), _TREND)[:, [0, 1, 3]]
    light = track.log_colour.mean(axis=1)
    won, warmth = light[-1], track.log_colour[-1, 0] - track.log_colour[-1, 2]
    return Signals(
        ripple=max(0.0, upright - aside),
        sway=max(0.0, _rms(coarse.real, trust) - _rms(coarse.imag, trust)),
        shimmer=max(0.0, _rms(quick, sure) - _rms(slow, sure)),
        shake=float(np.sqrt((way**2).sum(axis=1).mean())),
        flicker=float(detrended(light[:, None], _TREND).std()),
        night=max(0.0, -won),
        dawn=float(np.sqrt(max(0.0, won) * max(0.0, warmth))),
        upper_share=_rms(slow, sure, upper) / both if both > 1e-5 else 0.0,
    )


def oscillation(track: Track) -> Plane:
    """Return (T, h, w): each point's displacement without the camera's motion and what goes along with it."""
    count = len(track.poses)
    t, way = np.linspace(-1, 1, count), track.way()
    along = way[:, np.ptp(way, axis=0) > _FAR]
    basis = np.linalg.qr(np.column_stack([np.ones(count), t, t * t, along]))[0]
    values = track.residual.reshape(count, -1)
    rest: Plane = (values - basis @ (basis.T @ values)).reshape(track.residual.shape).astype(np.complex64)
    return rest


def _fine_motion(frames: Sequence[Pixels], track: Track) -> tuple[Plane, Floats]:
    """Return (T, h, w): what each point still does when camera and flow are undone; (h, w): how sure that is, 0..1."""
    small = [reduced(frame, _FINE_PX) for frame in frames]
    height, width = small[0].shape[:2]
    short = min(height, width)
    x = (np.arange(width) - (width - 1) / 2) / short
    y = (np.arange(height) - (height - 1) / 2) / short
    points = (x[None, :] + 1j * y[:, None]).astype(np.complex64)
    seen = cv2.resize(track.trust.min(axis=0), (width, height)) > 0.05
    if not seen.any():
        return np.zeros((len(small), 1, 1), np.complex64), np.zeros((1, 1), np.float32)
    laid = np.stack([_undone(frame, track, i, points) for i, frame in enumerate(small)])
    # Light changes are no motion.
    level, contrast = laid[:, seen].mean(axis=1), np.maximum(laid[:, seen].std(axis=1), 1.0)
    laid = (laid - level[:, None, None]) * (contrast[0] / contrast)[:, None, None] + level[0]
    usual = laid[1:].mean(axis=0)  # the first frame was not resampled and is sharper
    slope_x, slope_y = cv2.Sobel(usual, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(usual, cv2.CV_32F, 0, 1) / 8
    xx, xy, yy = _box(slope_x * slope_x) + _NOISE, _box(slope_x * slope_y), _box(slope_y * slope_y) + _NOISE
    determinant = (xx * yy - xy * xy) * short
    moved = []
    for frame in laid:
        change = frame - usual
        along_x, along_y = _box(slope_x * change), _box(slope_y * change)
        moved.append(
            ((xy * along_y - yy * along_x) / determinant + 1j * (xy * along_x - xx * along_y) / determinant)[
                ::_STRIDE, ::_STRIDE
            ]
        )
    sure = (xx + yy) / (xx + yy + 16 * _NOISE) * seen
    return np.stack(moved).astype(np.complex64), sure[::_STRIDE, ::_STRIDE].astype(np.float32)


def _undone(frame: Pixels, track: Track, index: int, points: Plane) -> Floats:
    """Return a frame in grey as it looked in the first frame's place."""
    height, width = points.shape
    short, residual = min(height, width), track.residual[index]
    besides = cv2.resize(residual.real.copy(), (width, height)) + 1j * cv2.resize(residual.imag.copy(), (width, height))
    scale, shift = track.poses[index]
    at = (scale * (points + besides) + shift) * short
    at_x, at_y = (at.real + (width - 1) / 2).astype(np.float32), (at.imag + (height - 1) / 2).astype(np.float32)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    laid = cv2.remap(grey, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return laid.astype(np.float32, copy=False)


def _box(values: NDArray[np.float32]) -> Floats:
    return cv2.boxFilter(values, -1, (_WINDOW_PX, _WINDOW_PX)).astype(np.float32, copy=False)


def _split(values: Plane, fps: float) -> tuple[Plane, Plane]:
    """Split (T, ...) into what oscillates slower and quicker than _QUICK_HZ, both without their trend."""
    flat = values.reshape(len(values), -1)
    even = detrended(flat.view(np.float32), 2).astype(np.float32).view(np.complex64)
    spectrum = np.fft.fft(even, axis=0)
    spectrum[np.abs(np.fft.fftfreq(len(values), 1 / fps)) < _QUICK_HZ] = 0
    quick = np.fft.ifft(spectrum, axis=0).astype(np.complex64)
    return (even - quick).reshape(values.shape), quick.reshape(values.shape)


def _rms(values: NDArray[np.generic], weight: Floats, rows: slice = slice(None)) -> float:
    """Root mean square of (T, h, w) over time and the given rows, weighted with (h, w)."""
    power = (np.abs(values[:, rows]) ** 2).mean(axis=0)
    return float(np.sqrt((power * weight[rows]).sum() / (weight[rows].sum() + 1e-6)))


def parallax_of(track: Track) -> float:
    """Return by how much the lower third of the picture (near) goes farther aside than the upper third (far).

    As a share of the content's mean way aside, or of _LEAST_PAN if that is more. A roll goes aside below and above too;
    its angle shows in the motion upright and is taken away.
    """
    moved, points, trust = track.displacement(), track.points, track.trust[-1]
    height = float(points.imag.max())
    inward = trust.sum() + 1e-6
    x = points.real - (points.real * trust).sum() / inward
    turned = (x * moved.imag * trust).sum() / ((x * x * trust).sum() + 1e-6)
    aside = moved.real + turned * points.imag
    thirds = [trust * inside for inside in (points.imag > height / 3, points.imag < -height / 3)]
    near, far = (float((aside * third).sum() / (third.sum() + 1e-6)) for third in thirds)
    mean = float((aside * trust).sum() / inward)
    return (near - far) * float(np.sign(mean)) / max(abs(mean), _LEAST_PAN)
