"""Downloads in the background, against a server that answers as the hub does; and what may be deleted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from i2v.errors import InputError, ModelFilesError
from i2v.jobs.store import JobStore
from i2v.models import download
from i2v.presets.model_preset import ModelPreset, load_presets, preset_named
from i2v.service import models_on_disk as module
from i2v.service.models_on_disk import DownloadState, ModelsOnDisk
from tests.fake_hub import COMMIT, FakeHub

NAME = "i2vgen-xl"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.small_checkpoint import save_small_checkpoint

    return save_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def hub(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(download, "_READ_BYTES", 4096)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    real = preset_named(NAME)
    assert real.hub
    preset = real.model_copy(update={"hub": real.hub.model_copy(update={"revision": COMMIT})})
    presets = dict(load_presets()) | {NAME: preset}

    def named(name: str) -> ModelPreset:
        if name not in presets:
            raise InputError(f"there is no model {name!r}")
        return presets[name]

    monkeypatch.setattr(module, "load_presets", lambda: presets)
    monkeypatch.setattr(module, "preset_named", named)
    with FakeHub(checkpoint) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs.sqlite3")
    yield store
    store.close()


class Changes:
    """Counts how often i2v said that files came or went."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def models(hub: FakeHub, tmp_path: Path, store: JobStore, changes: Changes) -> Iterator[ModelsOnDisk]:
    models = ModelsOnDisk(tmp_path, store, changes)
    yield models
    models.close()


def wait_until(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def state_of(models: ModelsOnDisk) -> DownloadState:
    state = models.downloads().get(NAME)
    assert state
    return state


def told(failed: DownloadState) -> str:
    assert failed.error
    return str(failed.error.to_error())


def is_installed(models: ModelsOnDisk) -> bool:
    return next(state.installed for state in models.models() if state.preset.name == NAME)


def pause_half_way(hub: FakeHub, models: ModelsOnDisk) -> DownloadState:
    hub.seconds_per_block = 0.02
    models.start_download(NAME)
    wait_until(lambda: state_of(models).done_bytes > 40_000)
    models.pause_download(NAME)
    assert state_of(models).state == "paused", "at once, whatever the network does"
    wait_until(lambda: not models._downloads or models._downloads[NAME].is_over)
    hub.seconds_per_block = 0.0
    return state_of(models)


def test_a_download_shows_how_far_it_is_and_ends_with_the_model_installed(
    hub: FakeHub, models: ModelsOnDisk, changes: Changes
) -> None:
    assert models.downloads() == {}
    hub.seconds_per_block = 0.01
    models.start_download(NAME)
    models.start_download(NAME)  # of two tabs
    state = wait_until(lambda: (s := state_of(models)).bytes_per_s and s)
    assert state.state == "downloading"
    assert 0 < state.done_bytes < state.total_bytes < 10_000_000, "the hub's figure, not the estimate"
    assert state.eta_s == pytest.approx((state.total_bytes - state.done_bytes) / state.bytes_per_s)
    hub.seconds_per_block = 0.0
    wait_until(lambda: not models.downloads())
    assert is_installed(models)
    assert changes.count == 1
    assert len({seen.name for seen in hub.seen}) == len(hub.seen), "each file came once"
    models.start_download(NAME)
    assert models.downloads() == {}


def test_a_paused_download_goes_on_where_it_stopped(hub: FakeHub, models: ModelsOnDisk) -> None:
    paused = pause_half_way(hub, models)
    assert (paused.state, paused.bytes_per_s, paused.eta_s) == ("paused", None, None)
    assert 40_000 < paused.done_bytes < paused.total_bytes
    hub.seen.clear()
    models.start_download(NAME)
    wait_until(lambda: not models.downloads())
    assert is_installed(models)
    assert hub.seen[0].start > 0


def test_pause_and_resume_in_a_row_leave_one_download_that_runs(hub: FakeHub, models: ModelsOnDisk) -> None:
    hub.seconds_per_block = 0.005
    for _ in range(10):
        models.start_download(NAME)
        models.pause_download(NAME)
    models.start_download(NAME)
    assert state_of(models).state == "downloading"
    hub.seconds_per_block = 0.0
    wait_until(lambda: not models.downloads())
    assert is_installed(models)


def test_after_a_restart_it_is_paused_and_goes_on(
    hub: FakeHub, models: ModelsOnDisk, tmp_path: Path, store: JobStore
) -> None:
    hub.seconds_per_block = 0.02
    models.start_download(NAME)
    wait_until(lambda: state_of(models).done_bytes > 40_000)
    models.close()
    models.start_download(NAME)  # of a tab that is late
    again = ModelsOnDisk(tmp_path, store, lambda: None)
    state = state_of(again)
    assert (state.state, state.error) == ("paused", None)
    assert 40_000 < state.done_bytes < state.total_bytes
    hub.seconds_per_block = 0.0
    again.start_download(NAME)
    wait_until(lambda: not again.downloads())
    assert is_installed(again)
    again.close()


def test_a_failed_download_says_why_and_can_be_tried_again(hub: FakeHub, models: ModelsOnDisk) -> None:
    hub.refuse = (503, "")
    models.start_download(NAME)
    failed = wait_until(lambda: (s := state_of(models)).state == "failed" and s)
    assert told(failed).startswith("The hub refused ali-vilab/i2vgen-xl (HTTP 503).")
    hub.refuse = None
    models.start_download(NAME)
    wait_until(lambda: not models.downloads())
    assert is_installed(models)


def test_a_defect_ends_as_a_failed_download(
    hub: FakeHub, models: ModelsOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(download, "download", broken)
    models.start_download(NAME)
    failed = wait_until(lambda: models.downloads().get(NAME) or None if models._downloads[NAME].is_over else None)
    assert failed.state == "failed"
    assert told(failed) == "The download stopped unexpectedly (ZeroDivisionError). Try again."


def test_a_model_is_deleted_whole(
    hub: FakeHub, models: ModelsOnDisk, tmp_path: Path, store: JobStore, changes: Changes
) -> None:
    models.download(NAME, lambda done, total: None)
    job = store.submit({"model": NAME}, "a.png", "web")
    with pytest.raises(InputError, match="A job needs the model i2vgen-xl"):
        models.delete(NAME)
    store.request_cancel(job.id)
    models.delete(NAME)
    assert not is_installed(models)
    assert list((tmp_path / "models").iterdir()) == []
    assert models.downloads() == {}
    assert changes.count == 2
    models.delete(NAME)


def test_what_came_of_a_paused_download_can_be_deleted_but_not_while_it_runs(
    hub: FakeHub, models: ModelsOnDisk
) -> None:
    hub.seconds_per_block = 0.02
    models.start_download(NAME)
    wait_until(lambda: state_of(models).done_bytes > 0)
    with pytest.raises(InputError, match=r"is being downloaded. Pause the download first\."):
        models.delete(NAME)
    models.pause_download(NAME)
    models.delete(NAME)  # at once: it waits for what is just being received
    assert models.downloads() == {}
    assert next(s.disk_bytes for s in models.models() if s.preset.name == NAME) == 0


def test_a_download_of_another_process_is_not_deleted_under_it(
    hub: FakeHub, models: ModelsOnDisk, tmp_path: Path, store: JobStore
) -> None:
    hub.seconds_per_block = 0.02
    models.start_download(NAME)
    wait_until(lambda: state_of(models).done_bytes > 0)
    other = ModelsOnDisk(tmp_path, store, lambda: None)
    with pytest.raises(ModelFilesError, match="is being downloaded already"):
        other.delete(NAME)
    other.start_download(NAME)
    failed = wait_until(lambda: (s := state_of(other)).state == "failed" and s)
    assert "is being downloaded already" in told(failed)
    hub.seconds_per_block = 0.0
    wait_until(lambda: not models.downloads())
    assert is_installed(models)
    assert other.downloads() == {}, "it is here, whoever brought it"
    other.close()


def test_a_link_to_a_folder_of_ones_own_is_removed_and_not_followed(
    hub: FakeHub, models: ModelsOnDisk, tmp_path: Path, checkpoint: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / NAME).symlink_to(checkpoint)
    assert is_installed(models)
    models.delete(NAME)
    assert not is_installed(models)
    assert (checkpoint / "model_index.json").is_file()


@pytest.mark.parametrize("call", ["start_download", "pause_download", "delete"])
def test_the_built_in_model_is_neither_downloaded_nor_deleted(models: ModelsOnDisk, call: str) -> None:
    with pytest.raises(InputError, match="The model motion ships with i2v"):
        getattr(models, call)("motion")
    with pytest.raises(InputError, match="model"):
        getattr(models, call)("../../etc")
