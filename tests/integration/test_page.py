"""The page in a real browser, the whole way: upload, generate, watch, reload, cancel, history, restart."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).parents[2]
DESKTOP, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
SLOW_MS = 90_000
expect.set_options(timeout=SLOW_MS)  # for all tests of the page: none depends on how fast the machine is


class App:
    """The app in a process of its own, on a free port."""

    def __init__(self, home: Path, *arguments: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.home, self.arguments = home, arguments
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None
        self.environment: dict[str, str] = {}
        self.program = ["app.py"]

    def start(self) -> float:
        """Start it and return the seconds until the page answers."""
        began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, *self.program, "--port", str(self.port), *self.arguments],
            cwd=ROOT,
            env=os.environ | {"I2V_HOME": str(self.home), "I2V_LOG_LEVEL": "WARNING"} | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/healthz", timeout=1) as answer:  # noqa: S310
                    assert answer.status == 200
                    return time.monotonic() - began
            except OSError:
                assert self.process.poll() is None, "the app ended"
                assert time.monotonic() - began < 90
                time.sleep(0.1)

    def stop(self) -> str:
        """Stop it as Ctrl+C does and return what it printed."""
        assert self.process
        self.process.send_signal(signal.SIGINT)
        printed, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        assert "Traceback" not in printed, printed
        return printed


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    app = App(tmp_path_factory.mktemp("page") / "home")
    app.start()
    yield app
    app.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("I2V_TEST_BROWSER") or shutil.which("chromium")
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=path, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, app: App) -> Iterator[Page]:
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    page.set_default_timeout(SLOW_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(app.url)
    page.locator("#generate").wait_for()
    yield page
    context.close()
    assert errors == []


def fill(page: Page, photo: Path, prompt: str) -> None:
    page.set_input_files("#picture input[type=file]", photo)
    page.locator("#picture img").first.wait_for()
    expect(page.locator("#framing .facts")).not_to_be_empty()  # it is uploaded
    page.fill("#prompt textarea", prompt)


def refusal(page: Page, field: str) -> Locator:
    """Return the sentence below a field that says why Generate did not begin."""
    return page.locator(f"#{field} + .i2v-refusal")


def set_number(page: Page, field: str, value: int) -> None:
    box = page.locator(f"#{field} input[type=number]")
    box.fill(str(value))
    box.press("Enter")


def state(page: Page) -> str:
    return page.locator("#panel .state").inner_text()


def generate_long(page: Page, photo: Path) -> None:
    fill(page, photo, "slowly zoom in")
    page.locator("#more button").first.click()
    set_number(page, "steps", 100)
    page.locator("#generate").click()
    expect(page.locator("#panel .stage")).to_contain_text(re.compile(r"step [1-9]"), timeout=SLOW_MS)


def test_upload_generate_watch_and_play(page: Page, photo: Path) -> None:
    fill(page, photo, "the camera pans left")
    expect(page.locator("#forecast")).to_contain_text("px · 24 frames at 12 fps = 2.0 s")
    page.locator("#generate").click()
    expect(page.locator("#panel .stage")).to_contain_text("step", timeout=SLOW_MS)
    seen_progress, seen_memory = set(), set()
    video = page.locator("#result video")
    deadline = time.monotonic() + 120
    while not video.is_visible() and time.monotonic() < deadline:
        seen_progress.add(page.locator("#panel [role=progressbar]").get_attribute("aria-valuenow"))
        seen_memory.add(page.locator("#panel .memory figcaption").inner_text())
        page.wait_for_timeout(100)
    assert len(seen_progress) >= 3, seen_progress
    assert len(seen_memory) >= 2, seen_memory
    expect(page.locator("#panel .state")).to_have_text("Done")
    expect(page.locator("#panel .memory figcaption")).to_contain_text("peak")
    page.wait_for_function("() => document.querySelector('#result video').currentTime > 0.2")
    assert page.evaluate("document.querySelector('#result video').videoWidth") == 768
    assert abs(page.evaluate("document.querySelector('#result video').duration") - 2.0) < 0.1
    expect(page.locator("#result .facts")).to_contain_text("seed")
    with page.expect_download() as download:
        page.locator("#result .files a").first.click()
    assert re.fullmatch(r"i2v-motion-768x512-seed\d+-[\d-]+-[0-9a-f]{8}\.mp4", download.value.suggested_filename)


def test_a_reload_and_a_second_tab_find_the_running_job_and_cancel_it(
    page: Page, photo: Path, browser: Browser, app: App
) -> None:
    generate_long(page, photo)
    page.reload()
    expect(page.locator("#panel .stage")).to_contain_text(re.compile(r"step \d+ of 100"), timeout=SLOW_MS)
    other = browser.new_context(viewport=PHONE).new_page()
    other.goto(app.url)
    expect(other.locator("#panel .stage")).to_contain_text(re.compile(r"step \d+ of 100"), timeout=SLOW_MS)
    assert other.evaluate("document.documentElement.scrollWidth <= 390")
    other.context.close()
    page.locator("#cancel").click()
    expect(page.locator("#panel .state")).to_have_text("Cancelled", timeout=SLOW_MS)
    expect(page.locator("#result .retry")).to_be_visible()


def test_a_second_job_waits_and_can_be_cancelled_while_the_first_goes_on(page: Page, photo: Path, app: App) -> None:
    generate_long(page, photo)
    page.locator("#generate").click()
    expect(page.locator("#panel .state")).to_have_text(re.compile("Waiting"), timeout=SLOW_MS)
    page.locator("#cancel").click()
    expect(page.locator("#panel .state")).to_have_text("Cancelled", timeout=SLOW_MS)
    page.goto(app.url)  # the running job is found again; a reload would show the one that was cancelled
    expect(page.locator("#panel .stage")).to_contain_text(re.compile(r"step \d+ of 100"), timeout=SLOW_MS)
    page.locator("#cancel").click()
    expect(page.locator("#panel .state")).to_have_text("Cancelled", timeout=SLOW_MS)


def test_messages_stand_at_the_fields(page: Page, photo: Path, tmp_path: Path) -> None:
    page.locator("#generate").click()
    expect(refusal(page, "prompt")).to_contain_text("no prompt")
    time.sleep(4)  # longer than the time between two forecasts, which read all fields too
    expect(refusal(page, "prompt")).to_contain_text("no prompt")
    page.fill("#prompt textarea", "zoom in")
    expect(page.locator(".i2v-refusal:visible")).to_have_count(0)
    page.locator("#generate").click()
    expect(refusal(page, "picture")).to_contain_text("no start picture")
    page.locator("#gallery button").first.click()
    expect(page.locator(".i2v-refusal:visible")).to_have_count(0)
    page.reload()
    fill(page, photo, "zoom in " * 60)
    page.locator("#generate").click()
    expect(refusal(page, "prompt")).to_contain_text("would be cut")
    page.fill("#prompt textarea", "zoom in")
    page.locator("#match input").uncheck()
    set_number(page, "width", 513)
    page.locator("#generate").click()
    expect(refusal(page, "width")).to_contain_text("nearest is 512")
    set_number(page, "width", 512)
    page.locator("#more button").first.click()
    page.fill("#seed input, #seed textarea", "seven")
    page.locator("#more button").first.click()
    expect(page.locator("#seed")).to_be_hidden()
    page.locator("#generate").click()
    expect(page.locator("#refusal")).to_contain_text("seed 'seven' is not a whole number")
    assert state(page) == "Ready"


@pytest.mark.slow
def test_history_survives_a_restart_and_settings_come_back(browser: Browser, photo: Path, tmp_path: Path) -> None:
    app = App(tmp_path / "home")
    app.start()
    page = browser.new_page(viewport=DESKTOP)
    page.set_default_timeout(SLOW_MS)
    page.goto(app.url)
    fill(page, photo, "tilt up, a cat & <b>whiskers</b>")
    set_number(page, "frames", 8)
    page.locator("#more button").first.click()
    page.fill("#seed input, #seed textarea", "9223372036854775807")
    page.locator("#generate").click()
    expect(page.locator("#result video")).to_be_visible(timeout=SLOW_MS)
    page.goto("about:blank")  # an open page loads itself again, which would race with the visit below
    app.stop()
    app.start()
    page.goto(app.url)
    page.get_by_role("tab", name="History").click()
    page.locator("#history .open").first.click()
    expect(page.locator("#result video")).to_be_visible(timeout=SLOW_MS)
    expect(page.locator("#result .about-it")).to_contain_text("tilt up, a cat & <b>whiskers</b>")
    page.locator("#result .reuse").click()
    expect(page.locator("#prompt textarea")).to_have_value("tilt up, a cat & <b>whiskers</b>")
    expect(page.locator("#frames input[type=number]")).to_have_value("8")
    expect(page.locator("#picture img").first).to_be_visible()
    if not page.locator("#seed").is_visible():
        page.locator("#more button").first.click()
    expect(page.locator("#seed input, #seed textarea").first).to_have_value("9223372036854775807")
    page.locator("#generate").click()
    expect(page.locator("#generate")).to_have_text("Add to queue", timeout=SLOW_MS)
    expect(page.locator("#panel .state")).to_have_text("Done", timeout=SLOW_MS)
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#history .card")).to_have_count(2, timeout=SLOW_MS)
    page.close()
    app.stop()


def test_a_transparent_picture_is_laid_on_white_and_a_false_one_refused(page: Page, app: App, tmp_path: Path) -> None:
    Image.new("RGBA", (128, 96), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    fill(page, tmp_path / "clear.png", "hold still")
    set_number(page, "frames", 4)
    page.locator("#generate").click()
    expect(page.locator("#panel .state")).to_have_text("Done", timeout=SLOW_MS)
    newest = max((app.home / "jobs").glob("*/picture.png"), key=lambda p: p.stat().st_mtime)
    assert Image.open(newest).getpixel((5, 5)) == (255, 255, 255)
    page.reload()
    (tmp_path / "words.png").write_text("no picture")
    page.set_input_files("#picture input[type=file]", tmp_path / "words.png")
    page.fill("#prompt textarea", "hold still")
    expect(page.locator(".i2v-forecast .message")).to_contain_text("not a picture")
    page.locator("#generate").click()
    expect(refusal(page, "picture")).to_contain_text("not a picture")


def test_a_file_of_the_machine_is_not_taken_for_an_upload(photo: Path, tmp_path: Path) -> None:
    private = str(shutil.copy(photo, tmp_path / "private.jpg"))
    app = App(tmp_path / "home")  # of its own: gradio prints the refusal as a traceback
    app.start()
    client = Client(app.url, verbose=False)
    dependencies = client.config["dependencies"]
    start = next(d for d in dependencies if len(d["inputs"]) > 10 and d["targets"][0][1] == "click")
    forecast = next(d for d in dependencies if len(d["inputs"]) > 10 and d["targets"][-1][1] == "load")
    components = {c["id"]: c for c in client.config["components"]}

    def sent(to: dict[str, Any], picture: str | None) -> int:
        values = {number: components[number]["props"].get("value") for number in to["inputs"]}
        values[named["picture"]] = {"path": picture, "meta": {"_type": "gradio.FileData"}} if picture else None
        values[named["prompt"]] = "pan left"
        body = {"data": list(values.values()), "fn_index": to["id"], "session_hash": "x"}
        return httpx.post(f"{app.url}/gradio_api/run/predict", json=body).status_code

    named = {c["props"].get("elem_id"): number for number, c in components.items()}
    answers = [[sent(event, picture) for picture in (private, None)] for event in (start, forecast)]
    assert app.process
    app.process.terminate()
    app.process.communicate(timeout=30)
    assert [(refused >= 400, answered) for refused, answered in answers] == [(True, 200)] * 2
    assert not list((app.home / "tmp").rglob(Path(private).name))
    assert not list((app.home / "jobs").rglob("*.png"))


def test_other_sites_cannot_send_here(app: App) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}
    answer = httpx.post(f"{app.url}/gradio_api/upload", files={"files": b"x"}, headers=headers)
    assert answer.status_code == 403


def test_nothing_is_fetched_from_outside(browser: Browser, app: App) -> None:
    page = browser.new_page(viewport=PHONE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(app.url)
    page.locator("#generate").wait_for()
    outside = [url for url in asked if not url.startswith((app.url, "data:", "blob:"))]
    assert outside == []
    assert page.evaluate("document.documentElement.scrollWidth <= 390")
    page.close()


def test_the_page_is_sent_compressed_and_pictures_as_they_are(app: App) -> None:
    with httpx.stream("GET", app.url) as page:
        assert page.headers["content-encoding"] == "gzip"
        assert len(b"".join(page.iter_raw())) < 100_000
    card = next((ROOT / "i2v/ui/gallery/cards").glob("*.webp"))
    picture = httpx.get(f"{app.url}/gradio_api/file={card}")
    assert "content-encoding" not in picture.headers
    assert picture.content == card.read_bytes()


def test_no_connection_is_kept_open_so_that_a_seventh_tab_loads(browser: Browser, app: App) -> None:
    context = browser.new_context()
    for _ in range(7):
        tab = context.new_page()
        tab.goto(app.url, timeout=SLOW_MS)
        tab.locator("#generate").wait_for()
    context.close()


def test_share_asks_for_a_login_and_goes_on_without_internet(browser: Browser, tmp_path: Path) -> None:
    app = App(tmp_path / "home", "--share")
    app.environment["GRADIO_SHARE_SERVER_ADDRESS"] = "127.0.0.1:9"  # never a real tunnel
    app.start()
    for guarded in ("config", "api/v1/jobs", "metrics"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{app.url}/{guarded}", timeout=5)  # noqa: S310
    time.sleep(2)
    assert urllib.request.urlopen(f"{app.url}/healthz", timeout=5).status == 200  # noqa: S310
    printed = app.stop()
    assert "the local page goes on" in printed
    password = re.search(r"log in as i2v with the password (\S+)", printed)
    assert password
    assert len(password[1]) >= 20
    assert printed.count(password[1]) == 1


def test_a_foreign_host_name_is_refused(app: App) -> None:
    request = urllib.request.Request(f"{app.url}/healthz", headers={"Host": "evil.example"})  # noqa: S310
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=5)  # noqa: S310


def test_a_port_in_use_is_one_sentence(app: App) -> None:
    finished = subprocess.run(
        [sys.executable, "app.py", "--port", str(app.port)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert "another port" in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
