"""The built-in family: a small I2VGenXLUNet denoises a motion field, and the picture itself is moved by it.

The idea is that of Generative Image Dynamics (Li et al., 2024): diffuse motion, not pixels. What the field's ten
channels mean, and how frames are made of them, is in motion_render.py; that stands at the place of a VAE.

Knows nothing of how the weights were trained (see i2v/builtin).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from i2v.family import Architecture, Family, Geometry, Part, Role, Rules
from i2v.models.base import Conditions, ImageToVideo, draw_noise
from i2v.models.lazy import Later, diffusers, torch, transformers
from i2v.models.text import encode_prompts, tokenize

if TYPE_CHECKING:
    from pathlib import Path

    from i2v.memory.forecast.calls import TracedCall
    from i2v.models import motion_field
    from i2v.models.motion_render import MotionRenderer
    from i2v.presets.model_preset import ModelPreset
    from i2v.request import GenerationRequest
else:
    motion_field = Later("i2v.models.motion_field")

__all__ = ["FAMILY", "Pipeline", "geometry_of", "traced_calls"]

FAMILY = Family(
    name="motion",
    parts=(
        Part("text_encoder", "transformers:CLIPTextModel", Role.ENCODER, "transformers:CLIPTextConfig"),
        Part("prompt_hint", "i2v.models.motion_field:PromptHint", Role.ENCODER),
        Part("unet", "diffusers:I2VGenXLUNet", Role.DENOISER),
    ),
    rules=Rules(size_multiple=8, can_loop=True),
    configured=("renderer",),
    code=("models.motion", "models.traced_parts"),
)
_ANALYSIS_PX = 64  # the picture's long side when it is reduced to the grid, as in training
_PREVIEW_PX = 160
_PREVIEW_FRAMES = 6
_MOMENT_S = 0.3  # clips get one moment of the field for so many seconds, and at least one window of them
_MOST_MOMENTS = 64


class Pipeline(ImageToVideo):
    """The built-in motion model."""

    family = FAMILY

    def __init__(
        self,
        tokenizer: transformers.CLIPTokenizer,
        modules: Mapping[str, Any],
        scheduler: diffusers.FlowMatchEulerDiscreteScheduler,
        renderer: MotionRenderer,
    ):
        super().__init__(modules, scheduler)
        self.tokenizer, self.renderer = tokenizer, renderer
        self.text_encoder, self.prompt_hint = modules["text_encoder"], modules["prompt_hint"]
        self._width = modules["unet"].config.cross_attention_dim

    @classmethod
    def load(
        cls, folder: Path, preset: ModelPreset, device: torch.device, dtype: torch.dtype, *, keep_mapped: bool = False
    ) -> Pipeline:
        from i2v.models.loading import load_config, load_parts, load_tokenizer
        from i2v.models.motion_render import MotionRenderer

        return cls(
            load_tokenizer(folder, "tokenizer", transformers.CLIPTokenizer),
            load_parts(folder, FAMILY, device, dtype, keep_mapped=keep_mapped),
            load_config(folder, "scheduler", diffusers.FlowMatchEulerDiscreteScheduler),
            load_config(folder, "renderer", MotionRenderer),
        )

    def encode(self, request: GenerationRequest, image: np.ndarray, generator: torch.Generator) -> Conditions:
        small = torch.from_numpy(motion_field.reduced(image, _ANALYSIS_PX)).to(self.device)
        sight = motion_field.look_at(small.permute(2, 0, 1)[None].float() / 255, self.renderer.config.grid_size)
        positive = self._read(request.prompt, sight)
        negative = self._read(request.negative_prompt, sight) if request.guidance_scale != 1.0 else None
        return Conditions(positive, negative, {"picture": torch.from_numpy(image)})

    def _read(self, prompt: str, sight: motion_field.Sight) -> dict[str, torch.Tensor]:
        embeddings = encode_prompts(self.text_encoder, tokenize(self.tokenizer, [prompt]))
        hint = self.prompt_hint(embeddings).float()
        inputs = motion_field.denoiser_inputs(hint, sight, self.renderer.config.num_keyframes, self._width)
        keep = ("even", "fps")  # float32, whatever the denoiser computes in
        inputs = {name: value if name in keep else value.to(self.dtype) for name, value in inputs.items()}
        return inputs | {"encoder_hidden_states": embeddings}

    def _moments(self, request: GenerationRequest) -> int:
        wanted = round((request.num_frames - 1) / request.fps / _MOMENT_S)
        return max(self.renderer.config.num_keyframes, min(wanted, _MOST_MOMENTS))

    def draw_latents(self, request: GenerationRequest, generator: torch.Generator) -> torch.Tensor:
        size = self.renderer.config.grid_size
        return draw_noise((1, len(motion_field.CHANNELS), self._moments(request), size, size), generator, self.device)

    def _predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditions: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Predict the velocity, window by window where the clip is longer than the denoiser was trained on.

        Where windows overlap their predictions are blended (MultiDiffusion, Bar-Tal et al. 2023), weighted towards
        each window's middle.
        """
        denoiser = self.denoiser_for(timestep)
        length = self.renderer.config.num_keyframes
        total, weights = torch.zeros_like(latents), torch.zeros(latents.shape[2], device=latents.device)
        ramp = torch.arange(1, length + 1, device=latents.device)
        weight = torch.minimum(ramp, ramp.flip(0)).float()
        for start in motion_field.windows(latents.shape[2], length):
            part = slice(start, start + length)
            given = latents[:, :, part].to(self.dtype)
            clean = motion_field.predict_clean(denoiser, given, timestep, conditions).float()
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
        small = motion_field.reduced(picture, _PREVIEW_PX)
        fps = (_PREVIEW_FRAMES - 1) / max((request.num_frames - 1) / request.fps, 0.1)
        frames = self.renderer.render(
            small, self._field(latents), _PREVIEW_FRAMES, fps, loop=request.loop, seed=request.seed, layers=False
        )
        return np.stack(list(frames))


# What is traced


def geometry_of(architecture: Architecture) -> Geometry:
    """Return the geometry: formulas are in pixels, for the denoiser works on a grid of fixed size."""
    return Geometry()


_PROBES = (
    {"width": 176, "height": 80, "num_frames": 5},
    {"width": 96, "height": 208, "num_frames": 7},
    {"width": 112, "height": 304, "num_frames": 11},
)


def traced_calls(architecture: Architecture, dtype: torch.dtype) -> list[TracedCall]:
    """Return every call of a run; call it within `fake_tensors`.

    The picture is moved at full size, in main memory on every device, and reduced before the encoders see it.
    """
    from i2v.memory.forecast.calls import TracedCall
    from i2v.memory.forecast.forms import PeakForm
    from i2v.models.motion_render import BUFFER_BYTES, BUFFER_BYTES_PER_PIXEL
    from i2v.models.traced_parts import text_encoder_call

    nothing = {"whole": PeakForm(())}
    rendering = {"whole": PeakForm(({"1": BUFFER_BYTES, "A0": BUFFER_BYTES_PER_PIXEL},))}
    return [
        text_encoder_call(FAMILY, architecture, geometry_of(architecture), _PROBES, dtype),
        TracedCall("look", "encode", None, given=nothing),  # OpenCV reduces it; no tensor is larger than the grid's
        _denoiser_call(architecture, dtype),
        TracedCall("decode", "decode", None, given=nothing, ram=rendering),
    ]


def _denoiser_call(architecture: Architecture, dtype: torch.dtype) -> TracedCall:
    from i2v.memory.forecast.calls import TracedCall
    from i2v.memory.forecast.trace import Part as TracedPart
    from i2v.models.traced_parts import fake_part, variables_by

    unet = fake_part(FAMILY, "unet", architecture, dtype)
    renderer, width = architecture["renderer"], unet.config.cross_attention_dim
    tokens = architecture["text_encoder"]["max_position_embeddings"]

    def inputs(probe: Mapping[str, int]) -> dict[str, Any]:
        picture = (1, 4, renderer["num_keyframes"], renderer["grid_size"], renderer["grid_size"])
        return {
            "weights": unet,
            "sample": torch.empty((1, architecture["unet"]["in_channels"], *picture[2:]), dtype=dtype),
            "timestep": torch.tensor(1),
            "fps": torch.tensor([3.5]),
            "image_latents": torch.empty(picture, dtype=dtype),
            "image_embeddings": torch.empty((1, width), dtype=dtype),
            "encoder_hidden_states": torch.empty((1, tokens, width), dtype=dtype),
        }

    def run(given: dict[str, Any]) -> Any:
        return unet(**{name: value for name, value in given.items() if name != "weights"})

    part = TracedPart("denoise.whole", _PROBES, variables_by(geometry_of(architecture)), ["1"], inputs, run)
    counted = TracedPart("denoise", _PROBES[:1], part.variables, ["1"], inputs, run)
    return TracedCall("denoise", "denoise", "unet", {"whole": part}, counted=counted, per="pass")
