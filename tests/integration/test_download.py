"""What a download promises, against a server that answers as the hub does."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from i2v.errors import Cancelled, I2VError, ModelFilesError, StorageError
from i2v.models import download as module
from i2v.models.download import download, is_installed, model_folder
from i2v.presets.model_preset import ModelPreset, preset_named
from tests.fake_hub import COMMIT, FakeHub

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.small_checkpoint import save_small_checkpoint

    folder = save_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    (folder / "models").mkdir()
    (folder / "models" / "original.pth").write_bytes(b"pickled")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"the large ones")
    return folder


@pytest.fixture
def hub(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(module, "_READ_BYTES", 4096)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with FakeHub(checkpoint) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def preset() -> ModelPreset:
    real = preset_named("i2vgen-xl")
    assert real.hub is not None
    return real.model_copy(update={"hub": real.hub.model_copy(update={"revision": COMMIT})})


class Watcher:
    """Collects progress, and cancels once `stop_at` bytes have come."""

    def __init__(self, stop_at: float = float("inf")):
        self.stop_at = stop_at
        self.reports: list[tuple[int, int]] = []

    def progress(self, done: int, total: int) -> None:
        self.reports.append((done, total))

    def cancelled(self) -> bool:
        return bool(self.reports) and self.reports[-1][0] >= self.stop_at


def fetch(preset: ModelPreset, home: Path, watcher: Watcher | None = None) -> Path:
    watcher = watcher or Watcher()
    return download(preset, home, watcher.progress, watcher.cancelled)


def wanted(hub: FakeHub) -> list[str]:
    others = ("models/original.pth", "unet/diffusion_pytorch_model.safetensors")
    return [name for name in hub.names() if name not in others]


def assert_complete(hub: FakeHub, preset: ModelPreset, home: Path) -> None:
    folder = model_folder(preset, home)
    for name in wanted(hub):
        assert (folder / name).read_bytes() == (hub.folder / name).read_bytes(), name
    assert not (folder / ".download").exists()
    assert is_installed(preset, home)


def test_download_brings_the_allowed_files_and_no_pickle(hub: FakeHub, preset: ModelPreset, tmp_path: Path) -> None:
    watcher = Watcher()
    assert fetch(preset, tmp_path, watcher) == model_folder(preset, tmp_path)
    assert_complete(hub, preset, tmp_path)
    assert sorted(seen.name for seen in hub.seen) == wanted(hub)
    total = sum((hub.folder / name).stat().st_size for name in wanted(hub))
    done = [report[0] for report in watcher.reports]
    assert done == sorted(done)
    assert len(done) > 50
    assert watcher.reports[-1] == (total, total)
    assert {report[1] for report in watcher.reports} == {total}


def test_cancelled_download_goes_on_where_it_stopped(hub: FakeHub, preset: ModelPreset, tmp_path: Path) -> None:
    size = (hub.folder / UNET).stat().st_size
    before = sum((hub.folder / name).stat().st_size for name in wanted(hub) if name < UNET)
    with pytest.raises(Cancelled):
        fetch(preset, tmp_path, Watcher(stop_at=before + size // 2))
    assert not is_installed(preset, tmp_path)
    assert not (model_folder(preset, tmp_path) / UNET).exists()
    hub.seen.clear()
    fetch(preset, tmp_path)
    assert_complete(hub, preset, tmp_path)
    assert hub.seen[0].name == UNET
    assert size // 2 <= hub.seen[0].start < size
    assert {seen.name for seen in hub.seen} == {name for name in wanted(hub) if name >= UNET}


def test_broken_connection_goes_on_in_the_same_call(hub: FakeHub, preset: ModelPreset, tmp_path: Path) -> None:
    hub.break_after[UNET] = 20_000
    fetch(preset, tmp_path)
    assert_complete(hub, preset, tmp_path)
    starts = [seen.start for seen in hub.seen if seen.name == UNET]
    assert starts[0] == 0
    assert len(starts) == 2
    assert 0 < starts[1] <= 20_000


def test_download_survives_kill_9(hub: FakeHub, preset: ModelPreset, tmp_path: Path) -> None:
    hub.seconds_per_block = 0.02
    code = (
        "import pathlib, sys; from i2v.models import download; from i2v.presets.model_preset import ModelPreset\n"
        "download._READ_BYTES = 4096\n"
        "preset = ModelPreset.model_validate_json(sys.argv[1])\n"
        "download.download(preset, pathlib.Path(sys.argv[2]), lambda done, total: None, lambda: False)"
    )
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    arguments = [sys.executable, "-W", "error", "-c", code, preset.model_dump_json(), str(tmp_path)]
    with subprocess.Popen(arguments, env=environment) as process:
        digest = hashlib.sha256((hub.folder / UNET).read_bytes()).hexdigest()
        part = model_folder(preset, tmp_path) / ".download" / digest
        deadline = time.monotonic() + 60
        while not part.exists() or part.stat().st_size < 12_000:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    hub.seen.clear()
    hub.seconds_per_block = 0.0
    fetch(preset, tmp_path)
    assert_complete(hub, preset, tmp_path)
    assert hub.seen[0].name == UNET
    assert hub.seen[0].start >= 12_000


def test_server_that_knows_no_ranges_starts_the_file_again(hub: FakeHub, preset: ModelPreset, tmp_path: Path) -> None:
    hub.break_after[UNET], hub.ignores_range = 20_000, True
    fetch(preset, tmp_path)
    assert_complete(hub, preset, tmp_path)


def test_downloading_again_mends_what_is_damaged_and_fetches_nothing_else(
    hub: FakeHub, preset: ModelPreset, tmp_path: Path
) -> None:
    folder = fetch(preset, tmp_path)
    for name in ("scheduler/scheduler_config.json", UNET):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + b"?")
    hub.seen.clear()
    fetch(preset, tmp_path)
    assert_complete(hub, preset, tmp_path)
    assert [seen.name for seen in hub.seen] == ["scheduler/scheduler_config.json", UNET]


def test_file_that_arrives_damaged_never_gets_its_name(hub: FakeHub, preset: ModelPreset, tmp_path: Path) -> None:
    hub.damaged.add(UNET)
    with pytest.raises(ModelFilesError, match=f"{UNET} arrived damaged"):
        fetch(preset, tmp_path)
    assert not (model_folder(preset, tmp_path) / UNET).exists()
    hub.damaged.clear()
    fetch(preset, tmp_path)
    assert_complete(hub, preset, tmp_path)


def test_token_goes_to_the_hub_and_to_nobody_else(
    hub: FakeHub, preset: ModelPreset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with FakeHub(hub.folder) as storage, caplog.at_level(logging.DEBUG):
        hub.redirect_to = storage
        hub.break_after[UNET] = storage.break_after[UNET] = 20_000
        fetch(preset, tmp_path)
    assert_complete(hub, preset, tmp_path)
    assert {seen.token for seen in hub.seen} == {"Bearer hf_secret"}
    assert {seen.token for seen in storage.seen} == {None}
    assert {seen.name for seen in storage.seen} == {name for name in wanted(hub) if hub.is_large(name)}
    assert "hf_secret" not in caplog.text


@pytest.mark.parametrize(
    ("refuse", "sentence"),
    [
        ((403, "GatedRepo"), "only to people who accepted its terms. Accept them on its page at the hub, set HF_TOKEN"),
        ((404, "RepoNotFound"), "The hub does not show ali-vilab/i2vgen-xl. Check HF_TOKEN"),
        ((404, "RevisionNotFound"), "The hub refused ali-vilab/i2vgen-xl (HTTP 404)"),
        ((503, ""), "The hub refused ali-vilab/i2vgen-xl (HTTP 503)"),
    ],
)
def test_refusal_is_said_in_one_sentence_with_a_way_out(
    hub: FakeHub, preset: ModelPreset, tmp_path: Path, refuse: tuple[int, str], sentence: str
) -> None:
    hub.refuse = refuse
    assert_says(preset, tmp_path, ModelFilesError, sentence, "python -m i2v models --download i2vgen-xl")


def assert_says(preset: ModelPreset, home: Path, kind: type[I2VError], *sentences: str) -> None:
    with pytest.raises(kind) as caught:
        fetch(preset, home)
    for sentence in sentences:
        assert sentence in str(caught.value)


def test_login_page_of_a_network_is_not_taken_for_the_hub(hub: FakeHub, preset: ModelPreset, tmp_path: Path) -> None:
    hub.refuse = (200, "")  # a page that is no list
    assert_says(preset, tmp_path, ModelFilesError, "is not the hub's", "a login page may stand in between")


def test_without_a_network_it_says_how_else_to_get_the_model(
    hub: FakeHub, preset: ModelPreset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    folder = model_folder(preset, tmp_path)
    remedy = f"python -m i2v models --download i2vgen-xl - or copy a complete folder to {folder}"
    assert_says(preset, tmp_path, ModelFilesError, "The Hugging Face hub cannot be reached (ConnectError).", remedy)


def test_network_lost_for_good_keeps_what_has_come(
    hub: FakeHub, preset: ModelPreset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    with FakeHub(hub.folder) as storage:
        hub.redirect_to = storage
        storage.break_after[UNET] = 20_000
        watcher = Watcher()

        def progress(done: int, total: int) -> None:
            watcher.progress(done, total)
            if any(seen.name == UNET for seen in storage.seen):
                hub.redirect_to = lost

        with FakeHub(hub.folder) as lost:
            pass
        with pytest.raises(ModelFilesError, match="cannot be reached"):
            download(preset, tmp_path, progress, watcher.cancelled)
    hub.redirect_to = None
    hub.seen.clear()
    fetch(preset, tmp_path)
    assert_complete(hub, preset, tmp_path)
    assert hub.seen[0].name == UNET
    assert hub.seen[0].start > 0


def test_offline_switch_is_named(
    hub: FakeHub, preset: ModelPreset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert_says(preset, tmp_path, ModelFilesError, "HF_HUB_OFFLINE is set", "Unset it")


def test_full_disk_is_noticed_before_the_first_byte(
    hub: FakeHub, preset: ModelPreset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert_says(preset, tmp_path, StorageError, "has room for 0.0 GB", "I2V_HOME")
    assert hub.seen == []


def test_folder_that_cannot_be_made_is_a_storage_error(hub: FakeHub, preset: ModelPreset, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    assert_says(preset, tmp_path, StorageError, "cannot be written: Not a directory")


def test_two_downloads_of_one_model_do_not_mix(hub: FakeHub, preset: ModelPreset, tmp_path: Path) -> None:
    refusals = []

    def meanwhile(done: int, total: int) -> None:
        if not refusals:
            with pytest.raises(ModelFilesError, match="is being downloaded already") as caught:
                fetch(preset, tmp_path)
            refusals.append(caught.value)

    download(preset, tmp_path, meanwhile, lambda: False)
    assert len(refusals) == 1
    assert_complete(hub, preset, tmp_path)


def test_hub_cannot_name_a_file_outside_the_folder(hub: FakeHub, preset: ModelPreset, tmp_path: Path) -> None:
    hub.extra_names.append("tokenizer/../../../escaped.json")
    assert_says(preset, tmp_path, ModelFilesError, "lacks the files")
    assert hub.seen == []


def test_a_download_tells_the_hub_nothing_of_this_machine() -> None:
    code = "import i2v; from huggingface_hub import constants; assert constants.HF_HUB_DISABLE_TELEMETRY"
    subprocess.run([sys.executable, "-c", code], check=True)
