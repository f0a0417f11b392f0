"""Follows a video: where its camera went, and what moved besides.

Knows nothing of models, prompts or quality: frames (H, W, 3) uint8 in, motion out. Content moves opposite to the
camera. Lengths are in units of the picture's short side.

Every frame is compared with the first one, laid over it by where the camera was thought to be (dense inverse search
flow, Kroeger et al., "Fast Optical Flow using Dense Inverse Search", 2016), so that errors do not add up over a clip.
A point of the plane is a complex number z, so that a camera's pose is z -> a z + d: |a| zooms, arg a turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Pixels", "Track", "follow", "reduced"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Plane = NDArray[np.complex64]
Pose = tuple[complex, complex]

ANALYSIS_PX = 160  # short side of the frames that are compared
_STRIDE = 2  # every second pixel each way has its say; flow is no finer than that
_OUTLIER = 0.02  # of the short side: what differs more from the camera's motion counts less (Cauchy weights)
_MARGIN = 0.03  # of the short side, at the borders, where flow is made up
_AGAIN = 0.02  # a correction larger than this is looked at once more from the corrected place


@dataclass(frozen=True)
class Track:
    """What happened between the first frame and each of T frames, the first included.

    `poses`: (T, 2) complex, a and d of z -> a z + d, z = x + iy in short sides from the picture's middle.
    `residual`: (T, h, w) complex, how far each point of the first frame moved besides.
    `trust`: (T, h, w), 0 where flow says nothing: flat parts, borders, and what is no longer to be seen.
    `log_colour`: (T, 3), log of the mean red, green and blue of what both frames show, relative to the first frame.
    `points`: (h, w) complex, where the points lie in the first frame.
    """

    poses: NDArray[np.complex128]
    residual: Plane
    trust: Floats
    log_colour: NDArray[np.float64]
    points: Plane

    def way(self) -> NDArray[np.float64]:
        """Return (T, 4): right, down, grown, turned (clockwise) at each frame, as the mean displacement each gives."""
        radius = float(np.abs(self.points).mean())
        scale, shift = self.poses.T
        turned = np.unwrap(np.angle(scale))
        return np.stack([shift.real, shift.imag, np.log(np.abs(scale)) * radius, turned * radius], axis=1)

    def displacement(self) -> Plane:
        """Return (h, w): how far each point of the first frame moved until the last, in all."""
        scale, shift = self.poses[-1]
        moved: Plane = (scale * (self.points + self.residual[-1]) + shift - self.points).astype(np.complex64)
        return moved


def reduced(frame: Pixels, short_px: int = ANALYSIS_PX) -> Pixels:
    """Return a frame with a short side of `short_px`; smaller ones are not enlarged."""
    height, width = frame.shape[:2]
    scale = min(1.0, short_px / min(height, width))
    size = (round(width * scale), round(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def follow(frames: Sequence[Pixels]) -> Track:
    """Follow the camera and what moves besides through these frames, which all have one size."""
    return _Tracker(reduced(frames[0])).through([reduced(frame) for frame in frames[1:]])


class _Tracker:
    """Compares frames with the first one."""

    def __init__(self, first: Pixels):
        self._first = first.astype(np.float32)
        self._grey = _grey(self._first)
        height, width = self._grey.shape
        self._short = min(height, width)
        x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / self._short
        y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) / self._short
        self._z: Plane = (x[None, :] + 1j * y[:, None]).astype(np.complex64)
        self._texture = _texture(self._grey)
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def through(self, frames: Sequence[Pixels]) -> Track:
        points = self._z[::_STRIDE, ::_STRIDE]
        poses, residuals = [(1 + 0j, 0j)], [np.zeros_like(points)]
        trusts, colours = [np.ascontiguousarray(self._texture[::_STRIDE, ::_STRIDE])], [np.zeros(3)]
        for frame in frames:
            pose, residual, trust, colour = self._compare(frame, _next_pose(poses))
            poses.append(pose)
            residuals.append(residual)
            trusts.append(trust)
            colours.append(colour)
        return Track(np.array(poses), np.stack(residuals), np.stack(trusts), np.stack(colours), points)

    def _compare(self, frame: Pixels, pose: Pose) -> tuple[Pose, Plane, Floats, NDArray[np.float64]]:
        for _ in range(2):
            laid, seen = self._lay_over(frame, pose)
            grey = _grey(laid)
            flow = self._flow_to(grey, seen)
            texture = np.minimum(self._texture, _texture(grey))  # light may have washed it out
            trust = (texture * seen)[::_STRIDE, ::_STRIDE]
            points, moved = self._z[::_STRIDE, ::_STRIDE], flow[::_STRIDE, ::_STRIDE]
            grow, shift = _fit(points, moved, trust)
            scale, offset = pose
            pose = (scale * (1 + grow), scale * shift + offset)
            if abs(grow) * 0.5 + abs(shift) < _AGAIN:
                break
        inside = seen > 0
        if not inside.any():
            return pose, moved, trust, np.zeros(3)
        ratio = (laid[inside].mean(axis=0) + 1) / (self._first[inside].mean(axis=0) + 1)
        residual: Plane = (moved - grow * points - shift).astype(np.complex64)
        return pose, residual, trust, np.log(ratio.astype(np.float64))

    def _lay_over(self, frame: Pixels, pose: Pose) -> tuple[Floats, Floats]:
        """Return the frame as seen from the first frame's camera, and where it shows what that one showed (0 or 1)."""
        height, width = self._grey.shape
        scale, shift = pose
        rows = np.array([[scale.real, -scale.imag], [scale.imag, scale.real]])
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        offset = middle - rows @ middle + np.array([shift.real, shift.imag]) * self._short
        matrix = np.column_stack([rows, offset])  # from the first frame's pixels to this frame's
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        laid = cv2.warpAffine(
            frame.astype(np.float32), matrix, (width, height), flags=how, borderMode=cv2.BORDER_REFLECT_101
        )
        at = scale * self._z + shift
        margin = _MARGIN * self._short
        seen = (np.abs(at.real) * self._short < (width - 1) / 2 - margin) & (
            np.abs(at.imag) * self._short < (height - 1) / 2 - margin
        )
        seen[: int(margin)] = seen[-int(margin) :] = False
        seen[:, : int(margin)] = seen[:, -int(margin) :] = False
        return laid, seen.astype(np.float32)

    def _flow_to(self, grey: Floats, seen: Floats) -> Plane:
        """Return the flow from the first frame, in short sides. Light is evened out: its change is not motion."""
        inside = seen > 0
        first = self._grey
        if not inside.any():
            return np.zeros_like(self._z)
        level, contrast = first[inside].mean(), max(float(first[inside].std()), 2.0)
        even = (grey - grey[inside].mean()) / max(float(grey[inside].std()), 1.0) * contrast + level
        # As much contrast as eight bits hold.
        gain = min(4.0, 60 / contrast)
        before, after = ((picture - level) * gain + 128 for picture in (first, np.where(inside, even, first)))
        flow = self._flow.calc(_to_bytes(before), _to_bytes(after), None)
        result: Plane = ((flow[..., 0] + 1j * flow[..., 1]) / self._short).astype(np.complex64)
        return result


def _next_pose(poses: list[Pose]) -> Pose:
    """Guess the next pose: the last one, moved as before."""
    if len(poses) < 2:
        return poses[-1]
    (scale, shift), (scale_before, shift_before) = poses[-1], poses[-2]
    return scale * (scale / scale_before), 2 * shift - shift_before


def _fit(points: Plane, moved: Plane, trust: Floats) -> Pose:
    """Return grow and shift of moved = grow * point + shift: least squares, outliers reweighted to lose their say."""
    weight: Floats = trust
    grow, shift = 0j, 0j
    for _ in range(4):
        total = float(weight.sum()) + 1e-9
        middle, mean = complex((weight * points).sum()) / total, complex((weight * moved).sum()) / total
        arm = points - middle
        grow = complex((weight * (moved - mean) * arm.conj()).sum()) / (float((weight * np.abs(arm) ** 2).sum()) + 1e-9)
        shift = mean - grow * middle
        error = np.abs(moved - grow * points - shift)
        weight = (trust / (1 + (error / _OUTLIER) ** 2)).astype(np.float32)
    return grow, shift


def _texture(grey: Floats) -> Floats:
    """Say how much a place shows, 0..1: slopes within a patch of the flow's, as an edge speaks for its whole patch."""
    slopes = cv2.Sobel(grey, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(grey, cv2.CV_32F, 0, 1) ** 2
    texture = np.sqrt(np.maximum(cv2.boxFilter(slopes / 64, -1, (9, 9)), 0))
    return (texture / (texture + 2.0)).astype(np.float32)


def _grey(frame: Floats) -> Floats:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32, copy=False)


def _to_bytes(picture: NDArray[np.floating]) -> Pixels:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
