"""What the REST face refuses before anything is queued: forms, fields and pictures that cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from i2v.rest.routes import add_rest
from i2v.service import Service
from i2v.settings import Settings

SMALL = {"prompt": "the camera pans left", "width": "64", "height": "64", "num_frames": "4"}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The REST face on a service that runs no jobs."""
    service = Service(Settings(tmp_path_factory.mktemp("rest") / "home", "WARNING"))
    app = FastAPI(openapi_url=None)
    add_rest(app, service, None)
    yield TestClient(app)
    assert service.count_jobs() == 0, "what was refused must not be queued"
    assert list(service.settings.jobs.iterdir()) == list((service.settings.home / "tmp").iterdir()) == []
    service.close()


def told(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    assert error["message"]
    return answer.status_code, error["kind"], error["field"]


@pytest.mark.parametrize(
    ("wrong", "status", "kind", "field"),
    [
        ({"prompt": "  "}, 422, "InputError", "prompt"),
        ({"prompt": "zoom in " * 60}, 422, "InputError", "prompt"),
        ({"prompt": "x" * 65537}, 413, "TooLarge", None),
        ({"width": "63"}, 422, "InputError", "width"),
        ({"num_frames": "many"}, 422, "InputError", "num_frames"),
        ({"guidance_scale": "nan"}, 422, "InputError", "guidance_scale"),
        ({"seed": "-1"}, 422, "InputError", "seed"),
        ({"seed": ["1", "2"]}, 422, "InputError", "seed"),
        ({"formats": "exe"}, 422, "InputError", "formats"),
        ({"image_sha256": "0"}, 422, "InputError", "image_sha256"),
        ({"model": "../weights"}, 422, "InputError", "model"),
        ({"model": "i2vgen-xl", "width": "512", "height": "512", "num_frames": "16"}, 409, "ModelFilesError", "model"),
    ],
)
def test_a_wrong_field_is_named(
    web: TestClient, photo: Path, wrong: dict[str, Any], status: int, kind: str, field: str | None
) -> None:
    with photo.open("rb") as file:
        answer = web.post("/api/v1/jobs", data=SMALL | wrong, files={"image": file})
    assert told(answer) == (status, kind, field)


@pytest.mark.parametrize(
    ("files", "status", "kind", "field"),
    [
        ({"image": ("words.png", b"only words")}, 422, "ImageError", "image"),
        ({"image": ("nothing.png", b"")}, 422, "ImageError", "image"),
        ({"picture": ("cat.jpg", b"x")}, 400, "BadRequest", "image"),
        ({"image": (None, "/etc/passwd")}, 400, "BadRequest", "image"),
        ({"seed": (None, "7")}, 422, "InputError", "image"),
        ([("image", b"x"), ("image", b"y")], 400, "BadRequest", None),
        ([("seed", (None, "7"))] * 100, 400, "BadRequest", None),
    ],
)
def test_a_wrong_picture_is_refused(web: TestClient, files: Any, status: int, kind: str, field: str | None) -> None:
    known = {} if isinstance(files, list) else SMALL
    assert told(web.post("/api/v1/jobs", data=known, files=files)) == (status, kind, field)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("application/x-www-form-urlencoded", b"prompt=x"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=b", b"--c\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--"),
        ("", b""),
    ],
)
def test_what_is_no_form_is_a_bad_request(web: TestClient, content_type: str, body: bytes) -> None:
    answer = web.post("/api/v1/jobs", content=body, headers={"Content-Type": content_type})
    assert told(answer) == (400, "BadRequest", None)
