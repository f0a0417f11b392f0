"""The plans for a request, from fastest to smallest, which of them is chosen, and which comes next when one fails.

Exact plans come before approximate ones, and an approximate one is never chosen unless its precision was asked for.
No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from i2v.family import Family, Knob, Role
from i2v.memory.abilities import APPROXIMATE, EXACT, precisions_of, refuse_unless_possible
from i2v.memory.forecast.experience import Experience
from i2v.memory.forecast.forms import ModelForms
from i2v.memory.forecast.peaks import Forecast, StagePeak, forecast
from i2v.memory.knobs import FRAME_CHUNKS
from i2v.memory.machine_now import GIB, Machine
from i2v.memory.plan import Masters, Plan
from i2v.memory.residency import Home
from i2v.memory.suggestions import Suggestion, suggest
from i2v.presets.model_preset import ModelPreset
from i2v.request import GenerationRequest

__all__ = ["Ladder", "Rung", "compute_precision"]


_NEAR = 3  # what is reserved is a little more than what is allocated


@dataclass(frozen=True)
class Rung:
    """One plan with its forecast."""

    plan: Plan
    forecast: Forecast
    fits: bool
    chosen: bool = False

    def to_dict(self) -> dict[str, Any]:
        seconds = self.forecast.seconds
        return {
            "name": self.plan.name,
            "exact": self.plan.exact,
            "peak_vram_bytes": self.forecast.peak_vram_bytes,
            "reserved_bytes": self.forecast.reserved_bytes,
            "allocated_bytes": self.forecast.tensor_bytes,
            "peak_ram_bytes": self.forecast.peak_ram_bytes,
            "weights_bytes": self.forecast.weights_bytes,
            "activation_bytes": self.forecast.activation_bytes,
            "seconds": round(seconds.likely_s, 1) if seconds else None,
            "seconds_low": round(seconds.low_s, 1) if seconds else None,
            "seconds_high": round(seconds.high_s, 1) if seconds else None,
            "seconds_source": seconds.source if seconds else None,
            "fits": self.fits,
            "chosen": self.chosen,
            "stages": {
                name: {"vram_bytes": stage.tensor_bytes, "ram_bytes": stage.ram_bytes}
                if self.plan.device != "cpu"
                else {"vram_bytes": 0, "ram_bytes": stage.ram_bytes}
                for name, stage in self.forecast.stages.items()
            },
            "words": self.plan.words(),
            "reason": self.plan.reason,
        }


class Ladder:
    """All rungs for one request on one machine, now. Raises InputError for a precision the device cannot do."""

    def __init__(
        self,
        request: GenerationRequest,
        preset: ModelPreset,
        forms: ModelForms,
        machine: Machine,
        experience: Experience | None = None,
    ):
        self.request, self.machine, self.preset = request, machine, preset
        self.family: Family = preset.declared
        self._forms, self._experience = forms, experience
        if request.precision != "auto":
            refuse_unless_possible(request.precision, machine.kind, machine.capability, machine.name)
        rungs = list(self._rungs())
        first = next((rung for rung in rungs if rung.fits and self.may_choose(rung.plan)), None)
        self.rungs = [replace(rung, chosen=rung is first) for rung in rungs]

    @property
    def notes(self) -> list[str]:
        """What a person should know of how the request was taken."""
        notes = [self.machine.note] if self.machine.note else []
        wished, frames = self.request.chunk_frames, self.request.num_frames
        if wished and not self._has_chunks:
            notes.append(f"{self.preset.name} is not run in chunks: all frames are worked on at once")
        elif wished and wished > frames:
            notes.append(f"a chunk of {wished} frames is more than the clip has: all {frames} are worked on at once")
        return notes

    @property
    def has_smaller_plans(self) -> bool:
        """Whether the model can be run in more than one way, so that there are smaller plans than the chosen one."""
        return not self.family.is_small

    @property
    def chosen(self) -> Rung | None:
        """The rung to run, or None when none fits."""
        return next((rung for rung in self.rungs if rung.chosen), None)

    @property
    def smallest(self) -> Rung:
        """The exact rung (or the one asked for) that takes least."""
        return min(
            (rung for rung in self.rungs if self.may_choose(rung.plan)), key=lambda rung: self._need(rung.forecast)
        )

    def may_choose(self, plan: Plan) -> bool:
        """Say whether a plan may be chosen: approximate ones only if their precision was asked for."""
        return plan.exact or plan.precision == self.request.precision

    def would_fit(self, width: int, height: int, num_frames: int) -> bool:
        """Say whether any plan that may be chosen would fit other settings."""
        return any(self._would_fit(plan, request) for plan, request in self._smallest_at(width, height, num_frames))

    def would_nearly_fit(self, width: int, height: int, num_frames: int) -> bool:
        """Say the same by what is allocated, which is quick and seldom wrong: a little more is reserved."""
        tried = self._smallest_at(width, height, num_frames)
        return any(self._fits(self._quick_forecast(plan, request)) for plan, request in tried)

    def _smallest_at(self, width: int, height: int, num_frames: int) -> Iterator[tuple[Plan, GenerationRequest]]:
        """Yield every plan that may be chosen in its smallest form for other settings, the smallest first."""
        request = self.request.model_copy(update={"width": width, "height": height, "num_frames": num_frames})
        for rung in reversed(self.rungs):
            if self.may_choose(rung.plan):
                yield self._least(rung.plan, num_frames), request

    def _least(self, plan: Plan, num_frames: int) -> Plan:
        """Return a plan with its knobs at their smallest values, but those that were asked for."""
        for setting in plan.settings:
            wished = self.request.chunk_frames if setting.knob is FRAME_CHUNKS else None
            smallest = min(setting.knob.smaller(None, num_frames), default=1)
            plan = plan.turned(setting.knob, min(wished or smallest, num_frames))
        for knob in self.family.knobs:
            if "denoise" not in knob.stages:
                plan = plan.turned(knob, min(knob.smaller(None, num_frames)))
        return plan.housed(plan.home)  # keeps no block

    def _need(self, foreseen: Forecast) -> int:
        return foreseen.peak_vram_bytes if self.machine.kind == "cuda" else foreseen.peak_ram_bytes

    def _forecast(self, plan: Plan, request: GenerationRequest | None = None) -> Forecast:
        expandable = self.machine.expandable_segments
        return forecast(request or self.request, plan, self._forms, self._experience, expandable)

    def _quick_forecast(self, plan: Plan, request: GenerationRequest | None = None) -> Forecast:
        """Return a forecast that takes what is allocated for what is reserved: too little, but at once."""
        return forecast(request or self.request, plan, self._forms, self._experience, None)

    def _would_fit(self, plan: Plan, request: GenerationRequest | None = None) -> bool:
        """Say whether a plan fits; what is reserved is worked out only where what is allocated fits."""
        return self._fits(self._quick_forecast(plan, request)) and self._fits(self._forecast(plan, request))

    # The rungs

    def _rungs(self) -> Iterator[Rung]:
        asked, machine = self.request.precision, self.machine
        possible = precisions_of(machine.kind, machine.capability)
        compute = compute_precision(self.request, self.preset, machine)
        for plan in self._plans(compute if asked == "auto" else asked, compute):
            yield self._rung(plan)
        if asked != "auto":
            return
        for other in APPROXIMATE:
            if other in possible and other in self.preset.precisions:
                request = self.request.model_copy(update={"precision": other})
                compute = compute_precision(request, self.preset, machine)
                usual = [plan for plan in self._plans(other, compute) if self._is_usual(plan)]
                rungs = [self._rung(plan.named(other)) for plan in usual]
                yield next((rung for rung in rungs if rung.fits), rungs[-1])

    def _is_usual(self, plan: Plan) -> bool:
        """Say whether rounded weights are tried with a plan: smaller than all on the card, but not streamed."""
        if self.machine.kind == "cpu" or self.family.is_small:
            return True
        return plan.home is Home.TURNS

    def _plans(self, precision: str, compute: str) -> Iterator[Plan]:
        """Yield the exact ways to run in one precision, fastest first; values of knobs are chosen by `_rung`.

        A knob at 0 is one whose value is still to be chosen.
        """
        plan = Plan.of(self.family, self.machine.device, compute, precision)
        wished = self._wished()
        if wished:
            plan = plan.turned(FRAME_CHUNKS, wished)
        yield plan
        if self.family.is_small:
            return
        first, *others = self.family.knobs_for("denoise") or (None,)
        if self.machine.kind == "cpu":
            if first:
                yield self._to_choose(plan, first).named(first.rung)
            return
        yield plan.housed(Home.TURNS).named("turns")
        if first:
            yield self._to_choose(plan, first).housed(Home.TURNS).named(first.rung)
        streamed = (self._to_choose(plan, first) if first else plan).housed(Home.STREAMED).named("streamed")
        yield streamed
        for knob in others:
            streamed = self._to_choose(streamed, knob)
            yield streamed.named(knob.rung)

    def _to_choose(self, plan: Plan, knob: Knob) -> Plan:
        return plan if knob.name in plan.knobs else plan.turned(knob, 0)

    @property
    def _has_chunks(self) -> bool:
        return FRAME_CHUNKS in self.family.knobs

    def _wished(self) -> int | None:
        wished = self.request.chunk_frames
        return min(wished, self.request.num_frames) if wished and self._has_chunks else None

    def _rung(self, plan: Plan) -> Rung:
        """Choose the values of a plan's knobs, how many blocks it keeps, and where the other weights wait."""
        for masters in Masters:
            tried = self._with_kept_blocks(self._with_values(self._with_small_stages(replace(plan, masters=masters))))
            foreseen = self._forecast(tried)
            fits = self._fits(foreseen)
            if fits or not self._may_read_from_disk(plan, foreseen):
                break
        return Rung(tried.because(self._reason(tried, foreseen, fits)), foreseen, fits)

    def _may_read_from_disk(self, plan: Plan, foreseen: Forecast) -> bool:
        """Say whether weights may wait in their files: for want of RAM only, and if they are stored as they are used.

        Rounded weights are in no file.
        """
        too_little_ram = foreseen.peak_ram_bytes > self.machine.ram_free_bytes
        away = self.machine.kind == "cuda" and plan.home is not Home.RESIDENT
        return too_little_ram and away and all(part.precision in EXACT for part in plan.parts.values())

    def _with_small_stages(self, plan: Plan) -> Plan:
        """Turn the knobs of the stages beside denoising, where such a stage alone would not fit."""
        foreseen = self._forecast(self._at_least(plan))
        overhead = self._need(foreseen) - max(self._taken(stage) for stage in foreseen.stages.values())
        budget = self.machine.free_bytes - self.machine.margin_bytes - overhead
        for knob in self.family.knobs:
            stages = [foreseen.stages[stage] for stage in knob.stages if stage != "denoise"]
            if stages and max(self._taken(stage) for stage in stages) > budget:
                plan = plan.turned(knob, max(knob.steps))
        return plan

    def _taken(self, stage: StagePeak) -> int:
        return stage.needed_bytes if self.machine.kind == "cuda" else stage.tensor_bytes

    def _at_least(self, plan: Plan) -> Plan:
        """Return a plan in which knobs that are still to be chosen have their smallest values."""
        for setting in plan.settings:
            if setting.value == 0:
                plan = plan.turned(setting.knob, min(setting.knob.smaller(None, self.request.num_frames), default=1))
        return plan

    def _with_values(self, plan: Plan) -> Plan:
        """Give every knob that is still to be chosen its largest value that fits, or its smallest."""
        for setting in plan.settings:
            if setting.value == 0:
                values = self._choices(plan, setting.knob)
                quickly = _last(values, partial(self._fits_at, plan, setting.knob, False))
                at = _last_below(values, quickly, partial(self._fits_at, plan, setting.knob, True))
                plan = plan.turned(setting.knob, values[at])
        return plan

    def _fits_at(self, plan: Plan, knob: Knob, exactly: bool, value: int) -> bool:
        tried = self._at_least(plan.turned(knob, value))
        return self._fits(self._forecast(tried) if exactly else self._quick_forecast(tried))

    def _choices(self, plan: Plan, knob: Knob) -> Sequence[int]:
        """Return a knob's values, ascending. A clip in one piece is no chunk, unless its weights are streamed."""
        if knob.steps:
            return sorted(knob.steps)
        frames = self.request.num_frames
        return range(1, max(1, frames - (plan.home is not Home.STREAMED)) + 1)

    def _with_kept_blocks(self, plan: Plan) -> Plan:
        """Keep as many blocks of a streamed denoiser on the card as fit, so that less is moved."""
        if plan.home is not Home.STREAMED:
            return plan
        denoisers = [self._forms.components[name] for name in self.family.of_role(Role.DENOISER)]
        most = max((len(component.blocks) for component in denoisers), default=0)
        keep = _last(range(most + 1), lambda keep: self._would_fit(plan.housed(Home.STREAMED, keep)))
        return plan.housed(Home.STREAMED, keep)

    def _fits(self, foreseen: Forecast) -> bool:
        machine = self.machine
        if machine.kind == "cpu":
            return foreseen.peak_ram_bytes <= machine.ram_free_bytes - machine.margin_bytes
        in_vram = foreseen.peak_vram_bytes <= machine.vram_free_bytes - machine.margin_bytes
        return in_vram and foreseen.peak_ram_bytes <= machine.ram_free_bytes

    # Words

    def _reason(self, plan: Plan, foreseen: Forecast, fits: bool) -> str:
        machine, need = self.machine, self._need(foreseen) / GIB
        where = "VRAM" if machine.kind == "cuda" else "RAM"
        free = f"{machine.free_bytes / GIB:.1f} GiB of {where} are free and {machine.margin_bytes / GIB:.2f} kept spare"
        quality = "same result as whole" if plan.exact else f"approximate: weights rounded to {plan.precision}"
        if fits:
            return f"{plan.words()}: takes {need:.1f} GiB while {free}; {quality}."
        if machine.kind == "cuda" and foreseen.peak_ram_bytes > machine.ram_free_bytes:
            ram = machine.ram_free_bytes / GIB
            return f"{plan.words()}: needs {foreseen.peak_ram_bytes / GIB:.1f} GiB of RAM but {ram:.1f} are free."
        return f"{plan.words()}: would take {need:.1f} GiB, but {free}."

    def suggestions(self) -> list[Suggestion]:
        """Return settings near the wanted ones that fit."""
        return suggest(self)

    def to_dict(self) -> dict[str, Any]:
        """Return what was asked for, the machine, every rung, and what would fit where nothing does."""
        asked = self.request.model_dump(
            include={"model", "width", "height", "num_frames", "num_inference_steps", "guidance_scale", "precision"}
        )
        return asked | {
            "machine": asdict(self.machine) | {"margin_bytes": self.machine.margin_bytes},
            "notes": self.notes,
            "rungs": [rung.to_dict() for rung in self.rungs],
            "suggestions": [asdict(suggestion) for suggestion in self.suggestions()] if not self.chosen else [],
        }


def compute_precision(request: GenerationRequest, preset: ModelPreset, machine: Machine) -> str:
    """Return the precision that a request is computed in: the one asked for, or what the model's files are in.

    On a CPU that is float32, the fastest there. int8 weights are computed in bfloat16: their products overflow float16.
    """
    if request.precision in EXACT:
        return request.precision
    if machine.kind == "cpu":
        return "fp32"
    if request.precision == "int8":
        return "bf16"
    possible = precisions_of(machine.kind, machine.capability)
    return next((p for p in preset.precisions if p in possible and p in EXACT), "fp32")


def _last(values: Sequence[int], fits: Callable[[int], bool]) -> int:
    """Return the index of the last value that fits, 0 if none does; smaller ones fit where larger ones do."""
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(values[middle]) else (low, middle - 1)
    return low


def _last_below(values: Sequence[int], at: int, fits: Callable[[int], bool]) -> int:
    """Return the index of the last value that fits, at most `at`, which is a good guess and seldom far off."""
    for guess in range(at, max(at - _NEAR, 0), -1):
        if fits(values[guess]):
            return guess
    return _last(values[: max(at - _NEAR, 0) + 1], fits)
