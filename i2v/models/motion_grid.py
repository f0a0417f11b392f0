"""From the motion field's coarse grid to pixels, by weights that are exact for anything linear."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cubic_weights", "grid_to_pixels", "smoothstep"]

Array = NDArray[np.float32]


def cubic_weights(positions: NDArray[np.float64], count: int) -> Array:
    """Return the (len(positions), count) weights that carry `count` samples to fractional positions 0..count-1.

    Catmull-Rom (1974), with a straight continuation beyond both ends.
    """
    if count == 1:
        return np.ones((len(positions), 1), np.float32)
    low = np.clip(np.floor(positions).astype(int), 0, count - 2)
    t = positions - low
    kernel = (
        (-t + 2 * t**2 - t**3) / 2,
        (2 - 5 * t**2 + 3 * t**3) / 2,
        (t + 4 * t**2 - 3 * t**3) / 2,
        (t**3 - t**2) / 2,
    )
    padded = np.zeros((len(positions), count + 2))  # sample 0 is column 1
    rows = np.arange(len(positions))
    for tap, weights in enumerate(kernel):
        padded[rows, low + tap] += weights
    inner = padded[:, 1:-1].copy()
    for edge, beyond, next_inside in ((0, 0, 1), (-1, -1, -2)):  # a sample beyond is 2 * edge - next
        inner[:, edge] += 2 * padded[:, beyond]
        inner[:, next_inside] -= padded[:, beyond]
    return inner.astype(np.float32)


def grid_to_pixels(count: int, canvas: int, grid_size: int) -> Array:
    """Return the (count, grid_size) weights from a canvas's grid to the centres of `count` pixels in its middle.

    `canvas`: the pixels that the grid spans from its first point to its last.
    """
    centres = ((np.arange(count) + 0.5) * 2 / count - 1) * (count / canvas)
    return cubic_weights((centres + 1) / 2 * (grid_size - 1), grid_size)


def smoothstep(value: float, low: float, high: float) -> float:
    """Return 0 below `low`, 1 above `high`, and a smooth rise between."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)
