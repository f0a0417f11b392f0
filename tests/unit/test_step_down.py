"""Out of memory loses nothing: at every door, from every plan, the run finishes with the result of the smaller plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2v.engine import one_run
from i2v.engine.doors import SpillWatch, is_out_of_memory, with_less_memory
from i2v.engine.memory_watch import MemoryWatch
from i2v.engine.one_run import OneRun
from i2v.engine.run import Engine, RunSpec
from i2v.errors import OutOfMemoryError
from i2v.jobs.events import Preview, Progress, RunEvent, Warned
from i2v.jobs.folder import JobFolder
from i2v.jobs.result import MemoryKind, MemorySample, RunResult, Stage, StepDown, WeightsNote
from i2v.memory.forecast.peaks import Forecast
from i2v.memory.knobs import FRAME_CHUNKS, PARKED_SKIPS, VAE_BANDS
from i2v.memory.ladder import Rung
from i2v.memory.plan import Plan
from i2v.memory.residency import Home
from i2v.memory.step_down import smaller_plans
from i2v.models.i2vgen_xl import Pipeline
from i2v.presets.model_preset import preset_named
from i2v.request import build_request

STEPS, FRAMES = 3, 5
# "cpu:0" is the CPU to torch, but not to the plans, which treat it as a card: weights are copied to it and dropped.
FAMILY = preset_named("i2vgen-xl").declared
WHOLE = Plan.of(FAMILY, "cpu:0", "fp32")
CHUNKS_OF_2 = WHOLE.housed(Home.STREAMED).turned(FRAME_CHUNKS, 2)
PLANS = {
    "resident": WHOLE,
    "turns": WHOLE.housed(Home.TURNS).named("turns"),
    "chunks": WHOLE.housed(Home.TURNS).turned(FRAME_CHUNKS, 3).named("chunks"),
    "streamed": CHUNKS_OF_2.named("streamed"),
    "kept": CHUNKS_OF_2.housed(Home.STREAMED, keep=5).named("streamed"),
    "parked": CHUNKS_OF_2.turned(PARKED_SKIPS, 1).turned(VAE_BANDS, 32).named("parked"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.small_checkpoint import save_small_checkpoint

    return save_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def pipeline(checkpoint: Path) -> Pipeline:
    return Pipeline.load(checkpoint, preset_named("i2vgen-xl"), torch.device("cpu:0"), torch.float32)


class Watched:
    """One run of a small model under a plan, with what it did."""

    def __init__(self, pipeline: Pipeline, folder: Path, plan: Plan):
        from PIL import Image

        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(3).integers(0, 255, (64, 72, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "picture.png")
        values = {"model": "i2vgen-xl", "prompt": "a", "seed": 5, "width": 72, "height": 64, "num_frames": FRAMES}
        request = build_request(values | {"num_inference_steps": STEPS}, (72, 64))
        self.events: list[RunEvent] = []
        self.latents: torch.Tensor | None = None
        nothing = Forecast({}, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, None)
        spec = RunSpec("0" * 16, 1, request, folder, JobFolder(folder))
        self.run = OneRun(spec, Rung(plan, nothing, True, True), self.events.append, lambda: False, {})
        self.run.pipeline = pipeline
        pipeline.arrange(plan)

    def make(self, monkeypatch: pytest.MonkeyPatch) -> RunResult:
        def keep(path: Path, request: Any, latents: torch.Tensor) -> None:
            self.latents = latents.clone()

        monkeypatch.setattr(one_run, "save_latents", keep)
        with MemoryWatch(torch.device("cpu"), self.run.see_memory) as self.run.watch, torch.inference_mode():
            return self.run.make()

    @property
    def steps_done(self) -> list[int]:
        return self._progress(Stage.DENOISE)

    @property
    def frames_done(self) -> list[int]:
        return self._progress(Stage.DECODE)

    def _progress(self, stage: Stage) -> list[int]:
        seen = (event for event in self.events if isinstance(event, Progress))
        return [event.step for event in seen if event.stage is stage and event.step > 0]


def out_of_memory_at(module: torch.nn.Module, call: int) -> Callable[[], None]:
    """Let a module's `call`-th call (from 0) run out of memory, once. Returns what takes it away again."""
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            raise torch.OutOfMemoryError("injected")

    handle = module.register_forward_pre_hook(fail)
    return handle.remove


def doors_of(pipeline: Pipeline) -> dict[str, tuple[str, torch.nn.Module, int]]:
    """Return every door and step where memory may run out: stage, module whose call fails, and which call."""
    found: dict[str, tuple[str, torch.nn.Module, int]] = {
        "encode prompt": ("encode", pipeline.text_encoder, 0),
        "encode picture": ("encode", pipeline.image_encoder, 0),
        "encode latent": ("encode", pipeline.vae.encoder.conv_in, 0),
        "denoise in the middle of a call": ("denoise", pipeline.unet.mid_block.resnets[0], 1),
    }
    for step in range(2 * STEPS):
        half = "with" if step % 2 == 0 else "against"
        found[f"denoise step {step // 2} {half} the prompt"] = ("denoise", pipeline.unet, step)
    for frame in range(0, FRAMES, 2):
        found[f"decode frame {frame}"] = ("decode", pipeline.vae.decoder.conv_in, frame)
    return found


DOORS = [
    "encode prompt", "encode picture", "encode latent", "denoise in the middle of a call",
    *(f"denoise step {step} {half} the prompt" for step in range(STEPS) for half in ("with", "against")),
    *(f"decode frame {frame}" for frame in range(0, FRAMES, 2)),
]  # fmt: skip


USUAL = ("resident", "streamed")  # the others are slow tests: each is a whole run, three times


@pytest.mark.parametrize(
    "start", [pytest.param(plan, marks=[] if plan in USUAL else [pytest.mark.slow]) for plan in PLANS]
)
@pytest.mark.parametrize("door", DOORS)
def test_a_run_that_runs_out_finishes_with_the_result_of_the_smaller_plan(
    door: str, start: str, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, module, call = doors_of(pipeline)[door]
    smaller = next(smaller_plans(PLANS[start], stage, FRAMES), None)
    watched = Watched(pipeline, tmp_path / "failing", PLANS[start])
    take_away = out_of_memory_at(module, call)
    if smaller is None:
        with pytest.raises(OutOfMemoryError, match=stage):
            watched.make(monkeypatch)
        return
    result = watched.make(monkeypatch)
    take_away()
    assert watched.steps_done == [1, 2, 3], "a step was lost or computed twice"
    assert sorted(set(watched.frames_done)) == [1, 2, 3, 4, 5]
    assert [step.stage for step in result.step_downs] == [stage]
    assert result.plan
    assert result.plan.words == smaller.words()
    assert [event for event in watched.events if isinstance(event, StepDown)] == list(result.step_downs)

    planned = Watched(pipeline, tmp_path / "planned", smaller)
    again = planned.make(monkeypatch)
    assert again.step_downs == ()
    assert watched.latents is not None
    assert planned.latents is not None
    error = (watched.latents - planned.latents).abs().max() / planned.latents.abs().max()
    assert float(error) <= 1e-5


def test_the_whole_ladder_is_gone_down_before_a_run_is_given_up(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(pipeline, tmp_path, WHOLE)
    pipeline.unet.register_forward_pre_hook(_always_out)
    with pytest.raises(OutOfMemoryError, match="smallest plan"):
        watched.make(monkeypatch)
    downs = [event.after for event in watched.events if isinstance(event, StepDown)]
    assert len(downs) == len(set(downs)) == len(list(smaller_plans(WHOLE, "denoise", FRAMES)))
    assert "parked_skips" in watched.run.plan.knobs


def test_a_preview_that_runs_out_of_memory_costs_the_preview_only(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(pipeline, tmp_path, WHOLE)
    monkeypatch.setattr(pipeline, "preview", _always_out)
    assert watched.make(monkeypatch).step_downs == ()
    assert watched.steps_done == [1, 2, 3]
    assert not [event for event in watched.events if isinstance(event, Preview)]


def _always_out(*_: Any) -> None:
    raise torch.OutOfMemoryError("injected")


def test_nothing_of_the_failed_call_is_held_when_it_is_made_again() -> None:
    """An exception pins the frames it went through: the door must have left `except` before it calls again."""
    import gc
    import weakref

    held: list[weakref.ref[torch.Tensor]] = []
    alive_at_retry: list[bool] = []

    def call() -> int:
        if held:
            alive_at_retry.append(held[0]() is not None)
            return 1
        big = torch.empty(1000)
        held.append(weakref.ref(big))
        raise torch.OutOfMemoryError("injected")

    gc.disable()
    try:
        assert with_less_memory(call, Stage.DENOISE, lambda stage, why: True) == 1
    finally:
        gc.enable()
    assert alive_at_retry == [False]


def test_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        with_less_memory(_wrong_shapes, Stage.DENOISE, lambda stage, why: True)


def _wrong_shapes() -> None:
    raise RuntimeError("shapes do not fit")


def test_a_step_four_times_slower_than_usual_counts_as_spilling() -> None:
    times: Iterator[float] = iter([0.0, 1, 2, 3, 4, 7.9, 12.1, 13, 14, 15, 16, 21])
    watch = SpillWatch(lambda: next(times))
    told = [watch.step_was_slow() for _ in range(11)]
    #        four steps to learn from, 3.9 s is not slow yet, 4.2 s is; then it is learnt anew
    assert told == [False] * 4 + [False, True] + [False] * 4 + [True]


def test_plans_get_smaller_and_end() -> None:
    for stage in ("load", "encode", "denoise", "decode"):
        plans = list(smaller_plans(WHOLE, stage, 32))
        assert len({plan.words() for plan in plans}) == len(plans)
        assert all(plan.exact for plan in plans)
    frames = [plan.knobs.get("chunk_frames") for plan in smaller_plans(WHOLE, "denoise", 32)]
    assert frames == [None, 16, 8, 4, 2, 1, 1, 1]
    on_cpu = list(smaller_plans(replace(WHOLE, device="cpu"), "denoise", 8))
    assert [plan.knobs.get("chunk_frames") for plan in on_cpu] == [4, 2, 1]
    assert {plan.home for plan in on_cpu} == {Home.RESIDENT}


def _sample(used: int) -> MemorySample:
    values = dict.fromkeys(("allocated_bytes", "reserved_bytes", "peak_bytes"), 1)
    return MemorySample(kind=MemoryKind.GPU, t_s=0.0, device_used_bytes=used, device_total_bytes=100, **values)


def test_a_full_card_is_warned_of_once(pipeline: Pipeline, tmp_path: Path) -> None:
    watched = Watched(pipeline, tmp_path, WHOLE)
    low, high = (_sample(used) for used in (50, 95))
    for sample in (high, high, low, high, high, high):
        watched.run.see_memory(sample)
    assert not [event for event in watched.events if isinstance(event, Warned)], "it did not last"
    for _ in range(8):
        watched.run.see_memory(high)
    (warning,) = [event.message for event in watched.events if isinstance(event, Warned)]
    assert "above 90" in warning
    assert "fewer frames" in warning


def test_an_engine_steps_down_while_loading(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from i2v.engine import run as engine_run

    watched = Watched(Pipeline.load(checkpoint, preset_named("i2vgen-xl"), torch.device("cpu:0"), torch.float32),
                      tmp_path, WHOLE)  # fmt: skip
    tried: list[str] = []

    def load(preset: Any, home: Path, plan: Plan) -> tuple[Any, WeightsNote]:
        tried.append(plan.home)
        if plan.home is Home.RESIDENT:
            raise torch.OutOfMemoryError("injected")
        loaded = Pipeline.load(checkpoint, preset, torch.device("cpu"), torch.float32)
        return loaded, WeightsNote(total_bytes=1)

    monkeypatch.setattr(engine_run, "load_pipeline", load)
    engine = Engine()
    with_less_memory(lambda: engine._load(watched.run, preset_named("i2vgen-xl")), Stage.LOAD, watched.run.step_down)
    assert tried == ["resident", "turns"]
    assert watched.run.plan.home is Home.TURNS
