"""The forecast: exact for small models run for real, complete for the shipped ones, and quick."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch

from i2v.memory.exact.pieces import pieces
from i2v.memory.exact.unet import ExactForward
from i2v.memory.forecast.count import LiveStorage, main_memory
from i2v.memory.forecast.experience import Experience, RunRecord
from i2v.memory.forecast.forms import EventForms, ModelForms, PeakForm, product_value
from i2v.memory.forecast.peaks import forecast
from i2v.memory.forecast.tables import architecture_of, code_of, find_forms, shipped_forms, table_key
from i2v.memory.forecast.trace import Part, event_log, fake_tensors, find_event_forms, find_peak_form
from i2v.memory.knobs import FRAME_CHUNKS, PARKED_SKIPS, VAE_BANDS
from i2v.memory.machine_now import GIB
from i2v.memory.plan import Plan
from i2v.memory.residency import Home
from i2v.models.binding import build_component
from i2v.models.build_forms import trace_call
from i2v.models.download import model_folder
from i2v.models.i2vgen_xl import FAMILY, geometry_of, traced_calls
from i2v.presets.model_preset import load_presets, preset_named
from i2v.request import GenerationRequest, build_request

SMALL_UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"],
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
}
SMALL_VAE: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 8, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
SMALL = {
    "unet": SMALL_UNET,
    "vae": SMALL_VAE,
    "text_encoder": {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    | {"num_attention_heads": 2, "max_position_embeddings": 16, "projection_dim": 16}
    | {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
    "image_encoder": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"image_size": 32, "patch_size": 8, "projection_dim": 12},
}


def request_of(model: str = "i2vgen-xl", **values: Any) -> GenerationRequest:
    return build_request({"model": model, "prompt": "", "width": 512, "height": 512} | values, (512, 512))


@pytest.fixture(scope="module")
def small_peaks() -> dict[str, PeakForm]:
    with fake_tensors():
        calls = traced_calls(SMALL, torch.float32)
        found = {f"{call.name}.{way}": trace_call(call, way) for call in calls for way in call.ways}
    return {name: forms[0] for name, forms in found.items() if forms}


@pytest.mark.parametrize("way", ["whole", "pieces"])
@torch.no_grad()  # as the tracer does, to see inside of operations that are made of others
def test_the_forecast_of_a_step_is_the_counted_peak_to_the_byte(way: str, small_peaks: dict[str, PeakForm]) -> None:
    unet: Any = build_component(FAMILY.part("unet"), SMALL_UNET).eval()
    forward = ExactForward(unet)
    sizes = [(64, 64, 16, 2), (72, 104, 7, 3), (136, 88, 13, 1), (200, 64, 5, 4), (96, 96, 11, 5), (64, 216, 23, 6)]
    for width, height, num_frames, frames in sizes:
        size = (1, 4, num_frames, height // 8, width // 8)
        given: dict[str, Any] = {
            "sample": torch.randn(size),
            "timestep": torch.tensor(1),
            "fps": torch.tensor([16]),
            "image_latents": torch.randn(size),
            "image_embeddings": torch.randn(1, 1, 12),
            "encoder_hidden_states": torch.randn(1, 77, 12),
        }
        forward.chunk_frames = None if way == "whole" else frames
        with LiveStorage() as counter:
            counter.adopt(*unet.parameters(), *given.values())
            unet(**given)
        variables = geometry_of(SMALL).variables(width, height, num_frames, {"chunk_frames": frames})
        foreseen = small_peaks[f"denoise.{way}"].peak_bytes(variables)
        assert foreseen == counter.peak_bytes, (width, height, num_frames, frames)


@pytest.mark.parametrize("name", ["decode.whole", "vae_encode.whole"])
@torch.no_grad()  # as the tracer does, to see inside of operations that are made of others
def test_the_forecast_of_the_autoencoder_is_the_counted_peak(name: str, small_peaks: dict[str, PeakForm]) -> None:
    vae: Any = build_component(FAMILY.part("vae"), SMALL_VAE).eval()
    for width, height in ((64, 64), (136, 88), (72, 200)):
        decoding = name.startswith("decode")
        given = torch.randn((1, 4, height // 8, width // 8) if decoding else (1, 3, height, width))
        with LiveStorage() as counter:
            counter.adopt(*vae.parameters(), given)
            vae.decode(given).sample if decoding else vae.encode(given).latent_dist
        variables = geometry_of(SMALL).variables(width, height, 1, {})
        assert small_peaks[name].peak_bytes(variables) == counter.peak_bytes, (width, height)


def test_an_allocation_that_is_no_product_of_the_dimensions_is_an_error() -> None:
    probes = [{"n": 3}, {"n": 5}, {"n": 11}]

    def run(given: dict[str, int]) -> torch.Tensor:
        return torch.empty(int(math.log2(given["n"]) * 1000))

    part = Part("odd", probes, dict, ["1", "n"], dict, run)
    with pytest.raises(ValueError, match="odd"):
        find_peak_form(part)


def test_a_run_that_does_something_else_at_another_setting_is_an_error() -> None:
    def run(given: dict[str, int]) -> list[torch.Tensor]:
        return [torch.empty(given["n"]) for _ in range(given["n"])]

    with pytest.raises(ValueError, match="same at every setting"):
        find_peak_form(Part("uneven", [{"n": 3}, {"n": 5}], dict, ["1", "n"], dict, run))


def test_the_peak_form_of_a_known_program_is_its_peak() -> None:
    def run(given: dict[str, int]) -> torch.Tensor:
        first = torch.empty(given["n"], given["n"])
        second = first + 1  # the peak: 2 n * n floats
        del first
        return second.sum(dim=0)

    form = find_peak_form(Part("known", [{"n": 3}, {"n": 5}, {"n": 11}], dict, ["1", "n", "n*n"], dict, run))
    assert form.peak_bytes({"n": 100}) == 2 * 4 * 100 * 100


def test_the_event_forms_of_a_known_program_are_its_events() -> None:
    def run(given: dict[str, int]) -> torch.Tensor:
        first = torch.empty(given["n"], given["n"])
        with main_memory():
            parked = first.clone()
        second = first + 1
        del first, parked
        return second.sum(dim=0)

    part = Part("known", [{"n": 3}, {"n": 5}, {"n": 11}], dict, ["1", "n", "n*n"], dict, run)
    forms = find_event_forms(part)
    assert forms == EventForms(({"n*n": 4}, {}, {"n": 4}), (0, 1, 0, -1, -2, 2, -3))
    square = 4 * 100 * 100
    assert forms.log(forms.sizes_at({"n": 100})) == [(0, square), (1, 0), (2, square), (0, 0), (1, 0), (3, 400), (2, 0)]
    assert event_log(part, {"n": 100}) == forms.log(forms.sizes_at({"n": 100}))


def test_a_size_that_does_not_divide_evenly_is_rounded() -> None:
    forms = EventForms(({"n": 0.5}, {"n": -1, "1": 2}), (0, 1))
    assert forms.log(forms.sizes_at({"n": 7})) == [(0, 4), (1, 0)]


def test_event_forms_are_the_log_of_a_real_setting() -> None:
    setting = {"width": 200, "height": 136, "num_frames": 9, "chunk_frames": 2}
    with fake_tensors():
        calls = {call.name: call for call in traced_calls(SMALL, torch.float16)}
        for part in (calls["denoise"].ways["parked"], calls["decode"].ways["whole"]):
            forms = find_event_forms(part)
            found = forms.log(forms.sizes_at(part.variables(setting)))
            assert found == event_log(part, setting), part.name


def test_every_piece_is_run_when_asked_for() -> None:
    part = Part(
        "pieces", [], dict, [], dict, lambda given: [torch.empty(at.stop - at.start) for at in pieces(given["n"], 4)]
    )
    assert [nbytes for _, nbytes in event_log(part, {"n": 10})] == [16, 16]
    assert [nbytes for _, nbytes in event_log(part, {"n": 10}, every_piece=True)] == [16, 16, 8]


@pytest.mark.parametrize("preset", load_presets().values(), ids=lambda preset: preset.name)
def test_the_shipped_table_is_that_of_this_code_and_these_versions(preset: Any, tmp_path: Any) -> None:
    """When this fails: python -m i2v.models.build_forms NAME --ship."""
    forms = shipped_forms(preset)
    assert forms is not None
    assert forms.key == table_key(preset, architecture_of(preset, model_folder(preset, tmp_path)))
    for precision in ("fp16", "fp32"):
        assert find_forms(preset, model_folder(preset, tmp_path), tmp_path, precision) == forms


def test_another_architecture_has_another_key(tmp_path: Any) -> None:
    preset = preset_named("i2vgen-xl")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text('{"block_out_channels": [64, 128], "_class_name": "I2VGenXLUNet"}')
    architecture = architecture_of(preset, tmp_path)
    assert architecture["unet"]["block_out_channels"] == [64, 128]
    assert architecture["vae"] == preset.architecture["vae"]
    assert table_key(preset, architecture) != table_key(preset, preset.architecture)


def test_a_table_does_not_age_by_words_about_the_code() -> None:
    code = "def half(n):\n    return n // 2\n"
    told = '"""A module."""\n\n\ndef half(n):\n    """Return half."""\n    return n // 2  # rounded down\n'
    assert code_of(told) == code_of(code)
    assert code_of(code.replace("2", "3")) != code_of(code)


def test_a_table_survives_saving_and_a_broken_one_is_none(tmp_path: Any) -> None:
    forms = shipped_forms(preset_named("i2vgen-xl"))
    assert forms is not None
    forms.save(tmp_path / "there" / "table.json")
    assert ModelForms.load(tmp_path / "there" / "table.json") == forms
    for text in ("", "{", "[]", '{"format": 0}', '{"format": 1, "nothing": 2}'):
        (tmp_path / "broken.json").write_text(text)
        assert ModelForms.load(tmp_path / "broken.json") is None


def forms_of_full_size() -> ModelForms:
    forms = shipped_forms(preset_named("i2vgen-xl"))
    assert forms is not None
    return forms


CARD = Plan.of(preset_named("i2vgen-xl").declared, "cuda:0", "fp16")
STREAMED = CARD.housed(Home.STREAMED).turned(FRAME_CHUNKS, 1).turned(PARKED_SKIPS, 1).turned(VAE_BANDS, 64)


def test_full_size_weights_are_counted_to_the_byte() -> None:
    found = forecast(request_of(), CARD, forms_of_full_size())
    assert found.stages["load"].weights_bytes == 2 * 2_489_183_951
    turns = forecast(request_of(), CARD.housed(Home.TURNS), forms_of_full_size())
    assert turns.stages["denoise"].weights_bytes == 2 * 1_420_469_224
    fp8 = forecast(request_of(), Plan.of(CARD.family, "cuda:0", "fp16", "fp8").housed(Home.TURNS), forms_of_full_size())
    assert fp8.stages["denoise"].weights_bytes == pytest.approx(1_420_934_384, rel=1e-3)


def test_every_step_down_the_usual_plans_takes_less() -> None:
    plans = [
        CARD,
        CARD.housed(Home.TURNS),
        CARD.housed(Home.TURNS).turned(FRAME_CHUNKS, 8),
        CARD.housed(Home.TURNS).turned(FRAME_CHUNKS, 2),
        CARD.housed(Home.STREAMED).turned(FRAME_CHUNKS, 2),
        CARD.housed(Home.STREAMED).turned(FRAME_CHUNKS, 2).turned(PARKED_SKIPS, 1),
    ]
    request = request_of(width=1024, height=1024, num_frames=32)
    peaks = [forecast(request, plan, forms_of_full_size()).stages["denoise"].tensor_bytes for plan in plans]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)


def test_the_aims_of_the_design_are_met_on_paper() -> None:
    """Total VRAM with overhead, in GB: resident denoiser, and streamed."""
    for width, frames, resident_gb, streamed_gb in ((512, 16, 3.4, 1.3), (768, 24, 4.2, 2.0), (1024, 32, 5.5, 3.2)):
        request = request_of(width=width, height=width, num_frames=frames)
        turns = forecast(
            request, CARD.housed(Home.TURNS).turned(FRAME_CHUNKS, 1).turned(VAE_BANDS, 64), forms_of_full_size()
        )
        streamed = forecast(request, STREAMED, forms_of_full_size())
        assert turns.tensor_bytes < resident_gb * 1e9 * 1.12
        assert streamed.tensor_bytes < streamed_gb * 1e9


def test_a_forecast_takes_milliseconds() -> None:
    forms = forms_of_full_size()
    request = request_of(num_frames=32)
    forecast(request, CARD.turned(FRAME_CHUNKS, 3), forms)
    began = time.perf_counter()
    for frames in range(1, 11):
        forecast(request, CARD.turned(FRAME_CHUNKS, frames), forms)
    assert (time.perf_counter() - began) / 10 < 0.1


def record(**values: Any) -> RunRecord:
    return RunRecord(
        **{
            "model": "i2vgen-xl", "device": "cuda:0", "compute": "fp16", "weights": "resident", "excess_bytes": 0,
            "operations": 1e15, "calls": 100, "pixels": 4_194_304, "load_s": 5.0, "encode_s": 1.0,
            "denoise_s": 100.0, "decode_s": 10.0,
        } | values
    )  # fmt: skip


def test_past_runs_correct_the_forecast() -> None:
    forms, request = forms_of_full_size(), request_of()
    before = forecast(request, CARD, forms)
    after = forecast(request, CARD, forms, Experience((record(excess_bytes=GIB),) * 3))
    assert after.tensor_bytes - before.tensor_bytes == pytest.approx(GIB, abs=GIB // 8)
    other = forecast(request, CARD, forms, Experience((record(model="motion", excess_bytes=GIB),)))
    assert other.tensor_bytes == before.tensor_bytes


def test_time_comes_from_past_runs_then_from_a_rate_then_is_unknown() -> None:
    forms, request = forms_of_full_size(), request_of()
    assert forecast(request, CARD, forms, Experience()).seconds is None
    guessed = forecast(request, CARD, forms, Experience(rates={"cuda:0 fp16": 1e14})).seconds
    assert guessed is not None
    assert guessed.source == "estimate"
    assert guessed.low_s < guessed.likely_s < guessed.high_s
    same = forecast(request, CARD, forms)
    known = record(operations=same.operations, pixels=same.pixels)
    seconds = forecast(request, CARD, forms, Experience((known, known))).seconds
    assert seconds is not None
    assert seconds.source == "runs"
    assert seconds.likely_s == pytest.approx(116, rel=0.01)
    double = forecast(request_of(num_inference_steps=100), CARD, forms, Experience((known, known))).seconds
    assert double is not None
    assert double.likely_s == pytest.approx(216, rel=0.02)


def test_products_are_products() -> None:
    assert product_value("1", {}) == 1
    assert product_value("F*A0*A0", {"F": 3, "A0": 5}) == 75
