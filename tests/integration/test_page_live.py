"""What the page shows while a job runs and what it ends with, in a real browser: panel, result and error cards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from i2v.errors import ModelFilesError, NotFiniteError
from tests.integration import test_page as pages
from tests.integration.past_jobs import PastJobs

browser = pages.browser  # the same fixture as the other tests of the page
SLOW_MS = pages.SLOW_MS
PROMPT = "pan left, a cat & <b>whiskers</b>"
# A page in a tab that nobody looks at, as far as its scripts can tell, and a notification that is only noted.
HIDDEN = """() => { Object.defineProperty(document, "hidden", { configurable: true, get: () => window.nobody });
    window.nobody = true; }"""
NOTED = """window.noted = [];
    window.Notification = class { constructor(title, o) { window.noted.push(o.body); }
        static permission = "default";
        static async requestPermission() { window.asked = true; return (this.permission = "granted"); } };"""
WATCH_THE_SWAP = """() => {
    window.gaps = [];
    const film = document.querySelector("#panel .screen"), box = document.querySelector("#result .i2v-result");
    const look = () => {
        if (film.hidden && box.hidden && window.begun) window.gaps.push(performance.now());
        window.begun ||= !film.hidden;
        requestAnimationFrame(look);
    };
    look();
}"""


@dataclass(frozen=True)
class Ids:
    """The jobs that were there before the app began."""

    done: str
    stopped: str
    memory: str
    numbers: str
    files: str
    cancelled: str


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live") / "home"


@pytest.fixture(scope="module")
def ids(home: Path) -> Ids:
    past = PastJobs(home)
    ids = Ids(
        done=past.done(PROMPT),
        stopped=past.done("zoom in", {"stopped": {"stage": "denoise", "step": 12, "total": 50}}),
        memory=past.failed("zoom in", latents=True, width=768, height=512, num_frames=96),
        numbers=past.failed("roll", NotFiniteError("the numbers overflowed while denoising", "Try precision fp32.")),
        files=past.failed("tilt", ModelFilesError("the model is not downloaded", "Download it.")),
        cancelled=past.cancelled("tilt up", num_frames=4),
    )
    past.close()
    return ids


@pytest.fixture(scope="module")
def app(home: Path, ids: Ids) -> Iterator[pages.App]:
    app = pages.App(home)
    app.start()
    yield app
    app.stop()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=pages.DESKTOP, permissions=["clipboard-read", "clipboard-write"])
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    page.set_default_timeout(SLOW_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert errors == []


def look_at(page: Page, app: pages.App, job: str) -> None:
    page.goto(f"{app.url}/?job={job}")
    page.locator("#result .i2v-result").wait_for()


def test_a_link_shows_its_job_with_all_that_made_it(page: Page, app: pages.App, ids: Ids) -> None:
    page.goto(f"{app.url}/?job={ids.done}&__theme=light")
    expect(page.locator("#result .prompt")).to_have_text(f"“{PROMPT}”")
    facts = page.locator("#result .facts li")
    expect(facts).to_contain_text(["Built-in motion", "288 × 192", "12 frames at 12 fps", "steps", "seed 7", "12.0 s"])
    page.wait_for_function("() => document.querySelector('#result video').currentTime > 0.2")
    video = page.locator("#result video")
    assert video.evaluate("v => [v.muted, v.loop, v.controls, v.autoplay, v.playsInline]") == [True] * 5
    assert page.url == f"{app.url}/?job={ids.done}&__theme=light"
    box, panel = page.locator("#result").bounding_box(), page.locator("#panel").bounding_box()
    assert box
    assert panel
    assert box["y"] < panel["y"]


@pytest.mark.slow
def test_a_stopped_run_says_what_was_kept(page: Page, app: pages.App, ids: Ids) -> None:
    look_at(page, app, ids.stopped)
    expect(page.locator("#result .facts")).to_contain_text("kept after step 12 of 50")


@pytest.mark.slow
def test_with_reduced_motion_nothing_plays_by_itself(browser: Browser, app: pages.App, ids: Ids) -> None:
    page = browser.new_page(reduced_motion="reduce")
    look_at(page, app, ids.done)
    page.wait_for_timeout(600)
    assert page.locator("#result video").evaluate("v => v.paused && v.currentTime === 0 && v.poster !== ''")
    page.close()


def test_the_video_is_saved_under_a_good_name_and_other_kinds_are_made_on_demand(
    page: Page, app: pages.App, ids: Ids
) -> None:
    look_at(page, app, ids.done)
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download MP4").click()
    assert re.fullmatch(r"i2v-motion-288x192-seed7-[\d-]+-[0-9a-f]{8}\.mp4", saved.value.suggested_filename)
    for kind, start in (("GIF", b"GIF8"), ("PNG frames", b"PK")):
        with page.expect_download() as saved:
            page.get_by_role("button", name=f"Download {kind}").click()
        assert Path(saved.value.path()).read_bytes().startswith(start)
        expect(page.get_by_role("link", name=f"Download {kind}")).to_be_focused()


@pytest.mark.slow
def test_settings_and_link_are_copied(page: Page, app: pages.App, ids: Ids) -> None:
    look_at(page, app, ids.done)
    page.get_by_role("button", name="Copy settings").click()
    expect(page.locator("#result .said")).to_have_text("The settings are copied.")
    assert json.loads(page.evaluate("navigator.clipboard.readText()"))["seed"] == 7
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#result .said")).to_have_text("The link is copied.")
    assert page.evaluate("navigator.clipboard.readText()") == f"{app.url}/?job={ids.done}"


@pytest.mark.slow
def test_a_favourite_stays_one(page: Page, app: pages.App, ids: Ids) -> None:
    look_at(page, app, ids.done)
    star = page.get_by_role("button", name="Favourite")
    expect(star).to_have_attribute("aria-pressed", "false")
    star.click()
    expect(star).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(star).to_have_attribute("aria-pressed", "true")


@pytest.mark.slow
def test_what_was_deleted_can_be_brought_back(page: Page, app: pages.App, ids: Ids) -> None:
    look_at(page, app, ids.stopped)
    page.locator("#result .delete").click()
    expect(page.locator("#result .gone")).to_contain_text("Deleted.")
    expect(page.locator("#panel .state")).to_have_text("Ready")
    assert "job=" not in page.url
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#result video")).to_be_visible()
    expect(page.locator("#panel .state")).to_have_text("Done")


def test_extend_and_reuse_fill_the_form(page: Page, app: pages.App, ids: Ids) -> None:
    look_at(page, app, ids.done)
    page.get_by_role("button", name="Extend").click()
    expect(page.locator("#picture img").first).to_have_attribute("src", re.compile(r"last\.png"))
    expect(page.locator("#prompt textarea")).to_have_value(PROMPT)
    page.get_by_role("button", name="Reuse settings").click()
    expect(page.locator("#picture img").first).to_have_attribute("src", re.compile(r"picture\.png"))
    page.locator("#more button").first.click()
    expect(page.locator("#seed input, #seed textarea")).to_have_value("7")


# Errors


def test_a_card_says_what_happened_and_offers_what_would_do(page: Page, app: pages.App, ids: Ids) -> None:
    look_at(page, app, ids.memory)
    card = page.get_by_role("alert").filter(has_text="Memory ran out")
    expect(card.locator(".did li")).to_have_count(2)
    expect(card).to_contain_text("The finished latents were kept")
    expect(card).to_contain_text("Choose fewer frames")
    card.get_by_text("Show details").click()
    expect(card.locator(".about")).to_have_text(f"OutOfMemoryError · job {ids.memory}")
    expect(card.get_by_role("button", name="Try again")).to_be_visible()
    offer = card.get_by_role("button", name=re.compile(r"Use \d+ × \d+"))
    width, height = re.findall(r"\d+", offer.inner_text())
    offer.click()
    expect(page.locator("#width input")).to_have_value(width)
    expect(page.locator("#height input")).to_have_value(height)
    expect(page.locator("#frames input[type=number]")).to_have_value("96")
    expect(page.locator("#prompt textarea")).to_have_value("zoom in")


@pytest.mark.slow
def test_each_remedy_does_what_it_says(page: Page, app: pages.App, ids: Ids) -> None:
    look_at(page, app, ids.numbers)
    page.get_by_role("button", name="Use precision fp32").click()
    page.locator("#advanced button").first.click()
    expect(page.locator("#precision input")).to_have_value("fp32")
    look_at(page, app, ids.files)
    page.get_by_role("button", name="Open System").click()
    expect(page.get_by_role("tab", name="System")).to_have_attribute("aria-selected", "true")


@pytest.mark.slow
def test_a_cancelled_job_is_tried_again(page: Page, app: pages.App, ids: Ids) -> None:
    look_at(page, app, ids.cancelled)
    expect(page.locator("#panel .state")).to_have_text("Cancelled")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#panel .state")).to_have_text("Done", timeout=SLOW_MS)
    expect(page.locator("#result video")).to_be_visible()


# The chart


def test_the_chart_can_be_read_pointed_at_and_heard(page: Page, app: pages.App, ids: Ids) -> None:
    look_at(page, app, ids.done)
    chart = page.locator("#panel .chart")
    label = "Memory over time: now 4.45 GiB, peak 4.45 of 4.20 GiB foreseen"
    expect(chart.get_by_role("img")).to_have_attribute("aria-label", label)
    expect(page.locator("#panel .memory figcaption")).to_contain_text("whole card 5.55 GiB of 12.0 GiB")
    expect(page.locator("#panel .events")).to_contain_text("Stepped down after 4 s (denoise, step 3)")
    chart.scroll_into_view_if_needed()
    chart.hover(position={"x": 300, "y": 60})
    expect(chart.locator(".tip")).to_contain_text(re.compile(r"^[\d.]+ s\s+VRAM of this run\s+[\d.]+ GiB"))
    sharp = "c => c.width === Math.round(c.clientWidth * devicePixelRatio)"
    assert chart.locator("canvas").evaluate(sharp)


def test_a_run_is_followed_from_the_click_to_the_video(page: Page, app: pages.App, photo: Path) -> None:
    page.add_init_script(NOTED)
    page.goto(app.url)
    page.locator("#generate").wait_for()
    pages.fill(page, photo, "slowly zoom in")
    pages.set_number(page, "frames", 36)
    page.evaluate(WATCH_THE_SWAP)
    page.locator("#generate").click()
    expect(page.locator("#panel .stage")).to_contain_text("step", timeout=SLOW_MS)
    assert page.evaluate("window.asked") is None
    page.get_by_role("button", name="Notify me when it is done").click()
    expect(page.locator("#panel .notify")).to_have_attribute("aria-pressed", "true")
    assert re.search(r"job=[0-9a-f]{32}", page.url)
    page.evaluate(HIDDEN)
    expect(page.locator("#panel .made")).to_have_text(re.compile(r"\d+ of 36 frames"), timeout=SLOW_MS)
    bar = page.get_by_role("progressbar", name="Progress of the video")
    expect(bar).to_have_attribute("aria-valuetext", re.compile(r"^\d+ %, Making frames, frame \d+ of 36$"))
    assert re.fullmatch(r"\d+ % · i2v", page.title())
    expect(page.locator("#panel .left")).to_have_text(re.compile("about .* left"))
    expect(page.locator("#panel .speed")).to_have_text(re.compile(r"frames/s|s a frame"))
    expect(page.locator("#result video")).to_be_visible(timeout=SLOW_MS)
    expect(page.locator("#panel .screen")).to_be_hidden()
    assert page.evaluate("window.gaps") == []  # at no moment was there neither the frames nor the video
    expect(page).to_have_title("✓ i2v")
    assert page.evaluate("window.noted") == ["Your video is done."]
    page.evaluate("() => { window.nobody = false; document.dispatchEvent(new Event('visibilitychange')); }")
    expect(page).to_have_title("i2v")


def test_the_newest_frames_play_in_a_canvas_while_others_are_made(page: Page, app: pages.App, photo: Path) -> None:
    page.goto(app.url)
    page.locator("#generate").wait_for()
    pages.fill(page, photo, "zoom in")
    pages.set_number(page, "frames", 120)
    page.locator("#generate").click()
    film = page.locator("#panel .film")
    expect(film).to_be_visible(timeout=SLOW_MS)
    drawn = "c => c.width > 100 && c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data[3] === 255"
    assert film.evaluate(drawn)
    page.locator("#stop").click()
    expect(page.locator("#result .facts")).to_contain_text(re.compile(r"kept after frame \d+ of 120"), timeout=SLOW_MS)
    expect(page.locator("#result video")).to_be_visible()


# On a phone, and in Chinese


def test_on_a_phone_the_result_is_above_the_examples_and_can_be_touched(
    browser: Browser, app: pages.App, ids: Ids
) -> None:
    page = browser.new_page(viewport=pages.PHONE)
    look_at(page, app, ids.done)
    tops = [page.locator(part).bounding_box() for part in ("#result", "#panel", "#gallery")]
    found = [box["y"] for box in tops if box]
    assert found == sorted(found)
    assert len(found) == 3
    heights = page.locator("#result .row a, #result .row button").evaluate_all("n => n.map(x => x.offsetHeight)")
    assert min(heights) >= 44
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.close()


@pytest.mark.slow
def test_panel_result_and_card_speak_chinese(browser: Browser, app: pages.App, ids: Ids) -> None:
    page = browser.new_page(locale="zh-CN")
    for job, prompt in ((ids.done, PROMPT), (ids.memory, "zoom in")):
        look_at(page, app, job)
        expect(page.locator("#panel .state")).to_have_text(re.compile("完成|失败"))
        said = (page.locator("#result").inner_text() + page.locator("#panel").inner_text()).replace(prompt, "")
        assert set(re.findall(r"[A-Za-z]\w+", said)) <= {"fp16", "VRAM", "RAM", "GiB", "MP4", "GIF", "WebP", "PNG"}
    page.close()
