"""The I2VGen-XL family (Zhang et al., 2023, arXiv:2311.04145): a video from a picture and a sentence.

Gives the frames that diffusers' I2VGenXLPipeline gives from the same starting noise, with three differences:
guidance takes two calls instead of one batch of two, latents and scheduler stay float32 in every precision,
and all noise is drawn on the CPU from the request's own generator. That generator is read in this order: first
the noise of the picture's latent (`encode`), then the video's (`draw_latents`). Nothing else is random.

How it is run (in pieces, with weights elsewhere) is in i2v/memory; `arrange` puts that to work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    I2VGenXLUNet,
    UniPCMultistepScheduler,
)
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from i2v.errors import ModelFilesError, NotFiniteError
from i2v.memory.exact.kl import decode_in_bands, encode_in_bands
from i2v.memory.exact.unet import ExactForward, layers_in_order
from i2v.memory.plan import Plan
from i2v.memory.weights.placement import Placement
from i2v.models.base import Conditions, ImageToVideo, draw_noise
from i2v.models.files import component_folder
from i2v.models.loading import load_scheduler, load_tokenizer, load_weights
from i2v.models.text import encode_prompts, tokenize
from i2v.presets.model_preset import ModelPreset
from i2v.request import GenerationRequest

__all__ = ["PictureEncoding", "Pipeline"]

Scheduler: TypeAlias = DDIMScheduler | EulerDiscreteScheduler | DPMSolverMultistepScheduler | UniPCMultistepScheduler
_SCHEDULERS = (DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler)

_PREVIEW_PX = 160
_PREVIEW_FRAMES = 6
# Linear map of Stable Diffusion latents to red, green and blue, -1..1. Source: "Decoding latents to RGB
# without upscaling", discuss.huggingface.co/t/23204, found for version 1.4; this model has the autoencoder of
# 2.1, whose latents are the same.
_LATENT_TO_RGB = (
    (0.298, 0.207, 0.208),
    (0.187, 0.286, 0.173),
    (-0.158, 0.189, 0.264),
    (-0.184, -0.271, -0.473),
)


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
        return (_unit_range(np.asarray(small)) - mean) / std


def _centre_square(image: Image.Image) -> Image.Image:
    """Return a square as wide as the image, which a wide image is first enlarged to fill.

    The order (enlarge, cut, reduce) and the rounding are upstream's, where they decide the pixels.
    """
    side = image.width
    scale = min(1.0, image.height / side)
    grown = image.resize((round(side // scale), round(image.height // scale)), Image.Resampling.BOX)
    left, top = (grown.width - side) // 2, (grown.height - side) // 2
    return grown.crop((left, top, left + side, top + side))


def _unit_range(image: np.ndarray) -> torch.Tensor:
    """Return an image (H, W, 3) uint8 as float32 in 0..1. Shape (1, 3, H, W)."""
    return torch.tensor(image).permute(2, 0, 1).unsqueeze(0).float() / 255


def _to_frames(pictures: torch.Tensor) -> np.ndarray:
    """Return pictures (n, 3, H, W) in -1..1 as (n, H, W, 3) uint8."""
    unit = (pictures / 2 + 0.5).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


class Pipeline(ImageToVideo):
    """I2VGen-XL."""

    scheduler: Scheduler

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        picture_encoding: PictureEncoding,
        image_encoder: CLIPVisionModelWithProjection,
        vae: AutoencoderKL,
        unet: I2VGenXLUNet,
        scheduler: Scheduler,
    ):
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.picture_encoding, self.image_encoder = picture_encoding, image_encoder
        self.vae, self.unet, self.denoiser, self.scheduler = vae, unet, unet, scheduler
        self.device, self.dtype = unet.device, unet.dtype
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self._exact = ExactForward(unet)
        self._vae_rows: int | None = None
        self._placement = Placement(self.modules(), layers_in_order(unet), self.device)

    @classmethod
    def load(cls, folder: Path, preset: ModelPreset, device: torch.device, dtype: torch.dtype) -> Pipeline:
        return cls(
            load_tokenizer(folder, "tokenizer", CLIPTokenizer),
            load_weights(folder, "text_encoder", CLIPTextModel, device, dtype),
            PictureEncoding.load(folder),
            load_weights(folder, "image_encoder", CLIPVisionModelWithProjection, device, dtype),
            load_weights(folder, "vae", AutoencoderKL, device, dtype),
            load_weights(folder, "unet", I2VGenXLUNet, device, dtype),
            load_scheduler(folder, "scheduler", _SCHEDULERS),
        )

    def arrange(self, plan: Plan) -> None:
        self._exact.frames, self._exact.parks_skips = plan.frames, plan.parks_skips
        self._vae_rows = plan.vae_rows
        if self.device != torch.device(plan.device):
            self.device = torch.device(plan.device)
            self._placement = Placement(self.modules(), layers_in_order(self.unet), self.device)
            if plan.weights == "resident":
                for module in self.modules().values():
                    module.to(self.device)
        self._placement.arrange(plan.weights)
        self._exact.weights = self._placement.layer_stream

    def modules(self) -> dict[str, torch.nn.Module]:
        return {
            "text_encoder": self.text_encoder,
            "image_encoder": self.image_encoder,
            "vae": self.vae,
            "unet": self.unet,
        }

    def encode(self, request: GenerationRequest, image: np.ndarray, generator: torch.Generator) -> Conditions:
        picture = self._embed_picture(image)
        shared = {
            "fps": torch.tensor([request.fps], device=self.device),
            "image_latents": self._image_latents(image, request.num_frames, generator),
        }
        positive = shared | {
            "encoder_hidden_states": self._embed(request.prompt),
            "image_embeddings": picture,
        }
        if request.guidance_scale <= 1.0:
            return Conditions(positive, None)
        # Guidance leads away from the negative prompt without the picture's embedding, with its first frame.
        negative = shared | {
            "encoder_hidden_states": self._embed(request.negative_prompt),
            "image_embeddings": torch.zeros_like(picture),
        }
        return Conditions(positive, negative)

    def _embed(self, prompt: str) -> torch.Tensor:
        with self._placement.in_use("text_encoder"):
            return encode_prompts(self.text_encoder, tokenize(self.tokenizer, [prompt]), self.device)

    def _embed_picture(self, image: np.ndarray) -> torch.Tensor:
        pixels = self.picture_encoding.pixels(image).to(self.device, self.dtype)
        with self._placement.in_use("image_encoder"):
            return self.image_encoder(pixels).image_embeds.unsqueeze(1)

    def _image_latents(self, image: np.ndarray, num_frames: int, generator: torch.Generator) -> torch.Tensor:
        """Return the picture's latent as frame 0, then frames filled with their position in time, up to 1.

        Shape (1, C, F, h, w).
        """
        pixels = (_unit_range(image) * 2 - 1).to(self.device, self.dtype)
        with self._placement.in_use("vae"):
            if self._vae_rows:
                posterior = encode_in_bands(self.vae, pixels, self._vae_rows)
            else:
                posterior = self.vae.encode(pixels).latent_dist
        noise = draw_noise(tuple(posterior.mean.shape), generator, self.device)
        first = (posterior.mean.float() + posterior.std.float() * noise) * self.vae.config.scaling_factor
        times = torch.arange(1, num_frames, device=self.device) / max(num_frames - 1, 1)
        later = times.view(1, 1, -1, 1, 1).expand(1, first.shape[1], -1, *first.shape[2:])
        return torch.cat([first.unsqueeze(2), later], dim=2).to(self.dtype)

    def draw_latents(self, request: GenerationRequest, generator: torch.Generator) -> torch.Tensor:
        height, width = request.height // self.vae_scale_factor, request.width // self.vae_scale_factor
        shape = (1, self.denoiser.config.in_channels, request.num_frames, height, width)
        # A scheduler's first noise level may depend on the number of steps.
        self.scheduler.set_timesteps(request.num_inference_steps, device=self.device)
        return draw_noise(shape, generator, self.device) * self.scheduler.init_noise_sigma

    def _predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditions: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        return super()._predict(self.scheduler.scale_model_input(latents, timestep), timestep, conditions)

    def clean_estimate(self, noise: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        # As the model sees them, latents are x_t = sqrt(a) x_0 + sqrt(1 - a) n with any of the schedulers
        # (Song et al. 2021, DDIM, eq. 4); v = sqrt(a) n - sqrt(1 - a) x_0 (Salimans & Ho 2022).
        kept = float(self.scheduler.alphas_cumprod[int(timestep)])
        signal, spoilt = kept**0.5, (1 - kept) ** 0.5
        seen = self.scheduler.scale_model_input(latents, timestep)
        if self.scheduler.config.prediction_type == "v_prediction":
            return signal * seen - spoilt * noise
        return (seen - spoilt * noise) / max(signal, 1e-4)

    def denoise(
        self,
        latents: torch.Tensor,
        conditions: Conditions,
        request: GenerationRequest,
        enough: Callable[[], bool] = lambda: False,
    ) -> torch.Tensor:
        with self._placement.in_use("unet"):
            return super().denoise(latents, conditions, request, enough)

    def decode(
        self, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest, first: int = 0
    ) -> Iterator[np.ndarray]:
        with self._placement.in_use("vae"):
            for latent in latents[0].unbind(dim=1)[first:]:
                yield self._decode_frame(latent.unsqueeze(0))

    def _decode_frame(self, latent: torch.Tensor) -> np.ndarray:
        scaled = (latent / self.vae.config.scaling_factor).to(self.dtype)
        if self._vae_rows:
            picture = decode_in_bands(self.vae, scaled, self._vae_rows)
        else:
            picture = self.vae.decode(scaled).sample
        if not bool(torch.isfinite(picture).all()):
            raise NotFiniteError(
                f"the numbers overflowed while decoding in {self.dtype}, so the frame would be black",
                "Try precision bf16 or fp32.",
            )
        return _to_frames(picture.float())[0]

    def preview(self, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest) -> np.ndarray:
        frames = latents.shape[2]
        at = torch.linspace(0, frames - 1, min(_PREVIEW_FRAMES, frames)).round().long().to(latents.device)
        some = latents[0].float().index_select(1, at)
        rgb = torch.einsum("cfhw,cr->frhw", some, torch.tensor(_LATENT_TO_RGB, device=latents.device))
        scale = _PREVIEW_PX / max(rgb.shape[-2:])
        size = tuple(max(8, round(side * scale)) for side in rgb.shape[-2:])
        return _to_frames(F.interpolate(rgb, size, mode="bilinear"))
