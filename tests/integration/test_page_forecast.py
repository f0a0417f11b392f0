"""What the page says before the click, in a real browser: forecast, presets by card, unknown words; and examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from i2v.memory.machine_now import GIB, Machine
from i2v.presets.model_preset import preset_named
from i2v.ui.example_gallery import load_gallery
from tests.integration import test_page as pages

browser, page = pages.browser, pages.page  # the same fixtures as the other tests of the page
SLOW_MS = pages.SLOW_MS
KNOWN = re.compile("fits|tight|too_big")
FITS = re.compile("fits|tight")
WATCH_THE_NOTE = """() => {
    const note = document.querySelector("#prompt-note [aria-live=polite]");
    window.said = [];
    new MutationObserver(() => window.said.push(note.textContent)).observe(note, {childList: true});
}"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pages.App]:
    app = pages.App(tmp_path_factory.mktemp("forecast") / "home")
    app.environment["CHUNK_SIZE"] = "3"
    app.start()
    yield app
    app.stop()


def forecast_is(page: Page, state: re.Pattern[str]) -> None:
    """Wait for it; a model whose memory is not known yet is traced first."""
    expect(page.locator(".i2v-forecast")).to_have_attribute("data-state", state, timeout=SLOW_MS)


def choose_model(page: Page, title: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=title).click()


def number(page: Page, field: str) -> str:
    return page.locator(f"#{field} input[type=number]").input_value()


def test_the_forecast_stands_there_before_the_click_and_follows_the_settings(page: Page, photo: Path) -> None:
    forecast_is(page, FITS)
    box = page.locator("#forecast")
    expect(box).to_contain_text(re.compile(r"Peak \d+\.\d\d GiB of \d+\.\d GiB V?RAM free"))
    expect(box.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"Fits.*: Peak \d"))
    expect(box.locator(".plan")).to_contain_text("Plan: ")
    box.locator("summary").click()
    expect(box.locator(".why")).to_contain_text("kept spare")
    page.set_input_files("#picture input[type=file]", photo)
    expect(box).to_contain_text("768 × 512 px · 24 frames at 12 fps = 2.0 s")
    pages.set_number(page, "frames", 120)
    expect(box).to_contain_text("120 frames at 12 fps = 10.0 s")
    before = box.locator(".amount").inner_text()
    pages.set_number(page, "short-side", 1080)
    expect(box.locator(".amount")).not_to_have_text(before)
    assert page.locator("#suggestion-0").count() == 0


def test_settings_that_cannot_be_say_so_in_the_same_place(page: Page) -> None:
    forecast_is(page, KNOWN)
    page.locator("#match input").uncheck()
    pages.set_number(page, "width", 513)
    expect(page.locator("#forecast .message")).to_contain_text("nearest is 512")
    page.locator("#advanced button").first.click()
    pages.set_number(page, "width", 512)
    page.locator("#vram input, #vram textarea").fill("lots")
    expect(page.locator("#forecast .message")).to_contain_text("not a number of GiB")
    page.locator("#generate").click()
    expect(pages.refusal(page, "vram")).to_contain_text("not a number of GiB")


def test_what_does_not_fit_is_made_to_fit_by_one_click(page: Page, photo: Path) -> None:
    machine = Machine.detect()
    budget = 1.6 if machine.kind == "cuda" else machine.limited(1.0).margin_bytes / GIB + 0.75
    pages.fill(page, photo, "pan left")
    page.locator("#advanced button").first.click()
    page.locator("#vram input, #vram textarea").fill(f"{budget:.2f}")
    page.locator("#match input").uncheck()
    pages.set_number(page, "width", 3840)
    pages.set_number(page, "height", 2160)
    forecast_is(page, re.compile("too_big"))
    expect(page.locator("#forecast")).to_contain_text("Will not fit")
    expect(page.locator("#forecast .message")).to_contain_text("would take")
    page.locator("#generate").click()
    expect(page.get_by_role("alert").filter(has_text="does not fit")).to_be_visible(timeout=SLOW_MS)
    offer = page.locator("#suggestions button").filter(has_text=re.compile(r"\d"))
    width, height = re.findall(r"\d+", offer.inner_text())
    offer.click()
    forecast_is(page, FITS)
    assert (number(page, "width"), number(page, "height")) == (width, height)
    expect(page.locator("#suggestions button")).to_have_count(0)
    pages.set_number(page, "width", 3840)
    pages.set_number(page, "height", 2160)
    forecast_is(page, re.compile("too_big"))
    page.get_by_role("button", name="Use all that is free").click()
    forecast_is(page, FITS)
    expect(page.locator("#vram input, #vram textarea")).to_have_value("")


def test_presets_by_card_fill_the_fields_of_the_model_that_has_them(page: Page) -> None:
    forecast_is(page, KNOWN)
    presets = page.locator("#card-presets")
    expect(presets).to_have_count(0)
    choose_model(page, "I2VGen-XL")
    expect(presets).to_be_visible()
    presets.get_by_text("Cards of 16 GB").click()
    expect(page.locator("#forecast")).to_contain_text("768 × 768 px")
    expect(presets).to_contain_text("768 px, 16 frames, 50 steps")
    page.locator("#more button").first.click()
    page.locator("#advanced button").first.click()
    assert [number(page, field) for field in ("short-side", "frames", "steps")] == ["768", "16", "50"]
    expect(page.locator("#chunk input, #chunk textarea")).to_have_value("6")
    expect(page.locator("#precision input")).to_have_value("fp16")
    pages.set_number(page, "frames", 20)
    expect(presets.locator("input:checked")).to_have_count(0)
    choose_model(page, "Built-in motion")
    expect(presets).to_have_count(0)
    chunk = page.locator("#chunk input, #chunk textarea")
    expect(chunk).to_have_value("")
    expect(chunk).to_have_attribute("placeholder", "3, set by CHUNK_SIZE")


def test_unknown_words_are_named_below_the_prompt_but_not_while_they_are_typed(page: Page) -> None:
    note = page.locator("#prompt-note [aria-live=polite]")
    page.evaluate(WATCH_THE_NOTE)
    page.locator("#prompt textarea").press_sequentially("the camera pans left")
    page.fill("#prompt textarea", "the camera pans left, a unicorn smiles")
    expect(note).to_have_text("Not known to this model, so without effect: unicorn, smiles.", timeout=SLOW_MS)
    assert len(page.evaluate("window.said")) == 1  # "the cam" asked for nothing yet
    page.fill("#prompt textarea", "a unicorn")
    expect(note).to_have_text(preset_named("motion").nothing_known, timeout=SLOW_MS)
    choose_model(page, "I2VGen-XL")
    expect(note).to_be_empty(timeout=SLOW_MS)


def test_an_example_makes_a_video_with_its_peak_beside_the_forecast_and_settings_that_come_back(page: Page) -> None:
    examples = load_gallery().examples
    looped = next(number for number, example in enumerate(examples) if example.loop and example.num_frames)
    cards = page.locator("#gallery button")
    expect(cards).to_have_count(len(examples))
    cards.nth(looped).click()
    expect(page.locator("#prompt textarea")).to_have_value(examples[looped].prompt)
    expect(page.locator("#frames input[type=number]")).to_have_value(str(examples[looped].num_frames))
    expect(page.locator("#loop input")).to_be_checked()
    expect(page.locator("#picture img").first).to_be_visible()
    pages.set_number(page, "frames", 4)
    page.locator("#generate").click()
    expect(page.locator("#panel .state")).to_have_text("Done", timeout=SLOW_MS)
    side_by_side = re.compile(r"peak \d+\.\d\d of \d+\.\d\d GiB foreseen")
    expect(page.locator("#panel .memory figcaption")).to_contain_text(side_by_side)
    expect(page.locator("#result .facts")).to_contain_text(side_by_side)
    expect(page.locator("#result .facts li")).to_contain_text(["4 frames at 12 fps", "loop"])
    expect(page.locator("#result .facts")).to_contain_text("weights resident")
    expect(page.locator("#forecast .time")).to_contain_text("by earlier runs here", timeout=SLOW_MS)
    expect(page.locator("#model")).to_contain_text(preset_named("motion").summary)
    choose_model(page, "I2VGen-XL")
    expect(page.locator("#loop")).to_have_count(0)
    expect(page.locator("#model")).to_contain_text(preset_named("i2vgen-xl").summary)
    page.locator("#result .reuse").click()
    expect(page.locator("#loop input")).to_be_checked()
    assert number(page, "frames") == "4"
