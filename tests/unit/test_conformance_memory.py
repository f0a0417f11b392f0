"""What every family promises of memory: it is foretold, weights are where planned, and running out is survived."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils._python_dispatch

from i2v.errors import OutOfMemoryError
from i2v.family import Role
from i2v.memory.forecast.count import LiveStorage
from i2v.memory.forecast.experience import Experience, RunRecord
from i2v.memory.forecast.peaks import forecast
from i2v.memory.forecast.tables import architecture_of
from i2v.memory.ladder import Ladder
from i2v.memory.machine_now import GIB, Machine
from i2v.memory.plan import Plan
from i2v.memory.residency import Home
from i2v.memory.step_down import smaller_plans
from i2v.models.base import cpu_generator
from i2v.models.binding import family_module
from i2v.models.download import model_folder
from i2v.models.model_folders import models_from
from tests.families import CASES, FRAMES, STEPS, Made, Studio, Watch, Whereabouts, plans_of
from tests.third_family.folder import FOLDER


@pytest.fixture(scope="module", autouse=True)
def third_family() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # each step down collects garbage, and what was imported is none
    with models_from(FOLDER):
        yield
    gc.unfreeze()


@pytest.fixture(scope="module", params=CASES, ids=str)
def studio(request: pytest.FixtureRequest, third_family: None, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(request.param, tmp_path_factory.mktemp("home"))


# Running out of memory


def doors_of(studio: Studio, plan: Plan) -> list[tuple[str, str, int]]:
    """Return where memory may run out under a plan: in each stage the first and the last call of each component's
    layers, and the first and the last time that weights are brought. For a plan with a knob, in the knob's stages.
    """
    made = Made(studio.home)
    with Watch(studio, made) as watch:
        studio.make(plan, made=made)
    stages = plan.settings[-1].knob.stages if plan.settings else ("encode", "denoise", "decode")
    return [(*at, n) for at, count in sorted(watch.calls.items()) if at[0] in stages for n in sorted({1, count})]


def starts(studio: Studio, are_usual: bool) -> dict[str, Plan]:
    """Return plans to begin with: the usual ones are nothing moved, and some blocks kept; the others, all the rest."""
    plans = plans_of(studio)
    kept = [name for name, plan in plans.items() if plan.keep]
    usual = {"resident", *kept[len(kept) // 2 :][:1]}
    return {name: plan for name, plan in plans.items() if (name in usual) == are_usual}


@pytest.mark.parametrize("are_usual", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_running_out_anywhere_ends_with_the_result_of_the_smaller_plan(studio: Studio, are_usual: bool) -> None:
    for name, plan in starts(studio, are_usual).items():
        for door in doors_of(studio, plan):
            stage, where, number = door
            about = f"{name}: call {number} of {where} during {stage}"
            smaller = next(smaller_plans(plan, stage, FRAMES), None)
            made = Made(studio.home)
            with Watch(studio, made, door):
                if smaller is None:
                    with pytest.raises(OutOfMemoryError, match=stage):
                        studio.make(plan, made=made)
                    continue
                studio.make(plan, made=made)
            assert [step.stage for step in made.result.step_downs] == [stage], about
            assert made.result.plan is not None
            assert made.result.plan.words == smaller.words(), about
            assert made.done("denoise") == list(range(1, STEPS + 1)), f"{about}: a step was lost or computed twice"
            assert sorted(set(made.done("decode"))) == list(range(1, FRAMES + 1)), about
            planned = studio.planned(smaller)
            assert float((made.latents - planned.latents).abs().max() / planned.latents.abs().max()) <= 1e-5, about
            assert np.abs(np.stack(made.frames).astype(int) - np.stack(planned.frames)).max() <= 1, about


# What is foretold


SIZES = ((64, 96, 9), (112, 80, 13))  # pixels and frames that are legal for every family, and were not probed


@torch.no_grad()  # as the tracer does, to see inside of operations that are made of others
def test_the_forecast_of_a_denoisers_call_is_its_counted_peak_to_the_byte(studio: Studio) -> None:
    pipeline, forms = studio.fresh(), studio.forms.calls["fp32"].values()
    decoding = {knob.name for knob in studio.family.knobs if "denoise" not in knob.stages}
    plans = [p for p in plans_of(studio).values() if p.home is Home.RESIDENT and not decoding & set(p.knobs)]
    seen = set()
    for plan in plans:
        for width, height, num_frames in SIZES:
            request = studio.request(width=width, height=height, num_frames=num_frames, guidance_scale=1.0)
            pipeline.arrange(replace(plan, device="cpu"))
            variables = studio.forms.geometry.variables(width, height, num_frames, plan.knobs)
            for name, counted in counted_peaks(pipeline, request).items():
                (call,) = (call for call in forms if call.stage == "denoise" and call.component == name)
                form = call.ways.get(plan.way("denoise")) or call.ways["whole"]
                assert counted == {form.peak_bytes(variables)}, (name, plan.words(), width, height, num_frames)
                seen.add(name)
    assert seen == set(pipeline.denoisers)


def counted_peaks(pipeline: Any, request: Any) -> dict[str, set[int]]:
    """Denoise, and return the peaks of each denoiser's calls, besides its weights and inputs."""
    found: dict[str, set[int]] = {}

    def door(call: Callable[[], Any]) -> Any:
        with LiveStorage() as counter:
            result = call()
        found.setdefault(where[-1], set()).add(counter.peak_bytes)
        return result

    def enter(name: str, module: torch.nn.Module, args: Any, given: dict[str, Any]) -> None:
        where.append(name)
        counting = torch.utils._python_dispatch._get_current_dispatch_mode()
        assert isinstance(counting, LiveStorage)
        tensors = [value for value in (*args, *given.values()) if isinstance(value, torch.Tensor)]
        counting.adopt(*module.parameters(), *module.buffers(), *tensors)

    where: list[str] = []
    hooks = [
        module.register_forward_pre_hook(partial(enter, name), with_kwargs=True)
        for name, module in pipeline.denoisers.items()
    ]
    image = np.zeros((request.height, request.width, 3), dtype=np.uint8)
    generator, straight = cpu_generator(1), pipeline.door
    conditions = pipeline.encode(request, image, generator)
    try:
        pipeline.door = door
        pipeline.denoise(pipeline.draw_latents(request, generator), conditions, request)
    finally:
        pipeline.door = straight
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def test_the_forecast_of_every_other_whole_call_is_its_counted_peak_to_the_byte(studio: Studio) -> None:
    architecture = architecture_of(studio.preset, model_folder(studio.preset, studio.home))
    forms, modules = studio.forms.calls["fp32"], studio.fresh().modules()
    for call in family_module(studio.family.name).traced_calls(architecture, torch.float32):  # on real tensors
        if call.stage == "denoise" or "whole" not in call.ways:
            continue
        part = call.ways["whole"]
        for width, height, num_frames in SIZES:
            probe = {"width": width, "height": height, "num_frames": num_frames}
            given = part.prepare(probe)
            for empty, real in zip(tensors_of(given["weights"]), tensors_of(modules[call.component]), strict=True):
                empty.copy_(real)
            with LiveStorage() as counter:
                counter.adopt(*tensors_of(given["weights"]))
                counter.adopt(*(value for value in given.values() if isinstance(value, torch.Tensor)))
                part.run(given)
            variables = part.variables(probe)
            assert forms[call.name].ways["whole"].peak_bytes(variables) == counter.peak_bytes, (call.name, probe)


def tensors_of(module: torch.nn.Module) -> list[torch.Tensor]:
    kinds = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    return [tensor for kind in kinds for _, tensor in kind]


@torch.no_grad()
def test_decoding_a_clip_never_takes_more_than_is_foretold(studio: Studio) -> None:
    pipeline = studio.fresh()
    calls = [call for call in studio.forms.calls["fp32"].values() if call.stage == "decode"]
    for width, height, num_frames in SIZES:
        request = studio.request(width=width, height=height, num_frames=num_frames)
        variables = studio.forms.geometry.variables(width, height, num_frames, {})
        generator = cpu_generator(1)
        conditions = pipeline.encode(request, np.zeros((height, width, 3), dtype=np.uint8), generator)
        latents = pipeline.draw_latents(request, generator)
        with LiveStorage() as counter:
            counter.adopt(latents, *conditions.for_decode.values())
            for module in pipeline.modules().values():
                counter.adopt(*module.parameters(), *module.buffers())
            count = sum(1 for _ in pipeline.decode(latents, conditions, request))
        assert count == num_frames
        foretold = max(call.peak_bytes("whole", variables) + call.ram_bytes("whole", variables) for call in calls)
        frames = width * height * 3 * 8  # on their way to the file, in main memory: peaks._Stages._ram
        assert counter.peak_bytes <= foretold + frames, (width, height, num_frames)


def test_weights_are_counted_to_the_byte_wherever_they_are(studio: Studio) -> None:
    request, denoisers = studio.request(), studio.family.of_role(Role.DENOISER)
    sizes = {n: sum(p.nbytes for p in module.parameters()) for n, module in studio.fresh().modules().items()}
    whole = forecast(request, studio.whole, studio.forms)
    assert {stage.weights_bytes for stage in whole.stages.values()} == {sum(sizes.values())}
    if studio.family.is_small:
        return
    turns = forecast(request, studio.whole.housed(Home.TURNS), studio.forms)
    assert turns.stages["load"].weights_bytes == 0
    assert turns.stages["denoise"].weights_bytes == max(sizes[name] for name in denoisers)
    found = observed(studio, studio.whole.housed(Home.TURNS))
    for stage in ("denoise", "decode"):
        assert found.most_bytes[stage] == turns.stages[stage].weights_bytes, stage
    for keep in (0, 1, 2):
        plan = studio.whole.housed(Home.STREAMED, keep)
        foretold = forecast(request, plan, studio.forms).stages["denoise"].weights_bytes
        assert observed(studio, plan).most_bytes["denoise"] <= foretold < turns.stages["denoise"].weights_bytes, keep


def observed(studio: Studio, plan: Plan) -> Whereabouts:
    """Run under a plan and return where the weights were."""
    with torch.inference_mode():
        studio.pipeline.arrange(plan)
    made = Made(studio.home)
    with Whereabouts(studio, made) as found:
        studio.make(plan, made=made)
    return found


# Several denoisers


@pytest.mark.parametrize("home", [Home.TURNS, Home.STREAMED])
def test_no_two_denoisers_are_on_the_device_at_once(studio: Studio, home: Home) -> None:
    if studio.family.is_small:
        assert len(studio.pipeline.denoisers) == 1
        return
    found = observed(studio, studio.whole.housed(home))
    assert all(len(names) <= 1 for names in found.together)
    assert found.together >= {frozenset({name}) for name in studio.pipeline.denoisers}, "some were never brought"


def test_a_denoiser_takes_over_at_its_timestep_and_never_gives_back(studio: Studio) -> None:
    found = observed(studio, studio.whole)
    pipeline = studio.pipeline
    pipeline.scheduler.set_timesteps(STEPS)
    wanted = [pipeline.expert_at(timestep) for timestep in pipeline.scheduler.timesteps]
    assert found.order == list(dict.fromkeys(wanted)) == list(pipeline.denoisers)


# The choice


def card(free_bytes: int) -> Machine:
    """Return a machine with a card of which so much is free."""
    return Machine("cuda:0", "a card", (8, 6), 8 * GIB, free_bytes, 64 * GIB, 48 * GIB)


def test_a_plan_is_chosen_as_soon_as_it_fits_and_not_a_byte_before(studio: Studio) -> None:
    request = studio.request(precision="fp32")
    roomy = Ladder(request, studio.preset, studio.forms, card(8 * GIB))
    names = [rung.plan.name for rung in roomy.rungs]
    assert names[:3] == (["resident"] if studio.family.is_small else [*names[:1], "turns", *names[2:3]])
    assert roomy.chosen is not None
    assert roomy.chosen.plan.name == "resident"
    enough = roomy.chosen.forecast.peak_vram_bytes + card(0).margin_bytes
    assert Ladder(request, studio.preset, studio.forms, card(enough)).chosen.plan.name == "resident"
    less = Ladder(request, studio.preset, studio.forms, card(enough - 1)).chosen
    assert less is None if studio.family.is_small else less.plan.name == "turns"


def test_what_is_suggested_where_nothing_fits_is_legal_and_fits(studio: Studio) -> None:
    request = studio.request(precision="fp32", num_frames=13, width=256, height=192)
    smallest = Ladder(request, studio.preset, studio.forms, card(0)).smallest.forecast
    ladder = Ladder(request, studio.preset, studio.forms, card(smallest.peak_vram_bytes + card(0).margin_bytes - 1))
    assert ladder.chosen is None
    suggestions = ladder.suggestions()
    assert suggestions or studio.family.is_small
    for better in suggestions:
        values = {"width": better.width, "height": better.height, "num_frames": better.num_frames}
        assert Ladder(studio.request(precision="fp32", **values), ladder.preset, studio.forms, ladder.machine).chosen


def test_a_finished_run_teaches_the_next_forecast(studio: Studio) -> None:
    assert studio.forms.knows("fp32")
    made, request = studio.make(None), studio.request()  # by the plan that the ladder chooses on this machine
    # To the bit but for where the weights lie: the libraries sum up otherwise in memory that is not aligned.
    planned = studio.planned(studio.whole)
    assert float((made.latents - planned.latents).abs().max() / planned.latents.abs().max()) <= 1e-5
    record = RunRecord.of(request.model_dump(), made.result)
    assert record is not None
    assert record.calls == 2 * STEPS
    plan = Plan.of(studio.family, "cpu", "fp32")
    foreseen = forecast(request, plan, studio.forms, Experience((record,)))
    assert foreseen.seconds is not None
    assert foreseen.seconds.source == "runs"
    assert forecast(request, plan, studio.forms).counted_bytes == foreseen.counted_bytes
