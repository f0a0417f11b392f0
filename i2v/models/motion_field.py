"""What the built-in denoiser is given: the picture on its grid, and what the prompt asks for, evenly over it.

Knows tensors and the prompt's hint; nothing of requests, rendering or how the weights were trained (see i2v/builtin).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from i2v.models.motion_render import CHANNELS

__all__ = [
    "CHANNELS",
    "GUIDES",
    "HINTS",
    "PromptHint",
    "Sight",
    "denoiser_inputs",
    "even_motion",
    "guides",
    "look_at",
    "predict_clean",
    "reduced",
    "windows",
]

HINTS = 14  # numbers in a hint: dx and dy (weights of 1, x, y each), parallax, and channels 3 to 9
GUIDES = len(CHANNELS) + 2  # what the hint says of each channel, and the place in the picture
_MOMENTS_PER_S = 4.0  # told the denoiser as "fps"; its field does not depend on the clip's length


@dataclass(frozen=True)
class Sight:
    """What the denoiser sees of a picture on the grid of its square canvas.

    `grid`: (B, 4, g, g), mean colour and local contrast, about -1..1. `place`: (B, 2, g, g), x and y in half-sides of
    the picture itself; beyond 1 lies what is mirrored.
    """

    grid: torch.Tensor
    place: torch.Tensor


def look_at(picture: torch.Tensor, grid_size: int) -> Sight:
    """Reduce small pictures to what the denoiser sees. `picture`: (B, 3, H, W) in 0..1, its long side 64 px."""
    height, width = picture.shape[-2:]
    picture = _mirror_to_square(picture)
    mean = F.adaptive_avg_pool2d(picture, grid_size)
    grey = picture.mean(dim=1, keepdim=True)
    variance = F.adaptive_avg_pool2d(grey * grey, grid_size) - F.adaptive_avg_pool2d(grey, grid_size) ** 2
    contrast = variance.clamp(min=0).sqrt()
    grid = torch.cat([mean * 2 - 1, (contrast * 8 - 1).clamp(max=2)], dim=1)
    axis = torch.linspace(-1, 1, grid_size, device=picture.device)
    x, y = torch.meshgrid(axis * max(height, width) / width, axis * max(height, width) / height, indexing="xy")
    return Sight(grid, torch.stack([x, y]).expand(len(grid), -1, -1, -1))


def reduced(picture: np.ndarray, long_side_px: int) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 made smaller, or larger, to this long side."""
    height, width = picture.shape[:2]
    scale = long_side_px / max(height, width)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _mirror_to_square(picture: torch.Tensor) -> torch.Tensor:
    height, width = picture.shape[-2:]
    for dim, missing in ((-2, width - height), (-1, height - width)):
        while missing > 0:  # a mirror shows at most the picture's own width, so long strips need several
            take = min(missing, 2 * picture.shape[dim])
            before, after = take // 2, take - take // 2
            size = picture.shape[dim]
            parts = [
                picture.narrow(dim, 0, before).flip(dim),
                picture,
                picture.narrow(dim, size - after, after).flip(dim),
            ]
            picture = torch.cat(parts, dim=dim)
            missing -= take
    return picture


class PromptHint(ModelMixin, ConfigMixin):
    """Reads from the prompt what it asks for, evenly over the picture and the clip: HINTS numbers, in units of latents.

    A zoom or a roll is the product of a word and a place. The denoiser, which has the words only by attention, takes
    thousands of steps to find that product; given as a hint, it is there from the first.
    """

    @register_to_config
    def __init__(self, width: int = 64, hidden: int = 128):
        super().__init__()
        self.read = torch.nn.Sequential(torch.nn.Linear(width, hidden), torch.nn.SiLU(), torch.nn.Linear(hidden, HINTS))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Turn prompt embeddings (B, tokens, width) into (B, HINTS)."""
        return self.read(embeddings.mean(dim=1))


def even_motion(hint: torch.Tensor, grid_size: int) -> torch.Tensor:
    """Lay a hint (B, HINTS) out over the grid: the latents of a motion that heeds no picture. (B, 10, g, g).

    The parallax channel is left out (0): even motion has none.
    """
    axis = torch.linspace(-1, 1, grid_size, device=hint.device, dtype=hint.dtype)
    ones = torch.ones(grid_size, grid_size, device=hint.device, dtype=hint.dtype)
    places = torch.stack([ones, ones * axis, ones * axis.view(-1, 1)])
    shift = torch.einsum("bcj,jyx->bcyx", hint[:, :6].view(-1, 2, 3), places)
    rest = hint[:, 6:].view(*hint[:, 6:].shape, 1, 1) * ones
    return torch.cat([shift, torch.zeros_like(rest[:, :1]), rest[:, 1:]], dim=1)


def guides(hint: torch.Tensor, sight: Sight) -> torch.Tensor:
    """Return what the denoiser is given beside the latents: the hint laid out, and the place. (B, GUIDES, g, g)."""
    even = even_motion(hint, sight.grid.shape[-1])
    parallax = hint[:, 6].view(-1, 1, 1, 1).expand_as(even[:, :1])
    place = sight.place.to(even).clamp(-2, 2)
    return torch.cat([even[:, :2], parallax, even[:, 3:], place], dim=1)


def pooled_sight(sight: Sight, width: int) -> torch.Tensor:
    """Return the picture's summary that stands in for a vision encoder's embedding. Shape (B, width)."""
    flat = F.adaptive_avg_pool2d(sight.grid, 4).flatten(1)
    return F.pad(flat, (0, width - flat.shape[1])) if width >= flat.shape[1] else flat[:, :width]


def denoiser_inputs(hint: torch.Tensor, sight: Sight, num_keyframes: int, width: int) -> dict[str, torch.Tensor]:
    """Return the conditions that come from the hint and the picture, for one window of `num_keyframes` moments."""
    batch = len(hint)
    return {
        "guide": guides(hint, sight),
        "even": even_motion(hint, sight.grid.shape[-1]),
        "image_latents": sight.grid.unsqueeze(2).expand(-1, -1, num_keyframes, -1, -1),
        "image_embeddings": pooled_sight(sight, width),
        "fps": torch.full((batch,), _MOMENTS_PER_S, device=hint.device),
    }


def predict_clean(
    denoiser: Callable[..., Any], latents: torch.Tensor, timestep: torch.Tensor, conditions: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Return the clean latents of one window, (B, 10, K, g, g): the even motion, and what the denoiser makes of it."""
    given = dict(conditions)
    guide, even = given.pop("guide"), given.pop("even")
    guide = guide.to(latents.dtype).unsqueeze(2).expand(-1, -1, latents.shape[2], -1, -1)
    departure = denoiser(torch.cat([latents, guide], dim=1), timestep, **given, return_dict=False)[0]
    return even.unsqueeze(2) + departure.to(even.dtype)


def windows(moments: int, length: int) -> list[int]:
    """Return where windows of `length` moments begin, each half over the last, so that they cover `moments`."""
    if moments <= length:
        return [0]
    starts = list(range(0, moments - length, length // 2))
    return [*starts, moments - length]
