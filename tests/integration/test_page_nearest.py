"""A model of 4k+1 frames and sides of 32 px in a real browser: what it cannot do is said, and mended by one click."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect

from i2v.presets.model_preset import CONFIG_FOLDER
from tests.integration import test_page as pages
from tests.integration.test_page_forecast import FITS, forecast_is, number

browser, page = pages.browser, pages.page  # the same fixtures as the other tests of the page

# The built-in model, as if its family had such rules.
PROGRAM = """
from dataclasses import replace
from pathlib import Path
from i2v.family import FrameRule, Rules
from i2v.models import motion
from i2v.presets import model_preset
motion.FAMILY = replace(motion.FAMILY, rules=Rules(size_multiple=32, frames=FrameRule(step=4), can_loop=True))
model_preset.CONFIG_FOLDER = Path({folder!r})
import app
raise SystemExit(app.main())
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pages.App]:
    folder = tmp_path_factory.mktemp("configs")
    (folder / "models").mkdir()
    shutil.copy(CONFIG_FOLDER / "tiers.yaml", folder)
    for path in (CONFIG_FOLDER / "models").glob("*.yaml"):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if values["family"] == "motion":
            values["defaults"]["num_frames"], values["draft"], values["best"] = 25, None, None
        (folder / "models" / path.name).write_text(yaml.safe_dump(values), encoding="utf-8")
    app = pages.App(tmp_path_factory.mktemp("nearest") / "home")
    app.program = ["-c", PROGRAM.format(folder=str(folder))]
    app.start()
    yield app
    app.stop()


def test_illegal_frames_are_said_offered_and_never_just_changed(page: Page, photo: Path) -> None:
    slider = page.locator("#frames input[type=range]")
    assert [slider.get_attribute(name) for name in ("min", "max", "step")] == ["5", "121", "4"]
    pages.fill(page, photo, "pan left")
    forecast_is(page, FITS)
    pages.set_number(page, "frames", 80)
    expect(page.locator("#forecast .message")).to_have_text(
        "The number of frames must be 4k+1 for motion, not 80. The nearest is 81."
    )
    offer = page.get_by_role("button", name="Use 81 frames")
    expect(offer).to_be_visible()
    assert number(page, "frames") == "80"
    page.locator("#generate").click()
    expect(pages.refusal(page, "frames")).to_contain_text("The nearest is 81")
    assert number(page, "frames") == "80"
    offer.click()
    forecast_is(page, FITS)
    assert number(page, "frames") == "81"
    expect(page.locator("#forecast")).to_contain_text("81 frames at 12 fps")
    expect(page.locator("#suggestions button")).to_have_count(0)


def test_illegal_sides_are_said_and_offered(page: Page) -> None:
    slider = page.locator("#short-side input[type=range]")
    assert [slider.get_attribute(name) for name in ("min", "max", "step")] == ["256", "1056", "32"]
    forecast_is(page, FITS)
    pages.set_number(page, "short-side", 500)
    expect(page.locator("#forecast .message")).to_contain_text("must be a multiple of 32, not 500. The nearest is 512.")
    page.get_by_role("button", name="Use 512 px").click()
    forecast_is(page, FITS)
    assert number(page, "short-side") == "512"
    page.locator("#match input").uncheck()
    pages.set_number(page, "width", 700)
    pages.set_number(page, "height", 333)
    expect(page.locator("#forecast .message")).to_contain_text("The nearest is 704")
    page.get_by_role("button", name="Use 704 × 320").click()
    forecast_is(page, FITS)
    assert (number(page, "width"), number(page, "height")) == ("704", "320")


def test_the_limit_of_ram_stands_beside_that_of_the_card(page: Page) -> None:
    forecast_is(page, FITS)
    page.locator("#advanced button").first.click()
    field = page.locator("#ram input, #ram textarea")
    expect(page.get_by_label("RAM: use at most (GiB)")).to_be_visible()
    vram, ram = page.locator("#vram").bounding_box(), page.locator("#ram").bounding_box()
    assert vram
    assert ram
    assert abs(vram["y"] - ram["y"]) < 2
    field.fill("-4")
    expect(page.locator("#forecast .message")).to_contain_text("The RAM must be a number of GiB above 0")
    field.fill("0.35")
    forecast_is(page, re.compile("too_big"))
    expect(page.locator("#forecast .notes")).to_contain_text("Using at most 0.35 GiB of RAM.")
    page.get_by_role("button", name="Use all that is free").click()
    forecast_is(page, FITS)
    expect(field).to_have_value("")


def test_the_documentation_shows_the_rule_of_the_frames(page: Page, app: pages.App) -> None:
    page.goto(f"{app.url}/api/docs")
    models = page.locator("#endpoints li").filter(has_text="GET /api/v1/models")
    expect(models).to_contain_text("Each of them: ModelAnswer")
    expect(models).to_contain_text("which numbers of frames there are, such as 4k+1; empty for any")
    expect(page.locator("#endpoints li").filter(has_text="/api/v1/forecast")).to_contain_text("pretend_ram_gib")
