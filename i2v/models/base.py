"""What every model family offers the engine: encode, denoise, decode, through three doors.

Knows nothing of jobs, files or plans' choice. A family is one file of this package: it names its declaration `FAMILY`,
subclasses `ImageToVideo` as `Pipeline`, and lists in `traced_calls` what a forecast runs on tensors without data. The
file is read without torch by whoever only wants the declaration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from i2v.models.lazy import torch

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from i2v.family import Family
    from i2v.memory.plan import Plan
    from i2v.presets.model_preset import ModelPreset
    from i2v.request import GenerationRequest

__all__ = ["Conditions", "Executor", "ImageToVideo", "cpu_generator", "draw_noise"]


@dataclass(frozen=True)
class Conditions:
    """What the encoders made of a request: keyword arguments of the denoiser, and what decoding needs.

    `negative` is None when no guidance is asked for. `for_decode` holds tensors that only `decode` and `preview` read.
    """

    positive: dict[str, torch.Tensor]
    negative: dict[str, torch.Tensor] | None
    for_decode: dict[str, torch.Tensor] = field(default_factory=dict)


class Executor(Protocol):
    """Runs one component in pieces with the same result. It stands in the component's forward once it is made."""

    def set(self, knobs: Mapping[str, int]) -> None:
        """Work by these values from the next call on; a knob that is not named is not turned."""

    def remove(self) -> None:
        """Give the component its own forward back."""


class ImageToVideo(ABC):
    """One loaded model: denoisers, a scheduler, and the ways into and out of its latent space.

    `door` makes the calls of a denoiser: the engine puts its own there while a run goes on.
    """

    family: ClassVar[Family]
    door: Callable[[Callable[[], Any]], Any]

    def __init__(self, modules: Mapping[str, torch.nn.Module], scheduler: Any, executors: Sequence[Executor] = ()):
        from i2v.family import Role
        from i2v.memory.weights.mapped import module_dtype
        from i2v.memory.weights.placement import Placement
        from i2v.models.binding import streamables

        self._modules, self.scheduler, self.executors = dict(modules), scheduler, tuple(executors)
        self.door = _straight
        self.denoisers: dict[str, Any] = {name: modules[name] for name in self.family.of_role(Role.DENOISER)}
        first = next(iter(self.denoisers.values()))
        self.device: torch.device = first.device
        self.dtype: torch.dtype = module_dtype(first)
        self._streamables = streamables(self.family, modules)
        self.placement = Placement(self._streamables, self.device)

    @classmethod
    @abstractmethod
    def load(
        cls, folder: Path, preset: ModelPreset, device: torch.device, dtype: torch.dtype, *, keep_mapped: bool = False
    ) -> ImageToVideo:
        """Load every component from a local folder, safetensors only. Raises ModelFilesError.

        `keep_mapped`: the weights stay in their files until `arrange` (loading.load_weights).
        """

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return the components that hold weights, by name."""
        return dict(self._modules)

    @property
    def denoiser(self) -> Any:
        """The only denoiser, or the first."""
        return next(iter(self.denoisers.values()))

    def expert_at(self, timestep: torch.Tensor) -> str:
        """Return the name of the denoiser that is responsible for a timestep."""
        return next(iter(self.denoisers))

    def arrange(self, plan: Plan) -> None:
        """Take up how a plan wants the model run; possible between any two calls, also in the middle of denoising."""
        from i2v.memory.plan import Masters
        from i2v.memory.weights.placement import Placement

        device = torch.device(plan.device)
        if self.device != device:
            self.device = device
            self.placement = Placement(self._streamables, device)
        for executor in self.executors:
            executor.set(plan.knobs)
        self.placement.arrange(plan.residencies, from_disk=plan.masters is Masters.DISK)
        self.arranged()

    def arranged(self) -> None:  # noqa: B027  optional on purpose
        """Do what a family needs after its weights were placed anew."""

    def in_use(self, name: str) -> AbstractContextManager[None]:
        """Have a component's weights at hand within."""
        return self.placement.in_use(name)

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
        try:
            for timestep in self.scheduler.timesteps:
                prediction = self._predict(latents, timestep, conditions.positive)
                if conditions.negative is not None:
                    negative = self._predict(latents, timestep, conditions.negative)
                    prediction = negative + self.guidance_at(timestep, request) * (prediction - negative)
                latents = self.scheduler.step(prediction, timestep, latents).prev_sample
                if enough():
                    break
        finally:
            for name in self.denoisers:
                self.placement.drop(name)
        return latents

    def guidance_at(self, timestep: torch.Tensor, request: GenerationRequest) -> float:
        """Return the guidance scale at a timestep: experts may each have their own."""
        return request.guidance_scale

    def denoiser_for(self, timestep: torch.Tensor) -> Callable[..., Any]:
        """Return the denoiser that is responsible for a timestep, reached through the door.

        Its weights are brought inside the door, so that memory may run out there too; another expert's go first.
        """
        name = self.expert_at(timestep)

        def call(*args: Any, **kwargs: Any) -> Any:
            for other in self.denoisers:
                if other != name:
                    self.placement.drop(other)
            self.placement.bring(name)
            return self.denoisers[name](*args, **kwargs)

        return lambda *args, **kwargs: self.door(lambda: call(*args, **kwargs))

    def _predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditions: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        denoiser = self.denoiser_for(timestep)
        return denoiser(latents.to(self.dtype), timestep, **conditions, return_dict=False)[0].float()


def _straight(call: Callable[[], Any]) -> Any:
    return call()


def cpu_generator(seed: int) -> torch.Generator:
    """Return a generator on the CPU, so that a seed gives the same start on every device."""
    return torch.Generator("cpu").manual_seed(seed)


def draw_noise(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Return float32 N(0, 1) noise drawn on the CPU and moved."""
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)
