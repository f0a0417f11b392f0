"""The plans for a request, from fastest to smallest, which of them is chosen, and which comes next when one fails.

Exact plans come before approximate ones, and an approximate one is never chosen unless its precision was asked for.
No torch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from i2v.memory.abilities import APPROXIMATE, EXACT, precisions_of, refuse_unless_possible
from i2v.memory.forecast.experience import Experience
from i2v.memory.forecast.forms import ModelForms
from i2v.memory.forecast.peaks import Forecast, forecast
from i2v.memory.plan import GIB, Machine, Plan
from i2v.presets.model_preset import ModelPreset
from i2v.request import GenerationRequest, match_picture

__all__ = ["Ladder", "Rung", "Suggestion", "compute_precision", "smaller_plans"]

BAND_ROWS = 64
_SMALLEST_BAND_ROWS = 16


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


@dataclass(frozen=True)
class Suggestion:
    """Settings near the wanted ones that fit, and how to ask for them on the command line."""

    width: int
    height: int
    num_frames: int
    flag: str
    words: str
    precision: str | None = None


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
        self.request, self.machine = request, machine
        self._preset, self._forms, self._experience = preset, forms, experience
        if request.precision != "auto":
            refuse_unless_possible(request.precision, machine.kind, machine.capability, machine.name)
        rungs = list(self._rungs())
        first = next((rung for rung in rungs if rung.fits and self._may_choose(rung.plan)), None)
        self.rungs = [replace(rung, chosen=rung is first) for rung in rungs]

    @property
    def notes(self) -> list[str]:
        """What a person should know of how the request was taken."""
        notes = [self.machine.note] if self.machine.note else []
        wished, frames = self.request.chunk_frames, self.request.num_frames
        if wished and not self._forms.pieces:
            notes.append(f"{self._preset.name} is not run in chunks; its memory does not grow with the frames")
        elif wished and wished > frames:
            notes.append(f"a chunk of {wished} frames is more than the clip has: all {frames} are worked on at once")
        return notes

    @property
    def pieces(self) -> bool:
        """Whether the model can be run in pieces, so that there are smaller plans than the chosen one."""
        return self._forms.pieces

    @property
    def chosen(self) -> Rung | None:
        """The rung to run, or None when none fits."""
        return next((rung for rung in self.rungs if rung.chosen), None)

    @property
    def smallest(self) -> Rung:
        """The exact rung (or the one asked for) that takes least."""
        return min(
            (rung for rung in self.rungs if self._may_choose(rung.plan)), key=lambda rung: self._need(rung.forecast)
        )

    def _may_choose(self, plan: Plan) -> bool:
        return plan.exact or plan.precision == self.request.precision

    def _need(self, foreseen: Forecast) -> int:
        return foreseen.peak_vram_bytes if self.machine.kind == "cuda" else foreseen.peak_ram_bytes

    # The rungs

    def _rungs(self) -> Iterator[Rung]:
        asked, machine = self.request.precision, self.machine
        possible = precisions_of(machine.kind, machine.capability)
        compute = compute_precision(self.request, self._preset, machine)
        precision = compute if asked == "auto" else asked
        for plan in self._plans(precision, compute):
            yield self._rung(plan)
        if asked != "auto":
            return
        for other in APPROXIMATE:
            if other in possible and other in self._preset.precisions:
                request = self.request.model_copy(update={"precision": other})
                compute = compute_precision(request, self._preset, machine)
                plans = [plan for plan in self._plans(other, compute) if plan.name in self._usual()]
                rungs = [self._rung(replace(plan, name=other)) for plan in plans]
                yield next((rung for rung in rungs if rung.fits), rungs[-1])

    def _usual(self) -> tuple[str, ...]:
        """Return the plans that rounded weights are tried with: smaller than all on the card, but not streamed."""
        on_card = self.machine.kind == "cuda" and self._forms.pieces
        return ("turns", "chunks") if on_card else ("resident", "chunks")

    def _plans(self, precision: str, compute: str) -> Iterator[Plan]:
        """Yield the exact ways to run in one precision; chunk sizes are chosen by `_rung`."""
        plan = Plan("resident", self.machine.device, precision, compute, frames=self._wished())
        many = self._forms.pieces
        yield plan
        if self.machine.kind == "cpu":
            if many:
                yield replace(plan, name="chunks", frames=plan.frames or 0)
            return
        if not many:
            return
        yield replace(plan, name="turns", weights="turns")
        yield replace(plan, name="chunks", weights="turns", frames=plan.frames or 0)
        streamed = replace(plan, name="streamed", weights="streamed", frames=plan.frames or 0)
        yield streamed
        yield replace(streamed, name="parked", parks_skips=True)

    def _wished(self) -> int | None:
        wished = self.request.chunk_frames
        return min(wished, self.request.num_frames) if wished and self._forms.pieces else None

    def _rung(self, plan: Plan) -> Rung:
        plan = self._with_chunks(self._with_bands(plan))
        foreseen = forecast(self.request, plan, self._forms, self._experience)
        fits = self._fits(foreseen)
        return Rung(plan.because(self._reason(plan, foreseen, fits)), foreseen, fits)

    def _with_bands(self, plan: Plan) -> Plan:
        """Let the autoencoder work in bands where whole frames would be what does not fit."""
        if not self._forms.pieces:
            return plan
        smallest = replace(plan, frames=1) if plan.frames == 0 else plan
        foreseen = forecast(self.request, smallest, self._forms, self._experience)
        stages = foreseen.stages
        overhead = self._need(foreseen) - max(stage.tensor_bytes for stage in stages.values())
        budget = self.machine.free_bytes - self.machine.margin_bytes - overhead
        if max(stages["decode"].tensor_bytes, stages["encode"].tensor_bytes) <= budget:
            return plan
        return replace(plan, vae_rows=BAND_ROWS)

    def _with_chunks(self, plan: Plan) -> Plan:
        """Give a plan that wants chunks (frames 0) the largest that fit, or one frame."""
        if plan.frames != 0:
            return plan
        low, high = 1, max(1, self.request.num_frames - (plan.weights != "streamed"))
        while low < high:
            middle = (low + high + 1) // 2
            tried = forecast(self.request, replace(plan, frames=middle), self._forms, self._experience)
            low, high = (middle, high) if self._fits(tried) else (low, middle - 1)
        return replace(plan, frames=low)

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

    # When nothing fits

    def suggestions(self) -> list[Suggestion]:
        """Return settings that do fit: the most frames at this size, the largest size with these frames, and last the
        approximate precision that fits these settings, if one does.
        """
        request, found = self.request, []
        frames = range(int(self._preset.num_frames.low), request.num_frames)
        most = bisect_left(frames, True, key=lambda n: not self._would_fit(request.width, request.height, n))
        if most:
            found.append(self._suggest(request.width, request.height, frames[most - 1]))
        sizes = self._smaller_sizes()
        most = bisect_left(sizes, True, key=lambda size: not self._would_fit(size[0], size[1], request.num_frames))
        if most:
            found.append(self._suggest(*sizes[most - 1], request.num_frames))
        rounded = (rung.plan.precision for rung in self.rungs if rung.fits and not self._may_choose(rung.plan))
        if precision := next(rounded, None):
            size = (request.width, request.height, request.num_frames)
            words = f"weights rounded to {precision} (approximate)"
            found.append(Suggestion(*size, f"--precision {precision}", words, precision))
        return found

    def _smaller_sizes(self) -> list[tuple[int, int]]:
        """Return sizes of the same aspect, smallest first."""
        width, height = self.request.width, self.request.height
        short, step = min(width, height), self._preset.size_multiple * 8
        sides = range(-(-int(self._preset.side_px.low) // step) * step, short, step)
        sizes = [match_picture(self._preset, width, height, side) for side in sides]
        return [size for size in sizes if min(size) < short]

    def _would_fit(self, width: int, height: int, frames: int) -> bool:
        request = self.request.model_copy(update={"width": width, "height": height, "num_frames": frames})
        plans = (self._least(rung.plan, frames) for rung in reversed(self.rungs) if self._may_choose(rung.plan))
        return any(self._fits(forecast(request, plan, self._forms, self._experience)) for plan in plans)

    def _least(self, plan: Plan, frames: int) -> Plan:
        """Return a plan in its smallest pieces, but in those that were asked for."""
        piece = plan.frames and min(self.request.chunk_frames or 1, frames)
        return replace(plan, frames=piece, vae_rows=BAND_ROWS if self._forms.pieces else None)

    def _suggest(self, width: int, height: int, frames: int) -> Suggestion:
        if frames != self.request.num_frames:
            return Suggestion(width, height, frames, f"--frames {frames}", f"{frames} frames")
        return Suggestion(width, height, frames, f"--size {width}x{height}", f"{width} × {height}")


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


def smaller_plans(plan: Plan, stage: str, num_frames: int) -> Iterator[Plan]:
    """Yield the plans below one, each smaller than the last, for a stage ("encode", "denoise", "decode").

    All of them give the same result. What helps the stage that ran out comes first; streaming comes last.
    """
    on_card = plan.device != "cpu"
    if plan.weights == "resident" and on_card:
        plan = replace(plan, name="turns", weights="turns")
        yield plan
    if stage == "denoise":
        frames = plan.frames or num_frames
        while frames > 1:
            frames = -(-frames // 2)
            plan = replace(plan, name="chunks" if plan.weights != "streamed" else "streamed", frames=frames)
            yield plan
        plan = replace(plan, frames=1)
    elif stage != "load":
        rows = plan.vae_rows or 2 * BAND_ROWS
        while rows > _SMALLEST_BAND_ROWS:
            rows //= 2
            plan = replace(plan, vae_rows=rows)
            yield plan
    if not on_card:
        return
    if plan.weights != "streamed":
        plan = replace(plan, name="streamed", weights="streamed")
        yield plan
    if stage == "denoise" and not plan.parks_skips:
        yield replace(plan, name="parked", parks_skips=True)
