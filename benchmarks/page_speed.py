"""Measures how quick the page is: `python -m benchmarks.page_speed [--json] [--seconds 60] [--write]`.

In headless Chromium (I2V_TEST_BROWSER, "chromium" of the system, or Playwright's own) against the app on this machine:

- cold: a browser that has never been here; seconds until Generate is visible, kilobytes sent, requests to elsewhere
- warm: the same browser again; and a bare page of Gradio with one button, as what cannot be gone below
- forecast: milliseconds from a change of a slider until the page shows the forecast of the new value, worst of nine
- live: while a job runs, frames that took longer than 50 ms and tasks of the main thread over 50 ms, a minute of each,
  beside the same time on an idle page
- tabs: of seven open at once, how many show a running job's progress move
- idle: what the web process takes of a core and of memory, with a page open and without
- overhead: seconds of a job through the app, against the same request run by the engine in a process of its own, turn
  by turn, the median of each; what the web process takes of a core meanwhile, which is less noisy; and with a page
  open that shows the job, by a browser that draws on the same cores

Every figure has the bar that was set for it; --write keeps them in benchmarks/results/page-speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from benchmarks.served import Served, serve, serve_bare
from i2v.jobs.folder import JobFolder
from i2v.media.image import save_png

RESULT = Path(__file__).parent / "results" / "page-speed.json"
BARS = {
    "cold_generate_visible_s": 2.0,
    "warm_generate_visible_s": 1.0,
    "cold_kilobytes": 900,
    "outside_requests": 0,
    "forecast_after_change_ms": 300,
    "live_long_frames_per_minute": 1,
    "live_tabs": 7,
    "idle_core_percent": 3,
    "idle_memory_mb": 200,
    "overhead_percent": 2,
}
_AT_LEAST = ("live_tabs",)
_WATCH = """() => {
  window.i2vFrames = { late: 0, tasks: 0, seen: 0, longest: 0 };
  let last = performance.now();
  const frame = (now) => {
    const took = now - last;
    last = now;
    window.i2vFrames.seen += 1;
    window.i2vFrames.longest = Math.max(window.i2vFrames.longest, took);
    if (took > 50) window.i2vFrames.late += 1;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  const count = (list) => { window.i2vFrames.tasks += list.getEntries().length; };
  new PerformanceObserver(count).observe({ type: "longtask" });
}"""


_CHANGE = """(frames) => new Promise((resolve) => {
  const slider = document.querySelector("#frames input[type=range]"), clip = document.querySelector("#forecast .clip");
  const began = performance.now();
  const seen = new MutationObserver(() => {
    if (!clip.textContent.includes(`${frames} frames`)) return;
    seen.disconnect();
    resolve(performance.now() - began);
  });
  seen.observe(clip, { childList: true, characterData: true, subtree: true });
  slider.value = frames;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  slider.dispatchEvent(new Event("change", { bubbles: true }));
})"""


@contextmanager
def _browser() -> Iterator[Browser]:
    path = os.environ.get("I2V_TEST_BROWSER") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def _picture(folder: Path) -> Path:
    from PIL import Image
    from skimage import data

    save_png(Image.fromarray(data.coffee()), folder / "picture.png")
    return folder / "picture.png"


def _visit(context: BrowserContext, url: str) -> tuple[Page, float]:
    page = context.new_page()
    began = time.monotonic()
    page.goto(url, wait_until="commit")
    page.locator("#generate").wait_for()
    return page, time.monotonic() - began


_VISITS = 5


def loading(browser: Browser, app: Served, bare: Served) -> dict[str, Any]:
    """Return the first visit's and the second's seconds and kilobytes, the best of some browsers each.

    Beside them, turn by turn, the same of a bare page: what Gradio itself takes on this machine at this time.
    """
    cold, warm, bare_warm = [], [], []
    for _ in range(_VISITS):
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        for served, visits in ((app, cold), (app, warm), (bare, []), (bare, bare_warm)):
            visits.append(_loaded(context, served))
        context.close()
    seconds, bare_seconds = (min(visit[0] for visit in visits) for visits in (warm, bare_warm))
    return {
        "cold_generate_visible_s": round(min(visit[0] for visit in cold), 2),
        "warm_generate_visible_s": round(seconds, 2),
        "warm_bare_gradio_page_s": round(bare_seconds, 2),
        "warm_times_bare_gradio_page": round(seconds / bare_seconds, 1),
        "cold_kilobytes": round(max(visit[1] for visit in cold)),
        "warm_kilobytes": round(max(visit[1] for visit in warm)),
        "outside_requests": max(visit[2] for visit in cold + warm),
    }


def _loaded(context: BrowserContext, app: Served) -> tuple[float, float, int]:
    """Return the seconds until Generate is seen, the kilobytes sent, and how many requests went elsewhere."""
    page = context.new_page()
    sent, asked = _count_traffic(page)
    began = time.monotonic()
    page.goto(app.url, wait_until="commit")
    page.locator("#generate").wait_for()
    seconds = time.monotonic() - began
    page.wait_for_timeout(2000)
    page.close()
    outside = [url for url in asked if not url.startswith((app.url, "data:", "blob:"))]
    return seconds, sum(sent) / 1000, len(outside)


def _count_traffic(page: Page) -> tuple[list[float], list[str]]:
    sent: list[float] = []
    asked: list[str] = []
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: sent.append(event["encodedDataLength"]))
    page.on("request", lambda request: asked.append(request.url))
    return sent, asked


def forecasting(browser: Browser, app: Served) -> dict[str, Any]:
    """Return how long the forecast takes to follow a slider."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page, _ = _visit(context, app.url)
    page.wait_for_function("document.querySelector('.i2v-forecast')?.dataset.state === 'fits'")
    took = []
    for frames in range(30, 40):
        took.append(page.evaluate(_CHANGE, frames))
        page.wait_for_timeout(700)
    context.close()
    return {
        "forecast_after_change_ms": round(max(took[1:])),  # the first one opens connections
        "forecast_after_change_median_ms": round(statistics.median(took)),
    }


def idle(browser: Browser, app: Served, seconds: float) -> dict[str, Any]:
    """Return what the web process takes with nobody there, and with one page open."""
    process = psutil.Process(app.pid)
    alone = _share_of_a_core(process, seconds)
    context = browser.new_context()
    page, _ = _visit(context, app.url)
    page.wait_for_timeout(3000)
    watched = _share_of_a_core(process, seconds)
    context.close()
    return {
        "idle_core_percent": round(alone, 1),
        "idle_core_percent_with_a_page": round(watched, 1),
        "idle_memory_mb": round(process.memory_info().rss / 1e6),
    }


def _share_of_a_core(process: psutil.Process, seconds: float) -> float:
    before = sum(process.cpu_times()[:2])
    time.sleep(seconds)
    return 100 * (sum(process.cpu_times()[:2]) - before) / seconds


def submit(app: Served, picture: Path, **settings: Any) -> str:
    """Queue a job by REST and return its id."""
    with picture.open("rb") as file:
        fields = {name: str(value) for name, value in settings.items()}
        answer = httpx.post(f"{app.url}/api/v1/jobs", data=fields, files={"image": file}, timeout=60)
    answer.raise_for_status()
    return str(answer.json()["id"])


def look(app: Served, job_id: str) -> dict[str, Any]:
    """Return a job as it stands."""
    answer: dict[str, Any] = httpx.get(f"{app.url}/api/v1/jobs/{job_id}", timeout=30).json()
    return answer


def wait_until(app: Served, job_id: str, states: tuple[str, ...]) -> dict[str, Any]:
    """Return a job once it is in one of the states."""
    while (job := look(app, job_id))["state"] not in states:
        time.sleep(1.0)  # seldom: looking takes a little of the same cores
    return job


def live(browser: Browser, app: Served, picture: Path, seconds: float) -> dict[str, Any]:
    """Return how smooth the page is while a job runs, and beside it an idle page; then look at seven tabs."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page, _ = _visit(context, app.url)
    page.wait_for_timeout(3000)
    quiet = _smoothness(page, seconds)
    # Small frames and very many steps: the job must outlast the watching and leave a core to the browser.
    job = submit(app, picture, prompt="zoom in", width=512, height=344, num_frames=240, num_inference_steps=100)
    wait_until(app, job, ("running",))
    page.goto(f"{app.url}/?job={job}")
    page.locator("#generate").wait_for()
    page.wait_for_timeout(3000)
    busy = _smoothness(page, seconds)
    moving = _moving_tabs(context, app, job)
    httpx.delete(f"{app.url}/api/v1/jobs/{job}", timeout=30)
    wait_until(app, job, ("cancelled", "done"))
    context.close()
    return {
        "live_long_frames_per_minute": round(60 * busy["late"] / seconds, 1),
        "live_long_tasks_per_minute": round(60 * busy["tasks"] / seconds, 1),
        "live_longest_frame_ms": round(busy["longest"], 1),
        "idle_long_frames_per_minute": round(60 * quiet["late"] / seconds, 1),
        "idle_longest_frame_ms": round(quiet["longest"], 1),
        "live_tabs": moving,
    }


def _smoothness(page: Page, seconds: float) -> dict[str, float]:
    page.evaluate(_WATCH)
    page.wait_for_timeout(1000 * seconds)
    seen: dict[str, float] = page.evaluate("window.i2vFrames")
    return seen


def _moving_tabs(context: BrowserContext, app: Served, job: str) -> int:
    pages = [_visit(context, f"{app.url}/?job={job}")[0] for _ in range(7 - len(context.pages))] + context.pages[:1]
    elapsed = "document.querySelector('#panel .elapsed')?.textContent || ''"
    time.sleep(3)
    before = [page.evaluate(elapsed) for page in pages]
    time.sleep(4)
    after = [page.evaluate(elapsed) for page in pages]
    return sum(bool(new) and new != old for old, new in zip(before, after, strict=True))


_ENGINE = """
import json, sys
from pathlib import Path
from i2v.engine.run import Engine, RunSpec
from i2v.jobs.folder import JobFolder
from i2v.request import GenerationRequest
folder, request = Path(sys.argv[1]), GenerationRequest.model_validate_json(sys.argv[2])
engine, seconds = Engine(), []
engine.run(RunSpec("warm", 1, request, folder, JobFolder(folder)), lambda *_: None, lambda: False)
for line in sys.stdin:
    result = engine.run(RunSpec("bench", 1, request, folder, JobFolder(folder)), lambda *_: None, lambda: False)
    print(json.dumps(result.seconds), flush=True)
"""


def overhead(browser: Browser, app: Served, picture: Path, runs: int) -> dict[str, Any]:
    """Return the medians of a job's seconds by the engine alone, through the app and with a page, and what they add."""
    settings = {"prompt": "zoom in", "seed": 1, "width": 1280, "height": 856, "num_frames": 48}
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    first = wait_until(app, submit(app, picture, **settings), ("done", "failed"))  # loads the model
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(picture, JobFolder(Path(name)).picture)
        command = [sys.executable, "-c", _ENGINE, name, json.dumps(first["request"])]
        alone = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if alone.stdin is None or alone.stdout is None:
            raise SystemExit("the engine's process has no pipes")
        through_app, with_page, engine_only, web_share = [], [], [], []
        web = psutil.Process(app.pid)
        for _ in range(runs):
            alone.stdin.write("go\n")
            alone.stdin.flush()
            engine_only.append(float(alone.stdout.readline()))
            job = submit(app, picture, **settings)
            before = sum(web.cpu_times()[:2])
            through_app.append(_seconds(app, job))
            web_share.append((sum(web.cpu_times()[:2]) - before) / through_app[-1])
            job = submit(app, picture, **settings)
            page, _ = _visit(context, f"{app.url}/?job={job}")
            with_page.append(_seconds(app, job))
            page.close()
        alone.stdin.close()
        alone.wait(60)
    context.close()
    return {
        "job_engine_only_s": round(statistics.median(engine_only), 2),
        "job_through_app_s": round(statistics.median(through_app), 2),
        "overhead_percent": _added(through_app, engine_only),
        "web_process_core_percent_during_a_job": round(100 * statistics.median(web_share), 1),
        "job_with_a_page_s": round(statistics.median(with_page), 2),
        "overhead_with_browser_on_the_same_cores_percent": _added(with_page, engine_only),
    }


def _seconds(app: Served, job: str) -> float:
    return float(wait_until(app, job, ("done", "failed"))["result"]["seconds"])


def _added(seconds: list[float], baseline: list[float]) -> float:
    ratios = [a / b for a, b in zip(seconds, baseline, strict=True)]
    return round(100 * (statistics.median(ratios) - 1), 1)


def measure(seconds: float, runs: int) -> dict[str, Any]:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as name, serve(Path(name) / "home") as app, _browser() as browser:
        picture = _picture(Path(name))
        with serve_bare() as bare:
            figures = {"page_answers_after_s": round(app.ready_s, 2)} | loading(browser, app, bare)
        figures |= forecasting(browser, app) | idle(browser, app, seconds / 3)
        figures |= live(browser, app, picture, seconds)
        return figures | overhead(browser, app, picture, runs)


def table(figures: dict[str, Any]) -> str:
    """Return the figures line by line, each with its bar and whether it is met."""
    return "\n".join(_line(name, value) for name, value in figures.items())


def _line(name: str, value: Any) -> str:
    if name not in BARS:
        return f"{name:48} {value}"
    met = value >= BARS[name] if name in _AT_LEAST else value <= BARS[name]
    return f"{name:48} {value:<8} bar {BARS[name]:<6} {'met' if met else 'NOT MET'}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure how quick the page is.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=60, help="how long to watch the page (default 60)")
    parser.add_argument("--runs", type=int, default=5, help="jobs of each kind for the overhead (default 5)")
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {RESULT.name}")
    args = parser.parse_args()
    figures = measure(args.seconds, args.runs)
    if args.write:
        command = "python -m benchmarks.page_speed --write"
        RESULT.write_text(json.dumps({"command": command, "cores": os.cpu_count()} | figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2) if args.json else table(figures))


if __name__ == "__main__":
    main()
