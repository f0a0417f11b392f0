"""The built-in family: a small I2VGenXLUNet denoises a motion field, and the picture itself is moved by it.

The idea is that of Generative Image Dynamics (Li et al., 2024): diffuse motion, not pixels. What the field's ten
channels mean, and how frames are made of them, is in motion_render.py; that stands at the place of a VAE.

Knows nothing of how the weights were trained (see i2v/builtin).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, I2VGenXLUNet
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from transformers import CLIPTextModel, CLIPTokenizer

from i2v.models.base import Conditions, ImageToVideo, draw_noise
from i2v.models.loading import load_config, load_tokenizer, load_weights
from i2v.models.motion_render import CHANNELS, MotionRenderer
from i2v.models.text import encode_prompts, tokenize
from i2v.presets.model_preset import ModelPreset
from i2v.request import GenerationRequest

__all__ = [
    "GUIDES",
    "HINTS",
    "Pipeline",
    "PromptHint",
    "Sight",
    "denoiser_inputs",
    "even_motion",
    "guides",
    "look_at",
    "predict_clean",
    "windows",
]

HINTS = 14  # numbers in a hint: dx and dy (weights of 1, x, y each), parallax, and channels 3 to 9
GUIDES = len(CHANNELS) + 2  # what the hint says of each channel, and the place in the picture
_ANALYSIS_PX = 64  # the picture's long side when it is reduced to the grid, as in training
_PREVIEW_PX = 160
_PREVIEW_FRAMES = 6
_MOMENT_S = 0.3  # clips get one moment of the field for so many seconds, and at least one window of them
_MOST_MOMENTS = 64
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


def _reduced(picture: np.ndarray, long_side_px: int) -> np.ndarray:
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
    denoiser: torch.nn.Module, latents: torch.Tensor, timestep: torch.Tensor, conditions: dict[str, torch.Tensor]
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


class Pipeline(ImageToVideo):
    """The built-in motion model."""

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        prompt_hint: PromptHint,
        unet: I2VGenXLUNet,
        scheduler: FlowMatchEulerDiscreteScheduler,
        renderer: MotionRenderer,
    ):
        self.tokenizer, self.text_encoder, self.denoiser = tokenizer, text_encoder, unet
        self.prompt_hint, self.scheduler, self.renderer = prompt_hint, scheduler, renderer
        self.device, self.dtype = unet.device, unet.dtype
        self._width = unet.config.cross_attention_dim

    @classmethod
    def load(cls, folder: Path, preset: ModelPreset, device: torch.device, dtype: torch.dtype) -> Pipeline:
        return cls(
            load_tokenizer(folder, "tokenizer", CLIPTokenizer),
            load_weights(folder, "text_encoder", CLIPTextModel, device, dtype),
            load_weights(folder, "prompt_hint", PromptHint, device, dtype),
            load_weights(folder, "unet", I2VGenXLUNet, device, dtype),
            load_config(folder, "scheduler", FlowMatchEulerDiscreteScheduler),
            load_config(folder, "renderer", MotionRenderer),
        )

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"text_encoder": self.text_encoder, "prompt_hint": self.prompt_hint, "unet": self.denoiser}

    def encode(self, request: GenerationRequest, image: np.ndarray, generator: torch.Generator) -> Conditions:
        small = torch.from_numpy(_reduced(image, _ANALYSIS_PX)).to(self.device).permute(2, 0, 1)[None].float() / 255
        sight = look_at(small, self.renderer.config.grid_size)
        positive = self._read(request.prompt, sight)
        negative = self._read(request.negative_prompt, sight) if request.guidance_scale != 1.0 else None
        return Conditions(positive, negative, {"picture": torch.from_numpy(image)})

    def _read(self, prompt: str, sight: Sight) -> dict[str, torch.Tensor]:
        embeddings = encode_prompts(self.text_encoder, tokenize(self.tokenizer, [prompt]))
        hint = self.prompt_hint(embeddings).float()
        inputs = denoiser_inputs(hint, sight, self.renderer.config.num_keyframes, self._width)
        keep = ("even", "fps")  # float32, whatever the denoiser computes in
        inputs = {name: value if name in keep else value.to(self.dtype) for name, value in inputs.items()}
        return inputs | {"encoder_hidden_states": embeddings}

    def _moments(self, request: GenerationRequest) -> int:
        wanted = round((request.num_frames - 1) / request.fps / _MOMENT_S)
        return max(self.renderer.config.num_keyframes, min(wanted, _MOST_MOMENTS))

    def draw_latents(self, request: GenerationRequest, generator: torch.Generator) -> torch.Tensor:
        size = self.renderer.config.grid_size
        return draw_noise((1, len(CHANNELS), self._moments(request), size, size), generator, self.device)

    def _predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditions: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Predict the velocity, window by window where the clip is longer than the denoiser was trained on.

        Where windows overlap their predictions are blended (MultiDiffusion, Bar-Tal et al. 2023), weighted towards
        each window's middle.
        """
        length = self.renderer.config.num_keyframes
        total, weights = torch.zeros_like(latents), torch.zeros(latents.shape[2], device=latents.device)
        ramp = torch.arange(1, length + 1, device=latents.device)
        weight = torch.minimum(ramp, ramp.flip(0)).float()
        for start in windows(latents.shape[2], length):
            part = slice(start, start + length)
            given = latents[:, :, part].to(self.dtype)
            clean = predict_clean(self.denoiser, given, timestep, conditions).float()
            total[:, :, part] += clean * weight.view(1, 1, -1, 1, 1)
            weights[part] += weight
        clean = total / weights.view(1, 1, -1, 1, 1)
        # The denoiser gives the clean latents x; the scheduler wants the velocity n - x = (x_t - x) / s.
        return (latents - clean) / (timestep / self.scheduler.config.num_train_timesteps)

    def clean_estimate(self, noise: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        # Rectified flow: x_t = (1 - s) x + s n, prediction n - x, timestep = 1000 s.
        return latents - timestep / self.scheduler.config.num_train_timesteps * noise

    def decode(
        self, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest, first: int = 0
    ) -> Iterator[np.ndarray]:
        picture = conditions.for_decode["picture"].numpy()
        yield from self.renderer.render(
            picture,
            self._field(latents),
            request.num_frames,
            request.fps,
            loop=request.loop,
            seed=request.seed,
            first=first,
        )

    def _field(self, latents: torch.Tensor) -> np.ndarray:
        return self.renderer.to_field(latents.float())[0].cpu().numpy()

    def preview(self, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest) -> np.ndarray:
        picture = conditions.for_decode["picture"].numpy()
        small = _reduced(picture, _PREVIEW_PX)
        fps = (_PREVIEW_FRAMES - 1) / max((request.num_frames - 1) / request.fps, 0.1)
        frames = self.renderer.render(
            small, self._field(latents), _PREVIEW_FRAMES, fps, loop=request.loop, seed=request.seed, layers=False
        )
        return np.stack(list(frames))
