"""Everybody can use the page: axe-core finds nothing serious, targets can be touched, one heading leads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.integration import test_page as pages

browser, app = pages.browser, pages.app
SLOW_MS = pages.SLOW_MS
# What Gradio itself does, by rule: none of it can be changed from outside without patching it.
GRADIOS_OWN = {
    "aria-allowed-role": "the tab panel's and the upload area's",
}
SCHEMES = [
    ("light", pages.DESKTOP),
    pytest.param("dark", pages.PHONE, marks=pytest.mark.slow),
    pytest.param("dark", pages.DESKTOP, marks=pytest.mark.slow),
    pytest.param("light", pages.PHONE, marks=pytest.mark.slow),
]


def findings(page: Page) -> list[str]:
    """Return the serious and critical findings outside of Gradio's own, each with the elements it is about."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    bad = [one for one in found if one["impact"] in ("serious", "critical") and one["id"] not in GRADIOS_OWN]
    return [f"{one['id']}: {[node['html'][:200] for node in one['nodes'][:3]]}" for one in bad]


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.wait_for_timeout(800)


@pytest.mark.parametrize(("scheme", "size"), SCHEMES, ids=lambda value: str(value)[:12])
def test_axe_finds_nothing_serious_from_empty_to_done(
    browser: Browser, app: pages.App, photo: Path, scheme: str, size: dict[str, int]
) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(SLOW_MS)
    page.goto(app.url)
    page.locator("#generate").wait_for()
    page.wait_for_timeout(1000)
    assert findings(page) == [], "empty"
    pages.fill(page, photo, "zoom in")
    pages.set_number(page, "frames", 6)
    page.locator("#generate").click()
    expect(page.locator("#result video")).to_be_visible(timeout=SLOW_MS)
    page.wait_for_timeout(1000)
    assert findings(page) == [], "done"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for name in ("History", "System"):
        tab(page, name)
        assert findings(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    assert page.locator("h1").count() == 1
    context.close()


def test_what_is_wrong_or_too_large_is_told_accessibly(browser: Browser, app: pages.App, photo: Path) -> None:
    page = browser.new_page(viewport=pages.DESKTOP)
    page.set_default_timeout(SLOW_MS)
    page.goto(app.url)
    page.locator("#generate").click()
    expect(page.locator("#prompt + .i2v-refusal")).to_contain_text("no prompt")
    assert findings(page) == [], "wrong"
    pages.fill(page, photo, "zoom in")
    page.locator("#advanced button").first.click()
    page.fill("#vram input, #vram textarea", "0.1")
    expect(page.locator(".i2v-forecast")).to_have_attribute("data-state", "too_big", timeout=SLOW_MS)
    assert findings(page) == [], "too large"
    page.close()


# A link inside a line of text is as high as the line; whoever touches such a text is not after a button.
SMALL = """() => [...document.querySelectorAll("button, a[href], input:not([type=hidden]), select, summary")]
  .filter((node) => !node.matches("li a, p a"))
  .filter((node) => node.offsetParent && getComputedStyle(node).visibility !== "hidden")
  .map((node) => [node, (node.closest("label") || node).getBoundingClientRect()])
  .filter(([node, box]) => box.width > 1 && box.height > 1 && box.height < 43.5)
  .map(([node, box]) => `${node.tagName}#${node.id}.${node.className} ${Math.round(box.height)} px: ` +
    `${(node.textContent || node.ariaLabel || "").slice(0, 30)}`)"""


@pytest.mark.parametrize("where", ["Create", "History", "System"])
def test_what_is_touched_on_a_phone_is_44_px_high(browser: Browser, app: pages.App, where: str) -> None:
    context = browser.new_context(viewport=pages.PHONE, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(app.url)
    page.locator("#generate").wait_for()
    tab(page, where)
    small = [words for words in page.evaluate(SMALL) if not _is_gradios(words)]
    context.close()
    assert small == []


def _is_gradios(words: str) -> bool:
    """A slider's own track and number: Gradio draws them, and the number beside the track is the large target."""
    return words.startswith("INPUT") and "svelte" in words


@pytest.mark.slow
def test_the_keyboard_reaches_everything_and_focus_is_seen(browser: Browser, app: pages.App) -> None:
    page = browser.new_page(viewport=pages.DESKTOP)
    page.goto(app.url)
    page.locator("#generate").wait_for()
    page.locator("#prompt textarea").focus()
    reached: set[str] = set()
    look: Callable[[], str] = lambda: str(page.evaluate("document.activeElement.closest('[id]')?.id"))  # noqa: E731
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(look())
    assert {"model", "generate"} <= {name.split("-")[0] for name in reached} | reached
    page.locator("#generate").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.querySelector('#generate')).outlineStyle")
    assert outline == "solid"
    page.close()
