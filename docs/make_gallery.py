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

LONG_SIDE_PX, CARD_SIDE_PX = 768, 420
MOST_BYTES = 120 << 10


def photograph(name: str) -> np.ndarray:
    """Return a bundled photograph, (H, W, 3) uint8, by the name of its file in the gallery."""
    if name in ("china.jpg", "flower.jpg"):
        return np.asarray(load_sample_image(name))
    return np.asarray(getattr(data, Path(name).stem)())


def shrunk(picture: np.ndarray, side_px: int) -> Image.Image:
    """Return the picture with its long side at most `side_px`."""
    image = Image.fromarray(picture).convert("RGB")
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return image


def as_jpeg(image: Image.Image) -> bytes:
    """Encode at the best quality that keeps within MOST_BYTES."""
    for quality in range(92, 60, -2):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MOST_BYTES:
            return buffer.getvalue()
    raise SystemExit("no quality is small enough")


def main() -> None:
    """Write every picture that gallery.yaml names, and the small one that is on its card."""
    (GALLERY_FOLDER / "cards").mkdir(exist_ok=True)
    for example in load_gallery().examples:
        picture = photograph(example.file)
        (GALLERY_FOLDER / example.file).write_bytes(as_jpeg(shrunk(picture, LONG_SIDE_PX)))
        shrunk(picture, CARD_SIDE_PX).save(load_gallery().card(example), "WEBP", quality=72, method=6)


if __name__ == "__main__":
    main()
