"""Depth-ordered layers: what is near is cut out of the picture, and what it hides is filled from around it.

Where near and far move apart, one smooth sheet would have to stretch between them. With two layers each moves by its
own smooth field; the near one covers the far one, and what it uncovers has been filled. A wrong cut tears a thing
apart, which is worse than none, so only a confident one is used: colours differ all along it, and it comes out the same
from other beginnings. Of the photographs bundled with scikit-image and scikit-learn none was found to have one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Layers", "find_layers"]

_log = logging.getLogger(__name__)
Array = NDArray[np.float32]
Picture = NDArray[np.uint8]
_WORK_PX = 256  # long side that the cut is found at
_SEED = 7  # OpenCV's k-means draws numbers
_ITERATIONS = 3
# Shares of the depth's range: surely far below the first, probably near above the second, surely near above the third.
_BANDS = (0.45, 0.55, 0.85)
_OTHER_BANDS = ((0.45, 0.7, 0.95), (0.15, 0.45, 0.9))
_LEAST_AGREEMENT = 0.9  # of the cuts from other bands with the first: intersection over union
_LEAST_STEP, _LEAST_STEPPED = 15.0, 0.88  # difference of colour (8-bit CIELAB) across the cut, at this share of it
_LEAST_CONTRAST = 0.07  # of parallax, between what was cut out and the rest
_LEAST_AREA, _MOST_AREA = 0.03, 0.6
_LEAST_EDGE = 2.0  # gradient along the cut, of that of the whole picture
# Mean of |2 alpha - 1| after refining: a cut along edges is nearly black and white. Wrong cuts of photographs, heads
# taken from bodies among them, had up to 0.85, a disc of its own colour 0.98; one far out of focus has too little.
_LEAST_CRISP = 0.88


@dataclass(frozen=True)
class Layers:
    """`near` with `alpha`, (H, W) uint8, over `far`, where the near things are filled over; at rest, the picture.

    Parallax, each (g, g), is that of the layer's own parts, carried on smoothly under what is not of it.
    """

    near: Picture
    far: Picture
    alpha: NDArray[np.uint8]
    near_parallax: Array
    far_parallax: Array


def find_layers(picture: Picture, parallax: Array, rows: Array, columns: Array) -> Layers | None:
    """Cut what is near out of a picture (H, W, 3), or return None when that cannot be done well.

    `parallax`: (g, g) on the canvas's grid; `rows` (H, g) and `columns` (W, g) carry it to pixels.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, _WORK_PX / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    depth = cv2.resize((rows @ parallax @ columns.T).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    cut = _cut(small, depth, _BANDS)
    if cut is None:
        return None
    alpha = _refine(cut, _telling_colour(small, cut))
    if not _is_good(small, depth, cut, alpha) or not _is_stable(small, depth, cut):
        return None
    large = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    grid_alpha = _on_grid(large, rows, columns)
    far = _fill(picture, small, cut)
    near, opaque = _taken_apart(picture, far, large)
    return Layers(
        near=near,
        far=far,
        alpha=opaque,
        near_parallax=_carried_on(parallax, grid_alpha),
        far_parallax=_carried_on(parallax, 1 - grid_alpha),
    )


def _cut(small: Picture, depth: Array, bands: tuple[float, float, float]) -> NDArray[np.uint8] | None:
    """Return what is near as 0 and 1, by GrabCut (Rother, Kolmogorov and Blake, 2004) begun from the depth."""
    spread = float(depth.max() - depth.min())
    if spread < _LEAST_CONTRAST:
        return None
    share = (depth - depth.min()) / spread
    far, middle, near = bands
    mask = np.full(depth.shape, cv2.GC_PR_BGD, np.uint8)
    mask[share > middle] = cv2.GC_PR_FGD
    mask[share < far] = cv2.GC_BGD
    mask[share > near] = cv2.GC_FGD
    if not _both(mask):
        return None
    cv2.setRNGSeed(_SEED)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.grabCut(small, mask, None, *models, _ITERATIONS, cv2.GC_INIT_WITH_MASK)
    except cv2.error as error:  # too few colours on one side to tell apart
        _log.info("no layers: %s", error)
        return None
    cut = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    cut = cv2.morphologyEx(cv2.morphologyEx(cut, cv2.MORPH_OPEN, kernel), cv2.MORPH_CLOSE, kernel)
    return cut.astype(np.uint8) if cut.any() and not cut.all() else None


def _both(mask: NDArray[np.uint8]) -> bool:
    front = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
    return bool(front.mean() > 0.01 and (~front).mean() > 0.01)


def _telling_colour(small: Picture, cut: NDArray[np.uint8]) -> Array:
    """Return the picture as one number per pixel, 0..1: along the line from the mean colour behind to that in front."""
    colours = small.astype(np.float32) / 255
    inside = cut.astype(bool)
    line = colours[inside].mean(axis=0) - colours[~inside].mean(axis=0)
    return np.asarray(colours @ (line / max(float(np.abs(line).sum()), 1e-3)), np.float32)


def _refine(cut: NDArray[np.uint8], guide: Array, radius: int = 4, epsilon: float = 1e-3) -> Array:
    """Return soft edges that follow the picture's: the guided filter (He, Sun and Tang, 2013)."""

    def mean(values: Array) -> Array:
        return np.asarray(cv2.boxFilter(values, -1, (2 * radius + 1, 2 * radius + 1)), np.float32)

    matte = cut.astype(np.float32)
    guide_mean, matte_mean = mean(guide), mean(matte)
    slope = (mean(guide * matte) - guide_mean * matte_mean) / (mean(guide * guide) - guide_mean**2 + epsilon)
    offset = matte_mean - slope * guide_mean
    return (mean(slope) * guide + mean(offset)).clip(0, 1)


def _is_good(small: Picture, depth: Array, cut: NDArray[np.uint8], alpha: Array) -> bool:
    inside = cut.astype(bool)
    contrast = float(depth[inside].mean() - depth[~inside].mean())
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    steep = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    kernel = np.ones((3, 3), np.uint8)
    outline = cv2.morphologyEx(cut, cv2.MORPH_GRADIENT, kernel).astype(bool)
    outline[[0, -1]] = outline[:, [0, -1]] = False
    steps = _steps(small, cut)[outline]
    stepped = float((steps > _LEAST_STEP).mean()) if len(steps) else 0.0
    edge = float(steep[outline].mean() / max(steep.mean(), 1e-3)) if outline.any() else 0.0
    band = cv2.dilate(outline.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
    crisp = float(np.abs(2 * alpha[band] - 1).mean()) if band.any() else 0.0
    area = float(inside.mean())
    good = (
        contrast >= _LEAST_CONTRAST
        and _LEAST_AREA <= area <= _MOST_AREA
        and edge >= _LEAST_EDGE
        and crisp >= _LEAST_CRISP
        and stepped >= _LEAST_STEPPED
    )
    _log.info(
        "cut %s: contrast %.2f, area %.2f, edge %.1f, crisp %.2f, stepped %.2f",
        "good" if good else "not good",
        contrast,
        area,
        edge,
        crisp,
        stepped,
    )
    return good


def _steps(small: Picture, cut: NDArray[np.uint8], radius: int = 3) -> Array:
    """Return how far apart the mean colours in front and behind are around each pixel, (h, w), in 8-bit CIELAB."""
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    means = []
    for side in (cut.astype(np.float32), 1 - cut.astype(np.float32)):
        kernel = (2 * radius + 1, 2 * radius + 1)
        count = np.maximum(cv2.boxFilter(side, -1, kernel), 1e-3)
        means.append(cv2.boxFilter(lab * side[..., None], -1, kernel) / count[..., None])
    return np.asarray(np.linalg.norm(means[0] - means[1], axis=-1), np.float32)


def _is_stable(small: Picture, depth: Array, cut: NDArray[np.uint8]) -> bool:
    """Say whether the picture's colours decide the cut, not where the bands of depth happen to lie."""

    def agreements() -> Iterator[float]:
        for bands in _OTHER_BANDS:
            other = _cut(small, depth, bands)
            yield 0.0 if other is None else float((cut & other).sum() / (cut | other).sum())

    stable = all(agreement >= _LEAST_AGREEMENT for agreement in agreements())
    _log.info("the cut is %s", "stable: layers" if stable else "not stable: no layers")
    return stable


def _fill(picture: Picture, small: Picture, cut: NDArray[np.uint8]) -> Picture:
    """Return the picture with the near things painted over from around them (Telea, 2004), at reduced size."""
    height, width = picture.shape[:2]
    hidden = cv2.dilate(cut, np.ones((5, 5), np.uint8))
    filled = cv2.inpaint(small, hidden, 5, cv2.INPAINT_TELEA)
    filled = cv2.resize(filled, (width, height), interpolation=cv2.INTER_CUBIC)
    weight = cv2.resize(hidden.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    far = picture.copy()
    for top in range(0, height, 64):  # in bands: a float picture of full size would be four times as large
        part = weight[top : top + 64, :, None]
        far[top : top + 64] = np.rint(far[top : top + 64] * (1 - part) + filled[top : top + 64] * part)
    return far


def _taken_apart(picture: Picture, far: Picture, matte: Array) -> tuple[Picture, NDArray[np.uint8]]:
    """Return the near layer's colours N and its alpha a, so that a N + (1 - a) far is the picture again.

    Without, the picture would jump when it begins to move, and soft edges would carry what was behind them along. Where
    the matte is too thin for any colour N in 0..255 to explain the picture, a is the least that does.
    """
    near, alpha = np.empty_like(picture), np.empty(matte.shape, np.uint8)
    for top in range(0, len(picture), 64):
        band = slice(top, top + 64)
        whole, behind = picture[band].astype(np.float32), far[band].astype(np.float32)
        change = whole - behind
        room = np.where(change > 0, 255 - behind, behind)
        least = (np.abs(change) / np.maximum(room, 1)).max(axis=-1)
        alpha[band] = np.ceil(np.maximum(matte[band], least).clip(0, 1) * 255)
        share = np.maximum(alpha[band], 1)[..., None] / np.float32(255)
        near[band] = np.rint((behind + change / share).clip(0, 255))
    return near, alpha


def _on_grid(values: Array, rows: Array, columns: Array) -> Array:
    """Average pixel values (H, W) around each grid point; 0 where no pixel is near. Shape (g, g)."""
    down, across = np.clip(rows, 0, None), np.clip(columns, 0, None)
    total = down.T @ values @ across
    count = down.sum(axis=0)[:, None] * across.sum(axis=0)[None, :]
    return np.asarray(total / np.maximum(count, 1e-6), np.float32)


def _carried_on(parallax: Array, weight: Array) -> Array:
    """Return the weighted mean around each point, so that what is not of the layer takes after what is."""
    size = parallax.shape[0]
    distance = (np.arange(size)[:, None] - np.arange(size)[None, :]) ** 2
    kernel = np.exp(-0.5 * distance / 1.2**2) + 1e-4
    total = kernel @ (parallax * weight) @ kernel.T
    return np.asarray(total / np.maximum(kernel @ weight @ kernel.T, 1e-9), np.float32)
