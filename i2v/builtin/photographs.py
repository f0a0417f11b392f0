"""The photographs the built-in model is measured on: those bundled in scikit-image and scikit-learn, free to use.

None was used in training.
"""

from __future__ import annotations

import numpy as np

from i2v.builtin.follow import Pixels

__all__ = ["photographs", "portrait"]


def photographs(limit: int | None = None) -> dict[str, Pixels]:
    """Return the bundled photographs, (H, W, 3) uint8, by name."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    photos = {
        "china": china,
        "chelsea": data.chelsea(),
        "astronaut": data.astronaut(),
        "coffee": data.coffee(),
        "rocket": data.rocket(),
        "flower": flower,
        "coins": np.repeat(data.coins()[..., None], 3, axis=2),
        "camera": np.repeat(data.camera()[..., None], 3, axis=2),
    }
    return dict(list(photos.items())[:limit])


def portrait(photo: Pixels) -> Pixels:
    """Return the middle of a photograph, cut to 9:16 upright."""
    height, width = photo.shape[:2]
    wide = min(width, height * 9 // 16)
    left = (width - wide) // 2
    return np.ascontiguousarray(photo[:, left : left + wide])
