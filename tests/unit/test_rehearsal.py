"""The CUDA path, walked without a card: every family and plan at full size, and that a mistake in it is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from i2v.engine.rehearsal import streams
from i2v.engine.rehearsal.card import RunOut
from i2v.engine.rehearsal.order import RehearsalError
from i2v.engine.rehearsal.walk import NOT_SHOWN, Rehearsal, Subject, rehearse
from i2v.errors import OutOfMemoryError
from i2v.memory.forecast.peaks import forecast
from i2v.memory.forecast.tables import shipped_forms
from i2v.memory.knobs import FRAME_CHUNKS, PARKED_SKIPS, VAE_BANDS
from i2v.memory.machine_now import GIB
from i2v.memory.plan import Plan
from i2v.memory.residency import Home
from i2v.memory.weights.parked import ParkedWeights
from i2v.models.binding import build_component
from i2v.presets.model_preset import preset_named
from i2v.request import build_request
from tests.small_checkpoint import save_small_checkpoint

CARD, FRAMES = "cuda:0", 4
I2VGEN = preset_named("i2vgen-xl")
LITTLE_RAM = 4 * GIB  # too little to pin weights: nothing is fetched ahead then


def plans(compute: str) -> dict[str, Plan]:
    """Every rung of I2VGen-XL's ladder on a card."""
    whole = Plan.of(I2VGEN.declared, CARD, compute)
    turns = whole.housed(Home.TURNS).named("turns")
    streamed = whole.turned(FRAME_CHUNKS, 2).housed(Home.STREAMED).named("streamed")
    return {
        "resident": whole,
        "turns": turns,
        "chunks": turns.turned(FRAME_CHUNKS, 2).turned(VAE_BANDS, 64).named("chunks"),
        "streamed": streamed,
        "kept": streamed.housed(Home.STREAMED, keep=20),
        "parked": streamed.turned(PARKED_SKIPS, 1).turned(VAE_BANDS, 32).named("parked"),
    }


def request_of(model: str, width: int, height: int, guidance: float = 1.0) -> Any:
    values = {"model": model, "prompt": "the camera pans left", "seed": 1, "width": width, "height": height}
    values |= {"num_frames": FRAMES, "num_inference_steps": 2, "guidance_scale": guidance}
    return build_request(values, (width, height))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """I2VGen-XL at full size: the real configurations of its components, beside the weights of a small one."""
    home = tmp_path_factory.mktemp("full")
    folder = save_small_checkpoint(home / "models" / I2VGEN.name)
    for part in I2VGEN.declared.parts:
        with torch.device("meta"):
            module: Any = build_component(part, I2VGEN.architecture[part.name])
        save = getattr(module, "save_config", None) or module.config.save_pretrained
        save(folder / part.name)
    path = folder / "feature_extractor" / "preprocessor_config.json"
    side = I2VGEN.architecture["image_encoder"]["image_size"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"crop_size": {"height": side, "width": side}}))
    return Subject(I2VGEN, home, request_of(I2VGEN.name, 512, 384))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    home = tmp_path_factory.mktemp("small")
    save_small_checkpoint(home / "models" / I2VGEN.name)
    return Subject(I2VGEN, home, request_of(I2VGEN.name, 64, 64, guidance=1.0))


def finished(seen: Rehearsal, passes: int, again: int = 0) -> None:
    """Check that a walk came to its end. `again`: calls of the denoiser that were made a second time.

    The scheduler keeps its timesteps on the card.
    """
    assert seen.frames == FRAMES
    assert seen.calls["denoise"] == 2 * passes + again
    if seen.plans[-1].home is not Home.RESIDENT and not seen.plans[-1].keep:
        assert seen.bytes_left <= 64, "weights or tensors of a finished run are still on the card"


# Full size

# The others are slow tests: fp32 differs in nothing but the dtype, and "kept" is streamed with some blocks resident.
USUAL = {"fp16": ("resident", "turns", "chunks", "streamed", "parked"), "fp32": ("resident",)}
WALKS = [
    pytest.param(compute, name, marks=[] if name in USUAL[compute] else [pytest.mark.slow], id=f"{name}-{compute}")
    for compute in USUAL
    for name in plans(compute)
]
TOLERANCE = 0.02
# Of a streamed denoiser a forecast adds up the largest layers and the most activations, which do not meet: of the
# 376 MB that it says in fp16, 230 are taken at once, and 194 with parked skips.
LEAST_STREAMED = 0.35


@pytest.mark.parametrize(("compute", "name"), WALKS)
def test_every_plan_walks_its_whole_way_at_full_size_and_peaks_where_it_is_foreseen(
    compute: str, name: str, full: Subject
) -> None:
    plan = plans(compute)[name]
    ram = LITTLE_RAM if compute == "fp32" else 256 * GIB
    seen = rehearse(full, plan, ram_bytes=ram)
    finished(seen, passes=1)
    assert seen.plans == [plan]
    assert seen.not_shown == NOT_SHOWN
    forms = shipped_forms(I2VGEN)
    assert forms
    stages = forecast(full.request, plan, forms).stages
    for stage in ("denoise", "decode"):
        share = seen.peak_bytes[stage] / stages[stage].tensor_bytes
        is_streamed = stage == "denoise" and plan.home is Home.STREAMED
        assert (LEAST_STREAMED if is_streamed else 1 - TOLERANCE) <= share <= 1 + TOLERANCE, stage


@pytest.mark.parametrize("compute", ["fp16", "fp32"])
def test_the_built_in_model_walks_its_whole_way(compute: str, tmp_path: Path) -> None:
    preset = preset_named("motion")
    subject = Subject(preset, tmp_path, request_of("motion", 320, 256, guidance=2.0))
    finished(rehearse(subject, Plan.of(preset.declared, CARD, compute)), passes=2)


def test_full_size_run_that_runs_out_at_every_door_finishes_under_smaller_plans(full: Subject) -> None:
    run_outs = (
        RunOut("load", 0, 900),
        RunOut("encode", 0, 700),
        RunOut("denoise", 0, 40, within="bring"),
        RunOut("denoise", 1, 2000),
        RunOut("denoise", 3, 300),
        RunOut("decode", 2, 30),
    )
    seen = rehearse(full, plans("fp16")["resident"], run_outs=run_outs)
    finished(seen, passes=1, again=3)
    assert len(seen.plans) == len(run_outs) + 1
    assert seen.calls["decode"] == FRAMES + 2  # one frame twice, and the end


# Out of memory, on a small model

SLOW = ("turns", "chunks")  # the walk at full size goes through these too


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in SLOW), "streamed"])
def test_calls_that_run_out_are_made_again_under_smaller_plans(name: str, small: Subject) -> None:
    """The walk fails where a call of a door leaves anything on the card before it is made again."""
    run_outs = (
        RunOut("encode", 0, 2, within="bring"),
        RunOut("encode", 1, 3),
        RunOut("denoise", 0, 1, within="bring"),
        RunOut("decode", 0, 2, within="bring"),
    )
    seen = rehearse(small, plans("fp16")[name], run_outs=run_outs)
    finished(seen, passes=1, again=1)
    assert seen.calls["encode"] == 3
    assert len(seen.plans) == 5


def test_memory_that_runs_out_again_while_stepping_down_leads_to_the_next_smaller_plan(small: Subject) -> None:
    """After a step-down from all weights on the card, the denoiser's are brought anew: that too may be too much."""
    run_outs = (RunOut("denoise", 0, 40), RunOut("denoise", 0, 2, within="arrange"))
    seen = rehearse(small, plans("fp16")["resident"], run_outs=run_outs)
    finished(seen, passes=1, again=1)
    assert len(seen.plans) == 3


@pytest.mark.slow
def test_a_budget_makes_a_run_step_down_until_it_fits(small: Subject) -> None:
    plan = plans("fp16")["resident"]

    def without_preview(pipeline: Any) -> None:
        pipeline.preview = lambda *_: None  # of so small a model it is what takes most

    whole = max(rehearse(small, plan, mend=without_preview).peak_bytes.values())
    budget = whole * 2 // 3
    seen = rehearse(small, plan, budget_bytes=budget, mend=without_preview)
    finished(seen, passes=1, again=seen.calls["denoise"] - 2)
    assert len(seen.plans) > 1
    assert max(seen.peak_bytes.values()) <= budget
    with pytest.raises(OutOfMemoryError, match="smallest plan"):
        rehearse(small, plan, budget_bytes=whole // 100, mend=without_preview)


def test_a_failure_that_does_not_come_to_pass_is_an_error(small: Subject) -> None:
    with pytest.raises(RehearsalError, match="did not come to pass"):
        rehearse(small, plans("fp16")["resident"], run_outs=(RunOut("decode", 99),))


def test_what_a_failed_call_leaves_behind_is_found(small: Subject) -> None:
    kept: list[Any] = []

    def keep_everything(pipeline: Any) -> None:
        encode = pipeline.image_encoder.forward
        pipeline.image_encoder.forward = lambda *args: kept.append(encode(*args)) or kept[-1]

    with pytest.raises(RehearsalError, match="still taken"):
        rehearse(small, plans("fp16")["turns"], run_outs=(RunOut("encode", 0, 500),), mend=keep_everything)


# Mistakes that a card would punish


def broken(small: Subject, name: str = "turns", mend: Callable[[Any], None] = lambda pipeline: None) -> None:
    rehearse(small, plans("fp16")[name], mend=mend)


def test_weights_used_before_they_have_arrived_are_found(small: Subject) -> None:
    with (
        mock.patch.object(ParkedWeights, "arrive", return_value=None),
        pytest.raises(RehearsalError, match=r"unet\..*does not wait until it was written on side stream"),
    ):
        broken(small, "streamed")


def test_a_side_stream_that_does_not_wait_before_it_writes_is_found(small: Subject) -> None:
    with (
        mock.patch.object(streams._Stream, "wait_stream", return_value=None),
        pytest.raises(RehearsalError, match=r"side stream 1 does not wait until it was \w+ on the main"),
    ):
        broken(small, "streamed")


def test_memory_given_back_while_a_copy_is_under_way_is_found(small: Subject) -> None:
    def drop(self: Any) -> None:
        self._put({})
        self._is_here = False

    with mock.patch.object(ParkedWeights, "drop", drop), pytest.raises(RehearsalError, match="given back too early"):
        broken(small, "streamed")


def test_a_forgotten_move_in_encode_is_found(small: Subject) -> None:
    def forget(pipeline: Any) -> None:
        picture = pipeline.picture_encoding.pixels
        pipeline._embed_picture = lambda image: pipeline.image_encoder(picture(image).to(pipeline.dtype)).image_embeds

    with pytest.raises(RehearsalError, match="cpu and cuda:0"):
        broken(small, "resident", forget)


def test_a_wrong_dtype_from_encode_is_found(small: Subject) -> None:
    def widen(pipeline: Any) -> None:
        embed = pipeline._embed
        pipeline._embed = lambda prompt: embed(prompt).float()

    with pytest.raises(RehearsalError, match=r"torch.float16 and torch.float32.*unet\."):
        broken(small, "resident", widen)


def test_code_that_asks_for_data_is_told_so(small: Subject) -> None:
    def ask(pipeline: Any) -> None:
        preview = pipeline.preview
        pipeline.preview = lambda latents, *rest: preview(latents, *rest) if latents.sum() > 0 else None

    with pytest.raises(RehearsalError, match="asks for data"):
        broken(small, "resident", ask)
