"""What a plan will take of the machine, before anything is loaded: peak VRAM, peak RAM and time, stage by stage.

Weights are counted from the architecture, activations from the model's formulas (forms.py), and what the driver, the
libraries and Python need comes on top, corrected by what this machine's own runs measured (experience.py). No torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from i2v.memory.abilities import EXACT
from i2v.memory.forecast.card_costs import CARD
from i2v.memory.forecast.experience import Experience, Seconds
from i2v.memory.forecast.forms import CallForms, ModelForms, sum_of_products
from i2v.memory.forecast.segments import LARGE_SEGMENT_BYTES, SMALL_SEGMENT_BYTES, rounded
from i2v.memory.machine_now import GIB
from i2v.memory.plan import Masters, Plan
from i2v.memory.residency import Home, Residency
from i2v.request import GenerationRequest

__all__ = ["Forecast", "StagePeak", "forecast"]

# Main memory of the worker: Python, torch and diffusers, measured as 0.48 GiB on Linux without CUDA; CUDA's libraries
# add about 2 GiB of mapped code.
PROCESS_BYTES = int(0.48 * GIB)
CUDA_LIBRARIES_BYTES = 2 * GIB
# The process that writes the video, which looks ahead: benchmarks/encoder_memory.py, ffmpeg 7 with x264 on two cores.
ENCODER_BYTES, ENCODER_BYTES_PER_PIXEL = 48 << 20, 250
RING_BLOCKS = 3  # pinned blocks through which mapped weights go to the card
BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "nf4": 0.5625}


@dataclass(frozen=True)
class StagePeak:
    """The most that one stage takes: weights and activations where the tensors live, and main memory in all.

    `reserved_bytes`: what PyTorch's allocator reserves on a card for those tensors; `needed_bytes`: what of it has to
    be there, as PyTorch gives the rest back rather than run out of memory.
    `encoder_bytes`: what of main memory another process takes, which writes the video.
    """

    weights_bytes: int
    activation_bytes: int
    reserved_bytes: int
    needed_bytes: int
    ram_bytes: int
    encoder_bytes: int = 0

    @property
    def tensor_bytes(self) -> int:
        return self.weights_bytes + self.activation_bytes


@dataclass(frozen=True)
class Forecast:
    """Peaks of a whole run.

    `tensor_bytes` is what torch will report as allocated, `reserved_bytes` as reserved on a card with plenty of memory;
    `peak_vram_bytes` is what a card must have.

    `counted_bytes` is what a measured peak is compared with to learn from: without what past runs have added.
    `comparable_bytes` is what the page compares it with: of the worker alone, with what was learnt.
    """

    stages: dict[str, StagePeak]
    weights_bytes: int
    activation_bytes: int
    tensor_bytes: int
    reserved_bytes: int
    peak_vram_bytes: int
    peak_ram_bytes: int
    counted_bytes: int
    comparable_bytes: int
    operations: float
    pixels: int
    seconds: Seconds | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def forecast(
    request: GenerationRequest,
    plan: Plan,
    forms: ModelForms,
    experience: Experience | None = None,
    expandable: bool | None = True,
) -> Forecast:
    """Foresee a run. Raises KeyError for a precision that the formulas were not traced for.

    `expandable`: whether PyTorch's allocator has expandable segments; None to take what is allocated for what is
    reserved, which is quick and too little.
    """
    on_card = plan.device != "cpu"
    counted = _Stages(request, plan, forms, expandable if on_card else None)
    stages = counted.all()
    largest = max(stages.values(), key=lambda stage: stage.tensor_bytes)
    excess = experience.excess_bytes(request.model, plan) if experience else 0
    beside = max(CARD.workspace_bytes, excess) if on_card else 0
    tensors = largest.tensor_bytes + beside
    reserved, needed = (max(getattr(s, name) for s in stages.values()) for name in ("reserved_bytes", "needed_bytes"))
    counted_ram = max(stage.ram_bytes - stage.encoder_bytes for stage in stages.values())
    most_ram = max(stage.ram_bytes for stage in stages.values())
    pixels = request.num_frames * request.width * request.height
    work = (counted.operations("denoise"), counted.operations("decode"), pixels, counted.all_weights)
    return Forecast(
        stages=stages,
        weights_bytes=largest.weights_bytes,
        activation_bytes=largest.activation_bytes,
        tensor_bytes=tensors,
        reserved_bytes=reserved + beside if on_card else 0,
        peak_vram_bytes=needed + beside + CARD.context_bytes if on_card else 0,
        peak_ram_bytes=most_ram + (0 if on_card else excess),
        counted_bytes=largest.tensor_bytes if on_card else counted_ram,
        comparable_bytes=tensors if on_card else counted_ram + excess,
        operations=work[0],
        pixels=pixels,
        seconds=experience.seconds(request, plan, *work) if experience else None,
    )


class _Stages:
    """Adds up weights and activations for one request under one plan."""

    def __init__(self, request: GenerationRequest, plan: Plan, forms: ModelForms, expandable: bool | None):
        self._request, self._plan, self._forms, self._expandable = request, plan, forms, expandable
        self._calls = forms.calls_in(plan.compute)
        self._variables = forms.geometry.variables(request.width, request.height, request.num_frames, plan.knobs)
        self._on_card = plan.device != "cpu"
        self.all_weights = sum(self._stored(name) for name in forms.components)
        self._always_here = sum(
            self._stored(name) for name in forms.components if self._residency(name).home is Home.RESIDENT
        )

    def all(self) -> dict[str, StagePeak]:
        """Return every stage's peak."""
        return {"load": self._load()} | {stage: self._stage(stage) for stage in ("encode", "denoise", "decode")}

    def operations(self, stage: str) -> float:
        """Return the floating-point operations of a stage. Experts share the passes among them."""
        request = self._request
        passes = request.num_inference_steps * (2 if request.guidance_scale > 1 else 1)
        times = {"run": 1, "pass": passes, "frame": request.num_frames}
        calls = [call for call in self._calls.values() if call.stage == stage and call.operations]
        each = [times[call.per] * sum_of_products(call.operations, self._variables) for call in calls]
        return sum(each) / max(1, sum(call.per == "pass" for call in calls))

    def _load(self) -> StagePeak:
        """Return the peak of loading.

        What is rounded, or goes to a card, is read from mapped files one layer at a time: nothing is held twice.
        """
        if not self._on_card:
            return StagePeak(self.all_weights, 0, 0, 0, self._ram(self.all_weights))
        reserved = self._always_reserved()
        largest = max(component.largest_leaf for component in self._forms.components.values())
        return StagePeak(self._always_here, 0, reserved, reserved, self._ram(int(largest * BYTES[self._plan.compute])))

    def _stage(self, stage: str) -> StagePeak:
        peaks = [self._call(call) for call in self._calls.values() if call.stage == stage]
        largest = max(peaks, key=lambda peak: peak.tensor_bytes)
        encoder = self._encoder() if stage == "decode" else 0
        return replace(
            largest,
            reserved_bytes=max(peak.reserved_bytes for peak in peaks),
            needed_bytes=max(peak.needed_bytes for peak in peaks),
            ram_bytes=max(peak.ram_bytes for peak in peaks) + encoder,
            encoder_bytes=encoder,
        )

    def _encoder(self) -> int:
        return ENCODER_BYTES + ENCODER_BYTES_PER_PIXEL * self._request.width * self._request.height

    def _call(self, call: CallForms) -> StagePeak:
        way = self._plan.way(call.stage)
        weights = self._always_here + self._brought(call.component)
        active = call.peak_bytes(way, self._variables) + self._turned_back(call.component)
        ram = call.ram_bytes(way, self._variables) + (0 if self._on_card else weights + active)
        if self._expandable is None:
            return StagePeak(weights, active, weights + active, weights + active, self._ram(ram))
        beside = self._weights_reserved(call.component) + self._turned_back(call.component)
        found = call.reserved(way, self._variables, self._expandable)
        return StagePeak(weights, active, beside + found.bytes, beside + found.needed_bytes, self._ram(ram))

    def _weights_reserved(self, name: str | None) -> int:
        """Return what is reserved for the weights that stay, and for those that are brought."""
        brought = self._brought(name)
        page = SMALL_SEGMENT_BYTES if self._expandable else LARGE_SEGMENT_BYTES  # a growing segment is shared
        more = rounded(brought, page) + page if brought else 0
        return self._always_reserved() + more

    def _always_reserved(self) -> int:
        """Return what is reserved for weights that stay on the device; rounded ones take their share of it."""
        total = 0.0
        for name, component in self._forms.components.items():
            if self._residency(name).home is Home.RESIDENT and self._expandable is not None:
                whole = component.reserved_bytes(BYTES[self._plan.compute], self._expandable)
                total += whole * self._stored(name) / self._unrounded(name)
        return int(total) if self._expandable is not None else self._always_here

    def _brought(self, name: str | None) -> int:
        """Return what is brought to the device of a component that does not stay there."""
        if name is None or name not in self._forms.components:
            return 0
        residency = self._residency(name)
        if residency.home is Home.STREAMED:
            at_once = self._forms.components[name].at_once(residency.keep)
            return int(at_once * BYTES[self._plan.compute])
        return self._stored(name) if residency.home is Home.TURNS else 0

    def _turned_back(self, name: str | None) -> int:
        """Return the largest layer of rounded weights: one at a time is turned back into what is computed in."""
        if name is None or name not in self._plan.parts or self._plan.parts[name].precision in EXACT:
            return 0
        return int(self._forms.components[name].largest_leaf * BYTES[self._plan.compute])

    def _ram(self, more: int) -> int:
        """Return main memory in all: the process, weights that wait there, some frames on their way to the file."""
        frames = self._request.width * self._request.height * 3 * 8
        base = PROCESS_BYTES + (CUDA_LIBRARIES_BYTES + self._waiting() if self._on_card else 0)
        return base + more + frames

    def _waiting(self) -> int:
        """Return the bytes of weights that are in main memory while they are not on the card."""
        away = [name for name in self._forms.components if self._residency(name).home is not Home.RESIDENT]
        if self._plan.masters is Masters.RAM:
            return sum(self._stored(name) for name in away)
        return max((self._ring(name) for name in away), default=0)

    def _ring(self, name: str) -> int:
        """Return the pinned memory through which mapped weights go to the card: a few blocks, or one layer."""
        component = self._forms.components[name]
        largest = max(*component.blocks, component.rest_at_once) if component.blocks else component.rest_at_once
        return int(RING_BLOCKS * largest * BYTES[self._plan.compute])

    def _unrounded(self, name: str) -> int:
        """Return the bytes of a component's weights as they are in the model's files."""
        return int(self._forms.components[name].parameters * BYTES[self._plan.compute])

    def _stored(self, name: str) -> int:
        """Return the bytes of a component's weights as they are stored."""
        component, full = self._forms.components[name], BYTES[self._plan.compute]
        part = self._plan.parts.get(name)
        if part is None or part.precision in EXACT:
            return self._unrounded(name)
        share = component.castable if part.precision == "fp8" else component.linear
        return int(share * BYTES[part.precision] + (component.parameters - share) * full)

    def _residency(self, name: str) -> Residency:
        part = self._plan.parts.get(name)
        return part.residency if part else Residency()
