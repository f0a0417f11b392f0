"""What a person does with the form in a real browser: how the picture fits, qualities, own presets, other languages."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from i2v.presets.model_preset import preset_named
from tests.integration import test_page as pages

browser, page, app = pages.browser, pages.page, pages.app  # the same fixtures as the other tests of the page
SLOW_MS = pages.SLOW_MS
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture
def upright(tmp_path: Path) -> Path:
    path = tmp_path / "upright.png"
    Image.linear_gradient("L").resize((300, 400)).convert("RGB").save(path)
    return path


def number(page: Page, field: str) -> str:
    return page.locator(f"#{field} input[type=number]").input_value()


def give_picture(page: Page, path: Path) -> Locator:
    page.set_input_files("#picture input[type=file]", path)
    framing = page.locator("#framing")
    expect(framing).to_contain_text("Picture", timeout=SLOW_MS)
    return framing


def open_part(page: Page, part: str) -> None:
    page.locator(f"#{part} button").first.click()


def test_the_pictures_size_is_told_and_nothing_is_cut_while_the_video_follows_it(page: Page, photo: Path) -> None:
    framing = give_picture(page, photo)
    expect(framing).to_contain_text("Picture 451 × 300 px")
    expect(framing.locator(".stage")).to_be_hidden()
    expect(page.locator("#image-fit")).to_be_hidden()


def test_a_size_of_another_shape_shows_what_is_cut_and_offers_to_fit(page: Page, upright: Path) -> None:
    framing = give_picture(page, upright)
    page.locator("#match input").uncheck()
    pages.set_number(page, "width", 512)
    pages.set_number(page, "height", 512)
    expect(framing).to_contain_text("25% of it is cut off, above and below.", timeout=SLOW_MS)
    expect(framing.locator(".stage i")).to_be_visible()
    frame, stage = framing.locator(".stage i").bounding_box(), framing.locator(".stage").bounding_box()
    assert frame
    assert stage
    assert abs(frame["height"] / stage["height"] - 0.75) < 0.05
    page.get_by_label("Show the whole picture").check()
    expect(framing).to_contain_text("The whole picture is seen")
    expect(framing.locator(".stage .back")).to_be_visible()


@pytest.mark.slow
def test_a_picture_that_is_enlarged_much_is_warned_of(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (120, 80), "navy").save(tmp_path / "small.png")
    framing = give_picture(page, tmp_path / "small.png")
    expect(framing.locator(".warning")).to_contain_text("Enlarged 6.4 times")


@pytest.mark.slow
def test_the_sides_can_be_swapped(page: Page, photo: Path) -> None:
    give_picture(page, photo)
    page.locator("#swap").click()
    expect(page.locator("#width")).to_be_visible()
    assert (number(page, "width"), number(page, "height")) == ("512", "768")
    expect(page.locator("#forecast .clip")).to_contain_text("512 × 768 px", timeout=SLOW_MS)


def test_a_quality_fills_the_form_and_a_setting_by_hand_ends_it(page: Page) -> None:
    best = preset_named("motion").best
    assert best
    page.get_by_label("Best").click()
    expect(page.locator("#frames input[type=number]")).to_have_value(str(best.num_frames))
    assert number(page, "short-side") == str(best.short_side_px)
    pages.set_number(page, "frames", best.num_frames - 1)
    expect(page.locator("#quality input:checked")).to_have_count(0)
    page.get_by_label("Balanced").click()
    expect(page.locator("#frames input[type=number]")).to_have_value("24")


def test_own_presets_are_kept_over_a_reload_and_can_be_deleted(page: Page, app: pages.App) -> None:
    pages.set_number(page, "frames", 33)
    open_part(page, "own-presets")
    page.fill("#own-preset-name input, #own-preset-name textarea", "Long <b>walk</b>")
    page.locator("#own-preset-save").click()
    expect(page.locator("#own-preset input")).to_have_value("Long <b>walk</b>", timeout=SLOW_MS)
    page.reload()
    page.locator("#generate").wait_for()
    expect(page.locator("#frames input[type=number]")).to_have_value("24")
    open_part(page, "own-presets")
    page.locator("#own-preset input").click()
    page.get_by_role("option", name="Long <b>walk</b>").click()
    expect(page.locator("#frames input[type=number]")).to_have_value("33")
    page.locator("#own-preset-delete").click()
    expect(page.locator("#own-preset input")).to_have_value("")
    page.locator("#own-preset-save").click()
    expect(page.locator(".toast-body")).to_contain_text("name", timeout=SLOW_MS)


def test_a_video_dropped_on_the_page_brings_its_settings(page: Page, photo: Path, app: pages.App) -> None:
    pages.fill(page, photo, "the camera pans left, a video to drop")
    pages.set_number(page, "frames", 5)
    page.locator("#generate").click()
    expect(page.locator("#panel .state")).to_have_text("Done", timeout=SLOW_MS)
    newest = max((app.home / "jobs").glob("*/i2v-*.mp4"), key=lambda path: path.stat().st_mtime)
    page.goto("about:blank")
    page.goto(app.url)
    page.locator("#generate").wait_for()
    data = base64.b64encode(newest.read_bytes()).decode()
    page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], "found.mp4", { type: "video/mp4" }));
            document.querySelector("#panel").dispatchEvent(
                new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        data,
    )
    prompt = page.locator("#prompt textarea")
    expect(prompt).to_have_value("the camera pans left, a video to drop", timeout=SLOW_MS)
    expect(page.locator("#frames input[type=number]")).to_have_value("5")
    expect(page.locator("#picture img").first).to_be_visible()


def test_a_file_that_i2v_did_not_make_is_refused_in_a_sentence(page: Page, tmp_path: Path) -> None:
    (tmp_path / "other.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(2000))
    page.set_input_files("#settings input[type=file][accept*='.mp4']", tmp_path / "other.mp4")
    expect(page.locator(".toast-body")).to_contain_text("settings", timeout=SLOW_MS)


@pytest.fixture
def chinese(browser: Browser, app: pages.App) -> Iterator[Page]:
    context = browser.new_context(locale="zh-CN", viewport=pages.DESKTOP)
    page = context.new_page()
    page.set_default_timeout(SLOW_MS)
    page.goto(app.url)
    page.locator("#generate").wait_for()
    yield page
    context.close()


def test_a_chinese_browser_gets_the_page_in_chinese(chinese: Page, photo: Path) -> None:
    expect(chinese.locator("#generate")).to_have_text("生成")
    expect(chinese.locator("#forecast .verdict")).to_have_text(re.compile("放得下"), timeout=SLOW_MS)
    chinese.set_input_files("#picture input[type=file]", photo)
    expect(chinese.locator("#framing")).to_contain_text("图片 451 × 300 像素", timeout=SLOW_MS)
    for part in ("more", "advanced", "own-presets"):
        open_part(chinese, part)
    for label in chinese.locator("#settings label span, #settings [data-testid=block-info]").all():
        words = label.inner_text().strip()
        assert not words or CHINESE.search(words) or re.fullmatch(r"[\d.×]+|GIF|WebP|fp\d+|bf16", words), words
    for english in ("Generate", "Prompt", "Ready", "Examples", "Download", "History", "System"):
        assert english not in chinese.locator("main").inner_text()


def test_a_chinese_browser_gets_errors_in_chinese(chinese: Page) -> None:
    chinese.locator("#generate").click()
    expect(pages.refusal(chinese, "prompt")).to_contain_text("没有提示词")
    chinese.fill("#prompt textarea", "zoom in")
    chinese.locator("#generate").click()
    expect(pages.refusal(chinese, "picture")).to_contain_text("没有起始图片")
