"""The I2VGen-XL family (Zhang et al., 2023, arXiv:2311.04145): a video from a picture and a sentence.

Gives the frames that diffusers' I2VGenXLPipeline gives from the same starting noise, with three differences:
guidance takes two calls instead of one batch of two, latents and scheduler stay float32 in every precision,
and all noise is drawn on the CPU from the request's own generator. That generator is read in this order: first
the noise of the picture's latent (`encode`), then the video's (`draw_latents`). Nothing else is random.

The lower part says what of it is traced for a forecast. Torch is imported at its first use (lazy.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from i2v.errors import NotFiniteError
from i2v.family import Architecture, Family, Geometry, Part, Role, Rules
from i2v.memory.knobs import FRAME_CHUNKS, PARKED_SKIPS, VAE_BANDS
from i2v.models.base import Conditions, ImageToVideo, draw_noise
from i2v.models.lazy import torch, transformers
from i2v.models.picture_encoding import PictureEncoding, to_frames, unit_range
from i2v.models.text import encode_prompts, tokenize

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from i2v.memory.forecast.calls import TracedCall
    from i2v.presets.model_preset import ModelPreset
    from i2v.request import GenerationRequest

__all__ = ["FAMILY", "Pipeline", "geometry_of", "traced_calls"]

FAMILY = Family(
    name="i2vgen_xl",
    parts=(
        Part("text_encoder", "transformers:CLIPTextModel", Role.ENCODER, "transformers:CLIPTextConfig"),
        Part(
            "image_encoder", "transformers:CLIPVisionModelWithProjection", Role.ENCODER, "transformers:CLIPVisionConfig"
        ),
        Part(
            "unet", "diffusers:I2VGenXLUNet", Role.DENOISER,
            blocks="i2v.memory.exact.unet:layers_in_order",
            held_at_once=2,  # an upsampler is held together with the resnet after it
        ),
        Part("vae", "diffusers:AutoencoderKL", Role.DECODER),
    ),
    rules=Rules(size_multiple=8),  # the autoencoder's; the unet takes any number of latent cells
    knobs=(FRAME_CHUNKS, PARKED_SKIPS, VAE_BANDS),
    code=(
        "models.i2vgen_xl", "models.traced_parts",
        "memory.exact.unet", "memory.exact.unet_layers", "memory.exact.kl", "memory.exact.group_norm",
    ),
)  # fmt: skip
_SCHEDULERS = (
    "DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
)  # fmt: skip

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


class Pipeline(ImageToVideo):
    """I2VGen-XL."""

    family = FAMILY

    def __init__(
        self,
        tokenizer: transformers.CLIPTokenizer,
        picture_encoding: PictureEncoding,
        modules: Mapping[str, Any],
        scheduler: Any,
    ):
        from i2v.memory.exact.kl import ExactKL
        from i2v.memory.exact.unet import ExactForward

        self.tokenizer, self.picture_encoding = tokenizer, picture_encoding
        self.text_encoder, self.image_encoder = modules["text_encoder"], modules["image_encoder"]
        self.vae, self.unet = modules["vae"], modules["unet"]
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._exact = ExactForward(self.unet)
        super().__init__(modules, scheduler, (self._exact, ExactKL(self.vae)))

    @classmethod
    def load(
        cls, folder: Path, preset: ModelPreset, device: torch.device, dtype: torch.dtype, *, keep_mapped: bool = False
    ) -> Pipeline:
        from i2v.models.loading import load_parts, load_scheduler, load_tokenizer

        return cls(
            load_tokenizer(folder, "tokenizer", transformers.CLIPTokenizer),
            PictureEncoding.load(folder),
            load_parts(folder, FAMILY, device, dtype, keep_mapped=keep_mapped),
            load_scheduler(folder, "scheduler", _SCHEDULERS),
        )

    def arranged(self) -> None:
        self._exact.weights = self.placement.stream("unet")

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
        with self.in_use("text_encoder"):
            return encode_prompts(self.text_encoder, tokenize(self.tokenizer, [prompt]), self.device)

    def _embed_picture(self, image: np.ndarray) -> torch.Tensor:
        pixels = self.picture_encoding.pixels(image).to(self.device, self.dtype)
        with self.in_use("image_encoder"):
            return self.image_encoder(pixels).image_embeds.unsqueeze(1)

    def _image_latents(self, image: np.ndarray, num_frames: int, generator: torch.Generator) -> torch.Tensor:
        """Return the picture's latent as frame 0, then frames filled with their position in time, up to 1.

        Shape (1, C, F, h, w).
        """
        pixels = (unit_range(image) * 2 - 1).to(self.device, self.dtype)
        with self.in_use("vae"):
            posterior = self.vae.encode(pixels).latent_dist
        noise = draw_noise(tuple(posterior.mean.shape), generator, self.device)
        first = (posterior.mean.float() + posterior.std.float() * noise) * self.vae.config.scaling_factor
        times = torch.arange(1, num_frames, device=self.device) / max(num_frames - 1, 1)
        later = times.view(1, 1, -1, 1, 1).expand(1, first.shape[1], -1, *first.shape[2:])
        return torch.cat([first.unsqueeze(2), later], dim=2).to(self.dtype)

    def draw_latents(self, request: GenerationRequest, generator: torch.Generator) -> torch.Tensor:
        height, width = request.height // self.vae_scale_factor, request.width // self.vae_scale_factor
        shape = (1, self.unet.config.in_channels, request.num_frames, height, width)
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

    def decode(
        self, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest, first: int = 0
    ) -> Iterator[np.ndarray]:
        with self.in_use("vae"):
            for latent in latents[0].unbind(dim=1)[first:]:
                yield self._decode_frame(latent.unsqueeze(0))

    def _decode_frame(self, latent: torch.Tensor) -> np.ndarray:
        scaled = (latent / self.vae.config.scaling_factor).to(self.dtype)
        picture = self.vae.decode(scaled).sample
        if not bool(torch.isfinite(picture).all()):
            raise NotFiniteError(
                f"the numbers overflowed while decoding in {self.dtype}, so the frame would be black",
                "Try precision bf16 or fp32.",
            )
        return to_frames(picture.float())[0]

    def preview(self, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest) -> np.ndarray:
        frames = latents.shape[2]
        at = torch.linspace(0, frames - 1, min(_PREVIEW_FRAMES, frames)).round().long().to(latents.device)
        some = latents[0].float().index_select(1, at)
        rgb = torch.einsum("cfhw,cr->frhw", some, torch.tensor(_LATENT_TO_RGB, device=latents.device))
        scale = _PREVIEW_PX / max(rgb.shape[-2:])
        size = tuple(max(8, round(side * scale)) for side in rgb.shape[-2:])
        return to_frames(torch.nn.functional.interpolate(rgb, size, mode="bilinear"))


# What is traced


def geometry_of(architecture: Architecture) -> Geometry:
    """Return how pixels become latents, and how many sizes the denoiser works at."""
    scale = 2 ** (len(architecture["vae"]["block_out_channels"]) - 1)
    return Geometry(scale=scale, levels=len(architecture["unet"]["block_out_channels"]))


# Unlike one another in every dimension, small, with at least two pieces of everything. Their latents are odd at every
# level, so that no level's pixels are a multiple of another's; two that differ in everything tell the products apart.
_PROBES = (
    {"width": 264, "height": 136, "num_frames": 7, "chunk_frames": 2, "vae_rows": 16},
    {"width": 392, "height": 264, "num_frames": 11, "chunk_frames": 3, "vae_rows": 24},
)
# Sizes that halve evenly at every level, so that each level's pixels are a fixed share of the first one's.
_EVEN = tuple(
    {"width": 64 * w, "height": 64 * h, "num_frames": f}
    for w, h, f in ((4, 3, 5), (3, 5, 9), (6, 4, 3), (5, 7, 2), (8, 8, 16))
)


def traced_calls(architecture: Architecture, dtype: torch.dtype) -> list[TracedCall]:
    """Return every call of a run; call it within `fake_tensors`."""
    from i2v.memory.forecast.forms import PeakForm
    from i2v.models.traced_parts import kl_calls, text_encoder_call, vision_encoder_call

    geometry, channels = geometry_of(architecture), architecture["vae"]["latent_channels"]
    return [
        text_encoder_call(FAMILY, architecture, geometry, _PROBES, dtype),
        vision_encoder_call(FAMILY, architecture, geometry, _PROBES, dtype),
        # While decoding, float32 latents wait.
        *kl_calls(FAMILY, architecture, geometry, dtype, PeakForm(({"F*A0": channels * 4},)), _EVEN),
        _denoiser_call(architecture, geometry, dtype),
    ]


def _denoiser_call(architecture: Architecture, geometry: Geometry, dtype: torch.dtype) -> TracedCall:
    from i2v.memory.exact.unet import ExactForward
    from i2v.memory.forecast.calls import TracedCall
    from i2v.memory.forecast.forms import PeakForm
    from i2v.memory.forecast.trace import Part as TracedPart
    from i2v.models.traced_parts import fake_part, variables_by

    unet, variables = fake_part(FAMILY, "unet", architecture, dtype), variables_by(geometry)
    forward = ExactForward(unet)
    channels, width = unet.config.in_channels, unet.config.cross_attention_dim

    def inputs(probe: Mapping[str, int]) -> dict[str, Any]:
        size = (1, channels, probe["num_frames"], probe["height"] // geometry.scale, probe["width"] // geometry.scale)
        return {
            "weights": unet,
            "chunk_frames": probe.get("chunk_frames"),
            "sample": torch.empty(size, dtype=dtype),
            "timestep": torch.tensor(1),
            "fps": torch.tensor([16]),
            "image_latents": torch.empty(size, dtype=dtype),
            "image_embeddings": torch.empty((1, 1, width), dtype=dtype),
            "encoder_hidden_states": torch.empty((1, 77, width), dtype=dtype),
        }

    def run(knobs: tuple[str, ...], inputs: dict[str, Any]) -> Any:
        forward.set(dict.fromkeys(knobs, inputs["chunk_frames"]))
        return unet(**{name: value for name, value in inputs.items() if name not in ("weights", "chunk_frames")})

    places = [f"F*{kind}{level}" for level in range(geometry.levels) for kind in "AP"]
    products = ["1", "F", "c", "A0", *places, *(f"c*A{level}" for level in range(geometry.levels))]
    knobs = {"whole": (), "pieces": ("chunk_frames",), "parked": ("chunk_frames", "parked_skips")}
    ways = {
        way: TracedPart(f"denoise.{way}", _PROBES, variables, products, inputs, partial(run, turned))
        for way, turned in knobs.items()
    }
    # Float32 latents and the first half of guidance, and in the model's numbers its input and the image latents.
    number = torch.empty((), dtype=dtype).element_size()
    held = PeakForm(({"F*A0": architecture["unet"]["in_channels"] * (2 * 4 + 2 * number)},))
    terms = ["F", "F*A0", "F*A0*A0", "F*F*A0"]
    counted = TracedPart("denoise", _EVEN, variables, terms, inputs, ways["whole"].run)
    parked = {"parked": PeakForm((_skips(architecture, number),))}
    return TracedCall("denoise", "denoise", "unet", ways, held=held, ram=parked, counted=counted, per="pass")


def _skips(architecture: Architecture, number: int) -> dict[str, float]:
    """Return what the skip connections take, in numbers of so many bytes."""
    unet = architecture["unet"]
    skips = Counter({"F*A0": unet["block_out_channels"][0]})
    for level, channels in enumerate(unet["block_out_channels"]):
        skips[f"F*A{level}"] += channels * unet["layers_per_block"]
        if level + 1 < len(unet["block_out_channels"]):
            skips[f"F*A{level + 1}"] += channels
    return {name: number * count for name, count in skips.items()}
