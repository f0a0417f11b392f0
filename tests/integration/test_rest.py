"""The REST face as other programs meet it: the real app on a real port, with real jobs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from i2v.media.image import MAX_FILE_BYTES
from tests.integration.test_page import App

SMALL = {"prompt": "the camera pans left", "width": "64", "height": "64", "num_frames": "4", "seed": "7"}
LONG = SMALL | {"num_inference_steps": "100", "num_frames": "60"}
ADDRESSES = {
    "POST /api/v1/jobs",
    "GET /api/v1/jobs",
    "GET /api/v1/jobs/{job_id}",
    "DELETE /api/v1/jobs/{job_id}",
    "GET /api/v1/jobs/{job_id}/events",
    "GET /api/v1/jobs/{job_id}/files/{kind}",
    "GET /api/v1/jobs/{job_id}/poster",
    "GET /api/v1/forecast",
    "GET /api/v1/models",
    "GET /healthz",
    "GET /metrics",
}
GRADIO_ENDPOINTS = {"/submit_job", "/job", "/cancel_job", "/job_video"}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The whole app, page included, in a process of its own."""
    app = App(tmp_path_factory.mktemp("rest") / "home")
    app.start()
    with httpx.Client(base_url=app.url, timeout=60) as client:
        yield client
    app.stop()


def submit(web: httpx.Client, photo: Path, fields: dict[str, Any]) -> httpx.Response:
    with photo.open("rb") as file:
        return web.post("/api/v1/jobs", data=fields, files={"image": ("My cat.jpg", file)})


def refusal(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code >= 400
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"kind", "message", "remedy", "field", "nearest"}
    assert "Traceback" not in answer.text
    return dict(body["error"])


def events(web: httpx.Client, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Follow a job by server-sent events to the end of the stream."""
    seen = []
    with web.stream("GET", job["events_url"]) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("id: "):
                seen.append({"id": line[4:]})
            elif line.startswith("data: "):
                seen.append(json.loads(line[6:]))
    return seen


def test_a_job_from_the_form_to_the_file(web: httpx.Client, photo: Path) -> None:
    answer = submit(web, photo, SMALL | {"formats": ["gif", "png"]})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["location"] == job["url"] == f"/api/v1/jobs/{job['id']}"
    assert (job["image_name"], job["request"]["seed"], job["is_over"]) == ("My cat.jpg", 7, False)

    followed = events(web, job)
    bodies = [event for event in followed if "revision" in event]
    assert [event["revision"] for event in bodies] == [event["id"] for event in followed if len(event) == 1]
    assert len({event["revision"] for event in bodies}) == len(bodies) >= 3
    done = bodies[-1]
    assert [event["is_over"] for event in bodies] == [False] * (len(bodies) - 1) + [True]
    assert (done["state"], done["error"]) == ("done", None)
    assert done["plan"]["words"]
    assert web.get(job["url"]).json() == done

    for kind, start in (("mp4", b"ftyp"), ("gif", b"GIF8"), ("png", b"PK")):
        fetched = web.get(done["files"][kind]["url"])
        assert fetched.status_code == 200
        assert len(fetched.content) == done["files"][kind]["bytes"]
        assert start in fetched.content[:12]
        ending = "zip" if kind == "png" else kind
        assert f'filename="i2v-{job["id"][:8]}.{ending}"' in fetched.headers["content-disposition"].replace("''", '"')
    assert web.get(done["poster_url"]).content.startswith(b"\xff\xd8")
    assert web.get(done["files"]["mp4"]["url"], headers={"Range": "bytes=4-7"}).content == b"ftyp"
    assert "mp4, gif, png" in refusal(web.get(f"{job['url']}/files/webp"))["remedy"]

    again = web.get(job["events_url"], headers={"Last-Event-ID": done["revision"]})
    assert again.status_code == 204
    began = time.monotonic()
    assert web.get(job["events_url"], params={"wait": 30, "since": done["revision"]}).json() == done
    assert time.monotonic() - began < 10

    found = web.get("/api/v1/jobs", params={"q": "cat PANS", "state": ["done", "failed"], "limit": 1}).json()
    assert (found["jobs"], found["total"], found["limit"]) == ([done], 1, 1)
    assert web.get("/api/v1/jobs", params={"state": "queued"}).json()["total"] == 0
    assert web.get("/api/v1/jobs", params={"offset": 1}).json()["jobs"] == []

    metrics = web.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'i2v_jobs{state="done"} 1.0' in metrics.text
    assert 'i2v_runs_ended_total{state="done"} 1.0' in metrics.text
    assert 'i2v_stage_seconds_count{stage="denoise"} 1.0' in metrics.text
    assert "i2v_worker_starts_total 1.0" in metrics.text
    assert "i2v_queue_length 0.0" in metrics.text
    assert "camera" not in metrics.text
    assert job["id"] not in metrics.text


def test_jobs_wait_in_line_and_are_cancelled_as_often_as_one_likes(web: httpx.Client, photo: Path) -> None:
    running, waiting = submit(web, photo, LONG).json(), submit(web, photo, SMALL).json()
    assert waiting["queue_position"] is not None
    assert refusal(web.get(f"{waiting['url']}/files/mp4"))["kind"] == "Conflict"
    assert web.delete(waiting["url"]).json()["state"] == "cancelled"
    now, deadline = running, time.monotonic() + 90
    while (now["progress"] or {}).get("stage") != "denoise" and time.monotonic() < deadline:
        now = web.get(running["events_url"], params={"wait": 20, "since": now["revision"]}).json()
    asked = web.delete(running["url"])
    assert (asked.status_code, asked.json()["state"]) == (202, "cancelling")
    now = asked.json()
    while not now["is_over"] and time.monotonic() < deadline:
        now = web.get(running["events_url"], params={"wait": 20, "since": now["revision"]}).json()
    assert (now["state"], now["error"]["kind"]) == ("cancelled", "Cancelled")
    again = web.delete(running["url"])
    assert (again.status_code, again.json()) == (200, now)
    began = time.monotonic()
    assert [event["state"] for event in events(web, waiting) if "state" in event] == ["cancelled"]
    assert time.monotonic() - began < 10


def test_a_job_that_is_stopped_and_kept_becomes_a_video_of_what_there_was(web: httpx.Client, photo: Path) -> None:
    now, deadline = submit(web, photo, LONG).json(), time.monotonic() + 90
    while (now["progress"] or {}).get("stage") != "denoise" and time.monotonic() < deadline:
        now = web.get(now["events_url"], params={"wait": 20, "since": now["revision"]}).json()
    asked = web.delete(now["url"], params={"keep": "true"})
    assert (asked.status_code, asked.json()["state"]) == (202, "stopping")
    now = asked.json()
    while not now["is_over"] and time.monotonic() < deadline:
        now = web.get(now["events_url"], params={"wait": 20, "since": now["revision"]}).json()
    assert now["state"] == "done"
    assert now["result"]["stopped"]["stage"] == "denoise"
    assert web.get(now["files"]["mp4"]["url"]).content[4:8] == b"ftyp"


def test_what_is_too_large_is_refused_while_it_comes(web: httpx.Client) -> None:
    for size in (MAX_FILE_BYTES + 1, MAX_FILE_BYTES + (4 << 20)):
        refused = web.post("/api/v1/jobs", data=SMALL, files={"image": ("large.png", bytes(size))})
        assert (refused.status_code, refusal(refused)["field"]) == (413, "image")
    endless = iter([b"--b\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n", *[bytes(1 << 20)] * 40])
    streamed = web.post("/api/v1/jobs", content=endless, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert (streamed.status_code, refusal(streamed)["kind"]) == (413, "TooLarge")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/jobs/0",
        "/api/v1/jobs/0/events",
        "/api/v1/jobs/0/events?wait=0",
        "/api/v1/jobs/0/files/mp4",
        "/api/v1/jobs/0/poster",
        "/api/v1/jobs/..%2f..%2fi2v.sqlite3",
        "/api/v1/jobs/0/files/..%2f..%2f..%2fi2v.sqlite3",
        "/api/v1/jobs/%00",
        "/api/v1/nothing",
        "/api/",
    ],
)
def test_what_is_not_there_is_a_plain_404(web: httpx.Client, path: str) -> None:
    answer = web.get(path)
    assert answer.status_code == 404
    assert refusal(answer)["kind"] in ("UnknownJobError", "NotFound")


def test_a_file_is_looked_up_and_never_a_path(web: httpx.Client, photo: Path) -> None:
    done = submit(web, photo, SMALL).json()
    while not done["is_over"]:
        done = web.get(done["events_url"], params={"wait": 20, "since": done["revision"]}).json()
    for kind in ("picture.png", "..%2f..%2fi2v.sqlite3", "%2fetc%2fpasswd", "mp4%00", "MP4"):
        assert web.get(f"{done['url']}/files/{kind}").status_code == 404, kind


def test_other_refusals_have_the_same_shape(web: httpx.Client) -> None:
    assert refusal(web.delete("/api/v1/jobs/0"))["kind"] == "UnknownJobError"
    assert refusal(web.delete("/api/v1/jobs"))["kind"] == "NotFound"
    limit = web.get("/api/v1/jobs", params={"limit": 101})
    assert (limit.status_code, refusal(limit)["field"]) == (422, "limit")
    assert refusal(web.get("/api/v1/jobs", params={"state": "lost"}))["field"] == "state"
    cross = web.post("/api/v1/jobs", headers={"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"})
    assert cross.status_code == 403
    assert web.get("/api/v1/models", headers={"Host": "evil.example"}).status_code == 400


def test_a_forecast_is_the_ladder_for_this_machine_or_another(web: httpx.Client) -> None:
    here = web.get("/api/v1/forecast", params={"width": 256, "height": 256, "num_frames": 8}).json()
    assert (here["model"], here["width"], here["num_frames"]) == ("motion", 256, 8)
    assert sum(rung["chosen"] for rung in here["rungs"]) == 1
    large = {"model": "i2vgen-xl", "width": 1024, "height": 1024, "num_frames": 32}
    other = web.get("/api/v1/forecast", params=large | {"pretend_vram_gib": 24}).json()
    assert other["machine"]["vram_total_bytes"] == 24 << 30
    assert any(rung["chosen"] and rung["fits"] for rung in other["rungs"])
    small = web.get("/api/v1/forecast", params=large | {"pretend_vram_gib": 1}).json()
    assert not any(rung["fits"] for rung in small["rungs"])
    assert refusal(web.get("/api/v1/forecast", params={"width": 64}))["field"] == "height"
    assert refusal(web.get("/api/v1/forecast", params={"pretend_vram_gib": "-1"}))["field"] == "vram_gib"
    assert refusal(web.get("/api/v1/forecast", params={"card": "8"}))["field"] == "card"


def test_models_say_what_they_can_do_and_not_where_they_are(web: httpx.Client) -> None:
    answer = web.get("/api/v1/models")
    motion, *others = answer.json()["models"]
    assert (motion["name"], motion["installed"], motion["can_loop"]) == ("motion", True, True)
    assert motion["num_frames"] == {"low": 2, "high": 240}
    assert not any(model["installed"] for model in others)
    assert str(Path(__file__).parents[2]) not in answer.text


def test_health_names_the_parts_that_live(web: httpx.Client) -> None:
    assert {"status": "ok", "store": True, "dispatcher": True}.items() <= web.get("/healthz").json().items()


def test_the_public_addresses_are_these(web: httpx.Client) -> None:
    """Other programs rely on them: a change here is a change for them."""
    document = web.get("/api/openapi.json").json()
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert described == ADDRESSES
    assert "HTTPValidationError" not in document["components"]["schemas"]  # every refusal has our own shape
    form = document["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"image", "prompt", "seed", "formats"} <= set(form["properties"])
    named = Client(str(web.base_url), verbose=False).view_api(return_format="dict", print_info=False)
    assert set(named["named_endpoints"]) == GRADIO_ENDPOINTS


def test_gradio_client_submits_follows_and_fetches(web: httpx.Client, photo: Path) -> None:
    client = Client(str(web.base_url), verbose=False)
    job = client.predict(handle_file(photo), "zoom in", SMALL | {"formats": ["gif"]}, api_name="/submit_job")
    assert job["request"]["formats"] == ["gif"]
    for _ in range(300):
        told = client.predict(job["id"], api_name="/job")
        if told["is_over"]:
            break
        time.sleep(0.2)
    assert told == web.get(job["url"]).json()
    video = Path(client.predict(job["id"], api_name="/job_video"))
    assert video.read_bytes() == web.get(told["files"]["mp4"]["url"]).content
    assert client.predict(job["id"], api_name="/cancel_job") == told
    with pytest.raises(AppError, match="There is no job 0"):
        client.predict("0", api_name="/cancel_job")
    with pytest.raises(AppError, match="is not valid"):
        client.predict(handle_file(photo), "zoom in", {"num_frames": "many"}, api_name="/submit_job")


def test_gradio_client_cannot_name_a_file_of_the_machine(web: httpx.Client, photo: Path) -> None:
    for image in ({"path": str(photo)}, str(photo), None):
        answer = web.post("/gradio_api/run/submit_job", json={"data": [image, "zoom in", SMALL]})
        assert answer.status_code >= 400, image
    assert web.get("/api/v1/jobs", params={"q": photo.name}).json()["total"] == 1  # the one above, uploaded


def test_the_documentation_lists_every_address_and_loads_nothing_from_outside(web: httpx.Client) -> None:
    page = web.get("/api/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert all(f">{address}</code>" in page.text for address in ADDRESSES)
    assert page.text.count('class="at"') == len(ADDRESSES)
    assert "https:" not in page.text
    assert "src=" not in page.text
