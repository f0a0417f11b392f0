"""The families that the conformance suite is run for, one line each, and the engine running a small model of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2v.engine import one_run
from i2v.engine import run as engine_run
from i2v.engine.run import Engine, RunSpec
from i2v.family import Family, Role
from i2v.jobs.events import Progress, RunEvent
from i2v.jobs.folder import JobFolder
from i2v.jobs.result import RunResult
from i2v.memory.forecast.calls import TracedCall
from i2v.memory.forecast.forms import CallForms, ModelForms
from i2v.memory.forecast.peaks import Forecast
from i2v.memory.forecast.tables import architecture_of, find_forms, forms_path, table_key, versions
from i2v.memory.forecast.trace import count_operations, fake_tensors
from i2v.memory.ladder import Rung
from i2v.memory.plan import Plan
from i2v.memory.residency import Home
from i2v.memory.weights.parked import ParkedWeights
from i2v.models.binding import blocks_of, family_module, pipeline_class
from i2v.models.build_forms import count_parameters, plain_forms
from i2v.models.download import model_folder
from i2v.presets.model_preset import ModelPreset, preset_named
from i2v.request import GenerationRequest, build_request
from tests.small_checkpoint import save_small_checkpoint
from tests.third_family.checkpoint import save_tiny_dit

__all__ = ["CASES", "CPU", "FRAMES", "STEPS", "Case", "Made", "Studio", "Watch", "Whereabouts", "plans_of"]

STEPS, FRAMES = 3, 5
CPU = "cpu:0"  # the CPU to torch, but not to the plans, which treat it as a card: weights are copied to it and dropped


@dataclass(frozen=True)
class Case:
    """A family to be tested. `save` writes a small random checkpoint; None for a model that ships with i2v."""

    model: str
    size: tuple[int, int]
    save: Callable[[Path], Path] | None = None

    def __str__(self) -> str:
        return self.model


CASES = (
    Case("motion", (96, 64)),
    Case("i2vgen-xl", (72, 64), save_small_checkpoint),
    Case("tiny-dit", (48, 64), save_tiny_dit),
)


@dataclass
class Made:
    """One run: its result, its events, the latents before decoding, every frame."""

    folder: Path
    result: RunResult = field(default_factory=RunResult)
    events: list[RunEvent] = field(default_factory=list)
    latents: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    frames: list[np.ndarray] = field(default_factory=list)
    previews: list[np.ndarray] = field(default_factory=list)

    @property
    def progress(self) -> list[Progress]:
        return [event for event in self.events if isinstance(event, Progress)]

    def done(self, stage: str) -> list[int]:
        """Return the steps of a stage that were reported as done."""
        return [event.step for event in self.progress if event.stage == stage and event.step > 0]

    @property
    def stage(self) -> str:
        """Where the run stands now."""
        return str(self.progress[-1].stage) if self.progress else "load"


class Studio:
    """One family's small model with a real engine; the plan of a run is given instead of chosen."""

    def __init__(self, case: Case, home: Path):
        self.case, self.home, self.engine = case, home, Engine()
        self.preset: ModelPreset = preset_named(case.model)
        self.family: Family = self.preset.declared
        self.whole = Plan.of(self.family, CPU, "fp32")
        self._made: dict[str, Made] = {}
        self._count = 0
        if case.save:
            case.save(home / "models" / case.model)

    def request(self, **values: Any) -> GenerationRequest:
        width, height = self.case.size
        wanted = {"prompt": "a", "seed": 5, "num_frames": FRAMES, "num_inference_steps": STEPS, "guidance_scale": 2.0}
        sized = {"model": self.case.model, "width": width, "height": height}
        return build_request(sized | wanted | values, self.case.size)

    @property
    def pipeline(self) -> Any:
        """The loaded model, arranged as the last run left it."""
        if self.engine._pipeline is None:
            self.make(self.whole)
        return self.engine._pipeline

    def fresh(self) -> Any:
        """Load the model outside of a run: its weights may be counted without inference mode."""
        folder = model_folder(self.preset, self.home)
        return pipeline_class(self.family.name).load(folder, self.preset, torch.device("cpu"), torch.float32)

    def planned(self, plan: Plan) -> Made:
        """Return the usual run under a plan, made once."""
        key = str(plan.to_dict() | {"name": "", "reason": ""})
        if key not in self._made:
            self._made[key] = self.make(plan)
        return self._made[key]

    @cached_property
    def forms(self) -> ModelForms:
        """The memory formulas of the small model: those of its table, or traced here and kept in the home folder."""
        folder = model_folder(self.preset, self.home)
        known = find_forms(self.preset, folder, self.home, "fp32")
        if known:
            return known
        architecture = architecture_of(self.preset, folder)
        module = family_module(self.family.name)
        with fake_tensors():
            calls = {c.name: _forms_of(c) for c in module.traced_calls(architecture, torch.float32)}
        components = {part.name: count_parameters(part, architecture) for part in self.family.parts}
        key = table_key(self.preset, architecture)
        found = ModelForms(key, module.geometry_of(architecture), components, {"fp32": calls}, versions())
        found.save(forms_path(self.home, key))
        return found

    def make(
        self,
        plan: Plan | None,
        cancelled: Callable[[Made], bool] = lambda made: False,
        made: Made | None = None,
        **values: Any,
    ) -> Made:
        """Run a request under a plan, or under what the ladder chooses for None. Raises I2VError."""
        self._count += 1
        made = made or Made(self.home)
        made.folder = self.home / f"job-{self._count}"
        made.folder.mkdir(parents=True)
        noise = np.random.default_rng(3).integers(0, 255, (*self.case.size[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(made.folder / "picture.png")
        spec = RunSpec(f"{self._count:016}", 1, self.request(**values), self.home, JobFolder(made.folder))
        with _seen(made), _given(plan):
            made.result = self.engine.run(spec, made.events.append, partial(cancelled, made))
        return made


def _forms_of(call: TracedCall) -> CallForms:
    operations = count_operations(call.counted) if call.counted else {}
    return replace(plain_forms(call, call.ways), operations=operations)


@contextmanager
def _given(plan: Plan | None) -> Iterator[None]:
    nothing = Forecast({}, *[0] * (len(fields(Forecast)) - 2), None)
    with pytest.MonkeyPatch.context() as patch:
        if plan is not None:
            ladder = SimpleNamespace(chosen=Rung(plan, nothing, True, True))
            patch.setattr(engine_run, "plan_ladder", lambda *_: ladder)
        yield


@contextmanager
def _seen(made: Made) -> Iterator[None]:
    """Keep the latents, frames and previews of a run."""

    def latents(path: Path, request: Any, latents: torch.Tensor) -> None:
        made.latents = latents.clone()
        save(path, request, latents)

    def frames(self: Any, *args: Any) -> Iterator[np.ndarray]:
        for frame in give(self, *args):
            made.frames.append(frame.copy())
            yield frame

    def preview(pictures: np.ndarray, folder: Path) -> None:
        made.previews.append(pictures)
        write(pictures, folder)

    save, give, write = one_run.save_latents, one_run.OneRun._frames, one_run.write_preview
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_run, "save_latents", latents)
        patch.setattr(one_run.OneRun, "_frames", frames)
        patch.setattr(one_run, "write_preview", preview)
        yield


def plans_of(studio: Studio) -> dict[str, Plan]:
    """Return every home of the weights, and every knob at every value, as plans by name."""
    whole = studio.whole
    if studio.family.is_small:
        return {"resident": whole}
    part = studio.family.part(studio.family.of_role(Role.DENOISER)[0])
    blocks = len(blocks_of(part, studio.pipeline.modules()[part.name]))
    found = {"resident": whole, "turns": whole.housed(Home.TURNS), "streamed": whole.housed(Home.STREAMED)}
    for keep in sorted({1, blocks // 2, blocks - 1}):
        found[f"keeping {keep} of {blocks}"] = whole.housed(Home.STREAMED, keep)
    for knob in studio.family.knobs:
        base = whole.housed(Home.STREAMED) if knob.needs_streaming else whole
        before = next((other for other in studio.family.knobs if other.name == knob.after), None)
        if before:
            base = base.turned(before, min(before.values(FRAMES)))
        for value in knob.values(FRAMES):
            found[f"{knob.name} {value}"] = base.turned(knob, value)
    return found


class Watch:
    """Counts the calls of each component's layers and of bringing weights, by stage; one of them may run out of memory.

    `shortage`: (stage, component or "bringing", which call, from 1).
    """

    def __init__(self, studio: Studio, made: Made, shortage: tuple[str, str, int] | None = None):
        self._studio, self._made, self._shortage = studio, made, shortage
        self.calls: Counter[tuple[str, str]] = Counter()

    def count(self, name: str) -> None:
        here = (self._made.stage, name)
        self.calls[here] += 1
        if self._shortage == (*here, self.calls[here]):
            raise torch.OutOfMemoryError("injected")

    def __enter__(self) -> Watch:
        self._patch = pytest.MonkeyPatch()
        bring = ParkedWeights.bring

        def counted(parked: ParkedWeights, *args: Any) -> None:
            self.count("bringing")
            bring(parked, *args)

        self._patch.setattr(ParkedWeights, "bring", counted)
        self._hooks = [
            leaf.register_forward_pre_hook(partial(lambda name, *_: self.count(name), name))
            for name, module in self._studio.pipeline.modules().items()
            for leaf in module.modules()
            if not any(True for _ in leaf.children())
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
        for hook in self._hooks:
            hook.remove()


class Whereabouts:
    """Says whose weights are on the device, by which tensors are not the masters that lie in main memory.

    To be made while nothing is brought. `together`: which denoisers at one time; `most_bytes`: the most weights of
    everything, by stage.
    """

    def __init__(self, studio: Studio, made: Made):
        self._modules, self._made = studio.pipeline.modules(), made
        self._denoisers = studio.family.of_role(Role.DENOISER)
        self._masters = {name: _pointers(module) for name, module in self._modules.items()}
        self.together: set[frozenset[str]] = set()
        self.order: list[str] = []
        self.most_bytes: Counter[str] = Counter()

    def __enter__(self) -> Whereabouts:
        self._hooks = [
            leaf.register_forward_pre_hook(partial(self._look, name))
            for name, module in self._modules.items()
            for leaf in module.modules()
            if not any(True for _ in leaf.children())
        ]
        return self

    def _look(self, name: str, *_: Any) -> None:
        here = {other: self._brought(other) for other in self._modules}
        stage = self._made.stage
        self.most_bytes[stage] = max(self.most_bytes[stage], sum(here.values()))
        if name in self._denoisers:
            self.together.add(frozenset(other for other in self._denoisers if here[other]))
            if self.order[-1:] != [name]:
                self.order.append(name)

    def _brought(self, name: str) -> int:
        weights = ((table[key], master) for table, key, master in self._masters[name])
        return sum(weight.nbytes for weight, master in weights if weight.data_ptr() != master)

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def _pointers(module: torch.nn.Module) -> list[tuple[dict[str, Any], str, int]]:
    """Return where each weight stands in a module, once however often it does, and where its numbers are."""
    found = {
        id(weight): (part._parameters, name, weight.data_ptr())
        for part in module.modules()
        for name, weight in part._parameters.items()
        if weight is not None
    }
    return list(found.values())
