"""What a plan will take of the machine, before anything is loaded: peak VRAM, peak RAM and time, stage by stage.

Weights are counted from the architecture, activations from the model's formulas (forms.py), and what the driver, the
libraries and Python need comes on top, corrected by what this machine's own runs measured (experience.py). No torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from i2v.memory.forecast.experience import Experience, Seconds
from i2v.memory.forecast.forms import ModelForms, variables_of
from i2v.memory.plan import GIB, Plan
from i2v.request import GenerationRequest

__all__ = ["Forecast", "StagePeak", "forecast"]

# What a CUDA process holds besides tensors: its context and kernels, 0.3 to 0.5 GiB on current drivers, and the
# workspaces of cuBLAS and cuDNN. Not seen by torch's allocator except for the workspaces.
_CONTEXT_BYTES = GIB // 2
_WORKSPACE_BYTES = GIB // 8
# Main memory of the worker: Python, torch and diffusers, measured as 0.48 GiB on Linux without CUDA; CUDA's libraries
# add about 2 GiB of mapped code.
_PROCESS_BYTES = int(0.48 * GIB)
_CUDA_LIBRARIES_BYTES = 2 * GIB
_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "nf4": 0.5625}


@dataclass(frozen=True)
class StagePeak:
    """The most that one stage takes: weights and activations where the tensors live, and main memory in all."""

    weights_bytes: int
    activation_bytes: int
    ram_bytes: int

    @property
    def tensor_bytes(self) -> int:
        return self.weights_bytes + self.activation_bytes


@dataclass(frozen=True)
class Forecast:
    """Peaks of a whole run. `tensor_bytes` is what torch will report, `peak_vram_bytes` what the card must have.

    `counted_bytes` is what a measured peak is compared with to learn from: without what past runs have added.
    """

    stages: dict[str, StagePeak]
    weights_bytes: int
    activation_bytes: int
    tensor_bytes: int
    peak_vram_bytes: int
    peak_ram_bytes: int
    counted_bytes: int
    operations: float
    pixels: int
    seconds: Seconds | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def forecast(
    request: GenerationRequest, plan: Plan, forms: ModelForms, experience: Experience | None = None
) -> Forecast:
    """Foresee a run."""
    on_card = plan.device != "cpu"
    counted = _Stages(request, plan, forms)
    stages = counted.all()
    largest = max(stages.values(), key=lambda stage: stage.tensor_bytes)
    excess = experience.excess_bytes(request.model, plan) if experience else 0
    tensors = largest.tensor_bytes + (max(_WORKSPACE_BYTES, excess) if on_card else 0)
    counted_ram = max(stage.ram_bytes for stage in stages.values())
    ram = counted_ram + (0 if on_card else excess)
    variables = _variables(request, plan, forms)
    passes = 2 if request.guidance_scale > 1 else 1
    operations = request.num_inference_steps * passes * forms.operations_of("denoise", variables)
    decoding = request.num_frames * forms.operations_of("decode", variables)
    pixels = request.num_frames * request.width * request.height
    work = (operations, decoding, pixels, counted.all_weights)
    seconds = experience.seconds(request, plan, *work) if experience else None
    return Forecast(
        stages=stages,
        weights_bytes=largest.weights_bytes,
        activation_bytes=largest.activation_bytes,
        tensor_bytes=tensors,
        peak_vram_bytes=tensors + _CONTEXT_BYTES if on_card else 0,
        peak_ram_bytes=ram,
        counted_bytes=largest.tensor_bytes if on_card else counted_ram,
        operations=operations,
        pixels=pixels,
        seconds=seconds,
    )


def _variables(request: GenerationRequest, plan: Plan, forms: ModelForms) -> dict[str, int]:
    return variables_of(
        request.width,
        request.height,
        request.num_frames,
        scale=forms.scale,
        levels=forms.levels,
        frames=plan.frames or request.num_frames,
        rows=plan.vae_rows or request.height,
    )


class _Stages:
    """Adds up weights and activations for one request under one plan."""

    def __init__(self, request: GenerationRequest, plan: Plan, forms: ModelForms):
        self._request, self._plan, self._forms = request, plan, forms
        self._variables = _variables(request, plan, forms)
        self.all_weights = sum(self._weights(name) for name in forms.components)
        self._base_ram = _PROCESS_BYTES
        if plan.device != "cpu":
            self._base_ram += _CUDA_LIBRARIES_BYTES
            self._base_ram += 0 if plan.weights == "resident" else self.all_weights

    def all(self) -> dict[str, StagePeak]:
        components = self._forms.components
        encoders = {"text_encoder": "encode.text", "image_encoder": "encode.image", "vae": self._vae("vae_encode")}
        encoding = [self._peak(name, part) for name, part in encoders.items() if name in components]
        encoding.append(self._peak(None, "encode"))
        decoder = "vae" if "vae" in components else None
        return {
            "load": self._load(),
            "encode": max(encoding, key=lambda stage: stage.tensor_bytes),
            "denoise": self._peak("unet", self._denoiser(), "denoise.held"),
            "decode": self._peak(decoder, self._vae("decode"), "decode.held"),
        }

    def _load(self) -> StagePeak:
        # A component is read into main memory and then moved; on a CPU it stays where it is.
        largest = max(self._weights(name) for name in self._forms.components)
        on_device = self.all_weights if self._plan.weights == "resident" else 0
        return StagePeak(on_device, 0, self._ram(on_device if self._plan.device == "cpu" else largest))

    def _peak(self, component: str | None, part: str, held: str = "") -> StagePeak:
        present = self._at_once(component) if component else 0
        weights = self.all_weights if self._plan.weights == "resident" else present
        precision = self._plan.compute
        active = sum(self._forms.peak_bytes(precision, name, self._variables) for name in (part, held))
        if component == "unet" and self._plan.precision not in ("fp32", "fp16", "bf16"):
            # One layer at a time is turned back into the precision that is computed in.
            active += int(self._forms.components["unet"].largest_leaf * _BYTES[precision])
        ram = weights + active if self._plan.device == "cpu" else self._parked()
        ram += self._forms.peak_bytes(precision, f"{part}.ram", self._variables)  # what lies there on every device
        return StagePeak(weights, active, self._ram(ram))

    def _ram(self, tensors: int) -> int:
        frames = self._request.width * self._request.height * 3 * 8  # some frames on their way to the file
        return self._base_ram + tensors + frames

    def _parked(self) -> int:
        return (
            self._forms.peak_bytes(self._plan.compute, "denoise.skips", self._variables)
            if self._plan.parks_skips
            else 0
        )

    def _weights(self, name: str) -> int:
        component = self._forms.components[name]
        full = _BYTES[self._plan.compute]
        if name != "unet" or self._plan.precision == self._plan.compute:
            return int(component.parameters * full)
        share = component.castable if self._plan.precision == "fp8" else component.linear
        return int(share * _BYTES[self._plan.precision] + (component.parameters - share) * full)

    def _at_once(self, name: str) -> int:
        component = self._forms.components[name]
        if self._plan.weights == "streamed" and name != "vae":
            return int(component.most_at_once * _BYTES[self._plan.compute])
        return self._weights(name)

    def _denoiser(self) -> str:
        if self._plan.parks_skips:
            return "denoise.parked"
        pieces = self._plan.frames is not None or self._plan.weights == "streamed"
        return "denoise.pieces" if pieces else "denoise.whole"

    def _vae(self, part: str) -> str:
        return f"{part}.bands" if self._plan.vae_rows else f"{part}.whole"
