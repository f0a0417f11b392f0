"""Makes the pictures of the page's example gallery: `python -m docs.make_gallery`. Needs requirements-dev.txt.

They come from scikit-image and scikit-learn as installed; i2v/ui/gallery/gallery.yaml names authors and licences.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

from i2v.ui.example_gallery import GALLERY_FOLDER, load_gallery

LONG_SIDE_PX = 768
MOST_BYTES = 120 << 10


def photograph(name: str) -> np.ndarray:
    """Return a bundled photograph, (H, W, 3) uint8, by the name of its file in the gallery."""
    if name in ("china.jpg", "flower.jpg"):
        return np.asarray(load_sample_image(name))
    return np.asarray(getattr(data, Path(name).stem)())


def as_jpeg(picture: np.ndarray) -> bytes:
    """Encode at the best quality that keeps within MOST_BYTES; never made larger than it is."""
    image = Image.fromarray(picture).convert("RGB")
    image.thumbnail((LONG_SIDE_PX, LONG_SIDE_PX), Image.Resampling.LANCZOS)
    for quality in range(92, 60, -2):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MOST_BYTES:
            return buffer.getvalue()
    raise SystemExit("no quality is small enough")


def main() -> None:
    """Write every picture that gallery.yaml names."""
    for example in load_gallery().examples:
        (GALLERY_FOLDER / example.file).write_bytes(as_jpeg(photograph(example.file)))


if __name__ == "__main__":
    main()
