"""What the page is given to show before the click: the forecast's box and the presets by card, as plain values."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from i2v.errors import InputError
from i2v.machine.devices import Gpu
from i2v.memory.forecast.experience import Seconds
from i2v.memory.forecast.tables import shipped_forms
from i2v.memory.ladder import Ladder
from i2v.memory.machine_now import GIB, Machine
from i2v.presets.model_preset import preset_named
from i2v.presets.tiers import load_tiers
from i2v.request import build_request
from i2v.service import Service
from i2v.settings import Settings
from i2v.ui.card_presets import card_presets, preset_values
from i2v.ui.forecast_box import MOST_SUGGESTIONS, forecast_box, time_words
from i2v.ui.form import Form
from i2v.ui.form_values import forecast_values, request_values, swapped_sides
from i2v.ui.framing import NO_PICTURE, frame_picture
from i2v.ui.language import ENGLISH
from i2v.ui.quality import quality_choice, quality_values

CPU = Machine("cpu", "the CPU", None, 0, 0, 64 * GIB, 60 * GIB)
CARD = replace(CPU, device="cuda:0", name="RTX 3060", capability=(8, 6), vram_total_bytes=12 * GIB)


def ladder_on(machine: Machine, free_gib: float, model: str = "i2vgen-xl", **values: Any) -> Ladder:
    free = "vram_free_bytes" if machine.kind == "cuda" else "ram_free_bytes"
    preset, forms = preset_named(model), shipped_forms(preset_named(model))
    assert forms
    request = build_request({"model": model, "prompt": ""} | values, (512, 512))
    return Ladder(request, preset, forms, replace(machine, **{free: int(free_gib * GIB)}))


def fields(**values: Any) -> dict[str, Any]:
    return {
        "image": None,
        "image_fit": "crop",
        "prompt": "",
        "model": "i2vgen-xl",
        "match_picture": True,
        "short_side_px": 512,
        "width": 768,
        "height": 512,
        "num_frames": 16,
        "fps": 16,
        "negative_prompt": "",
        "num_inference_steps": 50,
        "guidance_scale": 9.0,
        "seed": "",
        "formats": [],
        "chunk_frames": "",
        "vram_gib": "",
        "ram_gib": "",
        "precision": "auto",
        "loop": False,
    } | values


# The forecast's box


def test_the_box_says_fits_tight_or_will_not_fit_by_the_free_memory() -> None:
    peak = forecast_box(ladder_on(CARD, 12), "clip")
    assert (peak["state"], peak["limit"], peak["notes"]) == ("fits", 1.0, [])
    assert "VRAM free" in peak["amount"]
    assert "same result as whole" in peak["why"]
    chosen = ladder_on(CARD, 12).chosen
    assert chosen
    tight = (chosen.forecast.peak_vram_bytes + CARD.margin_bytes) / GIB + 0.01
    assert forecast_box(ladder_on(CARD, tight), "clip")["state"] == "tight"
    assert forecast_box(ladder_on(CARD, 0.6), "clip")["state"] == "too_big"


def test_without_a_card_the_box_is_about_ram() -> None:
    assert "RAM free" in forecast_box(ladder_on(CPU, 60, "motion"), "clip")["amount"]
    assert "VRAM" not in forecast_box(ladder_on(CPU, 60, "motion"), "clip")["amount"]


def test_the_box_names_ram_where_ram_is_what_lacks() -> None:
    box = forecast_box(ladder_on(replace(CARD, ram_free_bytes=GIB), 12), "clip")
    assert box["state"] == "too_big"
    assert "GiB RAM free" in box["amount"]


def test_nothing_fits_offers_settings_that_do() -> None:
    ladder = ladder_on(CPU, 13.5, num_frames=64, width=1024, height=1024, precision="fp32")
    box = forecast_box(ladder, "clip")
    assert box["state"] == "too_big"
    assert box["fill"] == 1.0 > box["limit"]
    offers = [offer["fields"] for offer in box["suggestions"]]
    assert 1 <= len(offers) <= MOST_SUGGESTIONS
    for offer in offers:
        settings = {k: v for k, v in offer.items() if k != "match_picture"}
        wanted = {"num_frames": 64, "width": 1024, "height": 1024, "precision": "fp32"} | settings
        assert ladder_on(CPU, 13.5, **wanted).chosen, offer
        assert ("width" in offer) == ("match_picture" in offer)


def test_an_approximate_precision_is_offered_but_never_chosen() -> None:
    ladder = ladder_on(CPU, 9, num_frames=2, width=64, height=64)
    assert ladder.chosen is None
    last = forecast_box(ladder, "clip")["suggestions"][-1]
    assert last["fields"] == {"precision": "fp8"}
    assert "approximate" in last["words"]
    taken = forecast_box(ladder_on(CPU, 9, num_frames=2, width=64, height=64, precision="fp8"), "clip")
    assert taken["plan"].endswith(", approximate")


@pytest.mark.parametrize(
    ("low", "high", "source", "words"),
    [
        (0.4, 0.9, "runs", "Takes 1 s (by earlier runs here)"),
        (1.2, 3.1, "runs", "Takes 1 to 4 s (by earlier runs here)"),
        (40, 130, "estimate", "Takes 40 s to 3 min (rough estimate)"),
        (19544, 117267, "estimate", "Takes 5 to 33 h (rough estimate)"),
    ],
)
def test_time_is_a_range_with_its_source(low: float, high: float, source: str, words: str) -> None:
    assert time_words(Seconds((low + high) / 2, low, high, source)) == words


def test_an_unknown_time_says_so() -> None:
    assert "not known yet" in time_words(None)


# The form's values


def test_a_forecast_needs_neither_prompt_nor_picture() -> None:
    values = forecast_values(fields())
    assert (values["width"], values["height"]) == (512, 512)
    assert forecast_values(fields(match_picture=False))["width"] == 768


def test_a_loop_is_asked_for_only_where_its_box_is_shown() -> None:
    assert request_values(fields(prompt="x", model="motion", loop=True))[0]["loop"] is True
    assert request_values(fields(prompt="x", model="i2vgen-xl", loop=True))[0]["loop"] is False


def test_empty_fields_leave_the_choice_to_i2v() -> None:
    values, _ = request_values(fields(prompt="x", chunk_frames=" ", vram_gib=""))
    assert (values["chunk_frames"], values["vram_gib"], values["precision"]) == (None, None, "auto")
    values, _ = request_values(fields(prompt="x", chunk_frames="4", vram_gib="7,5", precision="fp8"))
    assert (values["chunk_frames"], values["vram_gib"], values["precision"]) == (4, 7.5, "fp8")


@pytest.mark.parametrize(("field", "value"), [("chunk_frames", "four"), ("vram_gib", "lots")])
def test_what_is_no_number_is_refused_at_its_field(field: str, value: str) -> None:
    with pytest.raises(InputError) as refused:
        request_values(fields(prompt="x", **{field: value}))
    assert refused.value.field == field


def test_a_job_from_before_there_were_loops_fills_the_form(tmp_path: Path) -> None:
    async def laid_out(form: Form) -> None:  # within a loop, else Gradio opens one and leaves it open
        with gr.Blocks():
            for part in (
                form.picture,
                form.fit,
                form.prompt,
                form.model,
                form.size_and_length,
                form.more,
                form.advanced,
            ):
                part()

    service = Service(Settings(tmp_path))
    form = Form(service)
    asyncio.run(laid_out(form))
    service.close()
    asked = {"prompt": "zoom in", "num_frames": 9, "loop": True, "ram_gib": 12.5}
    stored = build_request(asked, (512, 512)).model_dump(mode="json")
    updates = form.reuse_updates(stored, None, ENGLISH)
    assert updates[form.fields["loop"]].value is True
    assert (updates[form.fields["vram_gib"]], updates[form.fields["ram_gib"]]) == ("", "12.5")
    del stored["loop"], stored["ram_gib"]
    updates = form.reuse_updates(stored, None, ENGLISH)
    assert updates[form.fields["ram_gib"]] == ""
    assert updates[form.fields["loop"]].value is False
    assert updates[form.fields["num_frames"]].value == 9


def test_approximate_precisions_are_named_so_and_the_one_the_environment_fixes_too(tmp_path: Path) -> None:
    service = Service(Settings(tmp_path / "home", precision="fp16"))
    choices = dict(Form(service).precision_choices(preset_named("i2vgen-xl")))
    service.close()
    assert choices["fp16, set by USE_FP16"] == "auto"
    assert {name for label, name in choices.items() if "approximate" in label} == {"fp8", "int8", "nf4"}
    assert choices["bf16"] == "bf16"


def test_swapped_sides_are_those_of_the_video_as_it_would_be() -> None:
    assert swapped_sides(fields(match_picture=False)) == {"match_picture": False, "width": 512, "height": 768}
    assert swapped_sides(fields(model="motion"))["width"] == 512


# The start image


@pytest.mark.parametrize(
    ("size", "video", "fit", "words", "warns"),
    [
        ((600, 400), (768, 512), "crop", "", False),
        ((800, 400), (512, 512), "crop", "50% of it is cut off, left and right.", False),
        ((400, 800), (512, 512), "crop", "50% of it is cut off, above and below.", False),
        ((800, 400), (512, 512), "fit", "The whole picture is seen; the rest is a blurred copy of it.", False),
        ((200, 100), (512, 512), "crop", "50% of it is cut off, left and right.", True),
        ((400, 400), (1024, 1024), "fit", "", True),
    ],
)
def test_what_becomes_of_a_picture_is_told(
    tmp_path: Path, size: tuple[int, int], video: tuple[int, int], fit: str, words: str, warns: bool
) -> None:
    Image.new("RGB", size, "teal").save(tmp_path / "picture.png")
    sides = {"match_picture": False, "width": video[0], "height": video[1]}
    image = str(tmp_path / "picture.png")
    told = frame_picture(fields(model="motion", image=image, image_fit=fit, **sides), ENGLISH)
    assert (told["picture"], told["video"]) == (list(size), list(video))
    assert (told["words"], told["differs"]) == (words, bool(words))
    assert bool(told["warning"]) == warns


def test_nothing_is_told_without_a_picture_or_of_a_false_one(tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("no picture")
    assert frame_picture(fields(), ENGLISH) == NO_PICTURE
    assert frame_picture(fields(image=str(tmp_path / "words.png")), ENGLISH) == NO_PICTURE


# Qualities


@pytest.mark.parametrize("model", ["motion", "i2vgen-xl"])
@pytest.mark.parametrize("name", ["draft", "defaults", "best"])
def test_a_quality_can_be_run_and_is_recognised_in_the_fields(model: str, name: str) -> None:
    values = quality_values(name, model)
    filled = fields(model=model, **values)
    assert quality_choice(filled, ENGLISH)["value"] == name
    assert quality_choice(filled | {"num_frames": 3}, ENGLISH)["value"] is None
    guided = preset_named(model).defaults.guidance_scale
    build_request({"prompt": "x"} | forecast_values(filled | {"guidance_scale": guided}), (512, 512))
    assert quality_values("other", model) == {}


# Presets by card


def gpu(gib: float, capability: tuple[int, int] = (8, 6)) -> Gpu:
    return Gpu(0, "a card", "570", int(gib * GIB), 0, capability=capability)


def test_only_models_with_presets_show_them_and_the_cards_own_is_marked() -> None:
    assert not card_presets(fields(model="motion"), gpu(24), ENGLISH)["visible"]
    shown = card_presets(fields(), gpu(16), ENGLISH)
    assert shown["visible"]
    assert [title for title, _ in shown["choices"] if "your card" in title] == ["Cards of 16 GB · your card"]
    assert not any("your card" in title for title, _ in card_presets(fields(), None, ENGLISH)["choices"])


def test_a_preset_is_recognised_in_the_fields_and_lost_when_one_is_changed() -> None:
    for tier in load_tiers():
        filled = fields(**preset_values(tier.title, "i2vgen-xl", gpu(24)))
        assert card_presets(filled, gpu(24), ENGLISH)["value"] == tier.title
        assert card_presets(filled, gpu(24), ENGLISH)["info"] == tier.note
        assert card_presets(filled | {"num_frames": 3}, gpu(24), ENGLISH)["value"] is None


def test_a_preset_takes_the_precision_that_the_card_can_do() -> None:
    largest = load_tiers()[-1].title
    assert preset_values(largest, "i2vgen-xl", gpu(24))["precision"] == "bf16"
    assert preset_values(largest, "i2vgen-xl", gpu(24, (7, 5)))["precision"] == "fp16"
    assert preset_values(largest, "motion", gpu(24)) == {}
