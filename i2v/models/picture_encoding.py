"""Pictures to what a vision encoder takes in, and tensors back to pictures; for every family that needs it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from i2v.errors import ModelFilesError
from i2v.models.files import component_folder
from i2v.models.lazy import torch

__all__ = ["PictureEncoding", "to_frames", "unit_range"]


@dataclass(frozen=True)
class PictureEncoding:
    """How a picture becomes the vision encoder's input: side in pixels, then mean and deviation per colour.

    Read from the folder's preprocessor_config.json, so that the numbers do not depend on which image backend
    transformers finds installed.
    """

    side_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def load(cls, folder: Path) -> PictureEncoding:
        """Read feature_extractor/preprocessor_config.json. Raises ModelFilesError."""
        path = component_folder(folder, "feature_extractor") / "preprocessor_config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            side = config["crop_size"]
            side = side["height"] if isinstance(side, dict) else side
            return cls(int(side), tuple(config["image_mean"]), tuple(config["image_std"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelFilesError(f"{path} is not readable", "Download the model again.") from error

    def pixels(self, image: np.ndarray) -> torch.Tensor:
        """Return the centre square of an image (H, W, 3) uint8, normalised. Shape (1, 3, side, side)."""
        small = _centre_square(Image.fromarray(image)).resize((self.side_px, self.side_px), Image.Resampling.BILINEAR)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (unit_range(np.asarray(small)) - mean) / std


def _centre_square(image: Image.Image) -> Image.Image:
    """Return a square as wide as the image, which a wide image is first enlarged to fill.

    The order (enlarge, cut, reduce) and the rounding are upstream's, where they decide the pixels.
    """
    side = image.width
    scale = min(1.0, image.height / side)
    grown = image.resize((round(side // scale), round(image.height // scale)), Image.Resampling.BOX)
    left, top = (grown.width - side) // 2, (grown.height - side) // 2
    return grown.crop((left, top, left + side, top + side))


def unit_range(image: np.ndarray) -> torch.Tensor:
    """Return an image (H, W, 3) uint8 as float32 in 0..1. Shape (1, 3, H, W)."""
    return torch.tensor(image).permute(2, 0, 1).unsqueeze(0).float() / 255


def to_frames(pictures: torch.Tensor) -> np.ndarray:
    """Return pictures (n, 3, H, W) in -1..1 as (n, H, W, 3) uint8."""
    unit = (pictures / 2 + 0.5).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
