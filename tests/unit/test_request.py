"""Requests: filled in from the preset, and refused with one sentence that names the field and the remedy."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from i2v.errors import GenerationError, I2VError, InputError, OutOfMemoryError
from i2v.presets.model_preset import load_presets, preset_named
from i2v.request import GenerationRequest, build_request, match_picture, parse_size

PHOTO = (451, 300)


def build(**values: Any) -> GenerationRequest:
    return build_request({"prompt": "the camera pans left", **values}, PHOTO)


def test_what_is_left_out_comes_from_the_preset() -> None:
    request, defaults = build(), preset_named("motion").defaults
    assert (request.model, request.num_frames, request.fps) == ("motion", defaults.num_frames, defaults.fps)
    assert min(request.width, request.height) == defaults.short_side_px


def test_size_follows_the_picture_within_a_multiple() -> None:
    request = build()
    assert request.width % 8 == request.height % 8 == 0
    assert abs(request.width / request.height - 451 / 300) < 8 / 512


@pytest.mark.parametrize("size", [(10_000, 20), (20, 10_000), (16, 16), (7000, 7000), (1, 1)])
def test_matched_size_is_always_allowed(size: tuple[int, int]) -> None:
    for preset in load_presets().values():
        width, height = match_picture(preset, *size)
        assert preset.side_px.contains(width)
        assert preset.side_px.contains(height)
        assert width * height <= preset.max_pixels * 1.1
        assert width % preset.rules.size_multiple == height % preset.rules.size_multiple == 0


def test_seeds_are_drawn_when_left_out() -> None:
    assert build().seed != build().seed


@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        ("width", {"width": 513, "height": 512}, "nearest is 512"),
        ("height", {"width": 512, "height": 515}, "nearest is 512"),
        ("width", {"width": 0, "height": 512}, "between"),
        ("width", {"width": -8, "height": 512}, "between"),
        ("height", {"width": 512, "height": 10**9}, "between"),
        ("width", {"width": 3840, "height": 3840}, "smaller size"),
        ("num_frames", {"num_frames": 0}, "between 2 and 240"),
        ("num_frames", {"num_frames": 241}, "not 241"),
        ("num_inference_steps", {"num_inference_steps": 0}, "steps must be"),
        ("num_inference_steps", {"num_inference_steps": 10_000}, "steps must be"),
        ("guidance_scale", {"guidance_scale": math.nan}, "guidance"),
        ("guidance_scale", {"guidance_scale": math.inf}, "guidance"),
        ("seed", {"seed": -1}, "between 0 and"),
        ("seed", {"seed": 2**63}, "between 0 and"),
        ("fps", {"fps": 0}, "fps must be"),
        ("model", {"model": "sora"}, "Known models: motion"),
        ("num_frames", {"num_frames": "many"}, "num_frames"),
        ("colour", {"colour": "red"}, "colour"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(field: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        build(**values)
    assert caught.value.field == field
    assert words.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_largest_seed_and_size_are_allowed() -> None:
    assert build(seed=2**63 - 1, width=3840, height=2160).seed == 2**63 - 1


def test_a_request_of_before_pictures_were_fitted_is_still_read() -> None:
    old = build().model_dump(mode="json", exclude={"image_fit"})
    assert GenerationRequest.model_validate_json(json.dumps(old)).image_fit == "crop"
    assert build(image_fit="fit").image_fit == "fit"
    with pytest.raises(InputError, match="Image_fit is not valid"):
        build(image_fit="stretch")


def test_only_a_model_that_can_makes_a_loop() -> None:
    assert build().loop is False
    assert build(loop=True).loop is True
    with pytest.raises(InputError, match=r"2vgen-xl cannot .* Models that can loop: motion\.") as caught:
        build(model="i2vgen-xl", loop=True)
    assert caught.value.field == "loop"
    assert build(model="i2vgen-xl", loop=False).loop is False


def test_a_request_stored_before_there_were_loops_is_still_read() -> None:
    stored = build(seed=7).model_dump(mode="json")
    del stored["loop"]
    assert GenerationRequest.model_validate_json(json.dumps(stored)) == build(seed=7)
    assert build_request(stored, PHOTO).loop is False


def test_request_survives_json() -> None:
    request = build(formats=["gif"], seed=7)
    assert GenerationRequest.model_validate_json(request.model_dump_json()) == request
    assert build_request(request.model_dump(mode="json"), PHOTO) == request


@pytest.mark.parametrize("text", ["512", "axb", "512x", "x", ""])
def test_malformed_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="WxH"):
        parse_size(text)


def test_sizes_are_read() -> None:
    assert parse_size("768x512") == parse_size("768X512") == (768, 512)


def test_errors_travel_as_json_and_keep_their_kind() -> None:
    error = OutOfMemoryError("the card is full", "Choose fewer frames.", field="num_frames")
    back = I2VError.from_dict(error.to_dict())
    assert type(back) is OutOfMemoryError
    assert str(back) == "The card is full. Choose fewer frames."
    assert back.field == "num_frames"
    assert isinstance(I2VError.from_dict({"kind": "Unheard", "message": "x"}), GenerationError)
