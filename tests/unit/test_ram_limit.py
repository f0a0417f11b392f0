"""--ram beside --vram: how much of main memory may be used, or is pretended, on every face and in both languages."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from i2v.cli.forecast import table_lines
from i2v.cli.main import main
from i2v.errors import InputError
from i2v.family import Role
from i2v.memory.forecast.tables import shipped_forms
from i2v.memory.ladder import Ladder
from i2v.memory.machine_now import GIB, Machine
from i2v.memory.plan import Masters, Plan
from i2v.memory.residency import Home
from i2v.presets.model_preset import load_presets, preset_named
from i2v.presets.saved import KEPT_FIELDS
from i2v.request import build_request
from i2v.rest.routes import add_rest
from i2v.service import Service
from i2v.settings import Settings
from i2v.ui.forecast_box import forecast_box, look_ahead
from i2v.ui.form_values import request_values
from i2v.ui.language import ENGLISH, languages
from i2v.ui.own_presets import _KEPT
from tests.unit.test_before_the_click import fields

CHINESE = languages()["zh-CN"]
CARD = Machine("cuda:0", "RTX 3060", (8, 6), 8 * GIB, 8 * GIB, 32 * GIB, 32 * GIB)
BAD = ["0", "-3", "nan", "inf", "-inf", "1e9"]


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    service = Service(Settings(home))
    yield service
    service.close()


def ladder_on(machine: Machine, **values: Any) -> Ladder:
    preset = preset_named("i2vgen-xl")
    forms = shipped_forms(preset)
    assert forms
    return Ladder(build_request({"model": preset.name, "prompt": ""} | values, (512, 512)), preset, forms, machine)


def too_much_gib() -> float:
    """Return more RAM than this machine has, and not more than any has."""
    return float(round(2 * Machine.detect().ram_total_bytes / GIB))


# What cannot be


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_main_memory_is_refused_at_its_field_by_page_rest_and_command_line(
    service: Service, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    box = look_ahead(service, fields(model="motion", guidance_scale=1.0, ram_gib=text), ENGLISH)
    assert box["state"] == "wrong"
    assert box["message"].startswith("The RAM must be a number of GiB above 0 and at most 16384, not ")
    app = FastAPI(openapi_url=None)
    add_rest(app, service, None)
    for name in ("ram_gib", "pretend_ram_gib"):
        answer = TestClient(app).get("/api/v1/forecast", params={name: text})
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "ram_gib"), name
    assert main(["forecast", f"--ram={text}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("i2v: The RAM must be a number of GiB above 0")


def test_words_in_the_field_are_refused_there() -> None:
    with pytest.raises(InputError, match="not a number of GiB") as refused:
        request_values(fields(prompt="x", ram_gib="lots"))
    assert refused.value.field == "ram_gib"
    assert request_values(fields(prompt="x", ram_gib=" 12,5 "))[0]["ram_gib"] == 12.5
    assert request_values(fields(prompt="x"))[0]["ram_gib"] is None


# More than there is


def test_more_than_there_is_is_said_by_page_rest_and_command_line(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    size, has = too_much_gib(), f"{Machine.detect().ram_total_bytes / GIB:.1f} GiB that this machine has"
    box = look_ahead(service, fields(model="motion", guidance_scale=1.0, ram_gib=f"{size}"), ENGLISH)
    assert box["notes"] == [f"Using at most {size:g} GiB of RAM, more than the {has}."]
    app = FastAPI(openapi_url=None)
    add_rest(app, service, None)
    web = TestClient(app)
    said = web.get("/api/v1/forecast", params={"ram_gib": size}).json()["notes"]
    assert said == [f"using at most {size:g} GiB of RAM, more than the {has}"]
    said = web.get("/api/v1/forecast", params={"pretend_ram_gib": size}).json()
    assert said["notes"] == [f"pretending {size:g} GiB of RAM, more than the {has}"]
    assert said["machine"]["ram_free_bytes"] == int(size * GIB)
    assert main(["forecast", "--ram", f"{size}"]) == 0
    assert f"note: pretending {size:g} GiB of RAM, more than the {has}" in capsys.readouterr().out


def test_a_pretended_machine_has_no_limits_of_this_one(service: Service) -> None:
    app = FastAPI(openapi_url=None)
    add_rest(app, service, None)
    web = TestClient(app)
    both = {"model": "i2vgen-xl", "pretend_vram_gib": 8, "pretend_ram_gib": 16}
    machine = web.get("/api/v1/forecast", params=both).json()["machine"]
    assert (machine["vram_total_bytes"], machine["ram_total_bytes"]) == (8 * GIB, 16 * GIB)
    mixed = web.get("/api/v1/forecast", params={"pretend_vram_gib": 8, "ram_gib": 16})
    assert (mixed.status_code, mixed.json()["error"]["field"]) == (422, "ram_gib")
    names = {
        one["name"] for one in web.get("/api/openapi.json").json()["paths"]["/api/v1/forecast"]["get"]["parameters"]
    }
    assert names >= {"pretend_ram_gib", "pretend_vram_gib", "ram_gib", "vram_gib"}


# Too little for any plan


def test_too_little_ram_for_any_plan_is_said_with_the_need_before_anything_is_loaded(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    box = forecast_box(ladder_on(CARD.limited(None, 0.5)), "clip")
    assert box["state"] == "too_big"
    assert re.search(r"needs \d+\.\d GiB of RAM but 0\.5 are free", box["message"])
    assert "GiB RAM free" in box["amount"]
    assert main(["forecast", "--model", "i2vgen-xl", "--vram", "8", "--ram", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "=>" not in said
    assert re.search(r"Nothing fits\. .*: needs \d+\.\d GiB of RAM but 0\.5 are free\.$", said.rstrip())
    app = FastAPI(openapi_url=None)
    add_rest(app, service, None)
    params = {"model": "i2vgen-xl", "pretend_vram_gib": 8, "pretend_ram_gib": 0.5}
    rungs = TestClient(app).get("/api/v1/forecast", params=params).json()["rungs"]
    assert not any(rung["fits"] for rung in rungs)
    assert all("GiB of RAM but 0.5 are free" in rung["reason"] for rung in rungs)


def test_a_job_for_which_no_plan_has_enough_ram_is_refused_before_it_is_queued(service: Service, photo: Path) -> None:
    with pytest.raises(InputError, match=r"GiB of RAM are free"):
        service.submit({"prompt": "pan left", "width": 512, "height": 512, "ram_gib": 0.3}, photo)
    assert service.count_jobs() == 0


def test_a_limit_that_a_person_set_is_lifted_by_one_click(service: Service) -> None:
    asked = fields(model="motion", guidance_scale=1.0, ram_gib="0.4")
    first = look_ahead(service, asked, ENGLISH)["suggestions"][0]
    assert first == {"words": "Use all that is free", "fields": {"ram_gib": ""}}
    both = look_ahead(service, asked | {"vram_gib": "0.4"}, ENGLISH)["suggestions"][0]
    assert both["fields"] == {"vram_gib": "", "ram_gib": ""}
    assert "suggestions" not in look_ahead(service, asked | first["fields"], ENGLISH)


# Kept, compared, reused


def test_a_saved_preset_keeps_the_limit() -> None:
    assert set(_KEPT) == KEPT_FIELDS
    assert "ram_gib" in KEPT_FIELDS


def test_a_limit_of_the_machine_is_not_reused_from_a_settings_file(tmp_path: Path) -> None:
    from i2v.cli.main import _read_settings

    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"request": {"prompt": "x", "seed": 3, "vram_gib": 4.0, "ram_gib": 8.0}}))
    assert _read_settings(path) == {"prompt": "x", "seed": 3}


# Words


def plans() -> Iterator[Plan]:
    """Yield plans in which every word that one can say is said."""
    for preset in load_presets().values():
        family = preset.declared
        plain = Plan.of(family, "cuda:0", "fp16")
        for home, keep, masters in itertools.product(Home, (0, 1, 7), Masters):
            plan = replace(plain.housed(home, keep), masters=masters)
            yield plan
            for knob, value in itertools.product(family.knobs, (1, 5)):
                yield plan.turned(knob, value)


def test_every_word_of_a_plan_is_translated() -> None:
    said = {part for plan in plans() for part in plan.words().split(", ")} - {"fp16"}
    assert {"1 block kept on the card", "7 blocks kept on the card", "weights read from disk"} <= said
    assert [part for part in sorted(said) if CHINESE.retell(part) == part] == []
    assert {role for preset in load_presets().values() for role in Role if preset.declared.of_role(role)} == set(Role)


def test_every_note_of_the_machine_is_translated_one_by_one() -> None:
    machines = [
        machine
        for vram, ram in itertools.product((None, 6.0, 999.0), (None, 16.0, 999.0))
        for machine in (CARD.limited(vram, ram), CARD.pretending(vram, ram))
    ]
    for machine in machines:
        english = forecast_box(ladder_on(machine), "clip")["notes"]
        chinese = forecast_box(ladder_on(machine), "clip", CHINESE)["notes"]
        assert len(english) == len(chinese) == len([note for note in machine.note.split("; ") if note])
        assert not any(note.startswith(("Using", "Pretending")) for note in chinese), chinese
        assert all(note.endswith(".") and ";" not in note for note in english)


# The table


def test_the_table_has_ram_beside_vram_for_every_rung_and_reserved_memory_where_it_is_foreseen() -> None:
    rows = [rung.to_dict() for rung in ladder_on(CARD.pretending(4.0, 4.0)).rungs]
    head, *lines = table_lines(rows)
    assert [title for title in head.split() if title != "reserved"][:3] == ["plan", "VRAM", "RAM"]
    told = " ".join(" ".join(lines).split())
    for row in rows:
        assert any(
            line[3:].startswith(row["name"]) and f"{row['peak_ram_bytes'] / GIB:5.2f} GiB" in line for line in lines
        )
        assert row["words"] in told
    assert "weights read from disk" in told
    assert "blocks kept on the card" in told
    assert max(map(len, [head, *lines])) <= 160
    table = table_lines([row | {"reserved_bytes": row["peak_vram_bytes"] + GIB} for row in rows])
    assert table[0].split()[1:4] == ["VRAM", "reserved", "RAM"]
    first = rows[0]["peak_vram_bytes"] / GIB
    assert f"{first:5.2f} GiB {first + 1:5.2f} GiB {rows[0]['peak_ram_bytes'] / GIB:5.2f} GiB" in table[1]
