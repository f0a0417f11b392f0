"""The ladder: which plans there are for a machine, which of them is chosen, and what is said when none fits."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from i2v.errors import InputError
from i2v.jobs.result import RunResult
from i2v.machine import devices
from i2v.memory.forecast.experience import Experience
from i2v.memory.forecast.forms import ModelForms
from i2v.memory.forecast.peaks import forecast
from i2v.memory.forecast.tables import shipped_forms
from i2v.memory.knobs import FRAME_CHUNKS
from i2v.memory.ladder import Ladder, Rung
from i2v.memory.machine_now import GIB, Machine
from i2v.memory.plan import Masters, Plan
from i2v.memory.residency import Home
from i2v.presets.model_preset import preset_named
from i2v.request import GenerationRequest, build_request
from i2v.worker.protocol import COMMANDS, Message, Run, RunId, read_messages
from tests.integration.past_jobs import STEP_DOWN

FASTEST_FIRST = ["resident", "turns", "chunks", "streamed", "parked"]
LONG: dict[str, Any] = {"width": 1024, "height": 1024, "num_frames": 64}
VIDEO: dict[str, Any] = {"width": 1280, "height": 704, "num_frames": 32}


def card(vram_gib: float, ram_gib: float = 64, capability: tuple[int, int] | None = (8, 6)) -> Machine:
    vram, ram = int(vram_gib * GIB), int(ram_gib * GIB)
    return Machine("cuda:0", "RTX 3060", capability, vram, vram, ram, ram)


def cpu(free_gib: float, total_gib: float = 16) -> Machine:
    return Machine("cpu", "the CPU", None, 0, 0, int(total_gib * GIB), int(free_gib * GIB))


def with_free(machine: Machine, free_bytes: int) -> Machine:
    if machine.kind == "cuda":
        return replace(machine, vram_free_bytes=free_bytes)
    return replace(machine, ram_free_bytes=free_bytes)


@cache
def forms_of(model: str) -> ModelForms:
    forms = shipped_forms(preset_named(model))
    assert forms
    return forms


def request_of(model: str = "i2vgen-xl", **values: Any) -> GenerationRequest:
    return build_request({"model": model, "prompt": "", "width": 512, "height": 512} | values, (512, 512))


def ladder(machine: Machine, model: str = "i2vgen-xl", experience: Experience | None = None, **values: Any) -> Ladder:
    return Ladder(request_of(model, **values), preset_named(model), forms_of(model), machine, experience)


def chosen(found: Ladder) -> Rung:
    assert found.chosen, [rung.plan.reason for rung in found.rungs]
    return found.chosen


def chunk_of(plan: Plan) -> int | None:
    return plan.knobs.get("chunk_frames")


def need(rung: Rung, machine: Machine) -> int:
    return rung.forecast.peak_vram_bytes if machine.kind == "cuda" else rung.forecast.peak_ram_bytes


def cpu_where_only_rounded_weights_fit(**values: Any) -> Machine:
    machine = cpu(1)
    least = ladder(machine, **values).smallest.forecast.peak_ram_bytes
    return replace(machine, ram_free_bytes=least + machine.margin_bytes - 1)


# Order and choice


def test_rungs_come_fastest_first_and_exact_before_approximate() -> None:
    found = ladder(card(24))
    assert [rung.plan.name for rung in found.rungs] == [*FASTEST_FIRST, "fp8", "int8", "nf4"]
    assert [rung.plan.exact for rung in found.rungs] == [True] * 5 + [False] * 3
    assert [rung.chosen for rung in found.rungs] == [True] + [False] * 7


def test_the_chosen_rung_is_the_first_that_fits() -> None:
    picked = set()
    for vram_gib in (2.5, 3, 4, 6, 8, 24):
        found = ladder(card(vram_gib), **VIDEO)
        assert sum(rung.chosen for rung in found.rungs) == 1
        before = found.rungs[: found.rungs.index(chosen(found))]
        assert not any(rung.fits for rung in before)
        picked.add(chosen(found).plan.name)
    assert {"resident", "chunks", "streamed"} <= picked


def test_an_approximate_rung_is_never_chosen_unasked_even_if_it_alone_fits() -> None:
    found = ladder(cpu_where_only_rounded_weights_fit())
    assert [rung.plan.precision for rung in found.rungs if rung.fits] == ["fp8", "int8"]
    assert found.chosen is None


@pytest.mark.parametrize("precision", ["fp8", "int8", "nf4"])
@pytest.mark.parametrize("vram_gib", [2.5, 4, 12])
def test_an_approximate_precision_that_was_asked_for_is_chosen_and_called_so(precision: str, vram_gib: float) -> None:
    found = ladder(card(vram_gib), precision=precision)
    assert [rung.plan.name for rung in found.rungs] == FASTEST_FIRST
    rung = chosen(found)
    assert rung.plan.precision == precision
    assert rung.to_dict()["exact"] is False
    assert f"approximate: weights rounded to {precision}" in rung.plan.reason


@pytest.mark.parametrize(("precision", "compute"), [("fp32", "fp32"), ("fp16", "fp16"), ("bf16", "bf16")])
def test_an_exact_precision_that_was_asked_for_is_the_only_one_offered(precision: str, compute: str) -> None:
    found = ladder(card(24), precision=precision)
    assert {(rung.plan.precision, rung.plan.compute) for rung in found.rungs} == {(precision, compute)}
    assert chosen(found).plan.exact


@pytest.mark.parametrize("vram_gib", [4, 5, 6, 8, 10, 12])
def test_a_chunk_is_the_largest_that_fits(vram_gib: float) -> None:
    machine = card(vram_gib)
    budget = machine.vram_free_bytes - machine.margin_bytes
    found = ladder(machine, **LONG)
    grown = 0
    for rung in found.rungs:
        frames = chunk_of(rung.plan)
        if not rung.fits or frames is None or frames >= 63:
            continue
        larger = forecast(found.request, rung.plan.turned(FRAME_CHUNKS, frames + 1), forms_of("i2vgen-xl"))
        assert rung.forecast.peak_vram_bytes <= budget < larger.peak_vram_bytes, rung.plan
        grown += 1
    assert grown


def test_a_larger_card_never_gets_a_slower_rung_or_a_smaller_chunk() -> None:
    for values in (LONG, VIDEO, {}):
        before = (len(FASTEST_FIRST), 0)
        for vram_gib in (1.2, 1.4, 1.6, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 16, 24, 40):
            rung = ladder(card(vram_gib), **values).chosen
            rank = FASTEST_FIRST.index(rung.plan.name) if rung else len(FASTEST_FIRST)
            chunk = (chunk_of(rung.plan) or 64) if rung else 0
            assert rank <= before[0], (vram_gib, values)
            assert rank < before[0] or chunk >= before[1], (vram_gib, values)
            before = rank, chunk
        assert before[0] == 0


@pytest.mark.parametrize("machine", [card(8), card(24), cpu(20, 24), cpu(60, 64)], ids=lambda m: f"{m.total_bytes}")
def test_a_plan_fits_by_the_byte_and_the_margin_is_kept(machine: Machine) -> None:
    assert machine.margin_bytes == max(GIB // 4, machine.total_bytes // 25)
    wanted = need(ladder(machine).rungs[0], machine) + machine.margin_bytes
    assert chosen(ladder(with_free(machine, wanted))).plan.name == "resident"
    less = ladder(with_free(machine, wanted - 1))
    assert not less.rungs[0].fits
    assert chosen(less).plan.name != "resident"


def test_weights_are_read_from_disk_where_ram_is_too_small_for_them() -> None:
    machine = card(6)
    roomy = chosen(ladder(machine))
    assert roomy.plan.masters is Masters.RAM
    ram = roomy.forecast.peak_ram_bytes
    assert chosen(ladder(replace(machine, ram_free_bytes=ram))).plan == roomy.plan
    short = chosen(ladder(replace(machine, ram_free_bytes=ram - 1)))
    assert short.plan == replace(roomy.plan, masters=Masters.DISK)
    assert "weights read from disk" in short.plan.words()
    assert short.forecast.peak_ram_bytes < ram - 3 * GIB
    assert short.forecast.peak_vram_bytes == roomy.forecast.peak_vram_bytes


def test_a_table_for_one_precision_is_enough_for_plans_in_it() -> None:
    forms = forms_of("i2vgen-xl")
    only = replace(forms, calls={"fp16": forms.calls["fp16"]})
    found = Ladder(request_of(), preset_named("i2vgen-xl"), only, card(8))
    assert chosen(found) == chosen(ladder(card(8)))


def test_rounded_weights_are_in_no_file_so_they_are_refused_where_ram_is_short() -> None:
    machine = card(4)
    ram = chosen(ladder(machine, precision="fp8")).forecast.peak_ram_bytes
    short = ladder(replace(machine, ram_free_bytes=ram - 1), precision="fp8")
    for rung in short.rungs[1:5]:
        assert not rung.fits
        assert re.search(r"needs [\d.]+ GiB of RAM but [\d.]+ are free", rung.plan.reason)
    assert short.chosen is None


def test_what_earlier_runs_took_beyond_the_forecast_moves_the_choice() -> None:
    machine = card(8)
    assert chosen(ladder(machine)).plan.name == "resident"
    known = Experience.from_results([finished(excess=3 * GIB)], {})
    assert chosen(ladder(machine, experience=known)).plan.name == "turns"


# The CPU


def test_on_a_cpu_ram_is_what_counts_and_all_weights_are_in_it() -> None:
    found = ladder(cpu(15))
    assert [rung.plan.name for rung in found.rungs] == ["resident", "chunks", "fp8", "int8"]
    for rung in found.rungs:
        assert rung.forecast.peak_vram_bytes == 0
        assert rung.forecast.peak_ram_bytes > rung.forecast.weights_bytes + rung.forecast.activation_bytes
        assert "of RAM" in rung.plan.reason
        assert rung.plan.compute == "fp32"
    assert chosen(found).forecast.weights_bytes == 4 * preset_named("i2vgen-xl").parameters


def test_a_cpu_with_too_little_ram_for_the_whole_clip_works_in_the_largest_chunks_that_fit() -> None:
    roomy = ladder(cpu(15))
    whole, most = (roomy.rungs[n].forecast.peak_ram_bytes for n in (0, 1))
    machine = replace(cpu(15), ram_free_bytes=(whole + 3 * most) // 4 - GIB // 8 + cpu(15).margin_bytes)
    rung = chosen(ladder(machine))
    assert rung.plan.name == "chunks"
    assert chunk_of(rung.plan)
    larger = forecast(roomy.request, rung.plan.turned(FRAME_CHUNKS, chunk_of(rung.plan) + 1), forms_of("i2vgen-xl"))
    budget = machine.ram_free_bytes - machine.margin_bytes
    assert rung.forecast.peak_ram_bytes <= budget < larger.peak_ram_bytes


def test_rounded_weights_on_a_cpu_work_on_the_whole_clip_where_it_fits() -> None:
    assert {chunk_of(rung.plan) for rung in ladder(cpu(60, 64)).rungs if not rung.plan.exact} == {None}


def test_the_built_in_model_has_one_way_to_run() -> None:
    for machine in (card(4), cpu(8)):
        found = ladder(machine, "motion")
        assert [rung.plan.name for rung in found.rungs] == ["resident"]
        assert not found.has_smaller_plans
        assert chunk_of(chosen(found).plan) is None


# What was asked for


def test_a_chunk_that_was_asked_for_is_taken() -> None:
    for vram_gib in (3, 6, 12):
        rung = chosen(ladder(card(vram_gib), chunk_frames=5))
        assert chunk_of(rung.plan) == 5
        assert "exact chunks of 5 frames" in rung.plan.reason


def test_a_chunk_of_more_frames_than_the_clip_has_is_the_whole_clip_and_said_so() -> None:
    found = ladder(card(12), chunk_frames=99)
    assert {chunk_of(rung.plan) for rung in found.rungs} == {16}
    (note,) = found.notes
    assert "99" in note
    assert "16" in note
    assert ladder(card(12), chunk_frames=16).notes == []


def test_a_chunk_for_a_model_without_pieces_is_left_out_and_said_so() -> None:
    found = ladder(card(12), "motion", chunk_frames=4)
    assert chunk_of(chosen(found).plan) is None
    (note,) = found.notes
    assert "motion is not run in chunks" in note


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_an_old_card_refuses_what_it_cannot_do_and_names_what_it_can(precision: str) -> None:
    with pytest.raises(InputError) as refused:
        ladder(card(8, capability=(7, 5)), precision=precision)
    assert "RTX 3060" in refused.value.message
    assert refused.value.remedy == "Use one of: fp32, fp16, fp8, nf4."
    assert refused.value.field == "precision"
    offered = {rung.plan.precision for rung in ladder(card(8, capability=(7, 5))).rungs}
    assert offered == {"fp16", "fp8", "nf4"}


def test_a_cpu_refuses_nf4_and_names_what_it_can_do() -> None:
    with pytest.raises(InputError, match="fp32, bf16, fp16, fp8, int8"):
        ladder(cpu(60, 64), precision="nf4")


# Pretended and limited memory


def test_a_card_larger_than_the_machines_may_be_pretended_and_is_noted() -> None:
    machine = card(8).pretending(24)
    assert (machine.vram_total_bytes, machine.vram_free_bytes) == (24 * GIB, 24 * GIB)
    found = ladder(machine, **VIDEO)
    assert chosen(found).plan.name == "resident"
    (note,) = found.notes
    assert "24 GiB, more than the 8.0 GiB that RTX 3060 has" in note


def test_a_card_may_be_pretended_where_there_is_none() -> None:
    machine = cpu(60, 64).pretending(6)
    assert (machine.kind, machine.vram_free_bytes, machine.ram_free_bytes) == ("cuda", 6 * GIB, 60 * GIB)
    found = ladder(machine)
    assert found.notes == ["pretending a card of 6 GiB"]
    assert chosen(found).plan.device == "cuda:0"


def test_a_run_is_limited_to_less_than_is_free_but_never_to_more() -> None:
    busy = replace(card(12), vram_free_bytes=5 * GIB)
    assert busy.limited(4).vram_free_bytes == 4 * GIB
    assert busy.limited(8).vram_free_bytes == 5 * GIB
    larger = busy.limited(24)
    assert (larger.vram_total_bytes, larger.vram_free_bytes) == (12 * GIB, 5 * GIB)
    assert "24 GiB, more than the 12.0 GiB that RTX 3060 has" in larger.note
    without = cpu(10).limited(4)
    assert (without.free_bytes, without.margin_bytes) == (4 * GIB, GIB // 4)
    assert cpu(10).limited(12).free_bytes == 10 * GIB
    assert cpu(10).limited(None) == cpu(10)


@pytest.mark.parametrize("vram_gib", [0, -0.0, -3, math.nan, math.inf, -math.inf, 2000])
@pytest.mark.parametrize(
    "take",
    [
        lambda v: card(8).pretending(v),
        lambda v: card(8).limited(v),
        lambda v: cpu(8).limited(v),
        lambda v: request_of(vram_gib=float(v)),
    ],
    ids=["pretended", "limited card", "limited cpu", "request"],
)
def test_what_cannot_be_the_size_of_a_card_is_refused(take: Callable[[float], Any], vram_gib: float) -> None:
    with pytest.raises(InputError, match="above 0 and at most 1024") as refused:
        take(vram_gib)
    assert refused.value.field == "vram_gib"


# When nothing fits


@pytest.mark.parametrize(
    ("machine", "values"),
    [
        (card(1.3), LONG),
        (card(1.8), LONG),
        (card(3), LONG),
        (card(1.8), VIDEO),
        (card(1.5), {"chunk_frames": 16}),
        (card(6, ram_gib=6), {"precision": "fp8"} | LONG),
        (cpu(13), {"precision": "fp32"} | LONG),
        (cpu(15).limited(1), {"model": "motion", "width": 2160, "height": 3840, "num_frames": 240}),
    ],
    ids=lambda value: "" if isinstance(value, dict) else f"{value.kind} {value.free_bytes / GIB:.1f}",
)
def test_when_nothing_fits_every_suggestion_really_does(machine: Machine, values: dict[str, Any]) -> None:
    values = {"model": "i2vgen-xl"} | values
    found = ladder(machine, **values)
    assert found.chosen is None
    suggestions = found.suggestions()
    assert suggestions
    for suggestion in suggestions:
        wanted: dict[str, Any] = {
            "width": suggestion.width,
            "height": suggestion.height,
            "num_frames": suggestion.num_frames,
        }
        wanted |= {"precision": suggestion.precision} if suggestion.precision else {}
        assert chosen(ladder(machine, **values | wanted)), suggestion
        asked = found.request.model_dump(include=set(wanted))
        changed = [name for name, value in wanted.items() if value != asked[name]]
        flags = {"num_frames": "--frames", "width": "--size", "height": "--size", "precision": "--precision"}
        assert {flags[name] for name in changed} == {suggestion.flag.split()[0]}


def test_the_suggested_frames_are_the_most_that_fit() -> None:
    machine = card(1.8)
    suggestion = ladder(machine, **LONG).suggestions()[0]
    assert suggestion.flag == f"--frames {suggestion.num_frames}"
    assert ladder(machine, **LONG | {"num_frames": suggestion.num_frames + 1}).chosen is None


def test_an_approximate_precision_is_suggested_where_it_alone_fits_these_settings() -> None:
    machine = cpu_where_only_rounded_weights_fit()
    suggestion = ladder(machine).suggestions()[-1]
    assert (suggestion.precision, suggestion.flag) == ("fp8", "--precision fp8")
    assert suggestion.words == "weights rounded to fp8 (approximate)"
    assert chosen(ladder(machine, precision="fp8")).plan.precision == "fp8"
    asked = ladder(machine, precision="fp32").suggestions()
    assert not any(suggestion.precision for suggestion in asked)


def test_nothing_is_suggested_where_the_weights_alone_are_too_many() -> None:
    found = ladder(card(0.5))
    assert found.chosen is None
    assert found.suggestions() == []


@pytest.mark.parametrize("machine", [card(1), card(8), cpu(6)], ids=["1 GiB", "8 GiB", "cpu"])
def test_the_smallest_is_the_exact_rung_that_needs_least(machine: Machine) -> None:
    found = ladder(machine, **LONG)
    exact = [rung for rung in found.rungs if rung.plan.exact]
    assert found.smallest in exact
    assert need(found.smallest, machine) == min(need(rung, machine) for rung in exact)


def test_the_smallest_of_an_asked_for_precision_is_of_that_precision() -> None:
    assert ladder(card(1), precision="fp8").smallest.plan.precision == "fp8"


# What is said


@pytest.mark.parametrize("machine", [card(1), card(4), card(24, ram_gib=4), cpu(8), cpu(60, 64)], ids=range(5))
@pytest.mark.parametrize("values", [{}, LONG, {"chunk_frames": 3}], ids=["usual", "long", "chunk"])
def test_every_reason_is_one_sentence_with_numbers(machine: Machine, values: dict[str, Any]) -> None:
    for rung in ladder(machine, **values).rungs:
        reason = rung.plan.reason
        assert reason.startswith(rung.plan.words())
        assert len(re.findall(r"\.(\s|$)", reason)) == 1, reason
        assert reason.endswith(".")
        assert len(re.findall(r"\d+\.\d", reason)) >= 2, reason
        assert ("takes" in reason) == rung.fits


def test_a_rung_is_plain_json_that_a_page_can_show() -> None:
    shown = json.loads(json.dumps([rung.to_dict() for rung in ladder(card(6)).rungs]))
    for row in shown:
        assert row["seconds"] is row["seconds_low"] is row["seconds_high"] is row["seconds_source"] is None
    rates = Experience(rates={"cuda:0 fp16": 1e13})
    timed = chosen(ladder(card(6), experience=rates)).to_dict()
    assert timed["seconds_low"] < timed["seconds"] < timed["seconds_high"]
    assert timed["seconds_source"] == "estimate"


# The machine


def give_devices(patch: pytest.MonkeyPatch, *cards: devices.Gpu, worker_gib: int = 0) -> None:
    patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    patch.setattr(devices, "gpus", lambda own_pids=(): list(cards))
    patch.setattr(devices, "machine_memory", lambda: devices.Memory(32 * GIB, 20 * GIB))
    patch.setattr(devices, "process_memory_bytes", lambda pid: worker_gib * GIB)


def gpu(used_gib: int, mine_gib: int = 0) -> devices.Gpu:
    return devices.Gpu(0, "RTX 3060", "570", 12 * GIB, used_gib * GIB, capability=(8, 6), mine_bytes=mine_gib * GIB)


def test_what_our_own_worker_holds_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    give_devices(monkeypatch, gpu(used_gib=7, mine_gib=4), worker_gib=3)
    machine = Machine.detect((4711,))
    assert (machine.device, machine.name, machine.capability) == ("cuda:0", "RTX 3060", (8, 6))
    assert (machine.vram_total_bytes, machine.vram_free_bytes) == (12 * GIB, 9 * GIB)
    assert (machine.ram_total_bytes, machine.ram_free_bytes) == (32 * GIB, 23 * GIB)


def test_never_more_is_free_than_the_card_has(monkeypatch: pytest.MonkeyPatch) -> None:
    give_devices(monkeypatch, gpu(used_gib=1, mine_gib=2))
    assert Machine.detect((4711,)).vram_free_bytes == 12 * GIB


def test_without_a_card_the_machine_is_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    give_devices(monkeypatch)
    machine = Machine.detect()
    assert (machine.device, machine.kind, machine.capability) == ("cpu", "cpu", None)
    assert (machine.total_bytes, machine.free_bytes) == (32 * GIB, 20 * GIB)


def test_a_card_that_is_hidden_from_cuda_is_not_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    give_devices(monkeypatch, gpu(used_gib=0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Machine.detect().kind == "cpu"


# Past runs


def finished(excess: int = 0, **result: Any) -> tuple[dict[str, Any], RunResult]:
    request = {"model": "i2vgen-xl", "guidance_scale": 9.0, "num_inference_steps": 50}
    foreseen = {"comparable_bytes": 7 * GIB, "counted_bytes": 6 * GIB, "operations": 1e15, "pixels": 4_194_304}
    made = {
        "plan": {"device": "cuda:0", "compute": "fp16", "weights": "resident"},
        "forecast": foreseen,
        "peak_bytes": 6 * GIB + excess,
        "step_downs": [],
        "stage_seconds": {"load": 5.0, "encode": 1.0, "denoise": 100.0, "decode": 10.0},
    }
    return request, RunResult.model_validate(made | result)


RESIDENT = Plan.of(preset_named("i2vgen-xl").declared, "cuda:0", "fp16")


def test_runs_without_a_forecast_or_that_stepped_down_teach_nothing() -> None:
    jobs = [finished(forecast=None), finished(step_downs=[STEP_DOWN]), finished(stage_seconds={})]
    assert Experience.from_results(jobs, {}).records == ()
    assert len(Experience.from_results([*jobs, finished()], {}).records) == 1


def test_excess_is_the_median_of_runs_of_the_same_kind() -> None:
    other_plan = {"device": "cuda:0", "compute": "fp16", "weights": "streamed"}
    jobs = [finished(excess) for excess in (100, 300, 9000)]
    jobs += [finished(10**9, plan=other_plan), ({"model": "motion"} | finished()[0], finished(5)[1])]
    known = Experience.from_results(jobs[:4], {})
    assert known.excess_bytes("i2vgen-xl", RESIDENT) == 300
    assert known.excess_bytes("i2vgen-xl", RESIDENT.housed(Home.STREAMED)) == 10**9
    assert known.excess_bytes("motion", RESIDENT) == 0
    assert Experience().excess_bytes("i2vgen-xl", RESIDENT) == 0


def test_experience_survives_the_way_to_the_worker() -> None:
    known = Experience.from_results([finished(7)], {"cuda:0 fp16": 1e13})
    sent = Message(Run(request="{}", home=Path("/h"), folder=Path("/f"), experience=known), RunId("a", 1))
    assert list(read_messages(io.BytesIO(sent.to_line()), COMMANDS)) == [sent]
