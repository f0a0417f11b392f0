"""Values that a family cannot do: the nearest legal ones are named and offered on every face, and never just taken."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient

from i2v.cli.main import main
from i2v.errors import GenerationError, I2VError, InputError, StorageError
from i2v.family import FrameRule, Rules
from i2v.models import motion
from i2v.presets import model_preset
from i2v.presets.model_preset import CONFIG_FOLDER, declared_family, load_presets, preset_named
from i2v.request import GenerationRequest, build_request, match_picture, nearest_size
from i2v.rest.routes import add_rest
from i2v.service import Service
from i2v.settings import Settings
from i2v.ui.forecast_box import look_ahead, nearest_offers
from i2v.ui.form_limits import frames_extent, short_side_extent
from i2v.ui.form_values import forecast_values
from i2v.ui.handlers import Wish
from i2v.ui.language import ENGLISH, languages
from tests.unit.test_before_the_click import fields

RULES = {
    "four": Rules(size_multiple=32, frames=FrameRule(step=4)),
    "eight": Rules(size_multiple=16, frames=FrameRule(step=8, first=9)),
    "fixed": Rules(size_multiple=16, sizes=((832, 480), (480, 832), (1280, 720), (720, 1280))),
}


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Besides the shipped models one of 4k+1 frames, one of 8k+1 from 9 on, and one of fixed sizes."""
    built_in = yaml.safe_load((CONFIG_FOLDER / "models" / "motion.yaml").read_text(encoding="utf-8"))
    frames = {"num_frames": {"low": 2, "high": 123}, "draft": None, "best": None}
    for name, rules in RULES.items():
        family = replace(motion.FAMILY, name=name, rules=rules)
        monkeypatch.setitem(sys.modules, f"i2v.models.{name}", SimpleNamespace(FAMILY=family))
        preset = built_in | frames | {"name": name, "title": name, "family": name, "max_pixels": 1280 * 720}
        preset["defaults"] = built_in["defaults"] | {"num_frames": 25, "short_side_px": 480}
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / f"{name}.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    (tmp_path / "models" / "motion.yaml").write_text(yaml.safe_dump(built_in), encoding="utf-8")
    monkeypatch.setattr(model_preset, "CONFIG_FOLDER", tmp_path)
    for cache in (declared_family, load_presets):
        cache.cache_clear()
    yield
    for cache in (declared_family, load_presets):
        cache.cache_clear()


def build(**values: Any) -> GenerationRequest:
    return build_request({"prompt": "x"} | values, (600, 400))


def refused(**values: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        build(**values)
    return caught.value


# The request


@pytest.mark.parametrize(
    ("model", "count", "nearest"),
    [
        ("four", 80, 81),
        ("four", 79, 77),  # the smaller of two
        ("four", 2, 5),  # 1 is nearer, but fewer than the model makes
        ("four", 0, 5),
        ("four", 122, 121),
        ("four", 900, 121),
        ("eight", 8, 9),
        ("eight", 24, 25),
        ("motion", 241, 240),
        ("motion", -3, 2),
    ],
)
def test_the_nearest_number_of_frames_is_named_and_can_be_asked_for(model: str, count: int, nearest: int) -> None:
    error = refused(model=model, num_frames=count)
    assert (error.field, error.nearest) == ("num_frames", {"num_frames": nearest})
    assert error.remedy == f"The nearest is {nearest}."
    assert build(model=model, num_frames=nearest).num_frames == nearest


@pytest.mark.parametrize(
    ("model", "size", "nearest"),
    [
        ("motion", (513, 515), (512, 512)),
        ("motion", (513, 512), (512, 512)),
        ("motion", (0, 10**400), (64, 3840)),
        ("four", (500, 500), (512, 512)),
        ("four", (1300, 1300), (960, 960)),  # too many pixels
        ("fixed", (830, 480), (832, 480)),
        ("fixed", (512, 512), (832, 480)),
        ("fixed", (600, 1000), (480, 832)),
        ("fixed", (1280, 704), (1280, 720)),
        ("fixed", (0, -5), (832, 480)),
    ],
)
def test_the_nearest_size_is_named_for_both_sides_and_can_be_asked_for(
    model: str, size: tuple[int, int], nearest: tuple[int, int]
) -> None:
    error = refused(model=model, width=size[0], height=size[1])
    assert (error.nearest["width"], error.nearest["height"]) == nearest
    assert error.field in ("width", "height")
    request = build(model=model, width=nearest[0], height=nearest[1])
    assert (request.width, request.height) == nearest


@pytest.mark.parametrize("model", ["motion", "four", "eight", "fixed"])
def test_a_size_that_follows_a_picture_is_legal_whatever_its_shape_and_short_side(model: str) -> None:
    preset = preset_named(model)
    for width in range(40, 4000, 333):
        for height in range(40, 4000, 333):
            for short in (None, 64, 480, 500, 1080, 3000):
                size = match_picture(preset, width, height, short)
                build(model=model, width=size[0], height=size[1])
                assert tuple(nearest_size(preset, *size).values()) == size


def test_the_short_side_says_which_of_the_fixed_sizes_a_picture_gets() -> None:
    preset = preset_named("fixed")
    assert match_picture(preset, 1920, 1080) == match_picture(preset, 1920, 1080, 480) == (832, 480)
    assert match_picture(preset, 1920, 1080, 720) == (1280, 720)
    assert match_picture(preset, 300, 400, 720) == (720, 1280)


def test_a_family_whose_every_number_is_legal_has_only_bounds() -> None:
    assert refused(model="motion", fps=61).nearest == {"fps": 60}
    assert refused(model="motion", num_inference_steps=0).nearest == {"num_inference_steps": 1}
    assert refused(model="motion", guidance_scale=9.0).nearest == {}


# The error on its way


def test_the_nearest_values_travel_with_the_error() -> None:
    error = refused(model="four", num_frames=80)
    back = I2VError.from_dict(json.loads(json.dumps(error.to_dict())))
    assert isinstance(back, InputError)
    assert (str(back), back.nearest, back.field) == (str(error), {"num_frames": 81}, "num_frames")


@pytest.mark.parametrize("kind", [InputError, StorageError, GenerationError])
def test_an_error_stored_before_there_were_nearest_values_is_still_read(kind: type[I2VError]) -> None:
    back = I2VError.from_dict({"kind": kind.__name__, "message": "x", "remedy": "y", "field": "z"})
    assert type(back) is kind
    assert (back.message, back.remedy, back.field) == ("x", "y", "z")
    assert I2VError.from_dict(back.to_dict()).to_dict() == back.to_dict()


# The page


def test_the_box_offers_the_nearest_frames_and_leaves_the_field_alone(tmp_path: Path) -> None:
    asked = fields(model="four", num_frames=80, guidance_scale=1.0)
    service = Service(Settings(tmp_path / "home"))
    box, chinese = (look_ahead(service, asked, language) for language in languages().values())
    service.close()
    assert (box["state"], asked["num_frames"]) == ("wrong", 80)
    assert box["message"] == "The number of frames must be 4k+1 for four, not 80. The nearest is 81."
    assert box["suggestions"] == [{"words": "Use 81 frames", "fields": {"num_frames": 81}}]
    assert chinese["message"] == "four 的帧数须为 4k+1，不能是 80。最接近的是 81。"
    assert chinese["suggestions"][0]["words"] == "改用 81 帧"


def test_the_box_offers_the_nearest_size_and_that_it_no_longer_follows_the_picture(tmp_path: Path) -> None:
    asked = fields(model="four", num_frames=25, guidance_scale=1.0, match_picture=False, width=513, height=700)
    service = Service(Settings(tmp_path / "home"))
    (offer,) = look_ahead(service, asked, ENGLISH)["suggestions"]
    service.close()
    assert offer["words"] == "Use 512 × 704"
    assert offer["fields"] == {"match_picture": False, "width": 512, "height": 704}
    assert forecast_values(asked | offer["fields"])["height"] == 704


def test_a_short_side_that_is_no_multiple_is_refused_and_not_rounded() -> None:
    with pytest.raises(InputError) as caught:
        forecast_values(fields(model="four", short_side_px=500))
    assert str(caught.value) == "The short side must be a multiple of 32, not 500. The nearest is 512."
    (offer,) = nearest_offers(caught.value, ENGLISH)
    assert offer == {"words": "Use 512 px", "fields": {"short_side_px": 512}}
    assert forecast_values(fields(model="fixed", short_side_px=500))["width"] == 832  # it only says which of them


@pytest.mark.parametrize("field", ["num_frames", "fps", "num_inference_steps", "short_side_px"])
def test_a_number_that_is_not_whole_is_refused_and_not_cut(field: str) -> None:
    with pytest.raises(InputError, match="is not a whole number") as caught:
        forecast_values(fields(model="motion", **{field: 80.5}))
    assert caught.value.field == field
    assert forecast_values(fields(model="motion", num_frames=80.0))["num_frames"] == 80


def test_every_offer_can_be_taken_by_the_card_of_a_failed_job() -> None:
    for wrong in ({"num_frames": 80}, {"width": 1, "height": 1}, {"fps": 0}, {"num_inference_steps": 0}):
        (offer,) = nearest_offers(refused(model="four", **wrong), ENGLISH)
        taken = Wish.model_validate({"do": "refill", "fields": offer["fields"]}).fields.model_dump(exclude_none=True)
        assert taken == offer["fields"]
    assert nearest_offers(refused(model="motion", guidance_scale=9.0), ENGLISH) == []
    assert nearest_offers(GenerationError("x"), ENGLISH) == []


@pytest.mark.parametrize(
    ("model", "frames", "sides"),
    [
        ("motion", (2, 120, 1), (256, 1080, 8)),
        ("four", (5, 121, 4), (256, 1056, 32)),
        ("eight", (9, 121, 8), (256, 1072, 16)),
        ("fixed", (2, 120, 1), (256, 1080, 1)),
    ],
)
def test_sliders_go_in_the_steps_of_the_family(model: str, frames: tuple[int, ...], sides: tuple[int, ...]) -> None:
    preset = preset_named(model)
    assert tuple(frames_extent(preset).values()) == frames
    assert tuple(short_side_extent(preset).values()) == sides
    build(model=model, num_frames=frames_extent(preset, preset.num_frames.high)["maximum"])


def test_a_slider_reaches_what_is_filled_in() -> None:
    preset = preset_named("motion")
    assert frames_extent(preset, 200)["maximum"] == 200
    assert frames_extent(preset, 900)["maximum"] == 240
    small = preset.model_copy(update={"side_px": preset.side_px.model_copy(update={"low": 16, "high": 64})})
    small = small.model_copy(
        update={"defaults": small.defaults.model_copy(update={"short_side_px": 32}), "draft": None, "best": None}
    )
    assert short_side_extent(small) == {"minimum": 32, "maximum": 32, "step": 8}


# Other programs, and the command line


def test_rest_answers_the_nearest_values_and_the_rule(tmp_path: Path) -> None:
    service, app = Service(Settings(tmp_path / "home")), FastAPI(openapi_url=None)
    add_rest(app, service, None)
    web = TestClient(app)
    answer = web.get("/api/v1/forecast", params={"model": "four", "num_frames": 80})
    rules = {model["name"]: model["frame_rule"] for model in web.get("/api/v1/models").json()["models"]}
    sizes = {model["name"]: model["sizes"] for model in web.get("/api/v1/models").json()["models"]}
    schema = web.get("/api/openapi.json").json()["components"]["schemas"]
    service.close()
    assert answer.status_code == 422
    assert answer.json()["error"]["nearest"] == {"num_frames": 81}
    assert rules == {"motion": "", "four": "4k+1", "eight": "8k+1", "fixed": ""}
    assert sizes["fixed"] == [[832, 480], [480, 832], [1280, 720], [720, 1280]]
    assert "4k+1" in schema["ModelAnswer"]["properties"]["frame_rule"]["description"]
    assert "nearest" in schema["ErrorBody"]["properties"]


@pytest.mark.parametrize(
    ("flags", "copied"),
    [
        (("--model", "four", "--frames", "80"), "(--frames 81)"),
        (("--model", "four", "--size", "500x500"), "(--size 512x512)"),
        (("--model", "fixed", "--size", "830x480"), "(--size 832x480)"),
        (("--model", "motion", "--steps", "0"), "(--steps 1)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_command_line_gives_a_flag_to_copy(
    home: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], copied: str
) -> None:
    assert main(["forecast", *flags]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.endswith(f" {copied}")


def test_an_error_without_a_nearest_value_gives_no_flag(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", "--model", "motion", "--guidance", "99"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("not 99.0.")
