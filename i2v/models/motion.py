"""The built-in family: a small I2VGenXLUNet denoises a motion field, and the picture itself is moved by it.

The idea is that of Generative Image Dynamics (Li et al., 2024): diffuse motion, not pixels. The field lives on a
coarse grid over a square canvas on which the picture is centred; it has four channels per grid point and keyframe:
dx, dy (where to look in the picture, canvas half-sides), log gain and warmth (log of the red gain, minus that of the
blue one). The renderer stands at the place of a VAE: it yields the frames one by one.

Knows nothing of how the weights were trained (see i2v/builtin).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, I2VGenXLUNet
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from transformers import CLIPTextModel, CLIPTokenizer

from i2v.models.base import Conditions, ImageToVideo, draw_noise
from i2v.models.loading import load_config, load_tokenizer, load_weights
from i2v.models.text import encode_prompts, tokenize
from i2v.presets import ModelPreset
from i2v.request import GenerationRequest

__all__ = ["MotionRenderer", "Pipeline", "PromptHint", "condition_latents", "picture_to_grid", "pooled_picture"]

_ANALYSIS_PX = 64  # the picture's long side when it is reduced to the grid, as in training
_PREVIEW_PX = 160
_PREVIEW_FRAMES = 6
_SOFT_BORDER = 0.05  # half-sides over which what enters the frame turns soft


def picture_to_grid(picture: torch.Tensor, grid_size: int) -> torch.Tensor:
    """Reduce a picture to what the denoiser sees of it.

    `picture`: (B, 3, H, W) in 0..1. It is mirrored out to a square and reduced to mean colour and local contrast per
    cell. Returns (B, 4, grid_size, grid_size), about -1..1.
    """
    height, width = picture.shape[-2:]
    scale = _ANALYSIS_PX / max(height, width)
    size = (max(8, round(height * scale)), max(8, round(width * scale)))
    if size != (height, width):
        picture = F.interpolate(picture, size, mode="bilinear", antialias=True)
    picture = _mirror_to_square(picture)
    mean = F.adaptive_avg_pool2d(picture, grid_size)
    grey = picture.mean(dim=1, keepdim=True)
    variance = F.adaptive_avg_pool2d(grey * grey, grid_size) - F.adaptive_avg_pool2d(grey, grid_size) ** 2
    contrast = variance.clamp(min=0).sqrt()
    return torch.cat([mean * 2 - 1, (contrast * 8 - 1).clamp(max=2)], dim=1)


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
    """Reads from the prompt which even motion it asks for: the weights of 1, x and y in dx and in dy.

    A zoom or a roll is the product of a word and a place. The denoiser, which has the words only by attention, takes
    thousands of steps to find that product; given as a hint, it is there from the first.
    """

    @register_to_config
    def __init__(self, width: int = 64):
        super().__init__()
        self.project = torch.nn.Linear(width, 6)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Turn prompt embeddings (B, tokens, width) into weights (B, 2, 3)."""
        return self.project(embeddings.mean(dim=1)).view(-1, 2, 3)


def condition_latents(grid: torch.Tensor, hint: torch.Tensor, num_keyframes: int) -> torch.Tensor:
    """Return the denoiser's `image_latents`: the picture at keyframe 0, then the hinted motion, time and contrast.

    `grid`: (B, 4, g, g); `hint`: (B, 2, 3), see PromptHint. Returns (B, 4, num_keyframes, g, g).
    """
    batch, _, size, _ = grid.shape
    shape = (batch, num_keyframes, size, size)
    axis = torch.linspace(-1, 1, size, device=grid.device, dtype=grid.dtype)
    time = torch.linspace(0, 1, num_keyframes, device=grid.device, dtype=grid.dtype).view(-1, 1, 1)
    places = torch.stack(
        [torch.ones(size, size).to(grid), axis.expand(size, size), axis.view(-1, 1).expand(size, size)]
    )
    hinted = torch.einsum("bcj,jyx->bcyx", hint.to(grid.dtype), places)  # dx and dy at the end of the clip
    moving = hinted.unsqueeze(2) * time
    rest = torch.stack([time.expand(shape), grid[:, 3:4].expand(shape)], dim=1)
    latents = torch.cat([moving, rest], dim=1)
    return torch.cat([grid.unsqueeze(2), latents[:, :, 1:]], dim=2)


def pooled_picture(grid: torch.Tensor, width: int) -> torch.Tensor:
    """Return the picture's summary that stands in for a vision encoder's embedding. Shape (B, width)."""
    flat = F.adaptive_avg_pool2d(grid, 4).flatten(1)
    return F.pad(flat, (0, width - flat.shape[1])) if width >= flat.shape[1] else flat[:, :width]


class MotionRenderer(ConfigMixin):
    """Turns a field into frames by moving the picture at full resolution.

    What enters the frame is the picture mirrored at its border and softened, the more the farther it lies outside.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        grid_size: int = 8,
        num_keyframes: int = 8,
        field_scale: tuple[float, ...] = (0.06, 0.06, 0.4, 0.12),
    ):
        self.grid_size, self.num_keyframes = grid_size, num_keyframes
        self.field_scale = torch.tensor(field_scale)

    def to_latents(self, field: torch.Tensor) -> torch.Tensor:
        """Scale a field (B, 4, K, g, g) to latents of about unit size. No scale may be zero (a channel left out)."""
        return field / self.field_scale.to(field).view(1, 4, 1, 1, 1)

    def to_field(self, latents: torch.Tensor) -> torch.Tensor:
        """Scale latents (B, 4, K, g, g) back to a field, with keyframe 0 set to no motion."""
        field = latents * self.field_scale.to(latents).view(1, 4, 1, 1, 1)
        return torch.cat([torch.zeros_like(field[:, :, :1]), field[:, :, 1:]], dim=2)

    def render(
        self, picture: torch.Tensor, field: torch.Tensor, num_frames: int, first: int = 0
    ) -> Iterator[torch.Tensor]:
        """Yield pictures number `first` to num_frames - 1, each (3, H, W) in 0..1; number 0 is the picture itself.

        `picture`: (3, H, W) float32 in 0..1; `field`: (4, K, g, g).
        """
        height, width = picture.shape[-2:]
        frames = _resample(field, num_frames)
        rows, columns = (_canvas_matrix(n, max(height, width), field.shape[-1]).to(field) for n in (height, width))
        x, y = (_pixel_centres(n).to(field) for n in (width, height))
        # Half-sides of the canvas to half-sizes of the picture, which is how grid_sample measures.
        to_x, to_y = max(height, width) / width, max(height, width) / height
        soft = _soften(picture)
        if first == 0:
            yield picture
        for moved in frames[max(1, first) :]:
            dx, dy, log_gain, warmth = rows @ moved @ columns.T
            look = torch.stack([x.view(1, -1) + dx * to_x, y.view(-1, 1) + dy * to_y], dim=-1)
            frame = _sample(picture, soft, look, border=_SOFT_BORDER)
            yield (frame * _colour_gain(log_gain, warmth)).clamp(0, 1)


def _resample(field: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Return (num_frames, 4, g, g): the keyframes (4, K, g, g) on an even finer or coarser time axis, cubic."""
    channels, keys, size, _ = field.shape
    flat = field.permute(0, 2, 3, 1).reshape(1, 1, -1, keys)
    fine = F.interpolate(flat, (flat.shape[2], num_frames), mode="bicubic", align_corners=True)
    return fine.reshape(channels, size, size, num_frames).permute(3, 0, 1, 2)


def _pixel_centres(count: int) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float32) + 0.5) * 2 / count - 1


def _canvas_matrix(count: int, canvas: int, grid_size: int) -> torch.Tensor:
    """Return the (count, grid_size) cubic weights that carry a grid over the canvas to `count` centred pixels."""
    basis = torch.eye(grid_size).view(1, 1, grid_size, grid_size)
    # Sampling a basis image with cubic kernels at the pixels' canvas positions gives the weights, row by row.
    at = _pixel_centres(count) * (count / canvas)
    look = torch.stack(torch.meshgrid(torch.linspace(-1, 1, grid_size), at, indexing="xy"), dim=-1)
    return F.grid_sample(basis, look.unsqueeze(0), mode="bicubic", padding_mode="reflection", align_corners=True)[0, 0]


def _soften(picture: torch.Tensor) -> torch.Tensor:
    """Return the picture reduced 16 times and blurred, to stand for what was never seen. Shape (3, h, w)."""
    size = (max(4, picture.shape[-2] // 16), max(4, picture.shape[-1] // 16))
    small = F.interpolate(picture.unsqueeze(0), size, mode="bilinear", antialias=True)
    return F.avg_pool2d(F.pad(small, (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]


def _sample(picture: torch.Tensor, soft: torch.Tensor, look: torch.Tensor, border: float) -> torch.Tensor:
    frame = F.grid_sample(
        picture.unsqueeze(0),
        look.unsqueeze(0),
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )[0]
    outside = (look.abs() - 1).clamp(min=0).amax(dim=-1)
    if not bool(outside.any()):
        return frame
    weight = (outside / (2 * border)).clamp(max=1)
    weight = weight * weight * (3 - 2 * weight)
    blurred = F.grid_sample(
        soft.unsqueeze(0), look.unsqueeze(0), mode="bilinear", padding_mode="reflection", align_corners=False
    )[0]
    return frame + weight * (blurred - frame)


def _colour_gain(log_gain: torch.Tensor, warmth: torch.Tensor) -> torch.Tensor:
    """Return the gain per colour, (3, H, W)."""
    return torch.exp(torch.stack([log_gain + warmth / 2, log_gain, log_gain - warmth / 2]))


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
        picture = torch.from_numpy(image).to(self.device).permute(2, 0, 1).float() / 255
        grid = picture_to_grid(picture.unsqueeze(0), self.renderer.grid_size)
        duration_s = max(request.num_frames - 1, 1) / request.fps
        shared = {
            "fps": torch.tensor([(self.renderer.num_keyframes - 1) / duration_s], device=self.device),
            "image_embeddings": pooled_picture(grid, self.denoiser.config.cross_attention_dim).to(self.dtype),
        }
        positive = shared | self._read(request.prompt, grid)
        negative = None
        if request.guidance_scale != 1.0:
            negative = shared | self._read(request.negative_prompt, grid)
        return Conditions(positive, negative, {"picture": picture})

    def _read(self, prompt: str, grid: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the two conditions that depend on the prompt."""
        embeddings = encode_prompts(self.text_encoder, tokenize(self.tokenizer, [prompt]))
        latents = condition_latents(grid, self.prompt_hint(embeddings), self.renderer.num_keyframes)
        return {"encoder_hidden_states": embeddings, "image_latents": latents.to(self.dtype)}

    def draw_latents(self, request: GenerationRequest, generator: torch.Generator) -> torch.Tensor:
        size = self.renderer.grid_size
        return draw_noise((1, 4, self.renderer.num_keyframes, size, size), generator, self.device)

    def _predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditions: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        # The denoiser gives the clean latents x; the scheduler wants the velocity n - x = (x_t - x) / s.
        clean = super()._predict(latents, timestep, conditions)
        return (latents - clean) / (timestep / self.scheduler.config.num_train_timesteps)

    def clean_estimate(self, noise: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        # Rectified flow: x_t = (1 - s) x + s n, prediction n - x, timestep = 1000 s.
        return latents - timestep / self.scheduler.config.num_train_timesteps * noise

    def decode(
        self, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest, first: int = 0
    ) -> Iterator[np.ndarray]:
        field = self.renderer.to_field(latents.float())[0]
        for frame in self.renderer.render(conditions.for_decode["picture"], field, request.num_frames, first):
            yield (frame * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()

    def preview(self, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest) -> np.ndarray:
        picture = conditions.for_decode["picture"]
        scale = _PREVIEW_PX / max(picture.shape[-2:])
        size = tuple(max(8, round(n * scale)) for n in picture.shape[-2:])
        small = F.interpolate(picture.unsqueeze(0), size, mode="bilinear", antialias=True)[0]
        frames = self.renderer.render(small, self.renderer.to_field(latents.float())[0], _PREVIEW_FRAMES)
        stack = torch.stack(list(frames))
        return (stack * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
