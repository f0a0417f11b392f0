"""Takes pictures of the page in each of its states: `python -m docs.page_pictures [--out docs] [--look]`.

Without more, those of the README: empty, running, done, light, on a desktop. With --look every state (empty, filled,
too large, running, done, history, comparison, system, error) in light, dark and Chinese, on a desktop and a phone, into
--out, to be looked at by whoever changed the page. Needs requirements-dev.txt and Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.served import Served, serve

DOCS = Path(__file__).parent
SLOW_MS = 120_000
README_STATES = ("empty", "running", "done")
STATES = ("empty", "filled", "too-large", "running", "done", "history", "compare", "system", "error")


@dataclass(frozen=True)
class Look:
    """How the page is looked at."""

    name: str
    width: int = 1400
    height: int = 900
    scheme: str = "light"
    locale: str = "en-US"


LOOKS = (
    Look("desktop-light"),
    Look("desktop-dark", scheme="dark"),
    Look("phone-light", 390, 844),
    Look("phone-dark", 390, 844, "dark"),
    Look("desktop-chinese", locale="zh-CN"),
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Open the browser that tests use."""
    path = os.environ.get("I2V_TEST_BROWSER") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def take(app: Served, look: Look, states: tuple[str, ...], browser: Browser, path_of: dict[str, Path]) -> None:
    """Walk through the page as a person would, and take a picture at each of the states."""
    context = browser.new_context(
        viewport={"width": look.width, "height": look.height}, color_scheme=look.scheme, locale=look.locale
    )
    page = context.new_page()
    page.set_default_timeout(SLOW_MS)
    page.goto(app.url)
    page.locator("#generate").wait_for()
    page.wait_for_function("document.querySelector('.i2v-forecast')?.dataset.state === 'fits'")
    walk = Walk(page, app)
    for state in STATES:
        if state in states or state in ("filled", "running", "done"):
            getattr(walk, state.replace("-", "_"))()
        if state in states:
            page.screenshot(path=path_of[state], full_page=state not in ("empty", "running"))
    context.close()


class Walk:
    """What a person does to get from one state to the next, in the order of STATES."""

    def __init__(self, page: Page, app: Served):
        self._page, self._app = page, app

    def empty(self) -> None:
        self._page.wait_for_timeout(3000)

    def filled(self) -> None:
        self._page.locator("#gallery button").first.click()
        self._page.locator("#picture img").first.wait_for()
        self._page.wait_for_timeout(1500)

    def too_large(self) -> None:
        self._page.locator("#advanced button").first.click()
        self._limit("0.15", "too_big")

    def _limit(self, gib: str, state: str) -> None:
        self._page.fill("#vram input, #vram textarea", gib)
        self._page.wait_for_function(f"document.querySelector('.i2v-forecast').dataset.state === '{state}'")
        self._page.wait_for_timeout(800)

    def running(self) -> None:
        if self._page.locator("#vram").is_visible():
            self._limit("", "fits")
            self._page.locator("#advanced button").first.click()
        self._generate(2)

    def _generate(self, step: int) -> None:
        self._page.locator("#generate").click()
        self._page.wait_for_function(
            "n => Number((document.querySelector('#panel .stage')?.textContent || '').match(/(\\d+)/)?.[1]) >= n",
            arg=step,
        )

    def done(self) -> None:
        self._page.locator("#result video").wait_for()
        self._page.wait_for_timeout(2500)

    def _tab(self, number: int) -> None:
        self._page.get_by_role("tab").nth(number).click()
        self._page.wait_for_timeout(2500)

    def history(self) -> None:
        self._tab(0)
        self._page.locator("#gallery button").nth(1).click()
        self._page.wait_for_timeout(1500)
        self._generate(1)
        self._page.locator("#result video").wait_for()
        self._tab(1)

    def compare(self) -> None:
        for number in (0, 1):
            self._page.locator("#history .pair").nth(number).click()
        self._page.locator("#compare video").first.wait_for()
        self._page.wait_for_timeout(2000)

    def system(self) -> None:
        self._tab(2)

    def error(self) -> None:
        self._tab(0)
        self._page.locator("#more button").first.click()
        self._page.locator("#steps input[type=number]").fill("100")
        self._page.locator("#steps input[type=number]").press("Enter")
        self._generate(3)
        for child in psutil.Process(self._app.pid).children():
            child.kill()  # as the system does when memory runs out
        self._page.locator("#result [role=alert]").wait_for()
        self._page.wait_for_timeout(1500)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description="Take pictures of the page.")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--look", action="store_true", help="every state in every look")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    looks = LOOKS if args.look else LOOKS[:1]
    with chromium() as browser:
        for look in looks:
            with tempfile.TemporaryDirectory() as folder, serve(Path(folder) / "home") as app:
                states = STATES if args.look else README_STATES
                names = {state: f"{look.name}-{state}.png" if args.look else f"page-{state}.png" for state in states}
                take(app, look, states, browser, {state: args.out / name for state, name in names.items()})


if __name__ == "__main__":
    main()
