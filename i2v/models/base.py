"""What every model family offers the engine: encode, denoise, decode, through three doors.

Knows nothing of jobs, files or plans. A family subclasses `ImageToVideo` in one file of this package and names its
class `Pipeline`. The engine stands at `denoiser.forward`, `scheduler.step` and `decode`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from i2v.memory.plan import Plan
from i2v.presets.model_preset import ModelPreset
from i2v.request import GenerationRequest

__all__ = ["Conditions", "ImageToVideo", "cpu_generator", "draw_noise"]


@dataclass(frozen=True)
class Conditions:
    """What the encoders made of a request: keyword arguments of the denoiser, and what decoding needs.

    `negative` is None when no guidance is asked for. `for_decode` holds tensors that only `decode` and `preview` read.
    """

    positive: dict[str, torch.Tensor]
    negative: dict[str, torch.Tensor] | None
    for_decode: dict[str, torch.Tensor] = field(default_factory=dict)


class ImageToVideo(ABC):
    """One loaded model: a denoiser, a scheduler, and the ways into and out of its latent space."""

    denoiser: Any  # a torch.nn.Module; the engine's door stands in its place while a run goes on
    scheduler: Any
    device: torch.device
    dtype: torch.dtype

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, preset: ModelPreset, device: torch.device, dtype: torch.dtype) -> ImageToVideo:
        """Load every component from a local folder, safetensors only. Raises ModelFilesError."""

    def arrange(self, plan: Plan) -> None:  # noqa: B027  optional on purpose
        """Take up how a plan wants the model run; possible between any two calls, also in the middle of denoising.

        A family that has only one way to run ignores it.
        """

    @abstractmethod
    def modules(self) -> dict[str, torch.nn.Module]:
        """Return the components that hold weights, by name."""

    @abstractmethod
    def encode(self, request: GenerationRequest, image: np.ndarray, generator: torch.Generator) -> Conditions:
        """Encode the prompt and the picture. `image`: (H, W, 3) uint8, already of the requested size."""

    @abstractmethod
    def draw_latents(self, request: GenerationRequest, generator: torch.Generator) -> torch.Tensor:
        """Return the starting noise, float32 on the model's device. Shape (1, C, F, h, w)."""

    @abstractmethod
    def clean_estimate(self, noise: torch.Tensor, timestep: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Return the finished latents as this step's prediction foresees them, for the preview."""

    @abstractmethod
    def decode(
        self, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest, first: int = 0
    ) -> Iterator[np.ndarray]:
        """Yield the frames from number `first` on, in order as they come, each (H, W, 3) uint8."""

    @abstractmethod
    def preview(self, latents: torch.Tensor, conditions: Conditions, request: GenerationRequest) -> np.ndarray:
        """Return small frames made cheaply from latents. Shape (n, h, w, 3) uint8."""

    def denoise(
        self,
        latents: torch.Tensor,
        conditions: Conditions,
        request: GenerationRequest,
        enough: Callable[[], bool] = lambda: False,
    ) -> torch.Tensor:
        """Run all steps and return the final latents, float32. Scheduler arithmetic is float32 throughout.

        `enough` is asked after each step: once it is so, the latents of that step are returned, noise and all.
        Classifier-free guidance (Ho & Salimans 2022): v = v_neg + g (v_pos - v_neg), in two calls.
        """
        self.scheduler.set_timesteps(request.num_inference_steps, device=self.device)
        for timestep in self.scheduler.timesteps:
            prediction = self._predict(latents, timestep, conditions.positive)
            if conditions.negative is not None:
                negative = self._predict(latents, timestep, conditions.negative)
                prediction = negative + request.guidance_scale * (prediction - negative)
            latents = self.scheduler.step(prediction, timestep, latents).prev_sample
            if enough():
                break
        return latents

    def _predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditions: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        return self.denoiser(latents.to(self.dtype), timestep, **conditions, return_dict=False)[0].float()


def cpu_generator(seed: int) -> torch.Generator:
    """Return a generator on the CPU, so that a seed gives the same start on every device."""
    return torch.Generator("cpu").manual_seed(seed)


def draw_noise(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Return float32 N(0, 1) noise drawn on the CPU and moved."""
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)
