"""What the library promises of finished jobs and their files, against a real store, real videos and hostile files."""

from __future__ import annotations

import json
import os
import re
import struct
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i2v.errors import InputError, StorageError, UnknownJobError
from i2v.jobs.folder import JobFolder
from i2v.jobs.model import Job, JobState
from i2v.jobs.result import RunResult
from i2v.jobs.store import JobStore
from i2v.media.formats import open_writer, read_request
from i2v.media.image import load_picture, picture_sha256, save_png
from i2v.media.metadata import metadata_text
from i2v.media.video import read_frames
from i2v.request import build_request
from i2v.service import Snapshot
from i2v.service import library as module
from i2v.service.library import Library
from i2v.settings import Settings

SIZE = (96, 64)
ASKED = {"prompt": "zoom in", "width": 96, "height": 64, "num_frames": 4, "fps": 8, "seed": 5}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(home: Path) -> Settings:
    settings = Settings(home)
    settings.make_folders()
    return settings


@pytest.fixture
def store(settings: Settings, clock: Clock) -> Iterator[JobStore]:
    store = JobStore(settings.database, clock)
    yield store
    store.close()


@pytest.fixture
def library(store: JobStore, settings: Settings) -> Iterator[Library]:
    library = Library(store, settings)
    yield library
    library.close()


def moving(count: int = 4) -> list[np.ndarray]:
    ramp = np.linspace(0, 200, SIZE[0], dtype=np.uint8)
    return [np.repeat(np.roll(ramp, 8 * i)[None, :, None], SIZE[1], 0).repeat(3, 2) for i in range(count)]


def add_job(store: JobStore, settings: Settings, picture: Path | None = None, **changes: Any) -> Job:
    """Put a finished job with a real video into the store, as the engine would."""
    asked = build_request(ASKED | changes, SIZE)
    if picture:
        asked = asked.model_copy(update={"image_sha256": picture_sha256(load_picture(picture))})
    request = asked.model_dump(mode="json")
    job = store.submit(request, "<b>cat.png", "web")
    folder = settings.job_folder(job.id)
    folder.mkdir()
    if picture:
        save_png(load_picture(picture), folder / "picture.png")
    name = f"i2v-{job.id[:8]}.mp4"
    with open_writer(folder / name, 8, SIZE, {"i2v": "0.1.0", "request": request, "plan": {}}) as writer:
        for frame in moving():
            writer.write(frame)
    claimed = store.claim("web", os.getpid(), 1.0)
    assert claimed
    store.finish(job.id, 1, JobState.DONE, RunResult(files={"mp4": name}, file_bytes={"mp4": 1}))
    return snapshot(store, settings, job.id).job


def snapshot(store: JobStore, settings: Settings, job_id: str) -> Snapshot:
    job = store.get(job_id)
    assert job
    return Snapshot(job, None, None, JobFolder(settings.job_folder(job_id)))


# Other formats


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_another_format_is_made_once_and_belongs_to_the_job_from_then_on(
    library: Library, store: JobStore, settings: Settings, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add_job(store, settings)
    made: list[Path] = []
    writer = module.open_writer

    def counting(path: Path, *others: Any) -> Any:
        made.append(path)
        time.sleep(0.2)
        return writer(path, *others)

    monkeypatch.setattr(module, "open_writer", counting)
    found: list[Path] = []
    callers = [threading.Thread(target=lambda: found.append(library.converted(job.id, kind))) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(made) == 1
    assert len(set(found)) == 1
    assert len(library._locks) == 0  # or there would be one per job for ever
    after = snapshot(store, settings, job.id)
    assert after.file(kind) == found[0]
    assert after.file("mp4")
    assert found[0].name == f"i2v-{job.id[:8]}{'.zip' if kind == 'png' else '.' + kind}"
    assert read_request(found[0])["request"] == job.request
    assert not list(after.folder.path.glob("*.part"))
    if kind == "webp":
        with Image.open(found[0]) as picture:
            assert (picture.size, getattr(picture, "n_frames", 0)) == (SIZE, 4)


def test_a_format_that_fails_half_way_leaves_nothing(
    library: Library, store: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add_job(store, settings)

    def full_disk(self: Any, frame: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("i2v.media.formats.GifWriter._add", full_disk)
    with pytest.raises(StorageError, match="the disk is full"):
        library.converted(job.id, "gif")
    after = snapshot(store, settings, job.id)
    assert after.file("gif") is None
    assert [path.suffix for path in after.folder.path.iterdir()] == [".mp4"]


def test_what_cannot_be_converted_is_said_in_a_sentence(library: Library, store: JobStore, settings: Settings) -> None:
    job = add_job(store, settings)
    with pytest.raises(InputError, match="There is no format 'exe'"):
        library.converted(job.id, "exe")
    with pytest.raises(UnknownJobError):
        library.converted("f" * 32, "gif")
    next(settings.job_folder(job.id).glob("*.mp4")).unlink()
    for call in (lambda: library.converted(job.id, "gif"), lambda: library.last_frame(job.id)):
        with pytest.raises(InputError, match="This job has no video"):
            call()


def test_the_last_frame_is_the_one_the_engine_left_or_that_of_the_video(
    library: Library, store: JobStore, settings: Settings
) -> None:
    job = add_job(store, settings)
    path = library.last_frame(job.id)
    assert path == settings.job_folder(job.id) / "last.png"
    *_, last = read_frames(settings.job_folder(job.id) / f"i2v-{job.id[:8]}.mp4")
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture), last)
    path.write_bytes(b"left by the engine")
    assert library.last_frame(job.id).read_bytes() == b"left by the engine"


def test_a_download_has_a_name_of_facts_alone(library: Library, store: JobStore, settings: Settings) -> None:
    job = add_job(store, settings, prompt="../../etc/passwd")
    name = library.file_name(snapshot(store, settings, job.id))
    assert re.fullmatch(rf"i2v-motion-96x64-seed5-\d{{8}}-\d{{4}}-{job.id[:8]}\.mp4", name)
    assert library.file_name(snapshot(store, settings, job.id), "png").endswith(".zip")


# The bin


def test_a_deleted_job_can_be_restored_until_it_is_purged(
    library: Library, store: JobStore, settings: Settings, clock: Clock
) -> None:
    job, other = add_job(store, settings), add_job(store, settings)
    library.delete(job.id)
    assert [left.id for left in store.list()] == [other.id]
    clock.now += 599
    assert library.purge() == 0
    library.restore(job.id)
    assert len(store.list()) == 2
    library.delete(job.id)
    clock.now += 601
    assert library.purge() == 1
    assert not settings.job_folder(job.id).exists()
    assert settings.job_folder(other.id).exists()
    with pytest.raises(UnknownJobError):
        library.restore(job.id)


def test_a_purge_removes_nothing_outside_of_the_folder_of_jobs(
    library: Library, store: JobStore, settings: Settings, clock: Clock, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "photo.jpg").write_bytes(b"x")
    linked, holds_link = add_job(store, settings), add_job(store, settings)
    os.rename(settings.job_folder(linked.id), tmp_path / "moved")
    settings.job_folder(linked.id).symlink_to(precious)
    (settings.job_folder(holds_link.id) / "frames").symlink_to(precious)
    strange = ["..", "../precious", "", str(precious), "A" * 32]
    for job_id in [store.submit({}, "a.png", "web", job_id=name).id for name in strange]:
        store.request_cancel(job_id)
        library.delete(job_id)
    stranger = settings.jobs / "holiday"
    stranger.mkdir()
    for job in (linked, holds_link):
        library.delete(job.id)
    clock.now += 1000
    assert library.purge() == 7
    assert (precious / "photo.jpg").exists()
    assert (tmp_path / "moved").exists()
    assert list(settings.jobs.iterdir()) == [stranger]
    assert store.deleted() == set()


def test_a_folder_that_cannot_be_removed_is_tried_again(
    library: Library, store: JobStore, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add_job(store, settings)
    library.delete(job.id)
    clock.now += 1000

    def busy(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", busy)
        assert library.purge() == 0
    with pytest.raises(UnknownJobError):
        library.restore(job.id)
    assert library.purge() == 1
    assert not settings.job_folder(job.id).exists()


def test_the_bin_is_purged_by_itself(library: Library, store: JobStore, settings: Settings, clock: Clock) -> None:
    job = add_job(store, settings)
    library.delete(job.id)
    clock.now += 1000
    library.start()
    deadline = time.monotonic() + 10
    while settings.job_folder(job.id).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_disk_use_is_counted_quickly_and_tells_jobs_from_the_bin(
    library: Library, store: JobStore, settings: Settings
) -> None:
    job = add_job(store, settings)
    video = next(settings.job_folder(job.id).glob("*.mp4")).stat().st_size
    for number in range(500):
        folder = settings.jobs / f"{number:032x}"
        folder.mkdir()
        (folder / "a.mp4").write_bytes(b"x" * 10)
    (settings.jobs / "link").symlink_to("/usr")
    (settings.home / "models" / "m").mkdir(parents=True)
    (settings.home / "models" / "m" / "weights").write_bytes(b"x" * 70)
    use = library.disk_use()
    assert (use.jobs_bytes, use.trash_bytes, use.models_bytes) == (video + 5000, 0, 70)
    assert use.free_bytes > 0
    library.delete(job.id)
    (settings.jobs / f"{3:032x}" / "b.gif").write_bytes(b"x" * 5)
    began = time.perf_counter()
    use = library.disk_use()
    assert (use.jobs_bytes, use.trash_bytes) == (5005, video)
    assert time.perf_counter() - began < 0.2  # 0.05 with nothing else on the machine


# From a file to its settings


def written(path: Path, request: dict[str, Any]) -> Path:
    with open_writer(path, 8, SIZE, {"i2v": "0.1.0", "request": request}) as writer:
        for frame in moving(2):
            writer.write(frame)
    return path


@pytest.mark.parametrize("ending", ["mp4", "gif", "webp", "zip"])
def test_a_video_gives_back_its_settings_and_its_picture(
    library: Library, store: JobStore, settings: Settings, photo: Path, tmp_path: Path, ending: str
) -> None:
    job = add_job(store, settings, photo, formats=("gif",), prompt="ein Bär “x”")
    path = written(tmp_path / f"renamed.{ending}", job.request)
    request, picture = library.settings_of(path)
    assert request == job.request
    assert picture == settings.job_folder(job.id) / "picture.png"
    library.delete(job.id)
    assert library.settings_of(path)[1] is None


def with_request(tmp_path: Path, **changes: Any) -> Path:
    """Return a file as i2v writes it, but for what its request says."""
    request = build_request(ASKED, SIZE).model_dump(mode="json") | changes
    text = metadata_text({"i2v": "0.1.0", "request": request}, SIZE, 8)
    with zipfile.ZipFile(tmp_path / "changed.zip", "w") as archive:
        archive.writestr("request.json", text)
    return tmp_path / "changed.zip"


@pytest.mark.parametrize(
    "changes",
    [
        {"shell": "rm -rf /"},
        {"width": "96"},
        {"prompt": "lone \ud800"},
        {"prompt": None},
        {"formats": "gif"},
        {"formats": ["exe"]},
        {"image_sha256": {"$ne": 1}},
        {"model": ["motion"]},
        {"seed": 1.5},
    ],
)
def test_settings_of_another_version_are_one_clear_sentence(
    library: Library, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as refused:
        library.settings_of(with_request(tmp_path, **changes))
    sentence = "The settings in this file were made by another version of i2v. Enter them on the page instead."
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "../../model"}, "model"),
        ({"width": 1 << 40}, "Width must be between"),
        ({"num_frames": -1}, "Frames must be between"),
        ({"guidance_scale": float("nan")}, "Guidance must be"),
        ({"seed": -5}, "seed must be"),
        ({"vram_gib": float("inf")}, "VRAM must be"),
        ({"prompt": "x" * 30_000}, "too long"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    library: Library, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        library.settings_of(with_request(tmp_path, **changes))


def test_a_picture_of_somebody_else_cannot_be_asked_for_by_a_path(
    library: Library, store: JobStore, settings: Settings, photo: Path, tmp_path: Path
) -> None:
    add_job(store, settings, photo)
    for sha256 in ("", "../picture", "%", "a" * 63, "A" * 64):
        assert library.settings_of(with_request(tmp_path, image_sha256=sha256))[1] is None


def hostile_files() -> dict[str, bytes]:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 0xF0000000, 0, 0)
    hidden_end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 0x06054B50, 0, 0)
    locator = b"PK\x06\x07" + bytes(16)
    ftyp = struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0)
    return {
        "empty": b"",
        "text": b"hello",
        "picture": b"\xff\xd8\xff\xe0" + bytes(100),
        "zip whose index is as large as memory": b"PK\x03\x04" + bytes(100) + end,
        "zip with a record in its record": b"PK\x03\x04" + bytes(100) + hidden_end,
        "zip of 64 bits": b"PK\x03\x04" + bytes(100) + locator + struct.pack("<4s4H2LH", b"PK\x05\x06", *[0] * 7),
        "mp4 of endless boxes": ftyp + struct.pack(">I4s", 8, b"free") * 2_000_000,
        "mp4 with a box beyond all files": ftyp + struct.pack(">I4sQ", 1, b"free", 2**64 - 1),
        "mp4 with an index of boxes": ftyp + struct.pack(">I4s", 16_000_008, b"moov") + b"\0\0\0\x08free" * 2_000_000,
        "gif of endless extensions": b"GIF89a" + bytes(7) + b"\x21\x01\x00" * 5_000_000,
        "gif with an endless comment": b"GIF89a" + bytes(7) + b"\x21\xfe" + (b"\xff" + b"x" * 255) * 60_000,
        "webp of endless chunks": b"RIFF\0\0\0\0WEBP" + b"abcd\0\0\0\0" * 2_000_000,
        "webp with a strange exif": b"RIFF\0\0\0\0WEBPEXIF\xff\xff\xff\xffII*\x00" + b"\xff" * 1000,
    }


@pytest.mark.parametrize("what", hostile_files())
def test_a_file_that_i2v_did_not_make_is_one_clear_sentence_at_once(
    library: Library, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "upload.mp4"
    path.write_bytes(hostile_files()[what])
    began = time.perf_counter()
    with pytest.raises(InputError) as refused:
        library.settings_of(path)
    assert time.perf_counter() - began < 2
    assert refused.value.remedy in ("Choose a file that i2v made.", "Check its permissions.")
    assert str(tmp_path) not in str(refused.value) or "cannot be read" in str(refused.value)


def test_a_file_too_large_is_not_read(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(InputError, match="larger than any video"):
        library.settings_of(path)


def test_a_request_nested_beyond_sense_is_refused(library: Library, tmp_path: Path) -> None:
    video = {"width": 96, "height": 64, "fps": 8}
    deep = json.dumps({"request": {}, "video": video}).replace("{}", '{"a": ' * 700 + "1" + "}" * 700)
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as archive:
        archive.writestr("request.json", deep)
    with pytest.raises(InputError):
        library.settings_of(tmp_path / "deep.zip")
