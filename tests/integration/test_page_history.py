"""The history in a real browser: what was made is found, marked, opened, deleted and brought back, and compared."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from i2v.jobs.store import JobStore
from i2v.request import build_request
from tests.integration import past_jobs
from tests.integration import test_page as pages

browser = pages.browser
SLOW_MS = pages.SLOW_MS
MARKUP = "a cat & <b>whiskers</b>"
HOW_FAR_APART = """(frames) => new Promise((done) => {
    const [a, b] = document.querySelectorAll("#compare video");
    const apart = [];
    const look = () => {
        const off = b.currentTime - a.currentTime / a.duration * b.duration;
        apart.push(Math.abs(off - Math.round(off / b.duration) * b.duration));
        apart.length < frames ? a.requestVideoFrameCallback(look) : done(apart);
    };
    a.requestVideoFrameCallback(look);
})"""
ONE_FRAME_S = 1 / 12


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pages.App]:
    app = pages.App(tmp_path_factory.mktemp("history") / "home")
    past = past_jobs.PastJobs(app.home)
    for number in range(27):
        past.cancelled(f"begun long ago, number {number}")
    past.failed("paint the impossible")
    past.done("zoom in", num_inference_steps=8)
    past.done(MARKUP, num_inference_steps=20)
    past.close()
    app.start()
    yield app
    app.stop()


def opened(browser: Browser, app: pages.App, **context: object) -> Page:
    """Open the history in a browser of its own."""
    page = browser.new_context(**{"viewport": pages.DESKTOP} | context).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(SLOW_MS)
    show(page, app)
    return page


def show(page: Page, app: pages.App) -> None:
    page.goto(app.url)
    page.locator("#generate").wait_for()
    page.get_by_role("tab").nth(1).click()
    page.locator("#history .i2v-history[aria-busy=false]").wait_for()


@pytest.fixture
def page(browser: Browser, app: pages.App) -> Iterator[Page]:
    page = opened(browser, app)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.context.close()
    assert errors == []


def card(page: Page, prompt: str) -> Locator:
    return page.locator("#history .card", has_text=prompt)


def total(page: Page, text: str) -> None:
    expect(page.locator("#history .total")).to_have_text(text)


def test_cards_come_newest_first_a_page_at_a_time_with_what_made_them(page: Page) -> None:
    cards = page.locator("#history .card")
    total(page, "30 videos")
    expect(cards).to_have_count(24)
    newest = cards.first
    expect(newest.locator(".prompt")).to_have_text(MARKUP)  # as text, not as markup
    expect(newest).to_contain_text("288\u00a0×\u00a0192")
    expect(newest).to_contain_text("12\u00a0frames")
    assert page.evaluate("document.querySelector('#history .poster img').naturalWidth") == 288
    expect(card(page, "paint the impossible").locator(".state")).to_have_text("Failed")
    expect(page.locator("#history .disk")).to_have_text(re.compile(r"^Videos \d+ [KM]iB · .* free$"))
    page.locator("#history .more").click()
    expect(cards).to_have_count(30)
    expect(cards.last).to_contain_text("number 0")
    expect(page.locator("#history .more")).to_be_hidden()


@pytest.mark.slow
def test_a_search_finds_prompts_and_says_when_there_are_none(page: Page) -> None:
    field = page.get_by_label("Search the prompts")
    field.fill("LONG ago")
    total(page, "27 videos found")
    field.fill("zebra")
    expect(page.locator("#history .nothing")).to_contain_text("“zebra”")
    page.locator("#history .nothing button").click()
    total(page, "30 videos")
    expect(field).to_have_value("")
    expect(field).to_be_focused()
    field.fill("zoom")
    total(page, "1 video found")
    field.press("Escape")
    total(page, "30 videos")


@pytest.mark.slow
def test_favourites_are_marked_found_and_stay(page: Page, app: pages.App) -> None:
    only = page.get_by_role("button", name="Favourites only")
    only.click()
    expect(page.locator("#history .nothing")).to_contain_text("No favourites yet")
    page.get_by_role("button", name="Show all videos").click()
    star = card(page, "zoom in").get_by_role("button", name="Favourite")
    star.focus()
    page.keyboard.press("Enter")
    expect(star).to_have_attribute("aria-pressed", "true")
    show(page, app)
    expect(star).to_have_attribute("aria-pressed", "true")
    only.click()
    total(page, "1 video found")
    star.click()
    total(page, "0 videos found")


def test_what_is_deleted_can_be_brought_back(page: Page) -> None:
    for prompt in ("number 26", "number 25"):
        card(page, prompt).get_by_role("button", name="Delete").click()
        expect(card(page, prompt)).to_have_count(0)
    expect(page.locator("#history .gone")).to_contain_text("2 videos deleted.")
    total(page, "28 videos")
    expect(page.locator("#history .disk")).to_contain_text("in the bin")
    page.get_by_role("button", name="Undo").click()
    total(page, "30 videos")
    expect(card(page, "number 26").locator(".open")).to_be_focused()
    expect(page.locator("#history .gone")).to_be_hidden()


@pytest.mark.slow
def test_a_card_opens_its_job_and_its_link_does_too(page: Page, app: pages.App) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    card(page, "zoom in").get_by_role("button", name="Copy link").click()
    expect(page.locator("#history .said")).to_have_text("The link is copied.")
    link = page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(re.escape(app.url) + r"/\?job=[0-9a-f]{32}", link)
    card(page, MARKUP).locator(".open").click()
    expect(page.locator("#result video")).to_be_visible()
    expect(page.locator("#result .prompt")).to_contain_text(MARKUP)
    expect(page.get_by_role("tab", name="Create")).to_have_attribute("aria-selected", "true")
    page.goto(link)
    expect(page.locator("#result .prompt")).to_contain_text("zoom in")


@pytest.mark.slow
def test_a_job_of_the_command_line_appears_by_itself(page: Page, app: pages.App) -> None:
    store = JobStore(app.home / "i2v.sqlite3")
    page.get_by_label("Search the prompts").fill("made elsewhere")
    total(page, "0 videos found")
    request = build_request({"prompt": "made elsewhere", "model": "motion"}, (512, 512))
    job = store.submit(request.model_dump(mode="json"), "cat.png", "cli:1")
    new = card(page, "made elsewhere")
    expect(new.locator(".state")).to_have_text("Waiting")
    expect(new).to_contain_text("from\u00a0the\u00a0command\u00a0line")
    expect(new.get_by_role("button", name="Delete")).to_be_hidden()
    new.locator(".star").focus()
    store.request_cancel(job.id)
    expect(new.locator(".state")).to_have_text("Cancelled")
    expect(new.locator(".star")).to_be_focused()  # only what changed was touched
    store.delete(job.id)
    store.close()
    total(page, "0 videos found")


def test_two_videos_are_compared_side_by_side_in_step(page: Page) -> None:
    first = card(page, MARKUP)
    first.get_by_role("button", name="Compare").click()
    expect(page.locator("#history .chosen")).to_contain_text("Choose another video")
    card(page, "zoom in").get_by_role("button", name="Compare").click()
    compare = page.locator("#compare")
    expect(compare.get_by_role("heading", name="Comparison")).to_be_focused()
    expect(compare.locator("figcaption").first).to_have_text(MARKUP)
    expect(compare.get_by_role("button", name="Pause")).to_be_visible()
    apart = page.evaluate(HOW_FAR_APART, 40)
    assert sorted(apart)[30] < 0.04, apart  # the browser may need a moment when a video begins anew
    rows = compare.locator("tr.differs")
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_have_text("Steps208")
    expect(compare.locator("tbody")).to_contain_text("Time taken12 s12 s")
    expect(compare.locator("tbody")).to_contain_text("Peak memory")
    boxes = [compare.locator("video").nth(number).bounding_box() for number in (0, 1)]
    assert boxes[0]
    assert boxes[1]
    assert boxes[0]["y"] == boxes[1]["y"]
    compare.get_by_role("button", name="Close").click()
    expect(compare.locator("section")).to_be_hidden()
    expect(first.get_by_role("button", name="Compare")).to_have_attribute("aria-pressed", "false")


@pytest.mark.slow
def test_one_slider_moves_both_videos_frame_by_frame(browser: Browser, app: pages.App) -> None:
    page = opened(browser, app, viewport=pages.PHONE, reduced_motion="reduce")
    for prompt in (MARKUP, "zoom in"):
        card(page, prompt).get_by_role("button", name="Compare").click()
    compare = page.locator("#compare")
    slider = compare.get_by_label("Place in both videos")
    expect(slider).to_have_attribute("max", "11")
    expect(compare.get_by_role("button", name="Play")).to_be_visible()  # nothing moves by itself
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "0.46 of 1.00 s")
    page.wait_for_function("() => [...document.querySelectorAll('#compare video')].every((video) => !video.seeking)")
    times = page.evaluate("[...document.querySelectorAll('#compare video')].map((video) => video.currentTime)")
    assert all(abs(time - 5.5 * ONE_FRAME_S) < 0.01 for time in times), times
    one, other = (compare.locator("video").nth(number).bounding_box() for number in (0, 1))
    assert one
    assert other
    assert other["y"] >= one["y"] + one["height"]  # one above the other on a phone
    compare.get_by_role("button", name="Wipe").click()
    divide = compare.get_by_label("Where A ends and B begins")
    divide.focus()
    page.keyboard.press("Home")
    assert "0%" in compare.locator(".b .view").evaluate("(view) => getComputedStyle(view).clipPath")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.context.close()


@pytest.mark.slow
def test_the_history_can_be_touched_on_a_phone_and_speaks_chinese(browser: Browser, app: pages.App) -> None:
    page = opened(browser, app, viewport=pages.PHONE, locale="zh-CN", color_scheme="dark")
    total(page, "30 段视频")
    small = page.evaluate("""() => [...document.querySelectorAll("#history button, #history input")]
        .filter((node) => node.offsetParent && (node.offsetHeight < 44 || node.offsetWidth < 44))
        .map((node) => node.className)""")
    assert small == []
    assert page.evaluate("document.documentElement.scrollWidth <= 390")
    expect(page.get_by_label("搜索提示词")).to_be_visible()
    page.context.close()


@pytest.mark.slow
def test_an_empty_history_leads_to_the_first_video(browser: Browser, app: pages.App) -> None:
    page = browser.new_page(viewport=pages.DESKTOP)
    page.set_default_timeout(SLOW_MS)
    nothing = {"cards": [], "total": 0, "disk": {"videos": 0, "bin": 0, "free": 1 << 34}}
    page.route("**/component_server**", lambda route: route.fulfill(json=nothing))
    show(page, app)
    expect(page.locator("#history .nothing")).to_contain_text("Your videos will be here")
    expect(page.locator("#history .tools")).to_be_hidden()
    page.get_by_role("button", name="Make a video").click()
    expect(page.locator("#prompt")).to_be_visible()
    page.context.close()


@pytest.mark.slow
def test_a_server_that_is_gone_is_said_and_found_again(page: Page) -> None:
    page.route("**/component_server**", lambda route: route.abort())
    expect(page.locator("#history .problem")).to_contain_text("i2v does not answer")
    expect(page.locator("#history .card")).to_have_count(24)
    page.unroute("**/component_server**")
    expect(page.locator("#history .problem")).to_be_empty()
