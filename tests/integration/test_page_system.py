"""What a person does on the System tab in a real browser: models come, pause and go; the machine is told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from i2v.presets.model_preset import preset_named
from tests import fake_hub
from tests.integration import test_page as pages
from tests.small_checkpoint import save_small_checkpoint

browser = pages.browser
SLOW_MS = pages.SLOW_MS
NAME = "i2vgen-xl"
OPEN_SYSTEM = "i2v.tab(2)"
NewPage = Callable[..., Page]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fake_hub.FakeHub]:
    folder = save_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    (folder / "tokenizer" / "long.txt").write_bytes(b"long\n" * 600_000)  # several reads, so that it can be paused
    preset = preset_named(NAME)
    source = preset.hub
    assert source
    for part, architecture in preset.architecture.items():  # as large as the real one, so that nothing is traced
        config = folder / part / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | architecture))
    with pytest.MonkeyPatch.context() as patch, fake_hub.FakeHub(folder) as hub:
        patch.setattr(fake_hub, "COMMIT", source.revision)
        yield hub


@pytest.fixture(scope="module")
def app(hub: fake_hub.FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pages.App]:
    app = pages.App(tmp_path_factory.mktemp("system") / "home")
    app.environment = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1", "HF_TOKEN": ""}
    app.start()
    yield app
    app.stop()


@pytest.fixture
def new_page(browser: Browser, app: pages.App, hub: fake_hub.FakeHub) -> Iterator[NewPage]:
    contexts, errors = [], list[str]()
    hub.refuse, hub.seconds_per_block = None, 0.0

    def make(size: dict[str, int] = pages.DESKTOP, **options: str) -> Page:
        context = browser.new_context(viewport=size, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SLOW_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(app.url)
        page.locator("#generate").wait_for()
        return page

    yield make
    for context in contexts:
        context.close()
    assert errors == []


def card(page: Page, name: str = NAME) -> Locator:
    return page.locator(f"#models [data-name='{name}']")


def open_system(page: Page) -> Locator:
    page.evaluate(OPEN_SYSTEM)
    card(page).wait_for()
    return card(page)


def share(model: Locator) -> int:
    return int(model.get_by_role("progressbar").get_attribute("aria-valuenow") or 0)


@pytest.mark.slow
def test_the_first_visit_offers_both_ways_to_start_and_asks_only_once(new_page: NewPage) -> None:
    page = new_page()
    open_system(page)
    choice = page.locator("#models .choice")
    expect(choice).to_contain_text("To paint new motion, download I2VGen-XL (4.64 GiB, wants an NVIDIA card).")
    choice.get_by_role("button", name="Start with the built-in model").click()
    expect(page.locator("#generate")).to_be_visible()
    page.reload()
    page.locator("#generate").wait_for()
    open_system(page)
    expect(choice).to_be_hidden()


def test_models_say_what_they_are_and_whether_they_fit(new_page: NewPage) -> None:
    page = new_page(pages.PHONE)
    model = open_system(page)
    expect(model).to_contain_text("research and non-commercial use")
    expect(model.locator(".size, dl")).to_contain_text("4.64 GiB to download")
    expect(model.locator(".fits")).to_have_text(re.compile("Fits|Too large"), timeout=SLOW_MS)
    expect(card(page, "motion")).to_contain_text("Ships with i2v")
    expect(card(page, "motion").locator(".fits")).to_have_text(re.compile("Fits"), timeout=SLOW_MS)
    expect(card(page, "motion").get_by_role("button", name="Delete")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_model_is_downloaded_paused_used_and_deleted(new_page: NewPage, hub: fake_hub.FakeHub) -> None:
    hub.seconds_per_block = 0.004
    page = new_page()
    expect(page.locator("#model input")).to_have_value("Built-in motion")
    model = open_system(page)
    model.get_by_role("button", name="Download 4.64 GiB").click()
    expect(model.locator(".amount")).to_contain_text("a second", timeout=SLOW_MS)
    expect(model.get_by_role("progressbar")).to_have_accessible_name("Download of I2VGen-XL")
    assert " of " in (model.get_by_role("progressbar").get_attribute("aria-valuetext") or "")
    model.get_by_role("button", name="Pause").click()
    expect(model.locator(".amount")).to_contain_text("paused")
    done = share(model)
    assert 0 < done < 100
    page.reload()  # another tab, another day: it is still there, and as far as it was
    page.locator("#generate").wait_for()
    model = open_system(page)
    expect(model.locator(".amount")).to_contain_text("paused")
    assert share(model) >= done
    hub.seconds_per_block = 0.0
    model.get_by_role("button", name="Resume").click()
    expect(model.locator(".where")).to_have_text("Downloaded", timeout=SLOW_MS)
    model.get_by_role("button", name="Use this model").click()
    expect(page.locator("#model input")).to_have_value("I2VGen-XL", timeout=SLOW_MS)
    expect(page.locator("#frames input[type=number]")).to_have_value("16")
    open_system(page)
    model.get_by_role("button", name="Delete").click()
    really = model.get_by_role("button", name="Really delete")
    expect(really).to_be_visible()
    expect(really).to_be_hidden(timeout=8000)  # who does not answer does not want it
    model.get_by_role("button", name="Delete").click()
    really.click()
    expect(model.locator(".where")).to_have_text("Not downloaded")
    page.evaluate("i2v.tab(0)")
    expect(page.locator("#model input")).to_have_value("I2VGen-XL (not downloaded)", timeout=SLOW_MS)


@pytest.mark.slow
def test_a_download_that_fails_says_why_and_is_tried_again(new_page: NewPage, hub: fake_hub.FakeHub) -> None:
    hub.refuse = (503, "")
    page = new_page(locale="zh-CN")
    model = open_system(page)
    expect(page.locator("#models .heading")).to_have_text("模型")
    model.get_by_role("button", name="下载").click()
    expect(model.get_by_role("alert")).to_contain_text("请求 ali-vilab/i2vgen-xl 被拒绝（HTTP 503）。", timeout=SLOW_MS)
    hub.refuse = None
    model.get_by_role("button", name="重试").click()
    expect(model.locator(".where")).to_have_text("已下载", timeout=SLOW_MS)
    model.get_by_role("button", name="删除").click()
    model.get_by_role("button", name="确定删除").click()
    expect(model.locator(".where")).to_have_text("未下载")


@pytest.mark.slow
def test_another_part_of_the_page_can_ask_for_a_model(new_page: NewPage, hub: fake_hub.FakeHub) -> None:
    hub.seconds_per_block = 0.004
    page = new_page()
    page.evaluate(f"i2v.fetchModel('{NAME}')")
    expect(card(page).get_by_role("button", name="Pause")).to_be_visible(timeout=SLOW_MS)
    card(page).get_by_role("button", name="Pause").click()
    delete = card(page).get_by_role("button", name="delete")
    delete.click()
    delete.click()
    expect(card(page).locator(".where")).to_have_text("Not downloaded")
    expect(card(page).get_by_role("button", name="Download")).to_be_visible(timeout=SLOW_MS)


def test_the_machine_is_told_and_a_report_of_it_copied(browser: Browser, new_page: NewPage, app: pages.App) -> None:
    page = new_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_system(page)
    machine = page.locator("#system")
    expect(machine.get_by_role("meter", name="Main memory")).to_have_attribute(
        "aria-valuetext", re.compile(r"of .* used, .* free")
    )
    expect(machine).to_contain_text("gradio")
    machine.get_by_text("Last lines of the log").click()
    expect(machine.locator("pre")).not_to_be_empty()
    machine.get_by_role("button", name="Copy report").click()
    expect(machine.get_by_role("status")).to_contain_text("Copied.")
    report = page.evaluate("navigator.clipboard.readText()")
    assert "Versions:" in report
    assert "i2vgen-xl: not installed" in report


@pytest.mark.slow
def test_without_a_clipboard_the_report_is_there_to_be_copied_by_hand(new_page: NewPage) -> None:
    page = new_page()
    page.evaluate(
        "() => { document.execCommand = () => false; navigator.clipboard.writeText = () => Promise.reject(); }"
    )
    open_system(page)
    page.get_by_role("button", name="Copy report").click()
    expect(page.get_by_role("textbox", name="Report")).to_have_value(re.compile("Versions:"))


@pytest.mark.slow
def test_the_workers_model_is_told_and_unloaded(new_page: NewPage, photo: Path) -> None:
    page = new_page()
    pages.fill(page, photo, "zoom in")
    pages.set_number(page, "frames", 4)
    page.locator("#generate").click()
    expect(page.locator("#panel .state")).to_have_text("Done", timeout=SLOW_MS)
    open_system(page)
    machine = page.locator("#system")
    expect(machine.locator(".holds")).to_contain_text("Built-in motion is loaded", timeout=SLOW_MS)
    machine.get_by_role("button", name="Unload model").click()
    expect(machine.get_by_role("status")).to_contain_text("The model is unloaded", timeout=SLOW_MS)
    expect(machine.locator(".holds")).to_have_text("No model is loaded.")
    expect(machine.get_by_role("button", name="Unload model")).to_be_hidden()


@pytest.mark.slow
def test_nothing_is_asked_of_the_server_while_the_tab_is_not_seen(new_page: NewPage) -> None:
    page = new_page()
    open_system(page)
    page.wait_for_timeout(500)
    page.evaluate("i2v.tab(0)")
    page.wait_for_timeout(500)
    asked: list[str] = []
    page.on(
        "request", lambda request: asked.append(request.post_data or "") if "component_server" in request.url else None
    )
    page.wait_for_timeout(5500)  # longer than any of its pauses
    assert [body for body in asked if '"machine"' in body or '"models"' in body or '"log"' in body] == []
