"""A stranger's picture is decoded once on its way into the queue, by whichever face it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from i2v.media import image
from i2v.media.image import check_picture
from i2v.rest.routes import add_rest
from i2v.service import Service
from i2v.settings import Settings
from i2v.ui.handlers import Handlers

FIELDS = {
    "image": None, "image_fit": "crop", "prompt": "pan left", "negative_prompt": "", "model": "motion", "loop": False,
    "match_picture": True, "short_side_px": 64, "width": 96, "height": 64, "num_frames": 4, "fps": 8, "formats": [],
    "num_inference_steps": 2, "guidance_scale": 1.0, "seed": "3", "precision": "auto", "chunk_frames": "",
    "vram_gib": "",
    "ram_gib": "",
}  # fmt: skip


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    """A service that runs no jobs."""
    service = Service(Settings(home, "WARNING"))
    yield service
    service.close()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    names: list[str] = []
    decode = image._decode

    def counted(path: Path, *others: Any) -> Any:
        names.append(path.name)
        return decode(path, *others)

    monkeypatch.setattr(image, "_decode", counted)
    return names


def press_generate(service: Service, **changed: Any) -> dict[str, Any]:
    fields = FIELDS | changed
    form = cast(Any, SimpleNamespace(names=list(fields), fields={}))
    parts = cast(Any, SimpleNamespace(job="job", refusal="refusal", result="result"))
    browser = cast(gr.Request, SimpleNamespace(headers={}))
    return Handlers(service, form, parts).start(browser, *fields.values())


def by_the_page(service: Service, path: Path) -> None:
    assert press_generate(service, image=str(path))["job"]


def by_the_page_with_its_own_size(service: Service, path: Path) -> None:
    assert press_generate(service, image=str(path), match_picture=False)["job"]


def by_rest(service: Service, path: Path) -> None:
    app = FastAPI(openapi_url=None)
    add_rest(app, service, None)
    with path.open("rb") as file:
        sent = TestClient(app).post(
            "/api/v1/jobs",
            data={"prompt": "pan left", "width": "96", "height": "64", "num_frames": "4"},
            files={"image": file},
        )
    assert sent.status_code == 201, sent.text


def by_file(service: Service, path: Path) -> None:
    service.submit({"prompt": "pan left", "width": 96, "height": 64, "num_frames": 4}, path)


@pytest.mark.parametrize("submit", [by_the_page, by_the_page_with_its_own_size, by_rest, by_file])
def test_a_picture_is_decoded_once_per_submission(
    service: Service, photo: Path, decoded: list[str], submit: Callable[[Service, Path], None]
) -> None:
    submit(service, photo)
    assert len(decoded) == 1
    (job,) = service.active_jobs()
    with Image.open(service.settings.job_folder(job.id) / "picture.png") as kept:
        assert np.array_equal(np.asarray(kept), np.asarray(check_picture(photo).pixels))
        assert (kept.mode, kept.info) == ("RGB", {})


def test_a_picture_that_cannot_be_is_refused_at_its_field_and_nothing_is_queued(
    service: Service, tmp_path: Path, decoded: list[str]
) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    told = press_generate(service, image=str(tmp_path / "cut.png"))
    assert "damaged or cut short" in told["refusal"]["message"]
    assert "job" not in told
    assert len(decoded) == 1
    assert service.active_jobs() == []
